"""Where the partitions that are left are done fastest: in the caller, in threads, in processes.

By what the first ones took, in the caller and looked at: who waits, or computes without the GIL,
is as fast in threads, who keeps Polars' own pool busy has all cores already, all else needs
processes, which have to be started, and to which data move.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from pmap import _pools
from pmap._figures import figures
from pmap._gauge import Usage, total
from pmap._plan import default_process_backend
from pmap._registry import get_backend
from pmap._resources import cpu_count
from pmap._size import estimate
from pmap._weight import pickling_seconds

if TYPE_CHECKING:
    from pmap._leg import Work
    from pmap._schedule import Outcome
    from pmap.backend import WorkerSpec

__all__ = ["Judge"]

#: What must be saved at least to leave the caller: seconds, and a share of what is left; a larger one
#: while nobody knows how long workers take to start here.
_LEAST_SECONDS, _LEAST_SHARE, _LEAST_SHARE_UNKNOWN = 0.002, 0.05, 0.15
#: What has to be seen of the function before it is judged. Seconds.
_ENOUGH_SECONDS = 0.01
#: The same while the first partition runs, which may begin in another manner than it goes on, unless it
#: keeps no CPU busy; and where Polars' pool does some of it, but not most. Seconds; cores; shares.
_ENOUGH_OF_ONE, _ENOUGH_OF_MIXED = 0.05, 0.2
_IDLE_CORES, _MIXED = 0.2, (0.1, 0.5)
#: Modules that may come in while a partition runs; what imports more says nothing about the next.
_IMPORTS_BY_THE_WAY = 2
#: A share below is not worth a word.
_WORTH_TELLING = 0.05


class _Way(NamedTuple):
    """One way to do what is left, and what it would take."""

    name: str
    seconds: float


class _Done(NamedTuple):
    """What is known of the job: what was used, for how many rows, and how much is done."""

    usage: Usage
    rows_seen: int
    rows: int
    partitions: int


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
        self._rows_to_do = None if work.rows is None else work.rows - finished_rows
        self._lock = threading.Lock()
        self._done = _Done(Usage(), 0, 0, 0)
        self._bytes_out = 0
        self._elsewhere = _Done(Usage(), 0, 0, 0)
        self._processes, self._why_processes = default_process_backend()
        self._pickling: float | None = None
        self._ways: list[_Way] = []
        self.choice: str | None = None  #: of a backend, once one is faster than the caller

    @property
    def may_leave(self) -> bool:
        """Whether there is anywhere to go."""
        return self._spec.n_workers > 1

    def note(self, outcome: Outcome) -> None:
        """Take a partition into account, unless it was read from a checkpoint."""
        if outcome.stats is None or outcome.stats.usage is None:
            return
        with self._lock:
            usage, rows = outcome.stats.usage, outcome.partition.rows
            self._done = _and(self._done, rows, usage)
            if self._done.rows_seen and isinstance(outcome.value, pl.DataFrame):
                self._bytes_out += estimate(outcome.value)
            self._decide(self._done, is_first=False)

    def look(self, usage: Usage, rows: int) -> str | None:
        """Decide while a partition of so many `rows` runs; the choice, if there is one."""
        with self._lock:
            if not _imports_much(usage):
                self._decide(_and(self._done, rows, usage), is_first=not self._done.rows_seen)
            return self.choice

    def note_elsewhere(self, outcome: Outcome) -> None:
        """Take a partition into account that was run where the choice was."""
        if outcome.stats is not None and outcome.stats.usage is not None:
            self._elsewhere = _and(self._elsewhere, outcome.partition.rows, outcome.stats.usage)

    def learn(self) -> None:
        """Note, for later calls, how much slower workers were than the caller alone."""
        here, there = _seconds_a_row(self._done), _seconds_a_row(self._elsewhere)
        if self.choice == self._processes and here and there:
            figures.note_slowdown(there / here)

    def _decide(self, done: _Done, *, is_first: bool) -> None:
        wall = done.usage.wall
        if self.choice is not None or not self.may_leave or wall < _ENOUGH_SECONDS:
            return
        if is_first and wall < _enough_of_one(done.usage):
            return
        caller = _Way("the caller", self._seconds_left(done))
        self._ways = [caller, *self._other_ways(done, caller.seconds)]
        best = min(self._ways, key=lambda way: way.seconds)
        if best is not caller and caller.seconds - best.seconds > self._least_gain(caller, best):
            self.choice = best.name

    def _least_gain(self, caller: _Way, best: _Way) -> float:
        known = self._is_warm(best.name) or figures.knows_start(best.name)
        share = _LEAST_SHARE if known else _LEAST_SHARE_UNKNOWN
        return max(_LEAST_SECONDS, share * caller.seconds)

    def _seconds_left(self, done: _Done) -> float:
        """Of the plain loop."""
        if self._rows_to_do is None:
            return done.usage.wall
        return done.usage.wall * max(0, self._rows_to_do - done.rows) / max(1, done.rows_seen)

    def _other_ways(self, done: _Done, left: float) -> list[_Way]:
        usage = done.usage
        if usage.is_native:
            return []  # it has all cores already
        # cores that are busy can't be had twice
        shared = max(self._share_of_each(done), usage.cores / cpu_count())
        ways: list[_Way] = []
        alone = usage.alone_share
        if alone is not None:
            ways.append(self._way("threads", left, left * max(shared, alone)))
        if not _is_frozen():
            there = left * min(1.0, shared * figures.slowdown)
            ways.append(self._way(self._processes, left, there, self._moving(done, left)))
        return ways

    def _share_of_each(self, done: _Done) -> float:
        """Of what is left, that one of several workers does: whole partitions."""
        workers = self._spec.n_workers
        left = 0 if self._work.count is None else self._work.count - done.partitions
        return -(-left // workers) / left if left > 0 else 1 / workers

    def _moving(self, done: _Done, left: float) -> float:
        """Seconds for the function, the partitions that are left, and their results."""
        if self._pickling is None:
            self._pickling = pickling_seconds(self._work.function)
        out = self._work.total * left / max(1e-9, left + done.usage.wall)
        back = out  # what came of the first ones tells, else as much as goes
        if self._bytes_out and self._rows_to_do is not None:
            back = self._bytes_out * (self._rows_to_do - done.rows) / max(1, self._done.rows_seen)
        return figures.move_seconds(out + back) + 2 * self._pickling

    def _way(self, name: str, left: float, computing: float, moving: float = 0.0) -> _Way:
        """The caller goes on with what is left while workers start."""
        starting = 0.0 if self._is_warm(name) else figures.start_seconds(name)
        busy = starting + computing * max(0.0, 1.0 - starting / max(1e-9, left))
        return _Way(name, busy + moving + figures.call_seconds(name))

    def _is_warm(self, name: str) -> bool:
        return _pools.is_warm(get_backend(name), self._spec)

    @property
    def reason(self) -> str:
        """The decision in a sentence, with its figures."""
        usage, n = self._done.usage, self._done.partitions
        done = (
            f"{n} partition{'' if n == 1 else 's'} took {usage.wall:.3f} s in the caller"
            f"{_manner(usage)}"
        )
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


def _and(done: _Done, rows: int, usage: Usage) -> _Done:
    """One partition more; one that imports much says nothing about the next."""
    if _imports_much(usage):
        return done._replace(rows=done.rows + rows, partitions=done.partitions + 1)
    return _Done(
        total([done.usage, usage]), done.rows_seen + rows, done.rows + rows, done.partitions + 1
    )


def _imports_much(usage: Usage) -> bool:
    return usage.imported > _IMPORTS_BY_THE_WAY


def _enough_of_one(usage: Usage) -> float:
    """Seconds that the first partition must have run.

    Who waits for Polars' pool, while that waits for a CPU, looks idle.
    """
    least, most = _MIXED
    pool = usage.pool_share or 0.0
    if least < pool < most:
        return _ENOUGH_OF_MIXED
    return _ENOUGH_SECONDS if usage.cores < _IDLE_CORES and pool <= least else _ENOUGH_OF_ONE


def _seconds_a_row(done: _Done) -> float | None:
    return done.usage.wall / done.rows_seen if done.rows_seen else None


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
    return name if name in {"the caller", "threads"} else f"{name} workers"
