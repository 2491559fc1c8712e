"""``config(check="sample")``: a function that parts give another result is refused before it is mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pmap._advice._partition_test import try_parts
from pmap._advice._runner import Runner, untouched
from pmap._advice._safety import weigh
from pmap._advice._sample import sample, with_key_mates
from pmap._advice._verdict import Verdict, judge
from pmap._function import instantiate, name_of
from pmap.errors import PartitionDependentError

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

    from pmap._advice._partition_test import Tried

__all__ = ["check_sample"]

_TRACED = 48
_ROWS = 600
#: Many more rows are tried if that takes less than so many seconds: some functions change at a number of rows.
_SECONDS = 0.2
_MOST_ROWS = 20_000


def check_sample(frame: pl.DataFrame, function: Callable[..., Any], seed: int | None) -> None:
    """Try parts of a sample against the whole of it, here, before anything is mapped.

    Raises
    ------
    PartitionDependentError
        If they differ, with the call that is to blame, where it is known, and what to do.
    """
    with untouched():
        runner = Runner(instantiate(function), None, seed)
        _, trace = runner.trace(sample(frame, _TRACED))
        verdict = Verdict() if trace is None else judge(runner.function, trace)
        safety = weigh(verdict, _tried(runner, frame, verdict))
    if safety.answer == "no":
        raise PartitionDependentError(
            f"{name_of(function)} gives something else for parts than for the whole frame, so it was not mapped. "
            f"{safety.why} If parts are what you mean: pmap.config(check=None)"
        )


def _tried(runner: Runner, frame: pl.DataFrame, verdict: Verdict) -> Tried:
    rows = with_key_mates(sample(frame, _ROWS), frame, verdict.keys)
    before = runner.spent
    tried = try_parts(runner, rows, in_order=verdict.needs_order)
    seconds = max(runner.spent - before, 1e-5)
    many = min(_MOST_ROWS, frame.height, int(rows.height * _SECONDS / seconds))
    if tried.is_equal and not verdict.is_row_by_row and many > 1.2 * rows.height:
        more = try_parts(runner, sample(frame, many), in_order=verdict.needs_order)
        if more.is_decided:
            return more
    return tried
