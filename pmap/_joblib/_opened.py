"""Worker's side: what was shared, mapped where it lies, and kept while batches need it.

A frame of a hundred megabytes is opened once, not for each batch. What two batches in a row did
not need is let go, so that a call that goes through many frames does not pile them up.
"""

from __future__ import annotations

import mmap
import pickle
import threading
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import polars as pl

from pmap._joblib._body import genuine, open_columns
from pmap._segment import START, Shared, map_shared, open_shared
from pmap.errors import TransportError

if TYPE_CHECKING:
    from pmap._transport._parcel import Columns

__all__ = [
    "ArrayData",
    "FrameData",
    "PickledData",
    "Ref",
    "end_batch",
    "forget",
    "open_shared_data",
]

#: Batches for which something is kept that none of them needs.
_KEPT_FOR = 2


class Ref(NamedTuple):
    """A segment, and where in it lies what says how it is opened; that, and no other."""

    shared: Shared
    start: int
    size: int
    digest: bytes


class FrameData(NamedTuple):
    """A frame as the trees of its columns, or what was made of one."""

    columns: Columns
    kind: str

    def open(self, memory: mmap.mmap, mode: str) -> Any:  # noqa: ARG002  as of all kinds
        """It is the mapping."""
        import pyarrow as pa  # noqa: PLC0415  65 ms, for those who need it

        maps = [map_shared(_segment_of(place)) for place in self.columns.places]
        frame = open_columns(self.columns, [pa.py_buffer(m) for m in (*maps, memory)])
        if self.kind == "Series":
            return frame.to_series()
        return frame.lazy() if self.kind == "LazyFrame" else frame


def _segment_of(place: object) -> Shared:
    if not isinstance(place, Shared):
        raise TransportError(f"a place that a worker can not open: {place}")
    return place


class PickledData(NamedTuple):
    """A pickle that does not change once it is open, and its buffers."""

    extents: tuple[tuple[int, int], ...]
    digest: bytes  #: of the pickle

    def open(self, memory: mmap.mmap, mode: str) -> Any:  # noqa: ARG002  as of all kinds
        """Its buffers are the mapping."""
        import pyarrow as pa  # noqa: PLC0415

        whole = pa.py_buffer(memory)
        data, *buffers = (whole.slice(start, size) for start, size in self.extents)
        data = genuine(memoryview(data), self.digest)
        return pickle.loads(data, buffers=buffers)  # noqa: S301  of our caller


class ArrayData(NamedTuple):
    """A numpy array in one piece."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: str
    start: int

    def open(self, memory: mmap.mmap, mode: str) -> Any:
        """It is the mapping, and a `numpy.memmap` as with joblib; may be written to if that may."""
        order: Literal["C", "F"] = "F" if self.order == "F" else "C"
        array: Any = np.ndarray.__new__(
            np.memmap, self.shape, self.dtype, cast("Any", memory), self.start, order=order
        )
        array.filename, array.offset = None, self.start  # as numpy's own has them
        array.mode = "r+" if mode == "w+" else mode
        return array


class _Opened:
    """What this worker has open."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a batch's threads may unpickle too
        self._known: dict[tuple[Ref, str], tuple[Any, int]] = {}
        self._batch = 0

    def get(self, ref: Ref, mode: str) -> Any:
        """The object; of a frame one that may be changed in its place without being seen by others."""
        with self._lock:
            found = self._known.get((ref, mode))
            value = _open(ref, mode) if found is None else found[0]
            if mode != "c":  # what a batch writes into it is seen by no other
                self._known[ref, mode] = value, self._batch
        return _another(value)

    def end_batch(self) -> None:
        """Let go of what the last batches did not need."""
        with self._lock:
            self._batch += 1
            before = self._batch - _KEPT_FOR
            old = [key for key, (_, last) in self._known.items() if last < before]
            for key in old:
                del self._known[key]

    def forget(self) -> None:
        """Let go of all."""
        with self._lock:
            self._known.clear()

    def __bool__(self) -> bool:
        return bool(self._known)


def _another(value: Any) -> Any:
    """The same data in an object of its own: to change that in its place changes no other's."""
    if isinstance(value, pl.DataFrame | pl.Series):
        return value.clone()
    return cast("Any", value).view() if isinstance(value, np.memmap) else value


def _open(ref: Ref, mode: str) -> Any:
    if mode in {"r+", "w+"}:
        memory = map_shared(ref.shared, writable=True)
    elif mode == "c":
        with open_shared(ref.shared) as fd:
            memory = mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
    else:
        memory = map_shared(ref.shared)
    if len(memory) < ref.start + ref.size or ref.start < START:
        raise TransportError("a shared segment is shorter than was said")
    data: FrameData | PickledData | ArrayData = pickle.loads(  # noqa: S301  of our caller
        genuine(memory[ref.start : ref.start + ref.size], ref.digest)
    )
    return data.open(memory, mode)


_opened = _Opened()
end_batch = _opened.end_batch
forget = _opened.forget


def open_shared_data(ref: Ref, mode: str) -> Any:
    """What a pickle has in the place of shared data."""
    return _opened.get(ref, mode)
