"""Rows that a frame does not have: its columns filled with values at the edges of their dtypes."""

from __future__ import annotations

import datetime as dt
import random
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["extremes"]

_STRINGS = (
    "", " ", "\t a \n", "a", "A", "ß", "ǆ", "İ", "ﬁ", "Ünïcode", "naïve café", "日本語テキスト", "👩‍👩‍👧", "e\u0301", "12",
    " 12 ", "-7", "+3", "1_000", "3.5", "1e5", "nan", "true", "x=1;y=2", "a.b", "A-B_c d", "\u00a0nbsp\u00a0", "\u2028",
    "\x1c", "a\x00b", "٣", "²", "ab\n", "ab\r\n", "AbC dEf", "o'neil", "foo", "foobar", "barfoo", "Σας", "ΟΔΟΣ", "2021-03-04",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)  # fmt: skip
_FLOATS = (
    0.0, -0.0, 0.5, -0.5, 1.0, 1.5, 2.5, -1.5, -2.5, 0.1, 1 / 3, 1e-7, 1e16, 1e22, -1e300, 123456.789, 2.675, 1.005, 100.0,
    5e-324, 1e308, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
#: A day from the ends of what Python can hold, for time zones.
_DAYS = (
    "0001-01-02",
    "1899-12-31",
    "1969-12-31",
    "1970-01-01",
    "2000-02-29",
    "2024-12-30",
    "9999-12-30",
)
_CLOCKS = ("00:00:00", "12:34:56.789123", "23:59:59.999999")
_RANDOM = 64


def extremes(part: pl.DataFrame, columns: Mapping[str, Sequence[object]]) -> pl.DataFrame:
    """Rows of a sample, the named columns filled one by one with values at the edges.

    Parameters
    ----------
    part
        The sample.
    columns
        By name, values of the function's own, which are tried with their neighbours.
    """
    known = [name for name in columns if name in part.columns]
    if part.height == 0 or not known:
        return part.clear()
    pieces: list[pl.DataFrame] = []
    for name in known:
        values = _edges(part[name], columns[name])
        rows = part[[row % part.height for row in range(values.len())]]
        pieces.append(rows.with_columns(values.alias(name)))
    return pl.concat(pieces)


def _edges(column: pl.Series, own: Sequence[object]) -> pl.Series:
    """Null, what the column holds at its edges, and what its dtype can hold at its own."""
    dtype = column.dtype
    values: list[object] = []
    if dtype.is_integer():
        values += _integers(dtype, own)
    elif dtype.is_float():
        values += _floats(own)
    elif dtype == pl.String:
        values += _strings(own)
    elif dtype == pl.Boolean:
        values += [True, False]
    elif dtype == pl.Date:
        values += map(dt.date.fromisoformat, _DAYS)
    elif dtype == pl.Datetime:
        moments = [f"{day}T{clock}" for day in _DAYS for clock in _CLOCKS]
        texts = pl.Series(moments).str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us")
        values += texts.cast(pl.Datetime("us")).to_list()
    edges = pl.Series(column.name, [*values, None], dtype=dtype, strict=False)
    ends = [column.min(), column.max()] if dtype.is_numeric() or dtype.is_temporal() else []
    seen = pl.Series(column.name, ends, dtype=dtype, strict=False)
    return pl.concat([edges, seen, column.head(16)])


def _integers(dtype: pl.DataType, own: Iterable[object]) -> Iterable[int]:
    """Around zero, around each power of two, around the function's own numbers, and by chance."""
    limits = pl.select(low=dtype.min(), high=dtype.max()).row(0)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    low, high = int(limits[0]), int(limits[1])
    near = {*range(-12, 13), 100, 1000, -1000, low // 2 - 1, high // 2 + 1}
    near |= {sign * (1 << bit) for bit in range(65) for sign in (1, -1)}
    near |= {int(value) for value in own if isinstance(value, int | float) and abs(value) < 1e19}  # noqa: PLR2004  no integer is larger
    chance = random.Random(0)  # noqa: S311  the same each time
    spread = [chance.getrandbits(1 + index) for index in range(_RANDOM)]
    values = {value + step for value in near for step in (-1, 0, 1)} | {*spread}
    return sorted(value for value in values if low <= value <= high)


def _floats(own: Iterable[object]) -> Iterable[float]:
    chance = random.Random(0)  # noqa: S311  the same each time
    yield from _FLOATS
    yield from (chance.uniform(-1, 1) * 10 ** chance.randint(-8, 18) for _ in range(_RANDOM))
    for value in own:
        if isinstance(value, int | float) and abs(value) < 1e300:  # noqa: PLR2004  has neighbours
            yield from (float(value), value + 1.0, value - 1.0, value * (1 + 1e-15), -float(value))


def _strings(own: Iterable[object]) -> Iterable[str]:
    texts = [value for value in own if isinstance(value, str)]
    chance = random.Random(0)  # noqa: S311  the same each time
    letters = [*"ab, .-1\n", "é", "ß", "Σ", "e\u0301", "👩‍👩‍👧", *texts]
    yield from _STRINGS
    yield from ("".join(chance.choices(letters, k=chance.randint(0, 8))) for _ in range(_RANDOM))
    for text in texts:
        yield from (text, f"{text}{text}", f"a{text}b", text[:-1], text.upper(), f" {text} ")
