"""The ways to do what is left of a job, and what each would take.

Who waits, or computes without the GIL, is as fast in threads, who keeps Polars' own pool busy has all
cores already, or shares those that are idle with threads, all else needs processes, which have to be
started, and to which data move.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, NamedTuple

from pmap import _pools
from pmap._figures import figures
from pmap._plan import default_process_backend
from pmap._registry import get_backend
from pmap._resources import cpu_count
from pmap._weight import import_seconds, pickling_seconds

if TYPE_CHECKING:
    from pmap._earlier import Earlier, Seen
    from pmap._gauge import Usage
    from pmap._work import Work
    from pmap.backend import WorkerSpec

__all__ = ["CALLER", "Left", "Way", "Ways", "is_frozen"]

CALLER = "the caller"
#: What must be saved at least to leave the caller: seconds, and a share of what is left; a larger one
#: where workers have to start, of which nobody knows how much they will be in the caller's way.
_LEAST_SECONDS, _LEAST_SHARE, _LEAST_SHARE_COLD = 0.002, 0.05, 0.15
#: Share of the time with the GIL that a busy machine may make of none.
_CHANCE = 0.3
#: Share of the time that threads lose who wait for one pool, Polars' own.
_LOST = 0.3
#: What a way must be thought to take at most, of what one took that was tried, to be tried as well.
_UNTRIED = 0.8


class Way(NamedTuple):
    """One way to do what is left, and what it would take."""

    name: str
    seconds: float


class Left(NamedTuple):
    """What is to be done: seconds of a plain loop, rows, and partitions, if their number is known."""

    seconds: float
    rows: int
    n: int | None


class Ways:
    """Prices what is left of a job.

    Parameters
    ----------
    work
        The whole job.
    spec
        The workers that would be started.
    """

    def __init__(self, work: Work, spec: WorkerSpec) -> None:
        self._work = work
        self._spec = spec
        self._factory = functools.cache(get_backend)
        self.processes, self.why_processes = default_process_backend()

    @functools.cached_property
    def _n_cpus(self) -> int:
        return cpu_count()

    @functools.cached_property
    def _pickling(self) -> float:
        """Seconds to pickle the function; to unpickle it takes as long."""
        return pickling_seconds(self._work.function)

    @functools.cached_property
    def _importing(self) -> float:
        """Seconds until a new worker has imported what the function needs."""
        return import_seconds(self._work.function)

    def others(
        self, seen: Seen, left: Left, earlier: Earlier | None, *, started: bool = False
    ) -> list[Way]:
        """All but the caller; as if their workers were there already, if `started`."""
        ways = self._priced(seen, left, earlier, started=started)
        return ways if earlier is None else self._as_it_was(ways, left, earlier)

    def least_gain(self, left: Left, best: Way) -> float:
        """Seconds that a way must save to be worth leaving the caller."""
        share = _LEAST_SHARE if self.may_begin(best.name) else _LEAST_SHARE_COLD
        return max(_LEAST_SECONDS, share * left.seconds)

    def may_begin(self, name: str) -> bool:
        """Whether nothing has to be started that takes long."""
        return name == "threads" or self._is_warm(name)

    def _priced(
        self, seen: Seen, left: Left, earlier: Earlier | None, *, started: bool
    ) -> list[Way]:
        """Threads and processes; as if they were there already, if `started`.

        Polars' own work needs no other process, and threads only as far as its pool leaves cores idle.
        """
        usage = seen.usage
        # cores that are busy can't be had twice
        shared = max(self._share_of_each(left.n), usage.cores / self._n_cpus)
        ways: list[Way] = []
        alone = _share_for_one(usage)
        if alone is not None:
            there = left.seconds * (alone + (1.0 - alone) * shared)
            ways.append(self._way("threads", left, there, started=started))
        if not (_is_all_native(usage) or is_frozen()):
            slower = self._slowdown(earlier)
            there = left.seconds * min(1.0, shared * slower) + self._moving(seen, left.rows)
            ways.append(self._way(self.processes, left, there, started=started))
        return ways

    def _slowdown(self, earlier: Earlier | None) -> float:
        """Of workers; of those that are there and were not tried with this function yet, none is feared."""
        tried = earlier is None or (self.processes, self._spec.n_workers) in earlier.took
        return figures.slowdown if tried or not self._is_warm(self.processes) else 1.0

    def _share_of_each(self, n_left: int | None) -> float:
        """Of what is left, that one of several workers does: whole partitions."""
        workers = self._spec.n_workers
        return -(-n_left // workers) / n_left if n_left else 1 / workers

    def _moving(self, seen: Seen, rows: int) -> float:
        """Seconds for so many rows, and their results: what came of those that were seen tells."""
        out = self._work.total * rows / max(1, self._work.rows or 0)
        back = seen.bytes_out * rows / seen.rows if seen.rows else out
        return figures.move_seconds(out + back)

    def _way(self, name: str, left: Left, there: float, *, started: bool) -> Way:
        """The caller goes on with what is left while workers start, which slows it down as they will.

        It does not while it pickles the function, nor where workers are there and wait for that alone.
        """
        starting = 0.0 if started or self._is_warm(name) else self._starting(name, left)
        if starting > left.seconds:  # whatever else it takes
            return Way(name, starting)
        pickling = self._pickling if name == self.processes else 0.0
        meanwhile = 0.0
        if starting:
            meanwhile = (starting + pickling) / max(1e-9, left.seconds * figures.slowdown)
        busy = starting + 2 * pickling + there * max(0.0, 1.0 - meanwhile)
        return Way(name, busy + figures.call_seconds(name))

    def _starting(self, name: str, left: Left) -> float:
        """Seconds until new workers have what the function needs, as far as that matters."""
        if name != self.processes:
            return figures.start_seconds(name)
        # who has missed workers again and again for as long as they take to start has paid for them
        bare = figures.start_seconds(name) - figures.missed(name)
        return bare if bare >= left.seconds else max(0.0, bare + self._importing)

    def _is_warm(self, name: str) -> bool:
        return _pools.is_warm(self._factory(name), self._spec)

    def _as_it_was(self, ways: list[Way], left: Left, earlier: Earlier) -> list[Way]:
        """What a way took, if its workers are there, says more than what it should take.

        It says something of the others too: a call may look dearer in the beginning than it is. And one
        of them that should be faster than the caller, and was not tried yet, is.
        """
        tried = {
            way: earlier.took[way.name, self._spec.n_workers]
            for way in ways
            if self.may_begin(way.name) and (way.name, self._spec.n_workers) in earlier.took
        }
        took = (it.seconds_a_row * left.rows / max(1e-9, way.seconds) for way, it in tried.items())
        better = min([1.0, *took])

        def price(way: Way) -> float:
            if way in tried:
                return tried[way].seconds(left.rows)
            gains = way.seconds < (1.0 - _LEAST_SHARE) * left.seconds
            is_to_be_tried = tried and gains and self.may_begin(way.name)
            return _UNTRIED * better * way.seconds if is_to_be_tried else way.seconds

        return [way._replace(seconds=price(way)) for way in ways]


def _share_for_one(usage: Usage) -> float | None:
    """Of the time, what threads can't share; ``None`` if that is not known."""
    least, alone = _LOST if usage.is_native else 0.0, usage.alone_share
    if alone is None:
        return least or None
    # what can be shared is never all shared while the others wait for their turn
    return max(least, (alone - _CHANCE) / (1.0 - _CHANCE))


def _is_all_native(usage: Usage) -> bool:
    """Whether it is Polars' own work, with hardly any Python beside it."""
    return usage.is_native and (usage.held_share or 0.0) < _CHANCE


def is_frozen() -> bool:
    """Whether this program was made into an executable, as by PyInstaller."""
    return bool(getattr(sys, "frozen", False))
