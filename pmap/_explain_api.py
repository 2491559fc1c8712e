"""`pmap.explain`: what is best for a function, before it is mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from pmap._arguments import refuse_foreign
from pmap.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Never

    from pmap._advice._explanation import Explanation

__all__ = ["explain"]


def explain(
    frame: pl.DataFrame,
    function: Callable[..., Any],
    /,
    *,
    budget: float = 1.0,
    **unknown: Never,
) -> Explanation:
    """Say whether native Polars, threads, processes or a plain call is best for a function, and why.

    The function is called on samples of the frame, about thirty times, which is said first on
    the standard error. It is called in this thread and never on workers.

    Parameters
    ----------
    frame
        What the function would be mapped over.
    function
        As for `map_partitions`.
    budget
        Seconds for all calls together, about: a call that runs is not interrupted.
    **unknown
        Nothing: an argument that does not exist raises `TypeError` with the one that was meant.

    Returns
    -------
    Explanation
        With ``verdict`` (``"native"``, ``"threads"``, ``"processes"`` or ``"serial"``),
        ``partition_safe`` (``"yes"``, ``"no"`` or ``"unknown"``), ``confidence``,
        ``evidence``, ``costs`` (predicted seconds of each way), ``replacement`` (native code
        as text, or ``None``) and ``native(frame)``. Printed it is a page.

    Raises
    ------
    ArgumentError, TypeError
        For a call that makes no sense. What the function raises is a finding, not an error.

    Examples
    --------
    >>> import polars as pl, pmap
    >>> df = pl.DataFrame({"x": range(1000)})
    >>> found = pmap.explain(df, lambda part: part.with_columns(z=pl.col("x") - pl.col("x").mean()))
    >>> found.partition_safe
    'no'
    >>> pmap.explain(df, lambda part: part.filter(pl.col("x") > 3)).verdict
    'native'
    """
    refuse_foreign("explain", unknown, ("budget",))
    _check(frame, function, budget)
    from pmap._advice._explain import explain_function  # noqa: PLC0415  only who asks pays for it

    return explain_function(frame, function, float(budget))


def _check(frame: object, function: object, budget: object) -> None:
    if isinstance(frame, pl.LazyFrame):
        raise ArgumentError("a LazyFrame can not be sampled: pass frame.head(100_000).collect()")
    if not isinstance(frame, pl.DataFrame):
        raise ArgumentError(
            f"the first argument is a {type(frame).__name__}, not a polars DataFrame: "
            "pass the frame, then the function"
        )
    if not callable(function):
        raise ArgumentError(
            f"the second argument is a {type(function).__name__}, which can not be called: pass a function"
        )
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget > 0:
        raise ArgumentError(f"budget={budget!r}: give seconds, greater than 0")
    if frame.height == 0:
        raise ArgumentError("the frame has no rows to try the function on: pass one that has")
