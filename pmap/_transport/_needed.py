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
from pmap._transport._views import VIEW, lowered_views, parts_used_by_views, used_by_views

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from pmap._transport._columns import Trees
    from pmap._transport._views import Used

__all__ = ["Copier", "Copy"]

_ALIGNMENT = 64
#: Strings' own bytes below this are copied whole, looked at or not.
_FEW_BYTES = 256 * 1024
#: Bytes between two strings that are copied rather than left out.
_GAP = 4096
#: From this byte of their buffer on it is worth to rewrite the views of strings; Polars' own
#: buffers are no longer, those of other libraries may be. Bytes.
_FAR = 16 * 1024 * 1024


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

    def __init__(self, place: int, target: int, read: Callable[[Span], memoryview]) -> None:
        self._place = place
        self._target = target
        self._read = read
        self.arrays: tuple[tuple[Node, ...], ...] = ()
        self.size = START  #: where the target ends, holes included
        self.copies: list[Copy] = []
        self.buffers: list[Copy] = []  #: those that are copied whole, by offset
        self._strings_at: dict[tuple[int, int], int] = {}  # their address, by offset and size
        self.literals: list[
            tuple[bytes | memoryview, int]
        ] = []  #: what is written instead of copied

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
        if (start, size) in self._strings_at:
            return self._strings_at[start, size]
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
                new = self._strings(node, first, length, new)
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

    def _strings(self, node: Node, first: int, length: int, new: Node) -> Node:
        """Views, and of their data what they say: at which byte of which buffer it lies."""
        _, views, *buffers = (cast("Span", span) for span in node.spans)
        base, n = first - new.offset, new.offset + length
        ours = [span for span in buffers if span.place == self._place]
        if sum(span.size for span in ours) <= _FEW_BYTES:
            whole = map(self._bytes, buffers)
            return new._replace(spans=(*new.spans, self._values(views, base, n, VIEW), *whole))
        own = self._read(_cut(views, first * VIEW, length * VIEW))
        used = used_by_views(own)
        far = {index: part.low for index, part in used.items() if part.low > _FAR}
        if far and views.place == self._place and len(ours) == len(buffers):
            all_views = self._read(_cut(views, base * VIEW, n * VIEW))
            moved: Span | None = self._literal(lowered_views(all_views, far))
        else:
            moved, far = self._values(views, base, n, VIEW), {}
        data = [
            self._data(span, used.get(index), far.get(index, 0), own, index)
            for index, span in enumerate(buffers)
        ]
        return new._replace(spans=(*new.spans, moved, *data))

    def _data(
        self, span: Span, used: Used | None, lowered: int, views: memoryview, index: int
    ) -> Span:
        """What strings need of one buffer, of which views leave the first `lowered` bytes out.

        The copy seems to begin where the buffer does, so that no room is left for what is not
        copied: before the strings lies whatever else the target holds there, which no view names.
        """
        if span.place != self._place:
            return span
        if used is None:
            return Span(self._target, START, 0)
        if used.high > span.size:  # the view of a null may hold anything
            return self._bytes(span) if not lowered else self._bytes(_cut(span, lowered, span.size))
        is_dense = used.high - used.low <= 2 * used.n_bytes + _FEW_BYTES
        parts = [(used.low, used.high)] if is_dense else parts_used_by_views(views, index, _GAP)
        ahead = used.low - lowered
        self.size = max(self.size, _aligned(START + ahead))
        begin = self._reserve(used.high - used.low) - ahead
        size = used.high - lowered
        self._strings_at[begin, size] = span.start + lowered
        self.copies += [
            Copy(span.start + low, high - low, begin + low - lowered) for low, high in parts
        ]
        return Span(self._target, begin, size)

    # Bytes.

    def _bits(self, span: Span | None, base: int, n: int) -> Span | None:
        return None if span is None else self._bytes(_cut(span, base // 8, (n + 7) // 8))

    def _values(self, span: Span | None, base: int, n: int, width: int) -> Span | None:
        return None if span is None else self._bytes(_cut(span, base * width, n * width))

    def _bytes(self, span: Span) -> Span:
        if span.place != self._place:
            return span
        copy = Copy(span.start, span.size, self._reserve(span.size))
        self.buffers.append(copy)
        if copy.size:
            self.copies.append(copy)
        return Span(self._target, copy.offset, copy.size)

    def _literal(self, data: bytes | memoryview) -> Span:
        at = self._reserve(len(data))
        self.literals.append((data, at))
        return Span(self._target, at, len(data))

    def _reserve(self, size: int) -> int:
        at = self.size
        self.size += _aligned(size)
        return at


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _cut(span: Span, start: int, size: int) -> Span:
    return Span(span.place, span.start + start, max(0, min(size, span.size - start)))


def _integers(data: memoryview, dtype: pa.DataType) -> pl.Series:
    import pyarrow as pa  # noqa: PLC0415

    array = pa.Array.from_buffers(
        dtype, len(data) * 8 // width_of(dtype), [None, pa.py_buffer(data)]
    )
    return cast("pl.Series", pl.from_arrow(array))


def _lowered(offsets: memoryview, by: int) -> bytes:
    import pyarrow as pa  # noqa: PLC0415

    lowered = (_integers(offsets, pa.int64()) - by).clip(0)
    return cast("pa.Buffer", lowered.to_arrow().buffers()[1]).to_pybytes()
