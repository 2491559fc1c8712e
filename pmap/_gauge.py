"""How a function spends its time: computing, waiting, in Polars' pool, with the GIL or without.

CPU clocks of threads and of the process, `/proc/self/task/*/schedstat` (which says how long a
thread was ready and no CPU was free) and, for the GIL, a thread that sleeps and notes how much too late
it wakes: who computes with the GIL keeps it for `sys.getswitchinterval`. Plain CPU time over
wall-clock time says nothing on a busy machine.
"""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from pmap._background import start_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Gauge", "Looker", "Usage", "pool_threads", "total"]

#: A function that took less the last time is not looked at closely. Seconds.
_WORTH_A_LOOK = 0.005
#: Looks that come quickly one after the other, to learn what the function does.
_QUICK_LOOKS = 12
#: Seconds between quick looks, and at most between later ones.
_QUICK, _SLOW = 0.001, 0.1
#: Looks from which on a share of them means something.
_ENOUGH_LOOKS = 8
#: Share of the CPU time in Polars' pool from which on the work is Polars', and of the time with
#: the GIL from which on it is not.
_NATIVE_SHARE, _WITH_GIL = 0.5, 0.5
#: A look that is so much too late has waited for the GIL. Seconds.
_LATE = 0.0015

#: Whether one thread can read another's CPU time.
_READABLE = hasattr(time, "pthread_getcpuclockid")
_POOL_THREAD = re.compile(r"polars-\d+")


class Usage(NamedTuple):
    """What some calls of a function took: seconds; ``None`` where it was not looked at.

    Attributes
    ----------
    wall
        By the clock on the wall.
    cpu
        On a CPU, of the thread that called.
    others
        On a CPU, of all other threads of the process.
    pool
        On a CPU, of Polars' own pool.
    blocked
        Neither on a CPU nor waiting for one: asleep, or waiting for something.
    looks, late
        How often the GIL was asked for, and how often it was not to be had at once.
    imported
        Modules that came in meanwhile: what that took will not be taken again.
    """

    wall: float = 0.0
    cpu: float = 0.0
    others: float = 0.0
    pool: float | None = None
    blocked: float | None = None
    looks: int = 0
    late: int = 0
    imported: int = 0

    @property
    def pool_share(self) -> float | None:
        """Of the CPU time, Polars' own pool."""
        if self.pool is None:
            return None
        return self.pool / max(1e-9, self.cpu + self.others)

    @property
    def blocked_share(self) -> float | None:
        """Of the time, asleep or waiting."""
        return None if self.blocked is None else self.blocked / max(1e-9, self.wall)

    @property
    def held_share(self) -> float | None:
        """Of the time, with the GIL, about; ``None`` if too few looks were taken to tell."""
        return None if self.looks < _ENOUGH_LOOKS else self.late / self.looks

    @property
    def is_native(self) -> bool:
        """Whether it is Polars' own work, which leaves the GIL alone, as no Python in its pool does."""
        return (self.pool_share or 0.0) >= _NATIVE_SHARE and (self.held_share or 0.0) < _WITH_GIL

    @property
    def cores(self) -> float:
        """CPUs that were busy on average."""
        return (self.cpu + self.others) / max(1e-9, self.wall)


def total(usages: Iterable[Usage]) -> Usage:
    """Of several calls together, as far as they were looked at."""
    found = list(usages)
    return Usage(
        sum(u.wall for u in found),
        sum(u.cpu for u in found),
        sum(u.others for u in found),
        _sum(u.pool for u in found),
        _sum(u.blocked for u in found),
        sum(u.looks for u in found),
        sum(u.late for u in found),
        sum(u.imported for u in found),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


class _Clocks:
    """Of one thread and of the process, from now on; may be read from another thread."""

    def __init__(self, *, closely: bool, alone: bool) -> None:
        self._thread = threading.get_native_id()
        self._clock = time.pthread_getcpuclockid(threading.get_ident()) if _READABLE else None
        self._alone = alone
        self._waited = waited_seconds(self._thread) if closely else None
        self._pool = pool_seconds() if closely and alone else None
        self._modules = len(sys.modules)
        self._others = time.process_time()
        self._cpu = self._cpu_seconds()
        self._wall = time.perf_counter()

    def read(self) -> Usage:
        """What was used since."""
        wall = time.perf_counter() - self._wall
        cpu = self._cpu_seconds() - self._cpu
        others = time.process_time() - self._others - cpu if self._alone else 0.0
        pool = blocked = None
        if self._waited is not None:
            waited = (waited_seconds(self._thread) or 0.0) - self._waited
            blocked = max(0.0, wall - cpu - waited)
        if self._pool is not None:
            pool = max(0.0, (pool_seconds() or 0.0) - self._pool)
        imported = len(sys.modules) - self._modules
        return Usage(wall, cpu, max(0.0, others), pool, blocked, imported=imported)

    def _cpu_seconds(self) -> float:
        return time.thread_time() if self._clock is None else time.clock_gettime(self._clock)


class Gauge:
    """Measures the calls of one function.

    The first is looked at closely, and later ones as long as they are worth it.

    Parameters
    ----------
    alone
        Whether nothing else is at work in this process, so that its CPU time is the function's.
    looker
        Looks at all calls from outside, while they run; without one, the first is looked at.
    """

    def __init__(self, *, alone: bool, looker: Looker | None = None) -> None:
        self._alone = alone
        self._looker = looker
        self._last: float | None = None

    @property
    def is_new(self) -> bool:
        """Whether nothing was measured yet."""
        return self._last is None

    def measure(self) -> Measured:
        """A context for one call."""
        looker = self._looker
        if looker is None and self.is_new and self._alone:
            looker = Looker(most=_QUICK_LOOKS)
        closely = (self._last or math.inf) >= _WORTH_A_LOOK
        return Measured(closely=closely, alone=self._alone, looker=looker, note=self._note)

    def _note(self, usage: Usage) -> None:
        self._last = usage.wall


class Measured:
    """One call: what it used is in `usage` when the block has ended, in whatever way."""

    def __init__(
        self, *, closely: bool, alone: bool, looker: Looker | None, note: Callable[[Usage], None]
    ) -> None:
        self._closely = closely
        self._alone = alone
        self._looker = looker
        self._note = note
        self._clocks: _Clocks
        self.usage = Usage()

    def __enter__(self) -> Self:
        self._clocks = _Clocks(closely=self._closely, alone=self._alone)
        if self._looker is not None:
            self._looker.begin(self._clocks)
        return self

    def __exit__(self, *_: object) -> None:
        self.usage = self._clocks.read()
        if self._looker is not None:
            self.usage = self._looker.end(self.usage)
        self._note(self.usage)


class Looker:
    """A thread that looks now and then at what another one does.

    Parameters
    ----------
    on_look
        Called after each look with what the call that goes on has used; ``True`` ends the looking.
    most
        Looks, after which it ends.
    """

    def __init__(
        self, on_look: Callable[[Usage], bool] | None = None, most: int | None = None
    ) -> None:
        self._on_look = on_look
        self._most = most
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._clocks: _Clocks | None = None
        self._seen: list[bool] = []  # whether each look came late
        self._n_looks = 0
        self._started = False

    def begin(self, clocks: _Clocks) -> None:
        """A call begins."""
        with self._lock:
            self._seen, self._clocks = [], clocks
        if not self._started and _READABLE:
            self._started = True
            start_helper("pmap-look", self._watch)

    def end(self, usage: Usage) -> Usage:
        """The call is over: what it used, and what was seen of it."""
        with self._lock:
            self._clocks = None
            if self._most is not None:
                self._over.set()
            seen = self._seen
        return usage._replace(looks=len(seen), late=sum(seen))

    def close(self) -> None:
        """Look no more."""
        self._over.set()

    def _watch(self) -> None:
        pause, myself = _QUICK, threading.get_native_id()
        while not self._over.is_set() and (self._most is None or self._n_looks < self._most):
            clocks, waited = self._clocks, waited_seconds(myself) or 0.0
            before = time.perf_counter()
            if self._over.wait(pause):
                return
            late = time.perf_counter() - before - pause
            late -= (waited_seconds(myself) or 0.0) - waited  # for a CPU, not for the GIL
            self._n_looks += 1
            if self._n_looks > _QUICK_LOOKS:
                pause = min(_SLOW, 1.5 * pause)
            usage = self._look(clocks, late)
            if usage is not None and self._on_look is not None and self._on_look(usage):
                return

    def _look(self, clocks: _Clocks | None, late: float) -> Usage | None:
        """What the call has used, if the same one went on during the whole pause."""
        with self._lock:
            if clocks is None or clocks is not self._clocks:
                return None
            self._seen.append(late > _LATE)
            looks, late_ones = len(self._seen), sum(self._seen)
        return clocks.read()._replace(looks=looks, late=late_ones)


def waited_seconds(thread: int) -> float | None:
    """Seconds that a thread was ready to run and no CPU was free; ``None`` where nobody tells."""
    try:
        fd = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY)
    except OSError:
        return None
    try:
        _, waited, _ = os.read(fd, 100).split()
    finally:
        os.close(fd)
    return int(waited) / 1e9


def pool_threads() -> list[int]:
    """Native ids of the threads of Polars' pool; none where threads can not be listed."""
    try:
        tasks = os.listdir("/proc/self/task")
    except OSError:
        return []
    return [int(task) for task in tasks if _POOL_THREAD.fullmatch(_name_of(task))]


def _name_of(task: str) -> str:
    try:
        with open(f"/proc/self/task/{task}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""  # it has ended meanwhile


_pool: tuple[int, list[int]] = (0, [])  # of which process, and its threads


def pool_seconds() -> float | None:
    """CPU seconds of Polars' pool so far; ``None`` where nobody tells."""
    global _pool  # noqa: PLW0603  the pool's threads stay the same
    if _pool[0] != os.getpid() or not _pool[1]:
        _pool = (os.getpid(), pool_threads())
    try:
        return sum(time.clock_gettime(_clock_of(thread)) for thread in _pool[1])
    except OSError:
        return None


def _clock_of(thread: int) -> int:
    """The CPU clock of any thread of this process, as Linux numbers it (what glibc makes too)."""
    return (~thread << 3) | 6
