"""Parts against the whole: six strided parts of a sample, shuffled, one of them twice.

Strided parts break up runs, shuffling breaks orders, and the repeated one makes every key and
every value come twice. Another call on the same rows tells chance from a difference.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from pmap._advice._compare import compare
from pmap._gather import gather
from pmap.errors import PmapError

if TYPE_CHECKING:
    from pmap._advice._runner import Ran, Runner

__all__ = ["Tried", "try_parts"]

_PARTS = 6
_NAMES = ("from the whole", "from the parts")
#: Calls that the test makes: the parts, one twice, and the whole twice.
CALLS = _PARTS + 3


@dataclass(frozen=True, slots=True)
class Tried:
    """How the test ended.

    Attributes
    ----------
    outcome
        ``"equal"``, ``"rounding"``, ``"order"``, ``"different"``, ``"random"`` (the same rows
        gave two results), ``"raises"``, ``"no frame"``, or ``"untried"``.
    detail
        What differs, or what was raised.
    rows, parts
        That were tried.
    """

    outcome: str
    detail: str = ""
    rows: int = 0
    parts: int = 0

    @property
    def is_equal(self) -> bool:
        """Whether parts gave what the whole gave."""
        return self.outcome in {"equal", "rounding"}


def try_parts(runner: Runner, rows: pl.DataFrame) -> Tried:
    """Compare the function's result on the parts with that on the whole."""
    parts = _parts(rows)
    if len(parts) < 2:  # noqa: PLR2004  nothing to compare
        return Tried("untried", "the frame has too few rows")
    mixed = pl.concat(parts)
    whole, again = runner.call(mixed), runner.call(mixed)
    if whole.error is not None or again.error is not None:
        return _in_order(runner, rows, whole)
    return _against(runner, parts, whole, again)


def _against(runner: Runner, parts: list[pl.DataFrame], whole: Ran, again: Ran) -> Tried:
    size = (sum(part.height for part in parts), len(parts))
    for ran in (whole, again):
        if not isinstance(ran.value, pl.DataFrame):
            detail = (
                f"it returned a {ran.kind}, which iter_partitions takes and map_partitions does not"
            )
            return Tried("no frame", detail, *size)
    results: list[tuple[int, pl.DataFrame | None]] = []
    for index, part in enumerate(parts):
        ran = runner.call(part, index, len(parts))
        if ran.error is not None:
            shown = (
                f"{type(ran.error).__name__} on a part of {part.height:,} rows: {_short(ran.error)}"
            )
            return Tried("raises", shown, *size)
        if ran.value is not None and not isinstance(ran.value, pl.DataFrame):
            return Tried("no frame", f"it returned a {ran.kind} for a part", *size)
        results.append((index, ran.value))
    return _compared(whole.value, again.value, results, size)


def _compared(
    whole: pl.DataFrame,
    again: pl.DataFrame,
    results: list[tuple[int, pl.DataFrame | None]],
    size: tuple[int, int],
) -> Tried:
    steady = compare(whole, again, ("at first", "when called again")).kind
    if steady == "different":
        return Tried("random", "the same rows gave two different results", *size)
    try:
        together = gather(results, None)
    except PmapError as error:
        return Tried("different", f"results of parts do not fit together: {_short(error)}", *size)
    found = compare(whole, together, _NAMES)
    if found.kind == "order" and steady == "order":
        return Tried("random", "the rows come in another order each time", *size)
    outcome = "equal" if found.kind == "same" else found.kind
    return Tried(outcome, found.detail, *size)


def _in_order(runner: Runner, rows: pl.DataFrame, failed: Ran) -> Tried:
    """For what needs its rows in their order: runs of rows, none twice."""
    whole, again = runner.call(rows), runner.call(rows)
    if whole.error is not None or again.error is not None:
        error = whole.error or again.error or failed.error
        detail = f"{type(error).__name__} on {rows.height:,} rows: {_short(error)}"
        return Tried("raises", detail, rows.height, 0)
    step = -(-rows.height // _PARTS)
    return _against(runner, list(rows.iter_slices(step)), whole, again)


def _parts(rows: pl.DataFrame) -> list[pl.DataFrame]:
    count = min(_PARTS, rows.height)
    parts = [rows.gather_every(count, offset) for offset in range(count)]
    parts += parts[:1]
    random.Random(0).shuffle(parts)  # noqa: S311  the same order each time
    return parts


def _short(error: BaseException | None) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:157]}..."  # noqa: PLR2004  two lines
