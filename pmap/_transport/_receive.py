"""Worker's side: partitions in, results out."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from pmap._dtypes import refuse_unsupported
from pmap._segment import START, Shared, map_shared, open_shared, write_at
from pmap._transport import _arena
from pmap._transport._columns import (
    from_stream,
    from_trees,
    nothing,
    read_schema,
    restore_flags,
    sorted_flags,
    to_stream,
    to_trees,
)
from pmap._transport._files import map_file
from pmap._transport._needed import Copier
from pmap._transport._parcel import (
    COLUMN_BYTES,
    HERE,
    INLINE_BYTES,
    Blob,
    Columns,
    Inline,
    Memory,
    Parcel,
    Place,
    Span,
    Streamed,
)
from pmap._transport._places import Atlas, Places, Region
from pmap.errors import TransportError

if TYPE_CHECKING:
    import mmap

    import polars as pl
    import pyarrow as pa

__all__ = ["Received", "forget_mapped", "has_mapped", "load_blob", "pack", "pack_bytes", "unpack"]

#: Mappings of segments and files that a worker keeps for the next partition.
_KEPT = 32


class Received(NamedTuple):
    """Where the buffers of a partition came from, and whether they are still in use."""

    atlas: Atlas
    views: list[weakref.ref[memoryview]]

    def is_released(self) -> bool:
        """Whether nobody looks at the caller's segments any more."""
        return all(view() is None for view in self.views)


class _Maps:
    """Segments and files that this worker maps, most recently used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Place, mmap.mmap] = OrderedDict()

    def get(self, place: Shared | Any) -> mmap.mmap:
        with self._lock:
            memory = self._known.get(place)
            if memory is None:
                memory = map_shared(place) if isinstance(place, Shared) else map_file(place)
                self._known[place] = memory
            self._known.move_to_end(place)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
            return memory

    def forget(self) -> None:
        with self._lock:
            self._known.clear()

    def __bool__(self) -> bool:
        return bool(self._known)


_maps = _Maps()
_arena_of_worker = _arena.Arena()


def has_mapped() -> bool:
    """Whether this worker holds on to memory for the next partition."""
    return bool(_maps) or bool(_arena_of_worker)


def forget_mapped() -> None:
    """Let go of it, so that an idle worker does not keep the caller's memory."""
    _maps.forget()
    _arena_of_worker.forget()


def load_blob(blob: Blob) -> bytes:
    """The bytes of a blob."""
    if blob.data is not None:
        return blob.data
    if blob.place is None:
        raise TransportError("a blob without bytes")
    return map_shared(blob.place, START + blob.size)[START : START + blob.size]


def unpack(parcel: Parcel) -> tuple[pl.DataFrame, Received]:
    """A partition, as a frame.

    Raises
    ------
    PullRefusedError
        When it must be sent another way.
    """
    if isinstance(parcel, Columns):
        return _Unpacking(parcel).frame()
    if isinstance(parcel, Inline):
        return restore_flags(from_stream(parcel.data), parcel.flags), Received(Atlas(), [])
    end = parcel.start + parcel.size
    data = map_shared(parcel.place, end)[parcel.start : end]
    return restore_flags(from_stream(data), parcel.flags), Received(Atlas(), [])


class _Unpacking:
    """Of one frame: maps what can be mapped, pulls what can not."""

    def __init__(self, parcel: Columns) -> None:
        self._parcel = parcel
        self._atlas = Atlas()
        self._views: list[weakref.ref[memoryview]] = []
        self._buffers: dict[int, pa.Buffer] = {}
        for index, place in enumerate(parcel.places):
            if not isinstance(place, Memory):
                self._map(index, place)

    def _map(self, index: int, place: Place) -> None:
        import pyarrow as pa  # noqa: PLC0415  65 ms, for those who need it

        view = memoryview(_maps.get(place))
        buffer = self._buffers[index] = pa.py_buffer(view)
        self._atlas.add(Region(buffer.address, buffer.size, place, 0, weakref.ref(view)))
        if isinstance(place, Shared):
            self._views.append(weakref.ref(view))

    def frame(self) -> tuple[pl.DataFrame, Received]:
        parcel = self._parcel
        arrays = parcel.arrays
        for index, place in enumerate(parcel.places):
            if isinstance(place, Memory):
                arrays = self._pulled(index, place)
        frame = from_trees(parcel.schema, arrays, self._resolve)
        if parcel.rest is not None:
            frame = frame.hstack(unpack(parcel.rest)[0])
        if parcel.names is not None:
            frame = frame.select(parcel.names)
        return restore_flags(frame, parcel.flags), Received(self._atlas, self._views)

    def _pulled(self, index: int, memory: Memory) -> Any:
        """The trees, with what lies in the caller's memory in an arena of our own."""
        import pyarrow as pa  # noqa: PLC0415

        def read(span: Span) -> bytes:
            if span.place == index:
                return _arena.pull_bytes(memory, span.start, span.size)
            return self._resolve(span).to_pybytes()

        target = len(self._parcel.places)
        copier = Copier(index, target, read, 0)
        arrays = copier.arrays(self._parcel.arrays, read_schema(self._parcel.schema))
        if copier.size == 0:
            self._buffers[target] = nothing()
            return arrays
        view = _arena_of_worker.take(copier.size, keep=not copier.sparse)
        base = pa.py_buffer(view)
        self._buffers[target] = base
        _arena.pull(memory, ((c.address, c.size, base.address + c.offset) for c in copier.copies))
        for data, at in copier.literals:
            view[at : at + len(data)] = data
        for copy in copier.copies:
            at = base.address + copy.offset
            self._atlas.add(Region(at, copy.size, memory, copy.address, weakref.ref(view)))
        return arrays

    def _resolve(self, span: Span) -> pa.Buffer:
        return self._buffers[span.place].slice(span.start, span.size)


def pack_bytes(data: bytes, reply: Shared | None) -> Blob:
    """A pickled result, inline if small or if there is no segment."""
    if reply is None or len(data) <= INLINE_BYTES:
        return Blob(data)
    _write(reply, [(data, START)])
    return Blob(None, reply, len(data))


def _write(reply: Shared, pieces: list[tuple[Any, int]]) -> None:
    with open_shared(reply, os.O_RDWR) as fd:
        write_at(fd, pieces)


def pack(frame: pl.DataFrame, reply: Shared | None, received: Received | None) -> Parcel:
    """A result: small ones inline, of large ones only the buffers that are new."""
    refuse_unsupported(frame.schema)
    flags, size = sorted_flags(frame), frame.estimated_size()
    if reply is None or size <= INLINE_BYTES:
        return Inline(to_stream(frame), flags)
    if size <= INLINE_BYTES + COLUMN_BYTES * frame.width:
        return _streamed(frame, reply, START, flags)
    atlas = Atlas() if received is None else received.atlas
    return _columns(frame, reply, atlas)._replace(flags=flags)


def _streamed(frame: pl.DataFrame, reply: Shared, start: int, flags: Any = ()) -> Streamed:
    data = to_stream(frame)
    _write(reply, [(data, start)])
    return Streamed(reply, start, len(data), flags)


def _columns(frame: pl.DataFrame, reply: Shared, atlas: Atlas) -> Parcel:
    places = Places(atlas, [reply], HERE)
    trees = to_trees(frame, places.locate)
    if trees.table is None:
        return _streamed(frame, reply, START)
    copier = Copier(HERE, 0, places.read, START)
    arrays = copier.arrays(trees.arrays, trees.table.schema)
    pieces = copier.pieces()
    with open_shared(reply, os.O_RDWR) as fd:
        write_at(fd, pieces, copier.size)
    rest = None if trees.rest is None else _streamed(trees.rest, reply, copier.size)
    return Columns(
        schema=trees.table.schema.serialize().to_pybytes(),
        arrays=arrays,
        places=tuple(places.places),
        height=frame.height,
        n_bytes=sum(len(memoryview(piece)) for piece, _ in pieces)
        + (0 if rest is None else rest.size),
        size=copier.size,
        names=None if rest is None else tuple(frame.columns),
        rest=rest,
    )
