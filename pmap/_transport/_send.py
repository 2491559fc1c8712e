"""Caller's side: partitions out, results in."""

from __future__ import annotations

import itertools
import weakref
from functools import cache
from typing import TYPE_CHECKING

from pmap import _pages
from pmap._dtypes import refuse_unsupported
from pmap._interrupts import deferred
from pmap._segment import START, Segment
from pmap._transport._columns import (
    assemble,
    from_stream,
    from_trees,
    restore_flags,
    sorted_flags,
    to_stream,
    to_trees,
    to_trees_of_all,
)
from pmap._transport._files import FileRegion, file_regions
from pmap._transport._needed import Copier
from pmap._transport._nodes import renumbered, spans_of
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
    from collections.abc import Callable

    import polars as pl
    import pyarrow as pa

    from pmap._partition import Partition
    from pmap._transport._columns import Trees

__all__ = ["Lent", "Sender", "atlas", "open_blob", "open_reply", "put_blob", "share"]

#: Frames from this size on may be mapped from a file: to find out takes a while. Bytes.
_FILE_BYTES = 4 * 1024 * 1024

#: Parts of a result that came with its partition stay in their segment, unless that is so many
#: times as large.
_FEW = 4
#: Pages of a segment that may lie unused when it is kept. Bytes.
_LOOSE_BYTES = 1024 * 1024

#: The caller's frames that lie in segments, so that they need not be sent again.
atlas = Atlas()


class Lent:
    """What the caller holds for one task, until it is over."""

    def __init__(self) -> None:
        self.places: Places | None = None  #: where the partition's buffers lie
        self.segment: Segment | None = None  #: of this task alone
        self.copier: Copier | None = None  #: what of the partition lies in `segment`

    def open(self, parcel: Columns) -> Callable[[Span], pa.Buffer]:
        """How to find the parts of a result that came with its partition.

        They are the mapping of the task's segment, so that the next map finds them there;
        unless they are few, and would keep all of it: then they are the caller's own.
        """
        own = None if self.segment is None else self.segment.shared
        used = sum(
            span.size
            for span in spans_of(itertools.chain(*parcel.arrays))
            if parcel.places[span.place] == own
        )
        mapped: list[pa.Buffer] = []

        def resolve(span: Span) -> pa.Buffer:
            place = parcel.places[span.place]
            if place != own or self.segment is None:
                return self._find(place, span)
            if self.copier is None or _FEW * used < self.copier.n_bytes:
                return self._own(span)
            if not mapped:
                mapped.append(map_segment(self.segment, self.copier.size))
            return mapped[0].slice(span.start, span.size)

        return resolve

    def _find(self, place: Place | int, span: Span) -> pa.Buffer:
        if self.places is None:
            raise TransportError("the result has parts that are not in its partition")
        return self.places.found(place, span)

    def _own(self, span: Span) -> pa.Buffer:
        origin = None if self.copier is None else self.copier.origin(span.start, span.size)
        if origin is not None:
            return self._find(HERE, span._replace(start=origin))
        if self.segment is None:
            raise TransportError("the result has parts that are not in its partition")
        return _to_buffer(self.segment.read(span.start, span.size))  # offsets of lists, made anew

    def close(self, *, released: bool) -> None:
        """The task is over; `released` if its worker does not look at the segment any more."""
        places, segment, copier = self.places, self.segment, self.copier
        self.places = self.copier = self.segment = None
        if places is not None and not released:
            places.keep()
        if segment is None:
            return
        segment.reusable = segment.reusable and released
        if segment.lent:
            return
        # Strings lie where they lay in their buffers, so that pages gather with each use.
        loose = copier is not None and segment.n_bytes > 2 * copier.n_bytes + _LOOSE_BYTES
        _pages.give_back(segment) if segment.reusable and not loose else segment.close()


class Sender:
    """Partitions to parcels, for one call.

    Parameters
    ----------
    shared
        Whether workers are on this machine; else everything is inline.
    kind
        Of segments.
    """

    def __init__(self, *, shared: bool, kind: str) -> None:
        self._shared = shared
        self._kind = kind
        self._latest: pl.DataFrame | None = None
        self._flags: Flags = ()
        self._files: Callable[[], list[FileRegion]] = list  # read when needed, once for a source
        self._apart: tuple[Places, tuple[Trees, list[int]] | None] | None = None

    def parcel(self, partition: Partition) -> tuple[Parcel, Lent]:
        """What to put into the message for `partition`, and what to hold meanwhile."""
        source = partition.source
        if source is not self._latest:
            columns = source.get_columns()
            refuse_unsupported(columns)
            self._latest, self._flags = source, sorted_flags(columns)
            self._files = cache(file_regions) if partition.source_bytes >= _FILE_BYTES else list
            self._apart = None
        lent = Lent()
        if not self._shared or partition.n_bytes <= INLINE_BYTES:
            return Inline(to_stream(partition.frame()), self._flags), lent
        try:
            return self._by_reference(partition, lent), lent
        except BaseException:
            lent.close(released=True)
            raise

    def _by_reference(self, partition: Partition, lent: Lent) -> Parcel:
        if partition.n_bytes <= INLINE_BYTES + COLUMN_BYTES * partition.source.width:
            return self._streamed(partition.frame(), lent, START, self._flags)
        lent.places, trees = self._take_apart(partition)
        places = list(lent.places.places)
        copier = lent.copier = Copier(HERE, len(places), lent.places.read)
        copier.lay_out(trees)
        if copier.size > START:
            segment = self._segment(lent, copier.size)
            segment.write(copier.pieces(), copier.size)
            places.append(segment.shared)
        rest = None if trees.rest is None else self._streamed(trees.rest, lent, copier.size)
        parcel = trees.parcel(copier, places, rest)._replace(flags=self._flags)
        return _with_few_places(parcel)

    def _take_apart(self, partition: Partition) -> tuple[Places, Trees]:
        """Where the partition's buffers lie, and the trees of its columns; of the whole source if it can be."""
        if partition.rows == partition.source.height:
            places = self._places()
            return places, to_trees(partition.source, places.locate)
        if self._apart is None:
            places = self._places()
            self._apart = places, to_trees_of_all(partition.source, places.locate)
        places, apart = self._apart
        if apart is None:
            places = self._places()
            return places, to_trees(partition.frame(), places.locate)
        trees, bounds = apart
        return places, trees.rows(partition.start, partition.start + partition.rows, bounds)

    def _places(self) -> Places:
        return Places(atlas, [], HERE, self._files)

    def _segment(self, lent: Lent, size: int) -> Segment:
        if lent.segment is None:
            lent.segment = _pages.take(self._kind, size)
        return lent.segment

    def _streamed(self, frame: pl.DataFrame, lent: Lent, start: int, flags: Flags = ()) -> Streamed:
        data = to_stream(frame)
        segment = self._segment(lent, start + len(data))
        segment.write([(data, start)])
        return Streamed(segment.shared, start, len(data), flags)


def _with_few_places(parcel: Columns) -> Columns:
    """With those places alone that it names: what the whole source has, its receiver need not map."""
    if len(parcel.places) == 1:
        return parcel
    spans = spans_of(itertools.chain(*parcel.arrays))
    named = sorted({span.place for span in spans if span.size})
    if len(named) == len(parcel.places):
        return parcel
    index = {place: at for at, place in enumerate(named)}
    return parcel._replace(
        places=tuple(parcel.places[place] for place in named),
        arrays=tuple(tuple(renumbered(node, index) for node in nodes) for nodes in parcel.arrays),
    )


def share(frame: pl.DataFrame, kind: str) -> pl.DataFrame:
    """The same frame in a segment; columns that can not be mapped stay where they are."""
    places = Places(atlas, [], HERE)
    trees = to_trees(frame, places.locate)
    copier = Copier(HERE, len(places.places), places.read)
    copier.lay_out(trees)
    if copier.size == START:
        return frame  # it lies in segments already
    with deferred:
        segment = _pages.take(kind, copier.size)
        try:
            segment.write(copier.pieces(), copier.size)
            mapped = map_segment(segment, copier.size)
        except BaseException:
            segment.close()
            raise

    def resolve(span: Span) -> pa.Buffer:
        if span.place == len(places.places):
            return mapped.slice(span.start, span.size)
        return places.found(places.places[span.place], span)

    shared = from_trees(trees.table.schema, copier.arrays, resolve)
    if trees.rest is not None:
        shared = shared.hstack(trees.rest).select(frame.columns)
    return restore_flags(shared, sorted_flags(frame.get_columns()))


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
    mapped = map_segment(segment, parcel.size) if parcel.size > START else None
    resolve_sent = lent.open(parcel)

    def resolve(span: Span) -> pa.Buffer:
        if mapped is None or parcel.places[span.place] != reply:
            return resolve_sent(span)
        return mapped.slice(span.start, span.size)

    return assemble(parcel, resolve, lambda rest: open_reply(rest, segment, lent))


def _to_buffer(data: bytes) -> pa.Buffer:
    import pyarrow as pa  # noqa: PLC0415  65 ms, for those who need it

    return pa.py_buffer(data)


def map_segment(segment: Segment, size: int) -> pa.Buffer:
    """The first `size` bytes of a segment, which become frames of the user's.

    Mapped, so that the frames are the segment; copied when so many are mapped already that
    descriptors would run out.
    """
    import pyarrow as pa  # noqa: PLC0415  65 ms, for those who need it

    if not _pages.may_lend():
        return pa.py_buffer(segment.read(0, size))
    with deferred:
        view = memoryview(segment.map(size))
        buffer = pa.py_buffer(view)
        _pages.lend(segment, view)
        owner = weakref.ref(view)
        atlas.add(Region(buffer.address, buffer.size, segment.shared, 0, owner, segment))
    return buffer
