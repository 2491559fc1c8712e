"""Segments whose pages are kept for the next use: new pages cost more than the bytes in them.

A segment is in one of three hands: whoever took it; the user, as frames that are its
mapping (*lent*); or the pool (*free*). When the last frame on a lent segment goes, Python
drops the view that all of them hold, and a queue hears of it; a thread takes the segment
back. So memory is bounded, goes back when it rests, and no finalizer runs Python code.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from pmap._background import start_helper
from pmap._interrupts import deferred
from pmap._resources import available_memory, open_files_limit
from pmap._segment import Segment

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Replies", "at_rest", "give_back", "lend", "may_lend", "take", "trim", "watch"]

#: Share of the memory that is available which free segments may take up.
_SHARE = 0.125
#: Seconds that a free segment is kept.
_REST = 30.0


class _Free(NamedTuple):
    segment: Segment
    n_bytes: int
    since: float


def _n_bytes(free: _Free) -> int:
    return free.n_bytes


class _Pages:
    """All segments of this process that nobody has taken."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Know nothing: at the start, and in a fork, whose segments are its parent's."""
        self._lock = threading.Lock()
        self._free: list[_Free] = []
        self._lent: dict[int, tuple[weakref.ref[memoryview], Segment]] = {}
        self._gone: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._keeper: threading.Thread | None = None
        self._limit: int | None = None
        for _, forget in _others:
            forget()

    def take(self, kind: str, size: int) -> Segment:
        """A segment of a kind, for `size` bytes about: the best that fits, or else the largest."""
        with contextlib.suppress(queue.Empty):  # what went just now is the warmest
            while True:
                self._take_back(self._gone.get_nowait())
        with self._lock:
            known = [free for free in self._free if free.segment.kind == kind]
            fitting = [free for free in known if free.n_bytes >= size]
            best = min(fitting, key=_n_bytes) if fitting else max(known, key=_n_bytes, default=None)
            if best is not None:
                self._free.remove(best)
        if best is None:
            return Segment(kind)
        best.segment.renew()
        return best.segment

    def give_back(self, segment: Segment) -> None:
        n_bytes = segment.n_bytes
        with self._lock:
            kept = sum(free.n_bytes for free in self._free)
            if kept + n_bytes <= self._most() and len(self._free) < _most_files():
                self._free.append(_Free(segment, n_bytes, time.monotonic()))
                self._watch()
                return
        segment.close()

    def _most(self) -> int:
        if self._limit is None:
            self._limit = int((available_memory() or 0) * _SHARE)
        return self._limit

    def may_lend(self) -> bool:
        """Whether there are descriptors left for one more mapping that the user holds."""
        with self._lock:
            return len(self._lent) < _most_files()

    def lend(self, segment: Segment, view: memoryview) -> None:
        """Until `view` goes; it stays open meanwhile, so that workers can map it too."""
        segment.lent = True
        with self._lock:
            # `put` is C code that may run anywhere: no Python is interrupted or swallows Ctrl-C
            ref = weakref.ref(view, self._gone.put)
            self._lent[id(ref)] = (ref, segment)
            self._watch()

    def watch(self) -> None:
        """Look after what rests from now on."""
        with self._lock:
            self._watch()

    def _watch(self) -> None:
        if self._keeper is None:
            self._keeper = start_helper("pmap-pages", self._keep)

    def _keep(self) -> None:
        while True:
            with contextlib.suppress(queue.Empty):
                self._take_back(self._gone.get(timeout=_REST / 4))
            left = self.trim(_REST)
            with self._lock:
                if not self._free and not self._lent and not left:
                    self._keeper = None
                    return

    def _take_back(self, ref: object) -> None:
        with self._lock:
            _, segment = self._lent.pop(id(ref), (None, None))
        if segment is not None:
            segment.lent = False
            self.give_back(segment) if segment.reusable else segment.close()

    def remove_names(self) -> None:
        """At exit: frames that the user still holds are in memory, their files need not stay."""
        with self._lock:
            named = [segment for _, segment in self._lent.values() if segment.kind == "named"]
        for segment in named:
            segment.close()

    def trim(self, rest: float) -> bool:
        """Close what has rested so many seconds; whether others still keep something."""
        before = time.monotonic() - rest
        with deferred:
            with self._lock:
                old = [free for free in self._free if free.since <= before]
                self._free = [free for free in self._free if free.since > before]
            for free in old:
                free.segment.close()
        left = [trim_others(rest) for trim_others, _ in _others]  # all of them are trimmed
        return any(left)


def _most_files() -> int:
    """Segments lent, or free: each takes a descriptor, and one more for each mapping of it."""
    return open_files_limit() // 12


#: Others that keep segments: what trims them, and what makes them forget in a fork.
_others: list[tuple[Callable[[float], bool], Callable[[], None]]] = []


def at_rest(trim_others: Callable[[float], bool], forget: Callable[[], None]) -> None:
    """Have another keeper of segments looked after too."""
    _others.append((trim_others, forget))


class Replies:
    """Segments that workers may fill with answers: those that a small one left go to the next as they are."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._unused: list[Segment] = []

    def take(self, size: int) -> Segment:
        """One for an answer of `size` bytes about."""
        with contextlib.suppress(IndexError):
            return self._unused.pop()
        return take(self._kind, size)

    def keep(self, segment: Segment) -> None:
        """Nothing was written there, and nothing will be."""
        self._unused.append(segment)

    def close(self) -> None:
        """Give back those that are left, each once, whatever other threads do."""
        with contextlib.suppress(IndexError):
            while True:
                give_back(self._unused.pop())


_pages = _Pages()
atexit.register(_pages.remove_names)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pages.forget)

take = _pages.take
give_back = _pages.give_back
lend = _pages.lend
may_lend = _pages.may_lend
trim = _pages.trim
watch = _pages.watch
