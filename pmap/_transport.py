"""How a frame gets to a worker and back: Arrow IPC, by reference where memory is shared.

Who owns what::

    caller                                          worker
    ──────                                          ──────
    input segment  ── written once ──►  path, first row, rows  ──►  maps it read-only,
      (owned, closed at the end of the call)                        slices: no copy
    reply segment  ── empty, one a task in flight ──►  path  ──►  writes a large result
      (owned; mapped when the reply says so, then closed: the user's frame *is* the mapping)
    small partitions, small results        ◄── IPC stream bytes inside the message ──►

A killed worker leaks nothing, since it owns nothing; a killed caller's segments are freed
by the kernel. A parcel is what travels: a `NamedTuple` of plain values.
"""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING, NamedTuple, cast

import polars as pl

from pmap._dtypes import is_mappable, refuse_unsupported
from pmap._segment import Segment, map_path, no_room
from pmap.errors import TransportError

if TYPE_CHECKING:
    import mmap

    from pmap._partition import Partition

__all__ = [
    "INLINE_BYTES",
    "Blob",
    "Inline",
    "Parcel",
    "Sender",
    "Stored",
    "open_reply",
    "pack",
    "pack_bytes",
    "unpack",
]

#: Frames up to this size ride inside the message: tens of microseconds, where a segment
#: costs hundreds. Bytes.
INLINE_BYTES = 32 * 1024

#: Descriptors are used again, so a path alone does not name a segment.
_tokens = itertools.count(1)

#: What a column costs more when it is mapped than when it is copied, in bytes copied.
_COLUMN_BYTES = 8 * 1024

#: Indices of sorted columns, and whether downwards.
Flags = tuple[tuple[int, bool], ...]


class Inline(NamedTuple):
    """A whole frame as Arrow IPC stream bytes."""

    data: bytes
    flags: Flags = ()

    @property
    def n_bytes(self) -> int:
        """What travels."""
        return len(self.data)


class Copied(NamedTuple):
    """A whole frame as Arrow IPC stream bytes in a segment, to be copied out of it.

    For middling frames of many columns: copying is quicker than mapping column by column.
    """

    size: int
    flags: Flags = ()

    @property
    def n_bytes(self) -> int:
        """What travels."""
        return self.size


class Stored(NamedTuple):
    """Rows of an Arrow IPC file that lies in a segment, to be mapped."""

    path: str
    token: int
    start: int
    rows: int
    size: int
    mappable: bool  #: else Polars' own reader copies it
    flags: Flags = ()

    @property
    def n_bytes(self) -> int:
        """What the rows occupy in the segment, about."""
        return self.size


Parcel = Inline | Copied | Stored


class Blob(NamedTuple):
    """Bytes that are no frame: a pickle, inline or in a segment."""

    data: bytes | None
    path: str = ""
    size: int = 0

    def load(self, segment: Segment | None = None) -> bytes:
        """The bytes; `segment` is the caller's own, if it has it."""
        if self.data is not None:
            return self.data
        return segment.read(self.size) if segment is not None else map_path(self.path)[: self.size]


def pack_bytes(data: bytes, reply_path: str | None) -> Blob:
    """Worker's side: a pickled result, inline if small or if there is no segment."""
    if reply_path is None or len(data) <= INLINE_BYTES:
        return Blob(data)
    with open(reply_path, "r+b", buffering=0) as file:
        size = file.write(data)
    return Blob(None, reply_path, size)


def _sorted_flags(frame: pl.DataFrame) -> Flags:
    """Columns known to be sorted: IPC forgets it."""
    return tuple(
        (index, flags["SORTED_DESC"])
        for index, flags in enumerate(column.flags for column in frame.iter_columns())
        if flags["SORTED_ASC"] or flags["SORTED_DESC"]
    )


def _restore_flags(frame: pl.DataFrame, flags: Flags) -> pl.DataFrame:
    for index, descending in flags:
        frame.replace_column(index, frame.to_series(index).set_sorted(descending=descending))
    return frame


def _to_bytes(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer)
    return buffer.getvalue()


def _write(frame: pl.DataFrame, path: str, *, stream: bool) -> int:
    """Write `frame` into a segment, as an IPC stream or file; returns its bytes."""
    try:
        with open(path, "r+b", buffering=0) as file:
            frame.write_ipc_stream(file) if stream else frame.write_ipc(file)
            size = file.tell()
            file.truncate()  # a file's footer is at its end
    except (OSError, pl.exceptions.ComputeError) as exc:
        raise no_room(exc, f"write a frame of {frame.estimated_size():,} bytes") from exc
    return size


def pack(frame: pl.DataFrame, reply_path: str | None) -> Parcel:
    """Worker's side: a result, inline if small or if there is no segment to write into."""
    schema, size = frame.schema, frame.estimated_size()
    refuse_unsupported(schema)
    flags = _sorted_flags(frame)
    if reply_path is None or size <= INLINE_BYTES:
        return Inline(_to_bytes(frame), flags)
    if size <= INLINE_BYTES + _COLUMN_BYTES * frame.width:
        return Copied(_write(frame, reply_path, stream=True), flags)
    size = _write(frame, reply_path, stream=False)
    return Stored(reply_path, 0, 0, frame.height, size, is_mappable(schema), flags)


def open_reply(parcel: Parcel, segment: Segment | None) -> pl.DataFrame:
    """Caller's side: a result; a large one *is* the mapping of its segment."""
    if isinstance(parcel, Inline) or segment is None:
        return unpack(parcel)
    if isinstance(parcel, Copied):
        return _restore_flags(pl.read_ipc_stream(segment.read(parcel.size)), parcel.flags)
    return _read(segment.map(), parcel)


def unpack(parcel: Parcel) -> pl.DataFrame:
    """Worker's side: a partition."""
    if isinstance(parcel, Stored):
        return _mapped.frame(parcel).slice(parcel.start, parcel.rows)
    if isinstance(parcel, Copied):
        raise TransportError("a partition is never sent to be copied")
    return _restore_flags(pl.read_ipc_stream(parcel.data), parcel.flags)


def _read(memory: mmap.mmap, parcel: Stored) -> pl.DataFrame:
    if not parcel.mappable:
        return _restore_flags(pl.read_ipc(memory[:]), parcel.flags)
    import pyarrow as pa  # noqa: PLC0415  65 ms, for those who need it
    import pyarrow.ipc  # noqa: PLC0415

    table = pyarrow.ipc.open_file(pa.BufferReader(pa.py_buffer(memory))).read_all()
    frame = cast("pl.DataFrame", pl.from_arrow(table, rechunk=False))
    if "" in table.column_names:
        frame.columns = table.column_names  # from_arrow gives a column called "" another name
    return _restore_flags(frame, parcel.flags)


class _Mapped:
    """The input that this worker maps at present; one, since a call has one."""

    def __init__(self) -> None:
        self._key: tuple[str, int] | None = None
        self._frame = pl.DataFrame()

    def frame(self, parcel: Stored) -> pl.DataFrame:
        key = (parcel.path, parcel.token)
        if self._key != key:
            try:
                memory = map_path(parcel.path)
            except (OSError, ValueError) as exc:
                raise TransportError(f"the input is gone: {parcel.path}: {exc}") from exc
            self._frame, self._key = _read(memory, parcel), key
        return self._frame

    def __bool__(self) -> bool:
        return self._key is not None

    def forget(self) -> None:
        """Unmap, so that an idle worker does not keep the caller's memory."""
        self._frame, self._key = pl.DataFrame(), None


_mapped = _Mapped()
forget_mapped = _mapped.forget


def has_mapped() -> bool:
    """Whether this worker holds on to an input."""
    return bool(_mapped)


class _Source:
    """A frame that lies in a segment, and how many partitions of it are under way."""

    def __init__(self, frame: pl.DataFrame, flags: Flags) -> None:
        self.frame = frame  # held, so that its id is nobody else's
        self.segment = Segment()
        self.users = 0
        path = self.segment.path
        try:
            size = _write(frame, path, stream=False)
        except BaseException:
            self.segment.close()
            raise
        mappable = is_mappable(frame.schema)
        self.stored = Stored(path, next(_tokens), 0, frame.height, size, mappable, flags)


class Sender:
    """Caller's side, one a call: partitions to parcels, whole frames written once."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._latest: pl.DataFrame | None = None
        self._flags: Flags = ()
        self._sources: dict[int, _Source] = {}

    def parcel(self, partition: Partition) -> Parcel:
        """What to put into the message for `partition`."""
        frame = partition.source
        if frame is not self._latest:
            refuse_unsupported(frame.schema)
            self._latest, self._flags = frame, _sorted_flags(frame)
        if not self._shared or partition.n_bytes <= INLINE_BYTES:
            return Inline(_to_bytes(partition.frame()), self._flags)
        if id(frame) not in self._sources:
            self._sources[id(frame)] = _Source(frame, self._flags)
        source = self._sources[id(frame)]
        source.users += 1
        size = source.stored.size * partition.rows // frame.height
        return source.stored._replace(start=partition.start, rows=partition.rows, size=size)

    def done(self, partition: Partition) -> None:
        """`partition` is over: a frame of a stream that no other one uses can go."""
        source = self._sources.get(id(partition.source))
        if source is None:
            return
        source.users -= 1
        if source.users == 0 and partition.rows == partition.source.height:
            del self._sources[id(partition.source)]
            source.segment.close()

    def close(self) -> None:
        """Let go of all segments."""
        while self._sources:
            self._sources.popitem()[1].segment.close()
