"""Frames to trees of buffers and back, and the columns that must take another road."""

from __future__ import annotations

import io
from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import polars as pl

from pmap._dtypes import is_mappable
from pmap._size import estimate
from pmap._transport._nodes import cut, describe, is_whole, rebuild
from pmap._transport._parcel import Columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow as pa

    from pmap._transport._needed import Copier
    from pmap._transport._parcel import Flags, Inline, Node, Parcel, Place, Span, Streamed

__all__ = [
    "Trees",
    "assemble",
    "from_stream",
    "from_trees",
    "read_schema",
    "restore_flags",
    "sorted_flags",
    "to_stream",
    "to_trees",
    "to_trees_of_all",
]

#: Strings as Polars itself keeps them, so that nothing is converted.
_NEWEST = pl.CompatLevel.newest()
#: Buffers of a column that are taken one by one, however small they are.
_FEW_BUFFERS = 64
#: To take a buffer takes as long as to copy so many bytes.
_BUFFER_BYTES = 8 * 1024


class Trees(NamedTuple):
    """A frame, taken apart."""

    frame: pl.DataFrame
    table: Any  #: pyarrow's, which holds the buffers
    arrays: list[list[Node]]
    rest: pl.DataFrame | None  #: columns that pyarrow does not carry faithfully

    def rows(self, start: int, stop: int, bounds: list[int]) -> Trees:
        """Of some rows; `bounds` are those of the arrays, the same in all columns."""
        first, last = bisect_right(bounds, start) - 1, bisect_left(bounds, stop)
        pieces = [
            (number, max(0, start - low), min(stop, high) - max(start, low))
            for number, (low, high) in enumerate(pairwise(bounds[first : last + 1]), first)
        ]
        arrays = [[cut(nodes[n], *rows) for n, *rows in pieces] for nodes in self.arrays]
        rest = None if self.rest is None else self.rest.slice(start, stop - start)
        return self._replace(arrays=arrays, rest=rest)

    def parcel(
        self, copier: Copier, places: list[Place], rest: Inline | Streamed | None
    ) -> Columns:
        """What travels, once `copier` has laid it out; its target is among the places."""
        return Columns(
            schema=self.table.schema.serialize().to_pybytes(),
            arrays=copier.arrays,
            places=tuple(places),
            n_bytes=copier.n_bytes + (0 if rest is None else rest.n_bytes),
            size=copier.size,
            names=None if rest is None else tuple(self.frame.columns),
            rest=rest,
        )


def to_trees(frame: pl.DataFrame, locate: Callable[[pa.Buffer], Span]) -> Trees:
    """Take a frame apart, without a copy; `locate` says of each buffer where it lies."""
    plain, table = _to_table(frame)
    crumbs = _crumbs_of(frame, table)
    if crumbs:
        frame = frame.with_columns(_in_one(frame.get_column(name)) for name in crumbs)
        table = _to_arrow(frame, plain)
    return _trees(frame, table, locate)


def to_trees_of_all(
    frame: pl.DataFrame, locate: Callable[[pa.Buffer], Span]
) -> tuple[Trees, list[int]] | None:
    """Take a frame apart, once for all its partitions, and the bounds of its arrays.

    ``None`` if anything would have to be copied, which is better done partition by partition.
    """
    if len({tuple(column.chunk_lengths()) for column in frame.get_columns()}) > 1:
        return None  # Arrow would have them alike
    _, table = _to_table(frame)
    lengths = {tuple(map(len, column.chunks)) for column in table.columns}
    if len(lengths) != 1 or _crumbs_of(frame, table):
        return None
    return _trees(frame, table, locate), [0, *accumulate(lengths.pop())]


def _to_table(frame: pl.DataFrame) -> tuple[list[str], Any]:
    """The columns that Arrow carries faithfully, as pyarrow's table, and their names."""
    plain = [name for name, dtype in frame.schema.items() if is_mappable(name, dtype)]
    table = _to_arrow(frame, plain)
    if table is None:
        plain = [name for name in plain if _to_arrow(frame, [name]) is not None]
        table = _to_arrow(frame, plain)
    return plain, table


def _trees(frame: pl.DataFrame, table: Any, locate: Callable[[pa.Buffer], Span]) -> Trees:
    arrays = [[describe(chunk, locate) for chunk in column.chunks] for column in table.columns]
    whole = table.num_columns == frame.width
    return Trees(frame, table, arrays, None if whole else frame.drop(table.column_names))


def _crumbs_of(frame: pl.DataFrame, table: Any) -> list[str]:
    return [name for name in table.column_names if _is_crumbs(frame, name, table.column(name))]


def _is_crumbs(frame: pl.DataFrame, name: str, column: Any) -> bool:
    """Whether a column is so many buffers that it is quicker to put them together than to send each.

    Strings that were Python's have a buffer for every few of them.
    """
    n_buffers = sum(len(chunk.buffers()) for chunk in column.chunks)
    return n_buffers > _FEW_BUFFERS and n_buffers * _BUFFER_BYTES > estimate(frame.select(name))


def _in_one(column: pl.Series) -> pl.Series:
    """The same column in buffers of its own, one of each sort; as it is, if Arrow would change it."""
    # The oldest strings have their bytes in one buffer, in the order of their rows. By way of a stream:
    # older versions of Polars read beyond the end of a slice of structs that pyarrow hands them.
    stream = to_stream(column.rechunk().to_frame(), pl.CompatLevel.oldest())
    again = from_stream(stream).to_series()
    return again if again.dtype == column.dtype else column


def _to_arrow(frame: pl.DataFrame, columns: list[str]) -> Any:
    """The columns as pyarrow's table; ``None`` if one of them can not be handed over."""
    import pyarrow as pa  # noqa: PLC0415  65 ms, for those who need it

    part = frame if len(columns) == frame.width else frame.select(columns)
    try:
        table = part.to_arrow(compat_level=_NEWEST)
    except pa.ArrowInvalid:
        return None  # older versions of Polars stumble over slices of structs
    whole = all(is_whole(chunk) for column in table.columns for chunk in column.chunks)
    return table if whole else None


def assemble(
    parcel: Columns,
    resolve: Callable[[Span], pa.Buffer],
    open_rest: Callable[[Parcel], pl.DataFrame],
) -> pl.DataFrame:
    """Put a frame together, and with it the columns that took another road."""
    if parcel.rest is None:
        frame = from_trees(read_schema(parcel.schema), parcel.arrays, resolve)
    else:
        frame = open_rest(parcel.rest)
        if parcel.arrays:
            frame = from_trees(read_schema(parcel.schema), parcel.arrays, resolve).hstack(frame)
    if parcel.names is not None:
        frame = frame.select(parcel.names)
    return restore_flags(frame, parcel.flags)


def from_trees(
    schema: Any,
    arrays: Iterable[Iterable[Node]],
    resolve: Callable[[Span], pa.Buffer],
) -> pl.DataFrame:
    """Put a frame together; it *is* the buffers that `resolve` gives."""
    import pyarrow as pa  # noqa: PLC0415

    columns: list[Any] = [
        pa.chunked_array([rebuild(node, field.type, resolve) for node in nodes], type=field.type)
        for field, nodes in zip(schema, arrays, strict=True)
    ]
    table = pa.Table.from_arrays(columns, schema=schema)
    frame = cast("pl.DataFrame", pl.from_arrow(table, rechunk=False))
    if "" in table.column_names:
        frame.columns = table.column_names  # from_arrow gives a column called "" another name
    return frame


@lru_cache(maxsize=8)
def read_schema(message: bytes) -> Any:
    """The Arrow schema in an IPC message."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.ipc  # noqa: PLC0415

    return pyarrow.ipc.read_schema(pa.py_buffer(message))


def to_stream(frame: pl.DataFrame, level: pl.CompatLevel | None = None) -> bytes:
    """A frame as Arrow IPC stream bytes, which carry every dtype."""
    buffer = io.BytesIO()
    # Of its own: Polars locks the frame while the buffer waits for the GIL, and a thread that has the
    # GIL and wants to know the height of the same frame would wait for that lock, for ever.
    frame.clone().write_ipc_stream(buffer, compat_level=level)
    return buffer.getvalue()


def from_stream(data: bytes) -> pl.DataFrame:
    """The frame in IPC stream bytes."""
    return pl.read_ipc_stream(data)


def sorted_flags(columns: list[pl.Series]) -> Flags:
    """Columns known to be sorted: Arrow forgets it."""
    all_flags = [column.flags for column in columns]
    return tuple(
        (index, flags["SORTED_DESC"])
        for index, flags in enumerate(all_flags)
        if flags["SORTED_ASC"] or flags["SORTED_DESC"]
    )


def restore_flags(frame: pl.DataFrame, flags: Flags) -> pl.DataFrame:
    """Say of the columns again that they are sorted; of one row Polars loses which way."""
    if frame.height <= 1:
        return frame
    for index, descending in flags:
        frame.replace_column(index, frame.to_series(index).set_sorted(descending=descending))
    return frame
