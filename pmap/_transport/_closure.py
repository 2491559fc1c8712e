"""Large data inside the function: found while it is pickled, and sent once.

Frames and Series travel as their buffers; numpy arrays, Arrow tables and whatever else
pickles out of band (PEP 574) as theirs. All lie in segments that workers map, so that a
lookup table of a gigabyte costs the same for one partition as for a thousand.
"""

from __future__ import annotations

import mmap
import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from pmap._cloudpickled import dump_apart
from pmap._interrupts import deferred
from pmap._segment import START, Shared, open_shared
from pmap._size import estimate
from pmap._transport import _shelf
from pmap._transport._columns import sorted_flags, to_stream, to_trees
from pmap._transport._needed import Copier
from pmap._transport._parcel import HERE, INLINE_BYTES, Columns, Inline, Place
from pmap._transport._places import Places
from pmap._transport._receive import unpack
from pmap._transport._send import atlas

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Closure", "Pickled", "load_pickled"]

_ALIGNMENT = 64


class Pickled(NamedTuple):
    """A pickle, and where the buffers lie that were left out of it."""

    data: bytes
    shared: Shared | None = None
    extents: tuple[tuple[int, int], ...] = ()


class Closure:
    """Caller's side: pickles functions of one call, and holds what they share until its end.

    Parameters
    ----------
    kind
        Of segments; ``None``: workers are elsewhere, and everything goes into the pickle.
    """

    def __init__(self, kind: str | None) -> None:
        self._kind = kind
        self._shelved: list[_shelf.Shelved] = []
        self._held: list[Places] = []  # frames that lie in a segment already

    def dump(self, function: object) -> Pickled:
        """Pickle, large data apart."""
        reducers = {} if self._kind is None else dict.fromkeys(_KINDS, self._reduce)
        longest = None if self._kind is None else INLINE_BYTES
        return self._pickled(*dump_apart(function, reducers, longest))

    def _pickled(self, data: bytes, buffers: list[Any]) -> Pickled:
        if not buffers:
            return Pickled(data)
        pieces: list[tuple[Any, int]] = []
        at = START
        for buffer in buffers:
            pieces.append((buffer, at))
            at += -(-buffer.nbytes // _ALIGNMENT) * _ALIGNMENT
        extents = tuple((start, buffer.nbytes) for buffer, start in pieces)
        return Pickled(data, self._put(pieces, at), extents)

    def _put(self, pieces: list[tuple[Any, int]], size: int) -> Shared:
        with deferred:
            shelved = _shelf.put(pieces, size, self._kind or "")
            self._shelved.append(shelved)
        return shelved.segment.shared

    def _reduce(self, data: pl.DataFrame | pl.Series) -> tuple[Callable[..., Any], Any] | None:
        """How a large frame or Series is opened in a worker; ``None``: as it always is."""
        frame = data if isinstance(data, pl.DataFrame) else data.to_frame()
        if estimate(frame) <= INLINE_BYTES:
            return None
        return (_open_series if frame is not data else _open_frame), (self._parcel(frame),)

    def _parcel(self, frame: pl.DataFrame) -> Columns:
        first: list[Place] = []
        places = Places(atlas, first, HERE)
        trees = to_trees(frame, places.locate)
        self._held.append(places)
        places.keep()
        copier = Copier(HERE, len(first), places.read)
        copier.lay_out(trees)
        if copier.size > START:
            first.append(self._put(copier.pieces(), copier.size))
        rest = None if trees.rest is None else Inline(to_stream(trees.rest))
        return trees.parcel(copier, first, rest)._replace(flags=sorted_flags(frame.get_columns()))

    def close(self) -> None:
        """The call is over."""
        self._held.clear()
        while self._shelved:
            self._shelved.pop().close()


_KINDS = (pl.DataFrame, pl.Series)


def _open_frame(parcel: Columns) -> pl.DataFrame:
    return unpack(parcel)[0]


def _open_series(parcel: Columns) -> pl.Series:
    return unpack(parcel)[0].to_series()


def load_pickled(pickled: Pickled) -> Any:
    """Worker's side: the object; what it writes into its arrays stays its own."""
    if pickled.shared is None:
        return pickle.loads(pickled.data)  # noqa: S301  from the pipe of our caller
    with open_shared(pickled.shared) as fd:
        view = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_COPY))
    buffers = [view[start : start + size] for start, size in pickled.extents]
    return pickle.loads(pickled.data, buffers=buffers)  # noqa: S301
