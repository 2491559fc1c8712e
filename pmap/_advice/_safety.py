"""Whether parts give what the whole gives: what the trace proves, and what the test showed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmap._advice._names import remedy

if TYPE_CHECKING:
    from pmap._advice._partition_test import Tried
    from pmap._advice._verdict import Offence, Verdict

__all__ = ["Safety", "weigh"]

_WAYS = ("no way", "one way", "two ways", "three ways")


@dataclass(frozen=True, slots=True)
class Safety:
    """``"yes"``, ``"no"`` or ``"unknown"``, why, and what to do."""

    answer: str
    why: str


def weigh(verdict: Verdict, tried: Tried) -> Safety:
    """Proof and test together: ``"yes"`` needs both, ``"no"`` a difference that was seen."""
    sized = f"{tried.rows:,} rows in {tried.parts} parts"
    cut = f"{tried.rows:,} rows, cut in {_WAYS[min(tried.ways, 3)]}"
    if verdict.asks_for_partition:
        return Safety(
            "unknown", "It asks for current_partition(), so its result follows the split by design."
        )
    if tried.outcome in {"different", "order"}:
        return Safety("no", _unsafe(verdict, tried, sized))
    if tried.outcome == "random":
        return Safety("unknown", f"No two calls give the same: {tried.detail}.")
    if tried.outcome in {"raises", "no frame", "untried"}:
        return Safety("unknown", _offended(verdict) + f"It could not be tested: {tried.detail}.")
    if verdict.is_row_by_row:
        calls = f"{verdict.n_polars} call{'' if verdict.n_polars == 1 else 's'}"
        return Safety(
            "yes",
            f"All it does to the rows ({calls} of Polars) goes row by row; tried on {cut}: equal.",
        )
    return Safety("unknown", f"No difference showed on {cut}, but {_open(verdict)}.")


def _unsafe(verdict: Verdict, tried: Tried, sized: str) -> str:
    detail = f" ({tried.detail})" if tried.detail else ""
    if tried.outcome == "order":
        shown = f"On {sized} the rows came in another order{detail}."
    else:
        shown = f"On {sized} the results differ{detail}."
    if not verdict.offences:
        cause = "; the cause is in Python code that sees several rows at once"
        return f"{shown[:-1]}{cause}. Instead: call function(df) directly, on the whole frame."
    first = _chief(verdict.offences)
    keys = list(first.keys) or verdict.keys
    return f"{shown} The cause: {first}. Instead: {remedy(first.name, keys)}."


def _chief(offences: list[Offence]) -> Offence:
    """The one that says most: grouping names its keys."""
    grouped = [offence for offence in offences if offence.keys]
    return (grouped or offences)[0]


def _offended(verdict: Verdict) -> str:
    return f"It looks at other rows: {_chief(verdict.offences)}. " if verdict.offences else ""


def _open(verdict: Verdict) -> str:
    if verdict.offences:
        first = _chief(verdict.offences)
        keys = list(first.keys) or verdict.keys
        return f"it looks at other rows: {first}. To be sure: {remedy(first.name, keys)}"
    reasons = verdict.obstacles or ["nothing was seen that Polars does to the rows"]
    more = f", and {len(reasons) - 2} more" if len(reasons) > 2 else ""  # noqa: PLR2004  two are named
    return f"that is no proof: pmap can not look into {'; '.join(reasons[:2])}{more}"
