"""Looks at a function while it runs, from a thread beside it, for how much of its time it has the GIL.

Who computes with the GIL makes others wait for it. So a thread sleeps a little, again and again,
and counts how often it could not go on at once. Waiting for the GIL gives up the CPU, as sleeping
does, and the system counts that for each thread: a wait too much is a wait for the GIL, however
busy the machine is. Where nobody counts, what comes too late has waited.
"""

from __future__ import annotations

import functools
import threading
import time
from typing import TYPE_CHECKING, Protocol

from pmap._background import start_unseen
from pmap._clocks import READABLE, voluntary_switches

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmap._gauge import Usage

    #: What a look took, in seconds, and whether it had to wait for the GIL.
    Look = tuple[float, bool]

__all__ = ["QUICK_LOOKS", "Clocks", "Looker"]

#: Looks that come quickly one after the other, to learn what the function does; and after so many
#: seconds of looking, where each waits for the GIL, that is known too.
QUICK_LOOKS, _QUICK_SECONDS = 12, 0.03
#: Seconds between quick looks, and at most between later ones.
_QUICK, _SLOW = 0.001, 0.1
#: Calls that are looked at for one that is looked at so often only, if the first ones are short.
_MOST_CALLS = 4
#: A look that is so much too late has waited for the GIL, where waits are not counted. Seconds.
_LATE = 0.0015


class Clocks(Protocol):
    """Of a call that goes on; other threads may read them."""

    def read(self) -> Usage:
        """What was used so far."""
        ...


class Looker:
    """A thread that looks now and then at what another one does.

    Parameters
    ----------
    on_look
        Called after each look with what the call that goes on has used; ``True`` ends the looking.
    most
        Looks, after which it ends; it does so with each call, too.
    is_wanted
        Whether anybody wants to know what it sees; asked again and again.
    """

    def __init__(
        self,
        on_look: Callable[[Usage], bool] | None = None,
        most: int | None = None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._on_look = on_look
        self.is_wanted = is_wanted
        self._most = most
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._clocks: Clocks | None = None
        self._seen: list[Look] = []
        self._n_starts = 0
        self._started = False
        self._look_anew()

    def _look_anew(self) -> None:
        """Quickly at first: to know what the function does."""
        self._n_looks, self._looked = 0, 0.0
        self._pause = _QUICK

    def begin(self, clocks: Clocks) -> None:
        """A call begins."""
        with self._lock:
            self._seen, self._clocks = [], clocks
        if not self._started and READABLE and self._n_starts < _MOST_CALLS and self.wants_more():
            self._started = True
            self._n_starts += 1
            self._pause = _QUICK
            self._over = threading.Event()
            start_unseen(functools.partial(self._watch, self._over))

    def end(self, usage: Usage) -> Usage:
        """The call is over: what it used, and what was seen of it."""
        with self._lock:
            self._clocks = None
            if self._most is not None:
                self._over.set()
                self._started = False
            seen = self._seen
            if usage.imports_much:
                self._look_anew()
        return _with_looks(usage, seen)

    def close(self) -> None:
        """Look no more."""
        self._over.set()

    def wants_more(self) -> bool:
        """Whether it would look at a call that begins now."""
        return self.is_wanted() and (self._most is None or self._n_looks < self._most)

    def _watch(self, over: threading.Event) -> None:
        while self.wants_more():
            clocks, nap, pause = self._clocks, _Nap(), self._pause
            if over.wait(pause):
                return
            look = nap.end(pause)
            self._n_looks += 1
            self._looked += look[0]
            if self._n_looks > QUICK_LOOKS or self._looked > _QUICK_SECONDS:
                self._pause = min(_SLOW, 1.5 * pause)
            usage = self._note(clocks, look)
            if usage is not None and self._on_look is not None and self._on_look(usage):
                return

    def _note(self, clocks: Clocks | None, look: Look) -> Usage | None:
        """What the call has used, if the same one went on during the whole look, and somebody asks.

        Under the lock, so that no file of the system's is open here when the call is over: where the
        function has closed standard descriptors, it might have the number of one of them.
        """
        with self._lock:
            if clocks is None or clocks is not self._clocks:
                return None
            self._seen.append(look)
            return None if self._on_look is None else _with_looks(clocks.read(), self._seen)


def _with_looks(usage: Usage, seen: list[Look]) -> Usage:
    """By time, not by number: a look that waits takes longer, so that there are fewer of them."""
    if not seen:
        return usage
    late = sum(seconds for seconds, has_waited in seen if has_waited)
    return usage._replace(looks=len(seen), looked=sum(seconds for seconds, _ in seen), late=late)


class _Nap:
    """A short sleep, and whether it ended with a wait for the GIL."""

    def __init__(self) -> None:
        self._switches = voluntary_switches()
        self._began = time.perf_counter()

    def end(self, pause: float) -> Look:
        """After so many seconds of sleep, for which the CPU is given up once.

        However long it was, the sleep says no more than a short one: it is the end that is looked at.
        """
        late = max(0.0, time.perf_counter() - self._began - pause)
        if self._switches is None:
            return _QUICK + late, late > _LATE
        return _QUICK + late, (voluntary_switches() or 0) - self._switches > 1
