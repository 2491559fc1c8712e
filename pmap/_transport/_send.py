"""Caller's side: partitions out, results in."""

from __future__ import annotations

import weakref
from functools import cache
from typing import TYPE_CHECKING, Any

from pmap import _pages
from pmap._dtypes import refuse_unsupported
from pmap._segment import START, Segment
from pmap._transport import _arena
from pmap._transport._columns import (
    from_stream,
    from_trees,
    nothing,
    restore_flags,
    sorted_flags,
    to_stream,
    to_trees,
)
from pmap._transport._files import file_regions
from pmap._transport._needed import Copier
from pmap._transport._parcel import (
    COLUMN_BYTES,
    HERE,
    INLINE_BYTES,
    Blob,
    Columns,
    Flags,
    Inline,
    Parcel,
    Place,
    Span,
    Streamed,
)
from pmap._transport._places import Atlas, Places, Region
from pmap.errors import TransportError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from pmap._partition import Partition

__all__ = ["Lent", "Sender", "atlas", "open_blob", "open_reply", "put_blob", "share"]

#: The caller's frames that lie in segments, so that they need not be sent again.
atlas = Atlas()


class Lent:
    """What the caller holds for one task, until it is over."""

    def __init__(self) -> None:
        self.places: Places | None = None  #: where the partition's buffers lie
        self.segment: Segment | None = None  #: of this task alone
        self.copier: Copier | None = None  #: what of the partition lies in `segment`

    def find(self, place: Place | int, start: int, size: int) -> pa.Buffer:
        """The caller's own bytes for those of a place that was sent."""
        if self.places is None:
            raise TransportError("the result has parts of a partition that was not lent")
        if self.copier is not None and self.segment is not None and place == self.segment.shared:
            place, start = HERE, self.copier.origin(start, size)
        found = self.places.find(place, start, size)
        if found is None:
            raise TransportError("the result has parts that are not in its partition")
        return found

    def close(self, *, released: bool) -> None:
        """The task is over; `released` if its worker does not look at the segment any more."""
        self.places = self.copier = None
        segment, self.segment = self.segment, None
        if segment is not None:
            _pages.give_back(segment) if released else segment.close()


class Sender:
    """Partitions to parcels, for one call.

    Parameters
    ----------
    shared
        Whether workers are on this machine; else everything is inline.
    kind
        Of segments.
    pull
        Whether workers may try to read this process's memory.
    """

    def __init__(self, *, shared: bool, kind: str, pull: bool) -> None:
        self._shared = shared
        self._kind = kind
        self.pull = pull and _arena.is_possible()
        self._latest: pl.DataFrame | None = None
        self._flags: Flags = ()
        self._files = cache(file_regions)  # read when needed, once for a source

    def parcel(self, partition: Partition) -> tuple[Parcel, Lent]:
        """What to put into the message for `partition`, and what to hold meanwhile."""
        source = partition.source
        if source is not self._latest:
            refuse_unsupported(source.schema)
            self._latest, self._flags = source, sorted_flags(source)
            self._files = cache(file_regions)
        frame, lent = partition.frame(), Lent()
        if not self._shared or partition.n_bytes <= INLINE_BYTES:
            return Inline(to_stream(frame), self._flags), lent
        try:
            return self._by_reference(frame, partition.n_bytes, lent), lent
        except BaseException:
            lent.close(released=True)
            raise

    def _by_reference(self, frame: pl.DataFrame, n_bytes: int, lent: Lent) -> Parcel:
        if n_bytes <= INLINE_BYTES + COLUMN_BYTES * frame.width:
            return self._streamed(frame, lent, START, self._flags)
        first: list[Any] = [_arena.own_memory()] if self.pull else []
        places = lent.places = Places(atlas, first, 0 if self.pull else HERE, self._files)
        trees = to_trees(frame, places.locate)
        if trees.table is None:
            return self._streamed(frame, lent, START, self._flags)
        arrays: Any = trees.arrays
        end = START
        if not self.pull:
            copier = lent.copier = Copier(HERE, len(places.places), places.read, START)
            arrays = copier.arrays(trees.arrays, trees.table.schema)
            n_bytes, end = copier.n_bytes, copier.size
            segment = self._segment(lent)
            segment.write(copier.pieces(), copier.size)
            places.places.append(segment.shared)
        rest = None if trees.rest is None else self._streamed(trees.rest, lent, end)
        return Columns(
            schema=trees.table.schema.serialize().to_pybytes(),
            arrays=tuple(tuple(nodes) for nodes in arrays),
            places=tuple(places.places),
            height=frame.height,
            n_bytes=n_bytes,
            size=end,
            names=None if rest is None else tuple(frame.columns),
            rest=rest,
            flags=self._flags,
        )

    def _segment(self, lent: Lent) -> Segment:
        if lent.segment is None:
            lent.segment = _pages.take(self._kind)
        return lent.segment

    def _streamed(self, frame: pl.DataFrame, lent: Lent, start: int, flags: Flags = ()) -> Streamed:
        data, segment = to_stream(frame), self._segment(lent)
        segment.write([(data, start)])
        return Streamed(segment.shared, start, len(data), flags)


def share(frame: pl.DataFrame, kind: str) -> pl.DataFrame:
    """The same frame in a segment; columns that can not be mapped stay where they are."""
    places = Places(atlas, [], HERE)
    trees = to_trees(frame, places.locate)
    if trees.table is None:
        return frame
    copier = Copier(HERE, len(places.places), places.read, START)
    arrays = copier.arrays(trees.arrays, trees.table.schema)
    if copier.size == START:
        return frame  # it lies in segments already
    segment = _pages.take(kind)
    try:
        segment.write(copier.pieces(), copier.size)
        mapped = _mapped(segment, copier.size)
    except BaseException:
        segment.close()
        raise

    def resolve(span: Span) -> pa.Buffer:
        if span.place == len(places.places):
            return mapped.slice(span.start, span.size)
        found = places.find(places.places[span.place], span.start, span.size)
        return nothing() if found is None else found

    shared = from_trees(trees.table.schema.serialize().to_pybytes(), arrays, resolve)
    if trees.rest is not None:
        shared = shared.hstack(trees.rest).select(frame.columns)
    return restore_flags(shared, sorted_flags(frame))


def put_blob(data: bytes, segment: Segment) -> Blob:
    """Bytes for workers, in a segment."""
    segment.write([(data, START)])
    return Blob(None, segment.shared, len(data))


def open_blob(blob: Blob, segment: Segment | None) -> bytes:
    """The bytes of a blob that a worker sent; `segment` is the reply's."""
    if blob.data is not None:
        return blob.data
    if segment is None or blob.place != segment.shared:
        raise TransportError("a worker's answer lies in no segment of its own")
    return segment.read(START, blob.size)


def open_reply(parcel: Parcel, segment: Segment | None, lent: Lent) -> pl.DataFrame:
    """A result; a large one *is* the mapping of its segment, and of what it has of its input."""
    if isinstance(parcel, Inline):
        return restore_flags(from_stream(parcel.data), parcel.flags)
    if segment is None:
        raise TransportError("a worker's answer lies in no segment of its own")
    if isinstance(parcel, Streamed):
        data = segment.read(parcel.start, parcel.size)
        return restore_flags(from_stream(data), parcel.flags)
    reply = segment.shared
    mapped = _mapped(segment, parcel.size) if parcel.n_bytes else None

    def resolve(span: Span) -> pa.Buffer:
        place = parcel.places[span.place]
        if place != reply:
            return lent.find(place, span.start, span.size)
        return nothing() if mapped is None else mapped.slice(span.start, span.size)

    frame = from_trees(parcel.schema, parcel.arrays, resolve)
    if parcel.rest is not None:
        frame = frame.hstack(open_reply(parcel.rest, segment, lent))
    if parcel.names is not None:
        frame = frame.select(parcel.names)
    return restore_flags(frame, parcel.flags)


def _mapped(segment: Segment, size: int) -> pa.Buffer:
    """A segment that becomes frames of the user's."""
    import pyarrow as pa  # noqa: PLC0415  65 ms, for those who need it

    view = memoryview(segment.map(size))
    buffer = pa.py_buffer(view)
    segment.lent = True
    if _pages.lend(segment, view):
        atlas.add(
            Region(buffer.address, buffer.size, segment.shared, 0, weakref.ref(view), segment)
        )
    return buffer
