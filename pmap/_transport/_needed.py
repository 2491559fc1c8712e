"""Which bytes of the buffers some rows need, so that nothing else is copied.

An array that is a slice still has its parent's buffers. `Copier` walks a tree, cuts every
buffer down to the rows (at a multiple of eight, so that bitmaps stay whole bytes), and lays
what is to be copied out in one target, as a list of copies for whoever can read the source.
"""

from __future__ import annotations

import ctypes
import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import polars as pl

from pmap._segment import START
from pmap._transport._nodes import kind_of, width_of
from pmap._transport._parcel import Node, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from pmap._transport._columns import Trees

__all__ = ["Copier", "Copy"]

_ALIGNMENT = 64
#: Bytes of a view, and of strings that a view holds itself.
_VIEW, _SHORT = 16, 12
#: Strings' own bytes below this are copied whole, looked at or not.
_FEW_BYTES = 256 * 1024
#: Bytes between two strings that are copied rather than left out.
_GAP = 4096


class Copy(NamedTuple):
    """Bytes from an address of the source to an offset of the target."""

    address: int
    size: int
    offset: int


def _offset_of(copy: Copy) -> int:
    return copy.offset


class Copier:
    """Lays out in one target what rows need of one place, and leaves other places be.

    Parameters
    ----------
    place
        Index of the place whose bytes are to be copied.
    target
        Index of the place that they are copied to.
    read
        Gives the bytes at a span, of any place.
    """

    def __init__(self, place: int, target: int, read: Callable[[Span], bytes]) -> None:
        self._place = place
        self._target = target
        self._read = read
        self.arrays: tuple[tuple[Node, ...], ...] = ()
        self.size = START  #: where the target ends, holes included
        self.copies: list[Copy] = []
        self.buffers: list[Copy] = []  #: whole, of which perhaps only parts are copied; by offset
        self.literals: list[tuple[bytes, int]] = []  #: what is written instead of copied

    @property
    def n_bytes(self) -> int:
        """What is to be written, in bytes."""
        copied = sum(copy.size for copy in self.copies)
        return copied + sum(len(data) for data, _ in self.literals)

    def lay_out(self, trees: Trees) -> None:
        """Find the trees of all columns for the same rows, with what is copied in the target."""
        self.arrays = tuple(
            tuple(self.node(node, field.type) for node in nodes)
            for field, nodes in zip(trees.table.schema, trees.arrays, strict=True)
        )

    def pieces(self) -> list[tuple[Any, int]]:
        """What to write where, if the source is this process's own memory."""
        copies = [((ctypes.c_char * c.size).from_address(c.address), c.offset) for c in self.copies]
        return [*copies, *self.literals]

    def origin(self, start: int, size: int) -> int | None:
        """The address in the source of bytes of the target; ``None`` if they were made for it."""
        at = bisect_right(self.buffers, start, key=_offset_of) - 1
        copy = self.buffers[max(at, 0)] if self.buffers else Copy(0, 0, 0)
        if copy.offset <= start and start + size <= copy.offset + copy.size:
            return copy.address + start - copy.offset
        return None

    def node(self, node: Node, dtype: pa.DataType) -> Node:
        """The tree of one array."""
        return self._rows(node, dtype, node.offset, node.length)

    def _rows(self, node: Node, dtype: pa.DataType, first: int, length: int) -> Node:
        """Of rows ``first`` to ``first + length`` of the buffers."""
        base = first // 8 * 8
        n = first - base + length
        nulls = node.null_count if length == node.length else -1
        validity = self._bits(node.spans[0], base, n) if node.spans else None
        new = Node(length, nulls, first - base, (validity,))
        of = cast("Any", dtype)
        match kind_of(dtype):
            case "null":
                return new._replace(spans=node.spans)
            case "struct":
                new = new._replace(children=self._fields(node, of, base, n))
            case "fixed_size_list":
                new = new._replace(children=(self._items(node, of, base, n),))
            case "large_list":
                new = self._list(node, of.value_type, first, new)
            case "view":
                views = self._values(node.spans[1], base, n, _VIEW)
                data = self._strings(node, first, length)
                new = new._replace(spans=(validity, views, *data))
            case "dictionary":
                keys = self._values(node.spans[1], base, n, width_of(of.index_type) // 8)
                dictionary = self.node(cast("Node", node.dictionary), of.value_type)
                new = new._replace(spans=(validity, keys), dictionary=dictionary)
            case "bool":
                new = new._replace(spans=(validity, self._bits(node.spans[1], base, n)))
            case _:
                values = self._values(node.spans[1], base, n, width_of(dtype) // 8)
                new = new._replace(spans=(validity, values))
        return new

    def _fields(self, node: Node, dtype: Any, base: int, n: int) -> tuple[Node, ...]:
        return tuple(
            self._rows(child, dtype.field(index).type, child.offset + base, n)
            for index, child in enumerate(node.children)
        )

    def _items(self, node: Node, dtype: Any, base: int, n: int) -> Node:
        (child,), size = node.children, dtype.list_size
        return self._rows(child, dtype.value_type, child.offset + base * size, n * size)

    def _list(self, node: Node, inner: pa.DataType, first: int, new: Node) -> Node:
        """Offsets count from the child's first row, which is left out with those before it."""
        (child,), offsets = node.children, node.spans[1]
        assert offsets is not None  # noqa: S101  Arrow's lists have them
        low, high = (
            struct.unpack("=q", self._read(_cut(offsets, 8 * at, 8)))[0]
            for at in (first, first + new.length)
        )
        own = _cut(offsets, 8 * (first - new.offset), 8 * (new.offset + new.length + 1))
        if low == 0 or offsets.place != self._place:
            moved, low = self._bytes(own), 0
        else:
            moved = self._literal(_lowered(self._read(own), low))
        rows = self._rows(child, inner, child.offset + low, high - low)
        return new._replace(spans=(*new.spans, moved), children=(rows,))

    def _strings(self, node: Node, first: int, length: int) -> Iterator[Span]:
        """The data of views, where it lies: views say at which byte of which buffer."""
        views, *buffers = (span for span in node.spans[1:] if span is not None)
        ours = [span for span in buffers if span.place == self._place]
        if sum(span.size for span in ours) <= _FEW_BYTES:
            yield from map(self._bytes, buffers)
            return
        used = _long_strings(self._read(_cut(views, first * _VIEW, length * _VIEW)))
        for index, span in enumerate(buffers):
            strings = used.get((index,))
            yield self._parts(span, [] if strings is None else _extents(strings, span.size))

    # Bytes.

    def _bits(self, span: Span | None, base: int, n: int) -> Span | None:
        return None if span is None else self._bytes(_cut(span, base // 8, (n + 7) // 8))

    def _values(self, span: Span | None, base: int, n: int, width: int) -> Span | None:
        return None if span is None else self._bytes(_cut(span, base * width, n * width))

    def _bytes(self, span: Span) -> Span:
        return self._parts(span, [(0, span.size)])

    def _parts(self, span: Span, extents: list[tuple[int, int]]) -> Span:
        """Parts of a buffer, at their places in it; the rest is a hole."""
        if span.place != self._place:
            return span
        at = self._reserve(span.size)
        self.buffers.append(Copy(span.start, span.size, at))
        self.copies += [Copy(span.start + lo, hi - lo, at + lo) for lo, hi in extents if hi > lo]
        return Span(self._target, at, span.size)

    def _literal(self, data: bytes) -> Span:
        at = self._reserve(len(data))
        self.literals.append((data, at))
        return Span(self._target, at, len(data))

    def _reserve(self, size: int) -> int:
        at = self.size
        self.size += -(-size // _ALIGNMENT) * _ALIGNMENT
        return at


def _cut(span: Span, start: int, size: int) -> Span:
    return Span(span.place, span.start + start, max(0, min(size, span.size - start)))


def _integers(data: bytes, dtype: pa.DataType) -> pl.Series:
    import pyarrow as pa  # noqa: PLC0415

    array = pa.Array.from_buffers(
        dtype, len(data) * 8 // width_of(dtype), [None, pa.py_buffer(data)]
    )
    return cast("pl.Series", pl.from_arrow(array))


def _lowered(offsets: bytes, by: int) -> bytes:
    import pyarrow as pa  # noqa: PLC0415

    lowered = (_integers(offsets, pa.int64()) - by).clip(0)
    return cast("pa.Buffer", lowered.to_arrow().buffers()[1]).to_pybytes()


def _long_strings(views: bytes) -> dict[tuple[Any, ...], pl.DataFrame]:
    """For each buffer the strings in it, those that a view does not hold itself: size, start, end."""
    import pyarrow as pa  # noqa: PLC0415

    words = _integers(views, pa.uint32())
    frame = pl.DataFrame(
        {
            "size": words.gather_every(4),
            "buffer": words.gather_every(4, 2),
            "start": words.gather_every(4, 3).cast(pl.Int64),
        }
    )
    long = frame.filter(pl.col("size") > _SHORT)
    ends = long.with_columns(end=pl.col("start") + pl.col("size"))
    return ends.partition_by("buffer", as_dict=True)


def _extents(strings: pl.DataFrame, limit: int) -> list[tuple[int, int]]:
    """The parts of a buffer that hold `strings`: one, unless much lies between them."""
    low, high, used = strings.select(
        low=pl.col("start").min(),
        high=pl.col("end").max(),
        used=pl.col("size").cast(pl.Int64).sum(),
    ).row(0)
    if high > limit:  # the view of a null may hold anything
        return [(0, limit)]
    if high - low <= 2 * used + _FEW_BYTES:
        return [(low, high)]
    parts = strings.sort("start").with_columns(reach=pl.col("end").cum_max())
    begins = pl.col("start") > pl.col("reach").shift(1).fill_null(-_GAP) + _GAP
    merged = parts.group_by(begins.cum_sum(), maintain_order=True).agg(
        low=pl.col("start").first(), high=pl.col("reach").last()
    )
    return merged.select("low", "high").rows()
