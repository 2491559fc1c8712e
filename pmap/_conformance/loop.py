"""The plain loop, which every backend must agree with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from polars.testing import assert_frame_equal

from pmap._api import iter_partitions, map_partitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["assert_equal_to_loop"]

_OF_THE_SPLIT = frozenset({"n_partitions", "chunk_size", "n_jobs"})


def assert_equal_to_loop(
    frame: pl.DataFrame | Iterable[pl.DataFrame], function: Callable[..., Any], /, **options: Any
) -> pl.DataFrame:
    """Assert that a parallel map gives what a plain loop over the same partitions gives.

    That is ``pl.concat([function(part) for part in partitions])``: rows, their order,
    columns, dtypes, nulls and sorted flags. With ``maintain_order=False``, rows may come in
    any order.

    Parameters
    ----------
    frame
        As in `pmap.map_partitions`; an iterable is read into a list first.
    function
        As in `pmap.map_partitions`. It is called in this process too, where
        `pmap.current_partition` is ``None``.
    **options
        As in `pmap.map_partitions`.

    Returns
    -------
    polars.DataFrame
        What `pmap.map_partitions` returned.

    Raises
    ------
    AssertionError
        When they differ; it says in what.

    Examples
    --------
    >>> import polars as pl
    >>> from pmap.testing import assert_equal_to_loop
    >>> frame = pl.DataFrame({"x": [1, 2, 3]})
    >>> assert_equal_to_loop(frame, pl.DataFrame.reverse, chunk_size=2)["x"].to_list()
    [2, 1, 3]
    """
    frames = frame if isinstance(frame, pl.DataFrame) else list(frame)
    ordered = options.get("maintain_order", True)
    results = _loop(_partitions(frames, options), function)
    expected = (
        pl.concat(results, rechunk=False) if results else pl.DataFrame(schema=options.get("schema"))
    )
    result = map_partitions(frames, function, **options)
    assert_frame_equal(result, expected, check_exact=True, check_row_order=ordered)
    if ordered:
        # Polars flags what it puts together of single rows one way or the other, as it happens.
        _check_flags(result, expected, may_lose=any(part.height == 1 for part in results))
    return result


def _check_flags(result: pl.DataFrame, expected: pl.DataFrame, *, may_lose: bool) -> None:
    """None is lost, and none is wrong; some may be new, by how columns happen to be stored."""
    for column, wanted in zip(result.iter_columns(), expected.iter_columns(), strict=True):
        if column.flags != wanted.flags and wanted.n_unique() > 1:
            is_lost = any(wanted.flags.values()) and not may_lose
            if is_lost or not _is_as_flagged(column):
                raise AssertionError(
                    f"{column.name!r} is flagged {column.flags}, in the loop {wanted.flags}"
                )


def _is_as_flagged(column: pl.Series) -> bool:
    flags = column.flags
    is_flagged = flags["SORTED_ASC"] or flags["SORTED_DESC"]
    return not is_flagged or _is_sorted(column, descending=flags["SORTED_DESC"])


def _is_sorted(column: pl.Series, *, descending: bool) -> bool:
    """By its values, whatever its flags."""
    values, n_nulls = column.drop_nulls(), column.null_count()
    before, after = values.head(-1), values.tail(-1)
    in_order = (before >= after) if descending else (before <= after)
    return in_order.all() and n_nulls in {
        column.head(n_nulls).null_count(),
        column.tail(n_nulls).null_count(),
    }


def _partitions(
    frames: pl.DataFrame | list[pl.DataFrame], options: dict[str, Any]
) -> list[pl.DataFrame]:
    split = {name: value for name, value in options.items() if name in _OF_THE_SPLIT}
    return list(iter_partitions(frames, lambda part: part, backend="serial", **split))


def _loop(parts: list[pl.DataFrame], function: Callable[..., Any]) -> list[pl.DataFrame]:
    call = function() if isinstance(function, type) else function
    return [result.lazy().collect() for part in parts if (result := call(part)) is not None]
