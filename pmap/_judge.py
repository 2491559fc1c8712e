"""Where the partitions that are left are done fastest: in the caller, in threads, in processes.

By what the first ones took, in the caller and looked at: who waits, or computes without the GIL,
is as fast in threads, who keeps Polars' own pool busy has all cores already, or shares those that are
idle with threads, all else needs processes, which have to be started, and to which data move.
"""

from __future__ import annotations

import functools
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from pmap import _pools
from pmap._earlier import Earlier, Seen, forget, recall, remember
from pmap._figures import figures
from pmap._gauge import Usage
from pmap._pace import Pace
from pmap._partition import SMALL_PARTITIONS
from pmap._plan import default_process_backend
from pmap._registry import get_backend
from pmap._resources import cpu_count
from pmap._size import estimate
from pmap._weight import import_seconds, pickling_seconds

if TYPE_CHECKING:
    from pmap._schedule import Outcome
    from pmap._work import Work
    from pmap.backend import WorkerSpec

__all__ = ["Judge"]

#: What must be saved at least to leave the caller: seconds, and a share of what is left; a larger one
#: where workers have to start, of which nobody knows how much they will be in the caller's way.
_LEAST_SECONDS, _LEAST_SHARE, _LEAST_SHARE_COLD = 0.002, 0.05, 0.15
#: What has to be seen of the function before it is judged, from the third call on. Seconds.
_ENOUGH_SECONDS = 0.01
#: The same of its first call, which may take longer than others, and begin in another manner than it
#: goes on, unless it keeps no CPU busy; and where Polars' pool does some of it, but not most. Seconds;
#: cores; shares.
_ENOUGH_OF_ONE, _ENOUGH_OF_MIXED = 0.05, 0.2
_IDLE_CORES, _MIXED = 0.2, (0.1, 0.75)
#: While a partition runs, what was decided holds until it has taken so many times as long.
_SO_MUCH_MORE = 1.25
#: Share of the time with the GIL that a busy machine may make of none.
_CHANCE = 0.3
#: Share of the time that threads lose who wait for one pool, Polars' own.
_LOST = 0.3
#: Modules that may come in while a partition runs; what imports more says nothing about the next.
_IMPORTS_BY_THE_WAY = 2
#: A share below is not worth a word.
_WORTH_TELLING = 0.05
#: What an earlier call has shown tells of partitions that are so many times larger or smaller, and
#: counts as long as the function takes not so many times longer or shorter.
_ALIKE, _STEADY = 4, 2
#: What a way must be thought to take at most, of what one took that was tried, to be tried as well.
_UNTRIED = 0.8
#: Workers that had the function ready took less than that, all together. Seconds.
_LOADED = 0.001

_NOTHING = Seen(Usage())
_CALLER = "the caller"


class _Way(NamedTuple):
    """One way to do what is left, and what it would take."""

    name: str
    seconds: float


class _Left(NamedTuple):
    """What is to be done: seconds of a plain loop, rows, and partitions, if their number is known."""

    seconds: float
    rows: int
    n: int | None


class Judge:
    """Decides, from what the first partitions took, where the others are faster.

    Parameters
    ----------
    work
        The whole job; of a stream as much is taken to be left as is done already.
    finished_rows
        Of it, that need not be run, since a checkpoint has them.
    spec
        The workers that would be started.
    """

    def __init__(self, work: Work, finished_rows: int, spec: WorkerSpec) -> None:
        self._work = work
        self._spec = spec
        rows = None if work.rows is None else work.rows - finished_rows
        self._pace = Pace(rows, work.n_partitions)
        self._lock = threading.Lock()
        self._seen = _NOTHING
        self._elsewhere = _NOTHING
        self._loading = 0.0  # seconds in which workers made the function ready
        self._earlier: Earlier | None = None  #: call of the function
        self._has_foreseen = False
        self._factory = functools.cache(get_backend)
        self._processes, self._why_processes = default_process_backend()
        self._ways: list[_Way] = []
        self.choice: str | None = None  #: of a backend, once one is faster than the caller
        self._has_seen_enough = False
        self._next_look = 0.0  # seconds of the partition that runs
        self.is_ready = False  #: whether the choice could begin at once when it was made

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

    @property
    def may_leave(self) -> bool:
        """Whether there is anywhere to go."""
        return self._spec.n_workers > 1

    def foresee(self) -> bool:
        """Choose by what an earlier call has shown; whether the choice can begin at once."""
        earlier, rows, n = recall(self._work.function), self._work.rows, self._work.n_partitions
        if not (earlier and rows and n and self.may_leave and _is_alike(earlier, rows / n)):
            return False
        self._earlier = earlier
        if earlier.trusted[0]:
            self._seen = earlier.here
            left = _Left(self._usual_seconds(), self._pace.rows_left(), n)
            self._choose(earlier.here.usage, left, at_once=True)
        self._has_foreseen = self.choice is not None
        if not self._has_foreseen:
            self._seen = _NOTHING
        return self._has_foreseen

    def _usual_seconds(self, running_rows: int = 0) -> float:
        """What is left, by an earlier call: the first partitions may be the quick ones."""
        usual = 0.0 if self._earlier is None else self._earlier.seconds_a_row
        return usual * self._pace.rows_left(running_rows)

    def note(self, outcome: Outcome) -> None:
        """Take a partition into account, unless it was read from a checkpoint."""
        if outcome.stats is None or outcome.stats.usage is None:
            return
        usage, rows = outcome.stats.usage, outcome.partition.rows
        with self._lock:
            self._next_look = 0.0
            if _imports_much(usage):
                self._pace.skip(rows)
                return
            self._pace.note(rows, usage.wall)
            if self._has_seen_enough:
                return
            is_frame = isinstance(outcome.value, pl.DataFrame)
            bytes_out = estimate(outcome.value) if is_frame else 0
            self._seen = self._seen.plus(usage, rows, bytes_out)
            self._decide(self._seen.usage)
            self._has_seen_enough = self.choice is not None  # workers that start get in the way

    def look(self, usage: Usage, rows: int) -> str | None:
        """Decide while a partition of so many `rows` runs; the choice, if there is one."""
        with self._lock:
            if usage.wall >= self._next_look and not _imports_much(usage):
                self._next_look = _SO_MUCH_MORE * usage.wall
                self._decide(self._seen.usage.plus(usage), rows, usage.wall)
            return self.choice

    def note_elsewhere(self, outcome: Outcome) -> None:
        """Take a partition into account that was run where the choice was."""
        if outcome.stats is not None and outcome.stats.usage is not None:
            self._elsewhere = self._elsewhere.plus(outcome.stats.usage, outcome.partition.rows)
            self._loading += outcome.stats.loading_seconds

    def learn(self, seconds: float = 0.0) -> None:
        """Note for later calls what this one has shown: of the function, of workers, and of their lack.

        Parameters
        ----------
        seconds
            That the choice took, if one was made.
        """
        here, there = self._seen.seconds_a_row, self._elsewhere.seconds_a_row
        if self.choice == self._processes and here and there:
            figures.note_slowdown(there / here)
        took = self._took(seconds)
        if self._earlier is not None and self._has_foreseen:
            self._learn_again(self._earlier, took)
        elif here and self._seen.usage.wall >= _enough_seconds(self._seen.usage, self._seen.n):
            latest = self._measured(took)
            remember(self._work.function, latest)
            if self.choice is None:
                self._note_missed(latest)

    def _took(self, seconds: float) -> dict[tuple[str, int], float]:
        """What earlier calls say of ways, and this one, unless its workers were new or had to get ready.

        Of several times the best counts: others were in the way of the rest.
        """
        took = {} if self._earlier is None else dict(self._earlier.took)
        if self.choice and self.is_ready and self._elsewhere.rows and self._loading < _LOADED:
            way, latest = (self.choice, self._spec.n_workers), seconds / self._elsewhere.rows
            took[way] = min(took.get(way, latest), latest)
        return took

    def _learn_again(self, earlier: Earlier, took: dict[tuple[str, int], float]) -> None:
        """Of a call that went by an earlier one."""
        if earlier.choice == self.choice and not _is_steady(earlier.elsewhere, self._elsewhere):
            forget(self._work.function)
            return
        latest = earlier.used()._replace(elsewhere=self._elsewhere, choice=self.choice)
        remember(self._work.function, latest._replace(took=took))

    def _measured(self, took: dict[tuple[str, int], float]) -> Earlier:
        """What was measured, and what that leaves of an earlier call."""
        before, here = recall(self._work.function), self._seen
        if before is not None and _is_steady(before.here, here):
            # of two that took about as long, the one that less was in the way of
            here = min(before.here, here, key=lambda seen: seen.usage.wall / seen.rows)
        latest = Earlier(here, self._elsewhere, took, self.choice)
        return latest.trusted_after(before)

    def _note_missed(self, latest: Earlier) -> None:
        """What workers would have saved, had they been there."""
        rows = self._work.rows or latest.here.rows
        left = _Left(latest.seconds_a_row * rows, rows, self._work.n_partitions)
        for way in self._other_ways(latest.here.usage, left, started=True):
            gain = left.seconds - way.seconds
            if gain > self._least_gain(left, way) and not self._may_begin(way.name):
                figures.note_missed(way.name, gain)

    def _decide(self, usage: Usage, running_rows: int = 0, running_seconds: float = 0.0) -> None:
        enough = _enough_seconds(usage, self._seen.n)
        if self.choice is not None or not self.may_leave or usage.wall < enough:
            return
        seconds = self._pace.seconds_left(running_rows, running_seconds)
        left = _Left(
            max(seconds, self._usual_seconds(running_rows)),
            self._pace.rows_left(running_rows),
            self._pace.n_left(running=running_rows > 0),
        )
        self._choose(usage, left)

    def _choose(self, usage: Usage, left: _Left, *, at_once: bool = False) -> None:
        others = self._other_ways(usage, left, started=at_once)
        if at_once:
            others = [way for way in others if self._may_begin(way.name)]
        if self._earlier is not None:
            others = self._as_it_was(others, left, self._earlier)
        self._ways = [_Way(_CALLER, left.seconds), *others]
        best = min(self._ways, key=lambda way: way.seconds)
        if best.name != _CALLER and left.seconds - best.seconds > self._least_gain(left, best):
            self.choice = best.name
            self.is_ready = self._may_begin(best.name)

    def _as_it_was(self, ways: list[_Way], left: _Left, earlier: Earlier) -> list[_Way]:
        """What a way took, if its workers are there, says more than what it should take.

        It says something of the other ways too: a call may look dearer in the beginning than it is. And
        one of them that was not tried yet is, if it may well be faster.
        """
        took = {
            name: a_row * left.rows
            for (name, n), a_row in earlier.took.items()
            if n == self._spec.n_workers
        }
        there = [way for way in ways if self._may_begin(way.name)]
        better = min(
            (took[way.name] / way.seconds for way in there if way.name in took), default=1.0
        )
        untried = _UNTRIED * min(1.0, better) if took else 1.0
        known = [way._replace(seconds=took.get(way.name, untried * way.seconds)) for way in there]
        return [*known, *(way for way in ways if way not in there)]

    def _least_gain(self, left: _Left, best: _Way) -> float:
        share = _LEAST_SHARE if self._may_begin(best.name) else _LEAST_SHARE_COLD
        return max(_LEAST_SECONDS, share * left.seconds)

    def _other_ways(self, usage: Usage, left: _Left, *, started: bool = False) -> list[_Way]:
        """Threads and processes; as if they were there already, if `started`.

        Polars' own work needs no other process, and threads only as far as its pool leaves cores idle.
        """
        # cores that are busy can't be had twice
        shared = max(self._share_of_each(left.n), usage.cores / self._n_cpus)
        ways: list[_Way] = []
        alone = _share_for_one(usage)
        if alone is not None:
            there = left.seconds * (alone + (1.0 - alone) * shared)
            ways.append(self._way("threads", left, there, started=started))
        if not (_is_all_native(usage) or _is_frozen()):
            there = left.seconds * min(1.0, shared * self._slowdown()) + self._moving(left.rows)
            ways.append(self._way(self._processes, left, there, started=started))
        return ways

    def _slowdown(self) -> float:
        """Of workers; of those that are there and were not tried with this function yet, none is feared."""
        tried = (
            self._earlier is None or (self._processes, self._spec.n_workers) in self._earlier.took
        )
        return figures.slowdown if tried or not self._is_warm(self._processes) else 1.0

    def _share_of_each(self, n_left: int | None) -> float:
        """Of what is left, that one of several workers does: whole partitions."""
        workers = self._spec.n_workers
        return -(-n_left // workers) / n_left if n_left else 1 / workers

    def _moving(self, rows: int) -> float:
        """Seconds for so many rows, and their results."""
        out = self._work.total * rows / max(1, self._work.rows or 0)
        seen = self._seen  # what came of them tells, else as much as goes
        back = seen.bytes_out * rows / seen.rows if seen.rows else out
        return figures.move_seconds(out + back)

    def _way(self, name: str, left: _Left, there: float, *, started: bool) -> _Way:
        """The caller goes on with what is left while workers start, which slows it down as they will.

        It does not while it pickles the function, nor where workers are there and wait for that alone.
        """
        pickling = self._pickling if name == self._processes else 0.0
        starting = 0.0 if started or self._is_warm(name) else self._starting(name)
        meanwhile = 0.0
        if starting:
            meanwhile = (starting + pickling) / max(1e-9, left.seconds * figures.slowdown)
        busy = starting + 2 * pickling + there * max(0.0, 1.0 - meanwhile)
        return _Way(name, busy + figures.call_seconds(name))

    def _starting(self, name: str) -> float:
        """Seconds until new workers have what the function needs."""
        if name != self._processes:
            return figures.start_seconds(name)
        # who has missed workers again and again for as long as they take to start has paid for them
        return max(0.0, figures.start_seconds(name) + self._importing - figures.missed(name))

    def _may_begin(self, name: str) -> bool:
        """Whether nothing has to be started that takes long."""
        return name == "threads" or self._is_warm(name)

    def _is_warm(self, name: str) -> bool:
        return _pools.is_warm(self._factory(name), self._spec)

    @property
    def reason(self) -> str:
        """The decision in a sentence, with its figures."""
        usage, n = self._seen.usage, self._pace.n_done
        what = f"{n} partition{'' if n == 1 else 's'}"
        if self._has_foreseen:
            what = f"{self._seen.rows:,} rows of an earlier call of the function"
        done = f"{what} took {usage.wall:.3f} s in the caller{_manner(usage)}"
        if self.choice is None:
            why = (
                "a frozen program has no Python for workers"
                if _is_frozen()
                else "nothing else would have been faster"
            )
            return f"backend: auto stayed in the caller: {done}; {why}"
        ways = ", ".join(f"{way.seconds:.3f} s in {_place(way.name)}" for way in self._ways)
        name = self.choice
        why = f"; {name}: {self._why_processes}" if name == self._processes else ""
        return f"backend: auto: {done}; what was left: {ways}{why}"


def _is_alike(earlier: Earlier, rows: float) -> bool:
    """Whether partitions of so many rows are about as large as those that were seen."""
    largest = max(earlier.here.largest, earlier.elsewhere.largest)
    return rows <= _ALIKE * largest and largest <= _ALIKE * rows


def _is_steady(before: Seen, now: Seen) -> bool:
    """Whether the function takes as long as it did, about; it may not have been there before."""
    one, other = before.seconds_a_row, now.seconds_a_row
    return one is None or other is None or 1 / _STEADY <= other / max(1e-12, one) <= _STEADY


def _imports_much(usage: Usage) -> bool:
    return usage.imported > _IMPORTS_BY_THE_WAY


def _enough_seconds(usage: Usage, n_calls: int) -> float:
    """Seconds that the function must have run to be judged, after so many calls.

    Who waits for Polars' pool, while that waits for a CPU, looks idle.
    """
    least, most = _MIXED
    pool = usage.pool_share or 0.0
    if n_calls <= SMALL_PARTITIONS and least < pool < most:
        return _ENOUGH_OF_MIXED
    is_idle = usage.cores < _IDLE_CORES and pool <= least
    return _ENOUGH_SECONDS if n_calls > 1 or is_idle else _ENOUGH_OF_ONE


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


def _is_frozen() -> bool:
    """Whether this program was made into an executable, as by PyInstaller."""
    return bool(getattr(sys, "frozen", False))


def _manner(usage: Usage) -> str:
    """What the function did with its time, in brackets; nothing if that is not known."""
    facts: list[str] = []
    for share, what in (
        (usage.pool_share, "of the CPU time in Polars' own pool"),
        (usage.blocked_share, "asleep or waiting"),
        (usage.alone_share, "with the GIL or in the kernel"),
    ):
        if share is not None and share >= _WORTH_TELLING:
            facts.append(f"{min(1.0, share):.0%} {what}")
    return f" ({', '.join(facts)})" if facts else ""


def _place(name: str) -> str:
    return name if name in {_CALLER, "threads"} else f"{name} workers"
