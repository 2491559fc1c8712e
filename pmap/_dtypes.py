"""Which columns can travel, and by which road."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import polars as pl

from pmap.errors import UnsupportedDtypeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["is_mappable", "refuse_unsupported"]

#: Dtypes that pyarrow maps without changing dtype, value or null. A frame with any other
#: column (128-bit integers, Map, extension types) is read by Polars' own reader, which copies.
_MAPPABLE: frozenset[type] = frozenset(
    {
        *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
        *(pl.Float32, pl.Float64, pl.Boolean, pl.String, pl.Binary, pl.Null, pl.Decimal),
        *(pl.Date, pl.Datetime, pl.Duration, pl.Time, pl.Categorical, pl.Enum),
    }
)
_NESTED = (pl.Struct, pl.List, pl.Array)


def _leaves(dtype: pl.DataType) -> Iterator[pl.DataType]:
    """`dtype` and all that it is made of."""
    yield dtype
    if isinstance(dtype, pl.Struct):
        for field in dtype.fields:
            yield from _leaves(cast("pl.DataType", field.dtype))
    elif isinstance(dtype, pl.List | pl.Array):
        yield from _leaves(cast("pl.DataType", dtype.inner))


def is_mappable(name: str, dtype: pl.DataType) -> bool:
    """Whether pyarrow gives a column back exactly."""
    return _maps(dtype) and "\0" not in name


def _maps(dtype: pl.DataType) -> bool:
    if not isinstance(dtype, _NESTED):
        return type(dtype) in _MAPPABLE
    return all(isinstance(leaf, _NESTED) or type(leaf) in _MAPPABLE for leaf in _leaves(dtype))


def refuse_unsupported(columns: Iterable[pl.Series]) -> None:
    """Raise if a column can not leave this process.

    Raises
    ------
    UnsupportedDtypeError
        For `Object` columns (pointers into this process) and arrays of width 0 (which
        Polars can not read back), at any depth.
    """
    for column in columns:
        dtype = column.dtype
        if type(dtype) not in _MAPPABLE:  # else it is fine, and most are
            _refuse(column.name, dtype)


def _refuse(name: str, dtype: pl.DataType) -> None:
    for leaf in _leaves(dtype):
        if isinstance(leaf, pl.Object):
            raise UnsupportedDtypeError(
                f"column {name!r} has dtype {dtype}: Python objects can not travel to a worker. "
                f"Drop it (df.drop({name!r})), convert it to a Polars dtype, or use backend='threads'"
            )
        if isinstance(leaf, pl.Array) and leaf.size == 0:
            raise UnsupportedDtypeError(
                f"column {name!r} has dtype {dtype}: Polars can not read arrays of width 0 back. "
                f"Drop it (df.drop({name!r})) and add it again afterwards"
            )
