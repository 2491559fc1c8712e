"""Parts against the whole, on a sample that is cut in several ways.

Strided parts break up runs, shuffling breaks orders, and one part that comes twice makes every
key and every value come twice. Runs of rows show what only their first or last row decides, and
rows put in the order of their groups show what a part without some group does. Another call on
the same rows tells chance from a difference.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from pmap._advice._compare import compare
from pmap._gather import gather
from pmap.errors import PmapError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmap._advice._runner import Ran, Runner

    Cut = Callable[[pl.DataFrame], list[pl.DataFrame]]

__all__ = ["CALLS", "FIRST_CALLS", "Tried", "try_parts"]

_STRIDED = 6
#: Where runs end, in sixteenths of the rows: a small one finds what changes at a number of rows.
_ENDS = (1, 4, 8, 16)
_NAMES = ("from the whole", "from the parts")
#: Calls of the first cut, one part twice and the whole, and of all.
FIRST_CALLS = _STRIDED + 2
CALLS = FIRST_CALLS + 2 * (len(_ENDS) + 1)
#: Rows from which on parts are no oddities: some functions take a single row for something else.
_FEW = 48
#: Different values of a column that make groups.
_GROUPS = 50


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
        That were tried; the parts of the cut that decided.
    ways
        How many cuts were tried.
    """

    outcome: str
    detail: str = ""
    rows: int = 0
    parts: int = 0
    ways: int = 0

    @property
    def is_equal(self) -> bool:
        """Whether parts gave what the whole gave."""
        return self.outcome in {"equal", "rounding"}

    @property
    def is_decided(self) -> bool:
        """Whether it says anything about parts and whole."""
        return self.is_equal or self.outcome in {"different", "order"}


def try_parts(runner: Runner, rows: pl.DataFrame, *, in_order: bool = False) -> Tried:
    """Compare the function's result on parts with that on the whole, for each way to cut.

    Parameters
    ----------
    runner
        Calls the function.
    rows
        The sample.
    in_order
        Whether the function needs its rows in their order, so that they are not mixed.
    """
    cuts_tried = _CUTS_IN_ORDER if in_order else _CUTS
    if rows.height < _FEW:  # may be repeated, but hardly cut
        cuts_tried = cuts_tried[:0] if in_order or rows.height == 0 else cuts_tried[:1]
    if not cuts_tried:
        return Tried("untried", "the frame has too few rows")
    found = Tried("untried", "the budget was used up")
    for cuts in cuts_tried:
        if runner.left <= 0:
            break
        tried = _first_that_runs(runner, rows, cuts)
        if tried.outcome == "raises" and tried.parts == 0:
            # Rows in this order can not be had: nothing is learnt.
            found = found if found.ways else tried
            continue
        rounded = found.outcome == "rounding" and tried.outcome == "equal"
        found = replace(
            tried, outcome="rounding" if rounded else tried.outcome, ways=found.ways + 1
        )
        if not tried.is_equal:
            break
    return found


def _first_that_runs(runner: Runner, rows: pl.DataFrame, cuts: tuple[Cut, ...]) -> Tried:
    """Of cuts in falling severity, the first on whose rows the function runs as a whole."""
    tried = Tried("untried")
    for cut in cuts:
        parts = cut(rows)
        mixed = pl.concat(parts)
        whole = runner.call(mixed)
        if whole.error is None:
            return _against(runner, parts, mixed, whole)
        detail = f"{type(whole.error).__name__} on {mixed.height:,} rows: {_short(whole.error)}"
        tried = Tried("raises", detail, mixed.height, 0)
    return tried


def _against(runner: Runner, parts: list[pl.DataFrame], mixed: pl.DataFrame, whole: Ran) -> Tried:
    size = (mixed.height, len(parts))
    if not isinstance(whole.value, pl.DataFrame):
        detail = (
            f"it returned a {whole.kind}, which iter_partitions takes and map_partitions does not"
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
    outcome, detail = _compared(whole.value, results)
    if outcome in {"different", "order"}:
        outcome, detail = _confirmed(runner, mixed, whole.value, outcome, detail)
    return Tried(outcome, detail, *size)


def _compared(
    whole: pl.DataFrame, results: list[tuple[int, pl.DataFrame | None]]
) -> tuple[str, str]:
    try:
        together = gather(results, None)
    except PmapError as error:
        return "different", f"results of parts do not fit together: {_short(error)}"
    found = compare(whole, together, _NAMES)
    return ("equal" if found.kind == "same" else found.kind), found.detail


def _confirmed(
    runner: Runner, mixed: pl.DataFrame, first: pl.DataFrame, outcome: str, detail: str
) -> tuple[str, str]:
    """What differs after the parts on the very same rows differs by chance, or by the clock."""
    again = runner.call(mixed).value
    if not isinstance(again, pl.DataFrame):
        return "random", "the same rows gave a frame at first, and none when called again"
    steady = compare(first, again, ("at first", "when called again")).kind
    if steady == "different":
        return "random", "the same rows gave two different results"
    if steady == outcome == "order":
        return "random", "the rows come in another order each time"
    return outcome, detail


def _strided(rows: pl.DataFrame) -> list[pl.DataFrame]:
    if rows.height < _FEW:
        rows = pl.concat([rows] * -(-_FEW // rows.height))
    count = min(_STRIDED, rows.height)
    parts = [rows.gather_every(count, offset) for offset in range(count)]
    random.Random(0).shuffle(parts)  # noqa: S311  the same order each time
    return parts


def _strided_and_repeated(rows: pl.DataFrame) -> list[pl.DataFrame]:
    parts = _strided(rows)
    return [*parts, parts[0]]


def _runs(rows: pl.DataFrame) -> list[pl.DataFrame]:
    ends = dict.fromkeys(-(-rows.height * end // 16) for end in _ENDS)
    starts = (0, *ends)
    return [rows.slice(start, end - start) for start, end in zip(starts, ends, strict=False)]


def _clustered(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """Runs of rows whose groups lie together, by the columns that have few values."""
    few: list[tuple[int, str]] = []
    for column in rows.get_columns():
        dtype = column.dtype
        if (
            isinstance(dtype, pl.String | pl.Boolean | pl.Categorical | pl.Enum)
            or dtype.is_integer()
        ):
            count = column.n_unique()
            few += [(count, column.name)] if 1 < count <= _GROUPS else []
    names = [name for _, name in sorted(few)[:3]]
    return _runs(rows.sort(names, maintain_order=True) if names else rows.reverse())


#: Each with what is tried where the function raises on such rows as a whole.
_CUTS: tuple[tuple[Cut, ...], ...] = ((_strided_and_repeated, _strided), (_runs,), (_clustered,))
_CUTS_IN_ORDER: tuple[tuple[Cut, ...], ...] = ((_runs,),)


def _short(error: BaseException | None) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:157]}..."  # noqa: PLR2004  two lines
