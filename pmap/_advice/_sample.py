"""Which rows a function is tried on: runs from all over the frame, and its extreme rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["extremes", "sample", "with_key_mates"]

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


def extremes(part: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Rows of a sample, its named columns filled one by one with values at the edge of their dtype."""
    if part.height == 0:
        return part
    pieces: list[pl.DataFrame] = []
    for name in columns:
        values = _edges(part[name])
        rows = part[[row % part.height for row in range(values.len())]]
        pieces.append(rows.with_columns(values.alias(name)))
    return pl.concat(pieces) if pieces else part.clear()


_STRINGS = (
    "", " ", "\t a \n", "a", "A", "ß", "ǆ", "İ", "ﬁ", "Ünïcode", "naïve café", "日本語テキスト", "👩‍👩‍👧", "e\u0301", "12",
    " 12 ", "-7", "+3", "1_000", "3.5", "1e5", "nan", "true", "x=1;y=2", "a.b", "A-B_c d", "\u00a0nbsp\u00a0", "\u2028",
    "\x1c", "a\x00b", "٣", "²", "ab\n", "ab\r\n", "AbC dEf", "o'neil", "foo", "foobar", "barfoo", "Σας", "ΟΔΟΣ", "2021-03-04",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)  # fmt: skip


def _edges(column: pl.Series) -> pl.Series:
    """Null, what the column holds at its edges, and what its dtype can hold at its own."""
    dtype = column.dtype
    values: list[object] = []
    if dtype.is_integer():
        limits = pl.select(low=dtype.min(), high=dtype.max()).row(0)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        low, high = int(limits[0]), int(limits[1])
        near = [
            -(1 << 53) - 1,
            -(1 << 31) - 1,
            -1000,
            -129,
            -128,
            -10,
            -3,
            -2,
            -1,
            0,
            1,
            2,
            3,
            10,
            127,
            128,
            1000,
        ]
        near += [
            (1 << 31),
            (1 << 53) + 1,
            low,
            low + 1,
            low // 2 - 1,
            high // 2 + 1,
            high - 1,
            high,
        ]
        values += [value for value in near if low <= value <= high]
    elif dtype.is_float():
        values += [
            0.0,
            -0.0,
            0.5,
            -0.5,
            1.0,
            1.5,
            2.5,
            -1.5,
            -2.5,
            0.1,
            1 / 3,
            1e-7,
            1e16,
            1e22,
            -1e300,
            123456.789,
        ]
        values += [2.675, 1.005, 100.0, 5e-324, 1e308, float("inf"), float("-inf"), float("nan")]
    elif dtype == pl.String:
        values += _STRINGS
    elif dtype == pl.Boolean:
        values += [True, False]
    edges = pl.Series(column.name, [*values, None], dtype=dtype, strict=False)
    own = [column.min(), column.max()] if dtype.is_numeric() or dtype.is_temporal() else []
    seen = pl.Series(column.name, own, dtype=dtype, strict=False)
    return pl.concat([edges, seen, column.head(16)])
