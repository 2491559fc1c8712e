"""From an address to the place where it lies, and back to a buffer."""

from __future__ import annotations

import ctypes
import threading
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from pmap._transport._files import find_file
from pmap._transport._parcel import Span
from pmap.errors import TransportError

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable

    import pyarrow as pa

    from pmap._segment import Segment
    from pmap._transport._files import FileRegion
    from pmap._transport._parcel import Place

__all__ = ["Atlas", "Places", "Region"]


class Region(NamedTuple):
    """Memory of this process that lies in a place, from `start` of it on."""

    address: int
    size: int
    place: Place
    start: int
    owner: weakref.ref[memoryview]
    segment: Segment | None = None  #: of the caller's own, that it lies in


class Atlas:
    """The regions of this process that receivers can reach, found by address.

    A region counts only as long as its owner lives, whose memory it is: an address alone may
    be somebody else's by now.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._addresses: list[int] = []
        self._regions: list[Region] = []

    def add(self, region: Region) -> None:
        """A new region; one that was there before is gone."""
        with self._lock:
            self._forget_dead()
            at = bisect_right(self._addresses, region.address)
            self._addresses.insert(at, region.address)
            self._regions.insert(at, region)

    def _forget_dead(self) -> None:
        if any(region.owner() is None for region in self._regions):
            self._regions = [region for region in self._regions if region.owner() is not None]
            self._addresses = [region.address for region in self._regions]

    def find(self, address: int, size: int) -> Region | None:
        """The region that holds these bytes of a buffer that is alive."""
        with self._lock:
            at = bisect_right(self._addresses, address) - 1
            region = self._regions[at] if at >= 0 else None
        if region is None or address + size > region.address + region.size:
            return None
        return None if region.owner() is None else region


def _start_of(located: tuple[Span, pa.Buffer]) -> tuple[int, int]:
    return located[0].place, located[0].start


class Places:
    """The places of a parcel that is being made: each buffer to a span, and back.

    Parameters
    ----------
    atlas
        What receivers can reach.
    first
        Places that have their index already.
    here
        Index for what lies in none of them, but in this process.
    files
        Tells the files that this process has mapped.
    """

    def __init__(
        self,
        atlas: Atlas,
        first: list[Place],
        here: int,
        files: Callable[[], list[FileRegion]] = list,
    ) -> None:
        self._atlas = atlas
        self._files = files
        self._here = here
        self.places = first
        self._index: dict[Place, int] = {place: at for at, place in enumerate(first)}
        self._located: list[tuple[Span, pa.Buffer]] = []
        self._sorted: list[tuple[Span, pa.Buffer]] | None = None
        self._segments: list[Segment] = []

    def locate(self, buffer: pa.Buffer) -> Span:
        """Where the buffer's bytes lie; they stay as long as this object does."""
        span = self._span(buffer)
        self._located.append((span, buffer))
        self._sorted = None
        return span

    def _span(self, buffer: pa.Buffer) -> Span:
        region = self._region(buffer)
        if region is None:
            return Span(self._here, buffer.address, buffer.size)
        index = self._index.get(region.place)
        if index is None:
            index = self._index[region.place] = len(self.places)
            self.places.append(region.place)
        return Span(index, region.start + buffer.address - region.address, buffer.size)

    def _region(self, buffer: pa.Buffer) -> Region | FileRegion | None:
        if not buffer.size:
            return None
        region = self._atlas.find(buffer.address, buffer.size)
        if region is None:
            return find_file(self._files(), buffer.address, buffer.size)
        if region.segment is not None:
            self._segments.append(region.segment)
        return region

    def keep(self) -> None:
        """A worker may go on mapping the segments that were found: never write to them again."""
        for segment in self._segments:
            segment.reusable = False

    def find(self, place: Place | int, start: int, size: int) -> pa.Buffer | None:
        """The bytes of a place, if a buffer that was located holds them."""
        index = self._here if isinstance(place, int) else self._index.get(place)
        if index is None:
            return None
        if self._sorted is None:
            self._sorted = sorted(self._located, key=_start_of)
        at = bisect_right(self._sorted, (index, start), key=_start_of)
        for span, buffer in reversed(self._sorted[:at]):
            if span.place != index:
                break
            if start + size <= span.start + span.size:
                return buffer.slice(start - span.start, size)
        return None

    def read(self, span: Span) -> memoryview:
        """The bytes at a span of a buffer that was located; not to be kept."""
        if span.place == self._here:
            return memoryview((ctypes.c_char * span.size).from_address(span.start)).cast("B")
        return memoryview(self.found(self.places[span.place], span))

    def found(self, place: Place | int, span: Span) -> pa.Buffer:
        """The bytes at a span of a place, which a buffer that was located holds."""
        buffer = self.find(place, span.start, span.size)
        if buffer is None:
            raise TransportError("bytes that no buffer holds")
        return buffer
