"""How a function spends its time: computing, waiting, in Polars' pool, with the GIL or without.

By the clocks of threads and of the process (`_clocks`), and by looks at who has the GIL (`_looker`).
Plain CPU time over wall-clock time says nothing on a busy machine.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pmap._clocks import cpu_clock, page_faults, pool_seconds, system_seconds, waited_seconds
from pmap._imported import n_imported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pmap._looker import Looker

__all__ = ["Gauge", "Usage", "total"]

#: A function that took less the last time is not looked at closely: while somebody looks at who has the
#: GIL, and when nobody does, as what it takes (0.2 ms, on a machine that is busy) is then for the
#: report alone. Seconds.
_WORTH_A_LOOK, _WORTH_REPORTING = 0.005, 0.05
#: Calls that are looked at closely in any case: the first ones, and each for so many times more rows than
#: all before it, as small partitions may be so quick that they tell little.
_LOOKED_AT, _LARGER = 3, 1.5
#: Looks, or seconds of looking, from which on a share of them means something.
_ENOUGH_LOOKS, _ENOUGH_LOOKED = 8, 0.03
#: Share of the CPU time in Polars' pool from which on the work is Polars', and of the time with
#: the GIL from which on it is not.
_NATIVE_SHARE, _WITH_GIL = 0.5, 0.5
#: The same if the pool is not alone at it: of the CPU time; CPUs that are busy, all together.
_A_PART, _MORE_THAN_ONE = 0.1, 1.2
#: Share of the time off the CPU for which nobody asks what it was.
_HARDLY = 0.05
#: Modules that may come in during a call; what imports more says nothing about the next.
_IMPORTS_BY_THE_WAY = 2
#: What a second in the kernel costs the other threads: to hand the GIL over takes its time, too.
_CONVOY = 1.5
#: What a page that comes in takes at most, on average over small and large ones. Seconds.
_FAULT = 15e-6


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
    looks
        How often the GIL was asked for.
    looked, late
        What these looks took, and those of them that had to wait for the GIL.
    imported
        Modules that came in meanwhile: what that took will not be taken again.
    system
        On a CPU, of the thread that called, in the kernel; to a hundredth of a second.
    faults
        Pages of memory that came in meanwhile, of all threads.
    """

    wall: float = 0.0
    cpu: float = 0.0
    others: float = 0.0
    pool: float | None = None
    blocked: float | None = None
    looks: int = 0
    looked: float = 0.0
    late: float = 0.0
    imported: int = 0
    system: float | None = None
    faults: int | None = None

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
        if self.looks < _ENOUGH_LOOKS and self.looked < _ENOUGH_LOOKED:
            return None
        return self.late / self.looked

    @property
    def alone_share(self) -> float | None:
        """Of the time, in which no other thread could do the same; ``None`` if that is not known.

        With the GIL, or in the kernel: many short system calls, each of which gives the GIL away
        and takes it back, are no faster in several threads, nor are waits for locks of the process.
        Pages that come in, as for temporary arrays, leave the GIL alone.
        """
        busy = self.cpu + (self.blocked or 0.0)  # without waits for a CPU, which say nothing of it
        called = max(0.0, (self.system or 0.0) - _FAULT * (self.faults or 0))
        in_kernel = min(1.0, _CONVOY * called / max(1e-9, busy))
        gil = getattr(sys, "_is_gil_enabled", None)
        if gil is not None and not gil():
            return in_kernel
        return None if self.held_share is None else max(in_kernel, self.held_share)

    @property
    def imports_much(self) -> bool:
        """Whether it says nothing about the next call, which need not import that again."""
        return self.imported > _IMPORTS_BY_THE_WAY

    @property
    def is_native(self) -> bool:
        """Whether it is Polars' own work, which leaves the GIL alone, as no Python in its pool does.

        The calling thread may do a part of it, beside the pool.
        """
        pool = self.pool_share or 0.0
        does_a_part = pool >= _A_PART and self.cores >= _MORE_THAN_ONE
        return (pool >= _NATIVE_SHARE or does_a_part) and (self.held_share or 0.0) < _WITH_GIL

    @property
    def cores(self) -> float:
        """CPUs that were busy on average."""
        return (self.cpu + self.others) / max(1e-9, self.wall)

    def with_looks_of(self, other: Usage) -> Usage:
        """Of this one, with the looks at both, which tell more if they are more."""
        return self._replace(
            looks=self.looks + other.looks,
            looked=self.looked + other.looked,
            late=self.late + other.late,
        )

    def plus(self, other: Usage) -> Usage:
        """Of both together, as far as they were looked at."""
        return Usage(*map(_sum, self, other))


def total(usages: Iterable[Usage]) -> Usage:
    """Of several calls together, as far as they were looked at."""
    return functools.reduce(Usage.plus, usages, Usage())


def _sum(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return one + other


class _Clocks:
    """Of one thread and of the process, from now on; may be read from another thread."""

    def __init__(self, *, closely: bool, alone: bool, may_wait: bool) -> None:
        self._thread = threading.get_native_id()
        self._cpu_seconds = cpu_clock()
        self._alone = alone
        self._closely = closely
        self._waited = waited_seconds(self._thread) if closely and may_wait else None
        self._system = system_seconds(self._thread) if closely else None
        self._pool = pool_seconds() if closely and alone else None
        self._faults = page_faults() if closely and alone else None
        self._modules = n_imported()
        self._others = time.process_time()
        self._cpu = self._cpu_seconds()
        self._wall = time.perf_counter()

    def read(self) -> Usage:
        """What was used since."""
        wall = time.perf_counter() - self._wall
        cpu = self._cpu_seconds() - self._cpu
        others = time.process_time() - self._others - cpu if self._alone else 0.0
        pool = system = None
        blocked = self._blocked(wall, max(0.0, wall - cpu)) if self._closely else None
        if self._pool is not None:
            pool = max(0.0, (pool_seconds() or 0.0) - self._pool)
        if self._system is not None:
            system = (system_seconds(self._thread) or 0.0) - self._system
        faults = None if self._faults is None else (page_faults() or 0) - self._faults
        imported = n_imported() - self._modules
        return Usage(
            wall,
            cpu,
            max(0.0, others),
            pool,
            blocked,
            imported=imported,
            system=system,
            faults=faults,
        )

    def _blocked(self, wall: float, off: float) -> float | None:
        """Of the seconds off the CPU, those in which it waited for something else than a CPU."""
        if off <= _HARDLY * wall:
            return off
        if self._waited is None:
            return None
        return max(0.0, off - (waited_seconds(self._thread) or 0.0) + self._waited)


class Gauge:
    """Measures the calls of one function: the first closely, and later ones as long as they are worth it.

    Parameters
    ----------
    alone
        Whether nothing else is at work in this process, so that its CPU time is the function's.
    looker
        Looks at calls from outside, while they run.
    """

    def __init__(self, *, alone: bool, looker: Looker | None = None) -> None:
        self._alone = alone
        self._looker = looker
        self._last = 0.0
        self._most_rows = 0
        self._may_wait = True
        self._n_calls = 0

    @property
    def is_new(self) -> bool:
        """Whether so few calls were measured that the next is looked at in any case."""
        return self._n_calls < _LOOKED_AT

    def measure(self, rows: int) -> Measured:
        """A context for one call, for so many rows."""
        looker = self._looker
        worth = _WORTH_A_LOOK if looker is not None and looker.wants_more() else _WORTH_REPORTING
        is_wanted = looker is None or looker.is_wanted()
        is_larger = rows > _LARGER * self._most_rows
        self._most_rows = max(rows, self._most_rows)
        in_any_case = self.is_new or is_larger
        closely = self._last >= worth or (is_wanted and in_any_case)
        clocks = functools.partial(
            _Clocks, closely=closely, alone=self._alone, may_wait=self._may_wait or in_any_case
        )
        return Measured(clocks, self._looker, self._note)

    def _note(self, usage: Usage) -> None:
        self._last = usage.wall
        # who was on the CPU all the time is not suspected of waiting for one the next time
        self._may_wait = usage.cpu < (1.0 - _HARDLY) * usage.wall
        self._n_calls += 1


class Measured:
    """One call: what it used is in `usage` when the block has ended, in whatever way."""

    def __init__(
        self, clocks: Callable[[], _Clocks], looker: Looker | None, note: Callable[[Usage], None]
    ) -> None:
        self._start_clocks = clocks
        self._looker = looker
        self._note = note
        self._clocks: _Clocks
        self.usage = Usage()

    def __enter__(self) -> Self:
        self._clocks = self._start_clocks()
        if self._looker is not None:
            self._looker.begin(self._clocks)
        return self

    def __exit__(self, *_: object) -> None:
        self.usage = self._clocks.read()
        if self._looker is not None:
            self.usage = self._looker.end(self.usage)
        self._note(self.usage)
