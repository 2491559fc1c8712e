"""Caller's side: what occurs in many batches is written to a segment once.

Found by identity, and held by weak reference, so that a number that was another object's is
never taken for it; frames also by where their data lie, since ``frame.lazy()`` or ``frame["x"]``
is another object in each task. What is written stays as long as such an object lives and
batches come, and goes when the call is over; a generator may go through more data than there
is memory.

An array that the caller changes in its place between two tasks is sent as it was first, as
with joblib's memmapping. A frame that is changed is written anew.
"""

from __future__ import annotations

import pickle
import queue
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from pmap import _pages
from pmap._dtypes import is_mappable
from pmap._interrupts import deferred
from pmap._joblib._body import Layout, dump, reduce_by_stream, streams
from pmap._joblib._memmaps import reduce_by_file
from pmap._joblib._opened import ArrayData, FrameData, PickledData, Ref, open_shared_data
from pmap._resources import open_files_limit
from pmap._size import estimate
from pmap._transport import _shelf
from pmap._transport._send import atlas
from pmap._wire import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmap._cloudpickled import Reduced
    from pmap._segment import Segment

__all__ = ["Shares", "Sharing"]

#: Frames and tables below this travel in the pickle of each batch: bytes.
_WORTH_SHARING = 256 * 1024
#: What is kept for the next call if it may recur in it: bytes.
_WORTH_KEEPING = 1024 * 1024


class Sharing(NamedTuple):
    """How large arrays are passed, in joblib's words.

    Parameters
    ----------
    max_nbytes
        Arrays that are larger are shared: bytes; ``None``: none are.
    mmap_mode
        ``"r"``: workers see them read-only; ``"c"``: what a worker writes is its own;
        ``"r+"`` and ``"w+"``: all workers write to the same memory, which is not the
        caller's; ``None``: no array is shared.
    kind
        Of segments.
    """

    max_nbytes: int | None
    mmap_mode: str | None
    kind: str

    def covers(self, value: np.ndarray[Any, Any]) -> bool:
        """Whether an array is to be shared."""
        if self.max_nbytes is None or self.mmap_mode is None:
            return False
        return value.nbytes > self.max_nbytes and not value.dtype.hasobject

    @property
    def may_write(self) -> bool:
        """Whether workers write to what is shared."""
        return self.mmap_mode in {"r+", "w+"}


class _Entry:
    """Data, and where they lie."""

    __slots__ = ("held", "is_known", "mark", "names", "ref", "segment", "shelved", "users")

    def __init__(self, mark: object) -> None:
        self.mark = mark  #: that is another when the object was changed
        self.held: object = None  #: what else must live as long
        self.shelved: _shelf.Shelved | None = None
        self.segment: Segment | None = None  #: one that is not shared with other calls
        self.ref: Ref | None = None
        self.names = 0  #: objects that they are the data of
        self.users = 0  #: batches that are under way
        self.is_known = True  #: and may be found for the next batch

    def close(self, *, soon: bool) -> None:
        """No batch needs it; `soon` if no other call will either."""
        self.held = self.mark = None
        if self.segment is not None:
            self.segment.close()
        if self.shelved is not None:
            _shelf.discard(self.shelved) if soon else self.shelved.close()
        self.segment = self.shelved = None


class _Name(NamedTuple):
    """An object, and its data."""

    of: weakref.ref[Any]
    entry: _Entry


class Shares:
    """What the batches of one call share."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._lock = threading.RLock()
        self._names: dict[int, _Name] = {}  # by the number of the object
        self._by_place: dict[object, _Entry] = {}  # frames
        self._latest: _Entry | None = None  # frame whose objects have all gone; it may come again
        self._gone: queue.SimpleQueue[weakref.ref[Any]] = queue.SimpleQueue()
        self._of_weakref: dict[int, int] = {}  # by number: what they refer to may have no hash
        self._most = max(16, open_files_limit() // 8)
        self._used: list[_Entry] = []  # by the batch that is being pickled
        self._reducers = self._make_reducers()

    def _make_reducers(self) -> dict[type, Callable[[Any], Reduced | None]]:
        reducers: dict[type, Callable[[Any], Reduced | None]] = {
            pl.DataFrame: self._reduce_frame,
            pl.Series: self._reduce_frame,
            pl.LazyFrame: self._reduce_lazy,
            np.ndarray: self._reduce_array,
            np.memmap: self._reduce_array,
        }
        pa: Any = sys.modules.get("pyarrow")  # where it is not imported, nobody has a table
        if pa is not None:
            tables = (pa.Table, pa.RecordBatch, pa.ChunkedArray)
            reducers |= dict.fromkeys(tables, self._reduce_table)
        return reducers

    def dump(self, value: object) -> tuple[bytes, list[Any], list[_Entry]]:
        """Pickle a batch: its pickle, its own large buffers, and what it needs until it is over."""
        with self._lock:
            self._forget_gone()
            self._used = []
            try:
                data, buffers = dump(value, self._reducers)
            except BaseException:
                self.release(self._used)
                raise
            used, self._used = self._used, []
            return data, buffers, used

    def release(self, used: list[_Entry]) -> None:
        """A batch is over."""
        with self._lock:
            for entry in used:
                entry.users -= 1
                if entry.users == 0 and not entry.is_known:
                    entry.close(soon=True)
            self._forget_gone()

    def clear(self) -> None:
        """The call is over: what no batch is using any more goes."""
        with self._lock:
            entries = {id(name.entry): name.entry for name in self._names.values()}
            if self._latest is not None:
                entries[id(self._latest)] = self._latest
            self._names, self._by_place, self._latest = {}, {}, None
            self._of_weakref.clear()
            for entry in entries.values():
                entry.is_known = False
                if entry.users == 0:
                    entry.close(soon=False)
        _pages.watch()

    # Finding, and forgetting.

    def _find(self, value: object, mark: object) -> _Entry | None:
        name = self._names.get(id(value))
        if name is not None and name.of() is value and name.entry.mark == mark:
            return name.entry
        if not isinstance(mark, _Version):
            return None
        twin = self._by_place.get(mark.place)
        if twin is None or twin.mark != mark:
            return None
        self._know(value, twin)
        return twin

    def _know(self, value: object, entry: _Entry) -> None:
        """It has these data, and no others that it may have had."""
        self._make_room(id(value))
        of = weakref.ref(value, self._gone.put)
        self._names[id(value)] = _Name(of, entry)
        self._of_weakref[id(of)] = id(value)
        entry.names += 1
        if isinstance(entry.mark, _Version):
            self._by_place[entry.mark.place] = entry

    def _forget_gone(self) -> None:
        while True:
            try:
                key = self._of_weakref.pop(id(self._gone.get_nowait()), None)
            except queue.Empty:
                return
            if key is not None and key in self._names:
                self._drop(key)

    def _drop(self, key: int) -> None:
        """That object is not there any more, or has other data."""
        name = self._names.pop(key)
        self._of_weakref.pop(id(name.of), None)
        entry: _Entry | None = name.entry
        name.entry.names -= 1
        if name.entry.names == 0 and isinstance(name.entry.mark, _Version):
            entry, self._latest = self._latest, name.entry
        if entry is not None and entry is not self._latest and entry.names == 0:
            self._forget(entry)

    def _forget(self, entry: _Entry) -> None:
        entry.is_known = False
        if isinstance(entry.mark, _Version) and self._by_place.get(entry.mark.place) is entry:
            del self._by_place[entry.mark.place]
        if entry.users == 0:
            entry.close(soon=True)

    def _reference(
        self, value: object, mark: object, write: Callable[[_Entry], None]
    ) -> Ref | None:
        """Where the object lies; written there if it does not yet."""
        entry = self._find(value, mark)
        if entry is None:
            entry = _Entry(mark)
            write(entry)
            self._know(value, entry)
        if entry.ref is not None:
            entry.users += 1
            self._used.append(entry)
        return entry.ref

    def _make_room(self, key: int) -> None:
        """Each segment takes a descriptor: those that rest longest go."""
        if key in self._names:
            self._drop(key)
        if len(self._names) >= self._most:
            resting = [key for key, name in self._names.items() if name.entry.users == 0]
            for old in resting[: max(1, self._most // 4)]:
                self._drop(old)

    # Writing.

    def _write(self, entry: _Entry, layout: Layout, data: object) -> None:
        """Into one segment: the pieces, and last what says how they are opened."""
        opening = pickle.dumps(data, pickle.HIGHEST_PROTOCOL)
        start, size = layout.add(opening)
        with deferred:
            if self._sharing.may_write or layout.size < _WORTH_KEEPING:
                entry.segment = _pages.take(self._sharing.kind, layout.size)
                entry.segment.reusable = False
                entry.segment.write(layout.pieces, layout.size)
                shared = entry.segment.shared
            else:
                entry.shelved = _shelf.put(layout.pieces, layout.size, self._sharing.kind)
                shared = entry.shelved.segment.shared
        entry.held = layout.held
        entry.ref = Ref(shared, start, size, digest_of(opening))

    # One kind of object after the other.

    def _reduce_frame(self, value: pl.DataFrame | pl.Series) -> Reduced | None:
        frame = value if isinstance(value, pl.DataFrame) else value.to_frame()
        return self._shared_frame(value, frame, type(value).__name__) or reduce_by_stream(value)

    def _shared_frame(self, value: object, frame: pl.DataFrame, kind: str) -> Reduced | None:
        if estimate(frame) < _WORTH_SHARING or not streams(frame):
            return None

        def write(entry: _Entry) -> None:
            layout = Layout()
            columns = layout.add_frame(frame, atlas)
            self._write(entry, layout, FrameData(columns, kind))

        ref = self._reference(value, _Version(frame, kind), write)
        return None if ref is None else (open_shared_data, (ref, "r"))

    def _reduce_lazy(self, value: pl.LazyFrame) -> Reduced | None:
        frame = _only_frame(value)
        if frame is not None:
            return self._shared_frame(value, frame, "LazyFrame")

        def write(entry: _Entry) -> None:
            data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
            if len(data) >= _WORTH_SHARING:
                layout = Layout()
                self._write(entry, layout, PickledData((layout.add(data),), digest_of(data)))

        ref = self._reference(value, None, write)
        return None if ref is None else (open_shared_data, (ref, "r"))

    def _reduce_table(self, value: Any) -> Reduced | None:
        if value.nbytes < _WORTH_SHARING:
            return None

        def write(entry: _Entry) -> None:
            data, buffers = dump(value, {})
            layout = Layout()
            extents = tuple(layout.add(piece) for piece in (data, *buffers))
            self._write(entry, layout, PickledData(extents, digest_of(data)))

        ref = self._reference(value, None, write)
        return None if ref is None else (open_shared_data, (ref, "r"))

    def _reduce_array(self, value: np.ndarray[Any, Any]) -> Reduced | None:
        by_file = reduce_by_file(value)
        if by_file is not None or not self._sharing.covers(value):
            return by_file

        def write(entry: _Entry) -> None:
            order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
            whole = np.asarray(value, order="F" if order == "F" else "C")
            layout = Layout()
            start, _ = layout.add(whole.reshape(-1, order="A").view(np.uint8))
            self._write(entry, layout, ArrayData(whole.dtype, whole.shape, order, start))

        ref = self._reference(value, (value.shape, value.dtype.str, value.ctypes.data), write)
        return None if ref is None else (open_shared_data, (ref, self._sharing.mmap_mode))


def _only_frame(lazy: pl.LazyFrame) -> pl.DataFrame | None:
    """The frame of a plan that is nothing else."""
    try:
        plan = lazy.explain(optimized=False)
    except Exception:  # noqa: BLE001  it fails when it is run, and says why there
        return None
    return lazy.collect() if plan.startswith("DF [") and "\n" not in plan else None


class _Version:
    """A frame as it was: equal to another while nothing was changed in its place.

    It holds on to the data, so that what Polars changes lies elsewhere from then on, and what
    is freed is never taken for what lies there next.
    """

    def __init__(self, frame: pl.DataFrame, kind: str) -> None:
        # Of its own: it may become another while somebody looks at it.
        self._frame = frame.clone()
        other = [name for name, dtype in frame.schema.items() if not is_mappable(name, dtype)]
        self._rest = self._frame.select(other)
        addresses = _addresses(self._frame.drop(other) if other else self._frame)
        #: Where the data lie, and what they are the data of.
        self.place = kind, frame.height, tuple(frame.schema.items()), tuple(addresses)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Version) or self.place != other.place:
            return False
        return self._rest.width == 0 or self._rest.equals(other._rest)

    __hash__ = None  # type: ignore[assignment]  # nobody looks for one


def _addresses(frame: pl.DataFrame) -> list[int | None]:
    """Where its buffers lie, but for those of categories, which are made anew each time."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.newest())
    return [
        None if buffer is None else buffer.address
        for column in table.columns
        for chunk in column.chunks
        for buffer in chunk.buffers()
    ]
