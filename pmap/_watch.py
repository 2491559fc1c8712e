"""A look at the partitions that run: who runs too long, and whose worker holds too much memory."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from pmap._resources import memory_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from pmap._board import Entry
    from pmap._carry import Carrier, Flight
    from pmap._config import Options
    from pmap.backend import Backend

__all__ = ["Watch", "call_off", "is_innocent", "kill", "was_killed"]

#: How often a waiting caller looks up, for Ctrl-C and at its workers. Seconds.
_TICK = 0.1
#: The same, where something is to be stopped in time.
_SHORT_TICK = 0.02

#: Workers that calls of this process have killed. One may have answered just before, and have
#: been given a task of another call, which is innocent of its death.
_killed: set[int] = set()


def kill(pid: int) -> None:
    """End a worker."""
    _killed.add(pid)
    with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(pid, signal.SIGKILL)


def call_off(futures: Iterable[Future[Any]], backend: Backend) -> set[Future[Any]]:
    """Those whose tasks have begun, or may begin; the others never will."""
    left = {future for future in futures if not future.cancel()}
    withdraw = getattr(backend, "withdraw", None)
    return left if withdraw is None or not left else left.difference(withdraw(left))


def was_killed(pid: int | None) -> bool:
    """Whether a worker that died was killed by us; to be asked once of a death."""
    if pid is None or pid not in _killed:
        return False
    _killed.discard(pid)  # the system gives the number to others
    return True


def is_innocent(flight: Flight, pid: int | None) -> bool:
    """Whether a worker that died was killed, and for another partition's sake."""
    return was_killed(pid) and not flight.was_stopped


class Watch:
    """Looks at the flights of one call, and stops those that are over a limit.

    Parameters
    ----------
    carrier
        Knows who runs a flight, and since when.
    options
        `timeout` (seconds) and `memory_limit` (bytes).
    """

    def __init__(self, carrier: Carrier, options: Options) -> None:
        self._carrier = carrier
        self._timeout = options.timeout
        self._limit = options.memory_limit
        unlimited = self._timeout is None and self._limit is None
        self.tick = _TICK if unlimited else _SHORT_TICK
        self._next = time.monotonic() + self.tick

    def look(self, flights: Iterable[Flight]) -> None:
        """Look at all that run, unless that was done just now."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self.tick
        for flight in flights:
            entry = self._carrier.running(flight)
            if entry is not None and not flight.was_stopped:
                self._check(flight, entry, now)

    def _check(self, flight: Flight, entry: Entry, now: float) -> None:
        memory = memory_of(entry.pid)
        if memory is not None:
            flight.peak_memory = max(flight.peak_memory, memory.resident)
            if self._limit is not None and memory.own > self._limit:
                flight.over_limit = memory.own
        flight.timed_out = self._timeout is not None and now - entry.started > self._timeout
        if flight.was_stopped:
            kill(entry.pid)
