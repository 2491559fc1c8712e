"""Which rows of a frame a function is tried on: runs from all over it, and its extreme rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["sample", "with_key_mates"]

#: Rows that are looked through for extreme values, and columns.
_SEARCHED_ROWS = 100_000
_SEARCHED_COLUMNS = 40
_RUNS = 8
#: Rows with the same keys that are added.
_MATES = 64


def sample(frame: pl.DataFrame, rows: int) -> pl.DataFrame:
    """About `rows` rows in their order: eight runs from all over the frame, and extreme rows."""
    if frame.height <= rows:
        return frame
    each = max(1, rows // _RUNS)
    starts = [(frame.height - each) * i // (_RUNS - 1) for i in range(_RUNS)]
    picked = {row for start in starts for row in range(start, start + each)}
    picked.update(_extreme_rows(frame))
    return frame[sorted(picked)]


def with_key_mates(part: pl.DataFrame, frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """A sample, with rows that share keys with it: keys may be unique in a sample by chance."""
    known = [key for key in keys if key in frame.columns]
    if not known or part.height == frame.height:
        return part
    few = part.select(known).unique(maintain_order=True).head(16)
    mates = frame.head(_SEARCHED_ROWS * 10).join(
        few, on=known, how="semi", nulls_equal=True, maintain_order="left"
    )
    return pl.concat([part, mates.head(_MATES)])


def _extreme_rows(frame: pl.DataFrame) -> Iterator[int]:
    step = max(1, frame.height // _SEARCHED_ROWS)
    searched = frame.gather_every(step) if step > 1 else frame
    for column in searched.get_columns()[:_SEARCHED_COLUMNS]:
        for row in _of_column(column):
            yield row * step


def _of_column(column: pl.Series) -> Iterator[int]:
    dtype = column.dtype
    marks: list[pl.Series] = [column.is_null()]
    if dtype.is_float():
        marks.append(column.is_nan())
    if dtype == pl.String:
        marks.append(column == "")
        column = column.str.len_bytes()
    if dtype.is_numeric() or dtype.is_temporal() or dtype == pl.String:
        yield from (row for row in (column.arg_min(), column.arg_max()) if row is not None)
    for mark in marks:
        row = mark.arg_max()
        if row is not None and mark[row]:
            yield row
