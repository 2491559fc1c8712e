"""Worker's side: partitions in, results out."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from pmap._dtypes import refuse_unsupported
from pmap._segment import (
    START,
    Shared,
    Writer,
    is_memory,
    map_shared,
    open_shared,
    refuse_if_full,
    write_at,
)
from pmap._size import estimate_column
from pmap._transport._columns import (
    assemble,
    from_stream,
    restore_flags,
    sorted_flags,
    to_stream,
    to_trees,
)
from pmap._transport._files import open_file
from pmap._transport._needed import Copier
from pmap._transport._parcel import (
    COLUMN_BYTES,
    HERE,
    INLINE_BYTES,
    Blob,
    Columns,
    Inline,
    Parcel,
    Place,
    Span,
    Streamed,
)
from pmap._transport._places import Atlas, Places, Region
from pmap._transport._touched import Unused, unused_of
from pmap.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl
    import pyarrow as pa

__all__ = [
    "Received",
    "also_forget",
    "forget_mapped",
    "load_blob",
    "pack",
    "pack_bytes",
    "unpack",
]

#: Mappings of segments and files that a worker keeps for the next partition.
_KEPT = 16


class Received(NamedTuple):
    """Where the buffers of a partition came from, and whether they are still in use."""

    atlas: Atlas
    views: list[weakref.ref[memoryview]]
    n_bytes: int  #: copied on the way here
    parcel: Columns | None = None
    addresses: tuple[int, ...] = ()  #: of its places

    def unused(self) -> Unused | None:
        """The columns that nobody has looked at, while the partition is there.

        ``None`` for one that is not mapped, or where the kernel does not tell.
        """
        if self.parcel is None:
            return None
        try:
            return unused_of(self.parcel, self.addresses)
        except OSError:
            return None

    def is_released(self) -> bool:
        """Whether nobody looks at the caller's segments any more."""
        return all(view() is None for view in self.views)


class _Maps:
    """Segments and files that this worker maps, most recently used last.

    By what they are, not by how they are called: a segment that is used again has a new
    token, but its pages are mapped already.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[int, int], mmap.mmap] = OrderedDict()
        self._writers: OrderedDict[tuple[int, int], Writer] = OrderedDict()

    def get(self, place: Place) -> mmap.mmap:
        with (
            open_shared(place) if isinstance(place, Shared) else open_file(place) as fd,
            self._lock,
        ):
            stat = os.fstat(fd)
            key = stat.st_dev, stat.st_ino
            memory = self._known.pop(key, None)
            if memory is None or len(memory) < stat.st_size:
                memory = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
            self._known[key] = memory
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
            return memory

    def writer(self, fd: int) -> Callable[[int, list[tuple[Any, int]], int], None]:
        """What writes into a segment, quicker if it has been written before."""
        stat = os.fstat(fd)
        key = stat.st_dev, stat.st_ino
        with self._lock:
            if key not in self._writers:
                if not is_memory(fd):
                    return write_at
                self._writers[key] = Writer()
            self._writers.move_to_end(key)
            while len(self._writers) > _KEPT:
                self._writers.popitem(last=False)
            return self._writers[key].write

    def forget(self) -> None:
        with self._lock:
            self._known.clear()
            self._writers.clear()


_maps = _Maps()


#: Others that hold on to the caller's memory, by what lets go of it.
_others: list[Callable[[], None]] = []


def also_forget(forget: Callable[[], None]) -> None:
    """Have another one let go too when the worker rests."""
    _others.append(forget)


def forget_mapped() -> None:
    """Let go of it, so that an idle worker does not keep the caller's memory."""
    _maps.forget()
    for forget in _others:
        forget()


def load_blob(blob: Blob) -> bytes:
    """The bytes of a blob."""
    if blob.data is not None:
        return blob.data
    if blob.place is None:
        raise TransportError("a blob without bytes")
    return map_shared(blob.place, START + blob.size)[START : START + blob.size]


def unpack(parcel: Parcel) -> tuple[pl.DataFrame, Received]:
    """A partition, as a frame that is the mapping of where it lies."""
    if isinstance(parcel, Columns):
        return _Unpacking(parcel).frame()
    if isinstance(parcel, Inline):
        return restore_flags(from_stream(parcel.data), parcel.flags), Received(
            Atlas(), [], parcel.n_bytes
        )
    end = parcel.start + parcel.size
    data = map_shared(parcel.place, end)[parcel.start : end]
    return restore_flags(from_stream(data), parcel.flags), Received(Atlas(), [], parcel.n_bytes)


def _frame_of(parcel: Parcel) -> pl.DataFrame:
    return unpack(parcel)[0]


class _Unpacking:
    """Of one frame."""

    def __init__(self, parcel: Columns) -> None:
        import pyarrow as pa  # noqa: PLC0415  65 ms, for those who need it

        self._parcel = parcel
        self._atlas, self._views = Atlas(), list[weakref.ref[memoryview]]()
        self._buffers: list[pa.Buffer] = []
        for place in parcel.places:
            view = memoryview(_maps.get(place))
            buffer = pa.py_buffer(view)
            self._buffers.append(buffer)
            owner = weakref.ref(view)
            self._atlas.add(Region(buffer.address, buffer.size, place, 0, owner))
            self._views.append(owner)

    def frame(self) -> tuple[pl.DataFrame, Received]:
        addresses = tuple(buffer.address for buffer in self._buffers)
        received = Received(self._atlas, self._views, self._parcel.n_bytes, self._parcel, addresses)
        return assemble(self._parcel, self._resolve, _frame_of), received

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
    columns = frame.get_columns()
    refuse_unsupported(columns)
    flags, size = sorted_flags(columns), sum(map(estimate_column, columns))
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


def _columns(frame: pl.DataFrame, reply: Shared, atlas: Atlas) -> Columns:
    places = Places(atlas, [reply], HERE)
    trees = to_trees(frame, places.locate)
    copier = Copier(HERE, 0, places.read)
    copier.lay_out(trees)
    with open_shared(reply, os.O_RDWR) as fd:
        refuse_if_full(fd, copier.size)
        _maps.writer(fd)(fd, copier.pieces(), copier.size)
    rest = None if trees.rest is None else _streamed(trees.rest, reply, copier.size)
    return trees.parcel(copier, places.places, rest)
