"""What a frame holds, as a short text: the same for equal rows, however they lie in memory.

Chunks, slices, spare bytes under nulls, the views of strings and the codes of categoricals do
not count. Bits of floats do: ``-0.0`` is not ``0.0``. Neither the process nor the version of
Polars matters, as it would with ``hash_rows``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from pmap.errors import UnsupportedDtypeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Update = Callable[[Any], None]

__all__ = ["digest_of_frame", "dtype_text"]

#: Strings one after the other, as most programs keep them: no views, no gaps.
_CONTIGUOUS = pl.CompatLevel.oldest()


def digest_of_frame(frame: pl.DataFrame) -> str:
    """Of the columns' names and dtypes, and of every value.

    Raises
    ------
    UnsupportedDtypeError
        For `Object` columns.
    """
    digest = hashlib.sha256(f"{frame.height}".encode())
    for column in frame.iter_columns():
        digest.update(f"\0{column.name!r} {dtype_text(column.dtype)}\0".encode())
        _feed(column, digest.update)
    return digest.hexdigest()


def dtype_text(dtype: pl.DataType) -> str:
    """A dtype in full; what Polars prints leaves out categories."""
    if isinstance(dtype, pl.Struct):
        fields = (f"{f.name!r}: {dtype_text(cast('pl.DataType', f.dtype))}" for f in dtype.fields)
        return f"Struct({', '.join(fields)})"
    if isinstance(dtype, pl.List):
        return f"List({dtype_text(cast('pl.DataType', dtype.inner))})"
    if isinstance(dtype, pl.Array):
        return f"Array({dtype_text(cast('pl.DataType', dtype.inner))}, {dtype.size})"
    if isinstance(dtype, pl.Enum):
        return f"Enum({dtype.categories.to_list()})"
    return str(dtype)


def _feed(column: pl.Series, update: Update) -> None:
    """Which rows are null, and then the values of the others."""
    nulls = column.null_count()
    update(f"{column.len()} {nulls}\0".encode())
    if nulls:
        _feed_numbers(column.is_null().arg_true(), update)
    dtype = column.dtype
    if isinstance(dtype, pl.Struct):  # rows of it that are null are null in each field
        for field in column.struct.unnest().iter_columns():
            _feed(field, update)
    elif not isinstance(dtype, pl.Null):
        _feed_values(column.drop_nulls() if nulls else column, dtype, update)


def _feed_values(column: pl.Series, dtype: pl.DataType, update: Update) -> None:
    if isinstance(dtype, pl.Categorical):  # its codes are by order of appearance
        column, dtype = column.cast(pl.String), pl.String()
    if isinstance(dtype, pl.String | pl.Binary):
        _feed_strings(column, dtype, update)
    elif isinstance(dtype, pl.List):
        lengths = column.list.len()
        _feed_numbers(lengths, update)
        _feed(column.filter(lengths > 0).explode(), update)  # one without items would become a null
    elif isinstance(dtype, pl.Array):
        if dtype.size:
            _feed(column.explode(), update)
    elif isinstance(dtype, pl.Boolean):
        _feed_numbers(column.cast(pl.UInt8), update)
    elif isinstance(dtype, pl.Decimal):
        _feed_numbers(column, update)
    else:
        _feed_physical(column, update)


def _feed_physical(column: pl.Series, update: Update) -> None:
    physical = column.to_physical()
    if physical.dtype in (pl.Int128, getattr(pl, "UInt128", None)):  # which Arrow does not know
        _feed_values(physical.cast(pl.String), pl.String(), update)
    elif physical.dtype.is_numeric():
        _feed_numbers(physical, update)
    elif isinstance(column.dtype, pl.Object):
        raise UnsupportedDtypeError(
            f"column {column.name!r} has dtype Object: what Python objects hold can not be compared "
            "between two runs, as a checkpoint needs it"
        )
    else:  # newer dtypes, such as Map: Polars' own hash, which is as steady as its version
        _feed_numbers(column.to_frame().hash_rows(), update)


def _feed_numbers(column: pl.Series, update: Update) -> None:
    """Values of fixed width, none of them null."""
    for array in _arrays(column):
        width = array.type.bit_width // 8
        data = memoryview(array.buffers()[1]).cast("B")
        update(data[array.offset * width : (array.offset + len(array)) * width])


def _feed_strings(column: pl.Series, dtype: pl.DataType, update: Update) -> None:
    lengths = column.bin.size() if isinstance(dtype, pl.Binary) else column.str.len_bytes()
    _feed_numbers(lengths, update)
    for array in _arrays(column):
        _, offsets, data = array.buffers()
        ends = memoryview(offsets).cast("B").cast("q")
        if data is not None:
            update(memoryview(data).cast("B")[ends[array.offset] : ends[array.offset + len(array)]])


def _arrays(column: pl.Series) -> Iterator[Any]:
    """The column's chunks as pyarrow's, none of them empty."""
    for chunk in column.get_chunks():
        if chunk.len():
            yield chunk.to_arrow(compat_level=_CONTIGUOUS)
