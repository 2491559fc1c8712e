"""A pickle, and the large buffers that were left out of it: inline, or in a segment.

Whoever receives a body copies the buffers out, once, so that the segment can be used again.
Only the frames of a result stay where they are: its segment becomes the user's.
"""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from pmap._cloudpickled import dump_apart
from pmap._dtypes import refuse_unsupported
from pmap._segment import START, Shared, open_shared
from pmap._size import estimate
from pmap._transport import INLINE_BYTES
from pmap._transport._columns import (
    assemble,
    from_stream,
    restore_flags,
    sorted_flags,
    to_stream,
    to_trees,
)
from pmap._transport._needed import Copier
from pmap._transport._parcel import HERE, Columns, Inline
from pmap._transport._places import Places
from pmap._wire import digest_of
from pmap.errors import TransportError, UnsupportedDtypeError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from pmap._cloudpickled import Reduced
    from pmap._transport._parcel import Parcel, Span
    from pmap._transport._places import Atlas


__all__ = [
    "Body",
    "Layout",
    "dump",
    "genuine",
    "inline",
    "is_short",
    "load",
    "open_columns",
    "placed",
    "reduce_by_stream",
    "streams",
]

#: Longest body that rides in a message: bytes.
_LONGEST_INLINE = 2 * INLINE_BYTES
_ALIGNMENT = 64


class Body(NamedTuple):
    """Something pickled.

    Attributes
    ----------
    data, buffers
        The pickle and what was left out of it, if they are inline.
    place
        Else the segment that they lie in.
    extents
        There: first byte and size, of the pickle first.
    digest
        Of a pickle in a segment: no other is opened.
    """

    data: bytes | None
    buffers: tuple[bytearray, ...] = ()
    place: Shared | None = None
    extents: tuple[tuple[int, int], ...] = ()
    digest: bytes = b""


class Layout:
    """What is to be written where in one segment."""

    def __init__(self) -> None:
        self.pieces: list[tuple[Any, int]] = []
        self.size = START
        self.held: list[Places] = []  # until all is written, and for what is not written at all

    def add(self, piece: Any) -> tuple[int, int]:
        """Bytes; where they will lie."""
        start, size = self.size, memoryview(piece).nbytes
        self.pieces.append((piece, start))
        self.size += -(-size // _ALIGNMENT) * _ALIGNMENT
        return start, size

    def add_frame(self, frame: pl.DataFrame, atlas: Atlas) -> Columns:
        """A frame; what lies in segments that `atlas` knows stays there.

        The segment itself is the last of its places, and is not among them yet.
        """
        places = Places(atlas, [], HERE)
        trees = to_trees(frame, places.locate)
        places.keep()
        self.held.append(places)
        copier = Copier(HERE, len(places.places), places.read)
        copier.size = self.size
        copier.lay_out(trees)
        self.pieces += copier.pieces()
        self.size = copier.size
        rest = None if trees.rest is None else Inline(to_stream(trees.rest))
        return trees.parcel(copier, places.places, rest)._replace(
            flags=sorted_flags(frame.get_columns())
        )


def open_columns(columns: Columns, buffers: list[pa.Buffer]) -> pl.DataFrame:
    """The frame that `add_frame` laid out; a buffer for each place, its own segment last."""

    def resolve(span: Span) -> pa.Buffer:
        return buffers[span.place].slice(span.start, span.size)

    return assemble(columns, resolve, _open_rest)


def _open_rest(rest: Parcel) -> pl.DataFrame:
    if not isinstance(rest, Inline):
        raise TransportError("columns in a place that is not known")
    return from_stream(rest.data)


def dump(
    value: object, reducers: dict[type, Callable[[Any], Reduced | None]]
) -> tuple[bytes, list[memoryview]]:
    """Pickle, large buffers apart; by the type of an object, `reducers` may have another way."""
    return dump_apart(value, reducers, INLINE_BYTES)


def is_short(data: bytes, buffers: list[memoryview]) -> bool:
    """Whether a body rides in the message."""
    return len(data) + sum(buffer.nbytes for buffer in buffers) <= _LONGEST_INLINE


def inline(data: bytes, buffers: list[Any]) -> Body:
    """A short body."""
    return Body(data, tuple(map(bytearray, buffers)))


def placed(data: bytes, buffers: list[Any], layout: Layout, place: Shared) -> Body:
    """A long body, to be written as `layout` says."""
    extents = tuple(layout.add(piece) for piece in (data, *buffers))
    return Body(None, (), place, extents, digest_of(data))


def load(body: Body) -> Any:
    """Worker's side: what was pickled; its arrays are its own."""
    if body.place is None:
        return pickle.loads(body.data or b"", buffers=body.buffers)  # noqa: S301  of our caller
    with open_shared(body.place) as fd:
        data, *buffers = (_read(fd, start, size) for start, size in body.extents)
    return pickle.loads(genuine(data, body.digest), buffers=buffers)  # noqa: S301  of our caller


def genuine(data: Any, digest: bytes) -> Any:
    """The bytes that the message means, wherever they lie.

    Raises
    ------
    TransportError
        When they are others.
    """
    if digest_of(data) != digest:
        raise TransportError("what was to be unpickled was changed on its way to the worker")
    return data


def _read(fd: int, start: int, size: int) -> bytearray:
    data, at = bytearray(size), 0
    view = memoryview(data)
    while at < size:
        n = os.preadv(fd, [view[at:]], start + at)
        if n == 0:
            raise TransportError(f"a segment ends at {start + at:,} bytes, before its data do")
        at += n
    return data


def reduce_by_stream(data: pl.DataFrame | pl.Series) -> Reduced | None:
    """A frame or Series as Arrow IPC, which is quicker than its pickle; ``None`` if it is small."""
    frame = data if isinstance(data, pl.DataFrame) else data.to_frame()
    if not streams(frame) or estimate(frame) <= INLINE_BYTES:
        return None
    opener = _from_stream if frame is data else _series_from_stream
    return opener, (pickle.PickleBuffer(to_stream(frame)), sorted_flags(frame.get_columns()))


def streams(frame: pl.DataFrame) -> bool:
    """Whether Arrow IPC carries all of it: no Python objects."""
    try:
        refuse_unsupported(frame.get_columns())
    except UnsupportedDtypeError:
        return False
    return True


def _from_stream(data: Any, flags: Any) -> pl.DataFrame:
    return restore_flags(from_stream(bytes(data)), flags)


def _series_from_stream(data: Any, flags: Any) -> pl.Series:
    return _from_stream(data, flags).to_series()
