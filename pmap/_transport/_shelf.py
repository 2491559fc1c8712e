"""What many tasks share: in a segment once, and for the next call too if nothing changed."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from pmap import _pages
from pmap._interrupts import deferred

if TYPE_CHECKING:
    from pmap._segment import Segment

__all__ = ["Shelved", "discard", "put"]


class Shelved:
    """A segment, what lies where in it, and how many calls use it."""

    def __init__(self, segment: Segment, layout: tuple[tuple[int, int], ...]) -> None:
        segment.reusable = False  # workers map it for as long as they like
        self.segment = segment
        self.layout = layout
        self.users = 1
        self.since = 0.0

    def equals(self, pieces: list[tuple[Any, int]], size: int) -> bool:
        """Whether these very bytes lie here: an array may have changed in its place."""
        memory = memoryview(self.segment.map(size))
        return all(_equal(memory[at : at + len(piece)], piece) for piece, at in pieces)

    def close(self) -> None:
        """One call less; without any it is kept for a while."""
        self.users -= 1
        self.since = time.monotonic()


class _Shelf:
    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Know nothing: at the start, and in a fork."""
        self._lock = threading.Lock()
        self._known: list[Shelved] = []

    def put(self, pieces: list[tuple[Any, int]], size: int, kind: str) -> Shelved:
        layout = tuple((at, len(piece)) for piece, at in pieces)
        with self._lock:
            same = [s for s in self._known if s.layout == layout and s.segment.kind == kind]
            for shelved in same:
                shelved.users += 1
        found = next((shelved for shelved in same if shelved.equals(pieces, size)), None)
        with self._lock:
            for shelved in same:
                shelved.users -= shelved is not found
        return found or self._new(pieces, size, kind, layout)

    def _new(
        self,
        pieces: list[tuple[Any, int]],
        size: int,
        kind: str,
        layout: tuple[tuple[int, int], ...],
    ) -> Shelved:
        with deferred:
            segment = _pages.take(kind, size)
            try:
                segment.write(pieces, size)
            except BaseException:
                segment.close()
                raise
            shelved = Shelved(segment, layout)
            with self._lock:
                self._known.append(shelved)
            _pages.watch()
        return shelved

    def discard(self, shelved: Shelved) -> None:
        """One call less, and no other will want the same bytes."""
        with self._lock:
            shelved.users -= 1
            last = shelved.users == 0
            if last:
                self._known = [known for known in self._known if known is not shelved]
        if last:
            shelved.segment.close()

    def trim(self, rest: float) -> bool:
        before = time.monotonic() - rest
        with deferred:
            with self._lock:
                old = [s for s in self._known if s.users == 0 and s.since <= before]
                self._known = [shelved for shelved in self._known if shelved not in old]
                left = bool(self._known)
            for shelved in old:
                shelved.segment.close()
        return left


def _equal(one: memoryview, other: Any) -> bool:
    import pyarrow as pa  # noqa: PLC0415  65 ms, for those who need it

    return bool(pa.py_buffer(one).equals(pa.py_buffer(other)))


_shelf = _Shelf()
_pages.at_rest(_shelf.trim, _shelf.forget)
put = _shelf.put
discard = _shelf.discard
