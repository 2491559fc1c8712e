"""backend="auto": begin in the caller, and go elsewhere when what is left pays for it.

The first partitions run in the caller, timed, and their results are used, so the function is
never called more often than the job needs, and a small job never waits for a worker. While
one runs, a thread looks at what it does: who waits or computes without the GIL goes on in
threads, who keeps Polars' own pool busy stays, all else goes on in processes, where that is
faster by what is measured in this process.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, NamedTuple, cast

from pmap import _pools
from pmap._background import start_helper
from pmap._figures import figures
from pmap._gauge import Usage, total
from pmap._interrupts import give_way
from pmap._plan import default_process_backend
from pmap._registry import get_backend
from pmap._resources import cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmap._leg import Leg
    from pmap._partition import Partition
    from pmap._schedule import Outcome
    from pmap.backend import WorkerSpec

__all__ = ["Ahead", "Gate", "Judge"]

#: What must be saved at least to leave the caller: of what is left, and seconds.
_LEAST_SHARE, _LEAST_SECONDS = 0.05, 0.002
#: What has to be seen of the function before it is judged; and while the first partition runs, which
#: may begin in another manner than it goes on, unless it keeps no CPU busy. Seconds; cores.
_ENOUGH_SECONDS, _ENOUGH_OF_ONE, _IDLE_CORES = 0.01, 0.05, 0.2
#: Modules that may come in while a partition runs; what imports more says nothing about the next.
_IMPORTS_BY_THE_WAY = 2
#: A share below is not worth a word.
_WORTH_TELLING = 0.05
#: How often who waits for a thread looks up, for Ctrl-C. Seconds.
_TICK = 0.1


def _is_frozen() -> bool:
    """Whether this program was made into an executable, as by PyInstaller."""
    return bool(getattr(sys, "frozen", False))


class _Way(NamedTuple):
    """One way to do what is left, and what it would take."""

    name: str
    seconds: float


class Judge:
    """Decides, from what the first partitions took, where the others are faster.

    Parameters
    ----------
    spec
        The workers that would be started.
    rows, n_bytes
        Of the whole job; ``None`` rows for a stream, of which as much is taken to be left as
        is done already.
    """

    def __init__(self, spec: WorkerSpec, rows: int | None, n_bytes: int) -> None:
        self._spec = spec
        self._total_rows = rows
        self._total_bytes = n_bytes
        self._rows = 0
        self._rows_seen = 0  # of those by which the function is judged
        self._bytes_out = 0
        self._usages: list[Usage] = []
        self._lock = threading.Lock()
        self._processes, self._why_processes = default_process_backend()
        self._ways: list[_Way] = []
        self._left = 0.0
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
            self._rows += outcome.partition.rows
            if outcome.stats.usage.imported > _IMPORTS_BY_THE_WAY:
                return
            self._rows_seen += outcome.partition.rows
            self._usages.append(outcome.stats.usage)
            value = outcome.value
            self._bytes_out += value.estimated_size() if hasattr(value, "estimated_size") else 0
            self._decide(total(self._usages), self._rows_seen, self._rows)

    def look(self, usage: Usage, rows: int) -> str | None:
        """Decide while a partition of so many `rows` runs; the choice, if there is one."""
        with self._lock:
            if usage.imported <= _IMPORTS_BY_THE_WAY:
                whole = total([*self._usages, usage])
                self._decide(whole, self._rows_seen + rows, self._rows + rows)
            return self.choice

    def _decide(self, usage: Usage, seen: int, done: int) -> None:
        """By what was used for the rows `seen`, when so many are `done`."""
        if self.choice is not None or not self.may_leave or usage.wall < _ENOUGH_SECONDS:
            return
        self._left = self._seconds_left(usage.wall, seen, done)
        caller = _Way("the caller", self._left)
        self._ways = [caller, *self._elsewhere(usage, self._left)]
        best = min(self._ways, key=lambda way: way.seconds)
        least = max(_LEAST_SECONDS, _LEAST_SHARE * self._left)
        idle = usage.cores < _IDLE_CORES
        hasty = not self._usages and usage.wall < _ENOUGH_OF_ONE and not idle
        if caller.seconds - best.seconds > least and not hasty:
            self.choice = best.name

    def _seconds_left(self, seconds: float, seen: int, done: int) -> float:
        """Of the plain loop."""
        if self._total_rows is None:
            return seconds
        return seconds * max(0, self._total_rows - done) / max(1, seen)

    def _elsewhere(self, usage: Usage, left: float) -> list[_Way]:
        if usage.is_native:
            return []  # it has all cores already
        workers = self._spec.n_workers
        shared = max(
            1 / workers, usage.cores / cpu_count()
        )  # cores that are busy can't be had twice
        ways: list[_Way] = []
        with_gil = _share_with_gil(usage)
        if with_gil is not None:
            ways.append(self._way("threads", left * max(shared, with_gil), 0.0))
        if not _is_frozen():
            moved = self._bytes_left(left, usage.wall)
            ways.append(self._way(self._processes, left * shared, figures.move_seconds(moved)))
        return ways

    def _bytes_left(self, left: float, done: float) -> float:
        """To send, and to get back: what came of the first ones tells, else as much as goes."""
        sent = self._total_bytes * left / max(1e-9, left + done)
        if self._rows_seen == 0 or self._total_rows is None:
            return 2 * sent
        return sent + self._bytes_out * (self._total_rows - self._rows) / self._rows_seen

    def _way(self, name: str, computing: float, moving: float) -> _Way:
        """The caller goes on with what is left while workers start."""
        warm = _pools.is_warm(get_backend(name), self._spec)
        starting = 0.0 if warm else figures.start_seconds(name)
        busy = starting + computing * max(0.0, 1.0 - starting / max(1e-9, self._left))
        return _Way(name, busy + moving + figures.call_seconds(name))

    @property
    def reason(self) -> str:
        """The decision in a sentence, with its figures."""
        usage, n = total(self._usages), len(self._usages)
        done = (
            f"{n} partition{'' if n == 1 else 's'} took {usage.wall:.3f} s in the caller"
            f"{_manner(usage)}"
        )
        if self.choice is None and _is_frozen():
            return f"backend: auto stayed in the caller: {done}; a frozen program has no Python for workers"
        if self.choice is None:
            return (
                f"backend: auto stayed in the caller: {done}; nothing else would have been faster"
            )
        name = self.choice
        ways = ", ".join(f"{way.seconds:.3f} s in {_place(way.name)}" for way in self._ways)
        why = f"; {name}: {self._why_processes}" if name == self._processes else ""
        return f"backend: auto: {done}; what was left: {ways}{why}"


def _share_with_gil(usage: Usage) -> float | None:
    """Of the time, in which no other thread could run Python; ``None`` if that is not known."""
    gil = getattr(sys, "_is_gil_enabled", None)
    if gil is not None and not gil():
        return 0.0
    awake = 1.0 - min(1.0, usage.blocked_share or 0.0)
    return None if usage.held_share is None else usage.held_share * awake


def _manner(usage: Usage) -> str:
    """What the function did with its time, in brackets; nothing if that is not known."""
    facts: list[str] = []
    for share, what in (
        (usage.pool_share, "of the CPU time in Polars' own pool"),
        (usage.blocked_share, "asleep or waiting"),
        (usage.held_share, "with the GIL"),
    ):
        if share is not None and share >= _WORTH_TELLING:
            facts.append(f"{min(1.0, share):.0%} {what}")
    return f" ({', '.join(facts)})" if facts else ""


def _place(name: str) -> str:
    return name if name in {"the caller", "threads"} else f"{name} workers"


class Gate:
    """Partitions for the caller, until those behind it have use for the rest."""

    def __init__(self, partitions: Iterator[Partition]) -> None:
        self._partitions = partitions
        self._lock = threading.Lock()
        self._closed = False
        self.rows = 0  #: of the partition that was taken last
        self.is_exhausted = False

    def __iter__(self) -> Iterator[Partition]:
        return self

    def __next__(self) -> Partition:
        with self._lock:
            if self._closed:
                raise StopIteration
            partition = next(self._partitions, None)
            if partition is None:
                self.is_exhausted = True
                raise StopIteration
            self.rows = partition.rows
            return partition

    def close(self) -> None:
        """Let no more pass."""
        with self._lock:
            self._closed = True


class Ahead:
    """A leg that is opened, and begun, behind the back of the function that runs in the caller.

    Parameters
    ----------
    make
        Makes the leg on a backend.
    gate
        Closed before the leg takes partitions.
    may_begin
        Whether partitions may be taken and sent in another thread than the caller's.
    """

    def __init__(self, make: Callable[[str], Leg], gate: Gate, *, may_begin: bool) -> None:
        self._make = make
        self._gate = gate
        self._may_begin = may_begin
        self._lock = threading.Lock()
        self._leg: Leg | None = None
        self._error: BaseException | None = None
        self._over = threading.Event()
        self._abandoned = False
        self._begun = False

    def start(self, name: str) -> None:
        """Begin in a thread, unless that was done."""
        with self._lock:
            begun = self._begun
        if not begun and start_helper("pmap-ahead", self.begin, name) is None:
            self.begin(name)

    def begin(self, name: str) -> None:
        """Get workers ready, and send them what they have use for."""
        with self._lock:
            if self._begun or self._abandoned:
                return
            self._begun = True
        leg = self._make(name)
        try:
            leg.open()
            leg.warm_up()
            if self._may_begin and not self._abandoned:
                self._gate.close()
                leg.start()
        except BaseException as exc:  # noqa: BLE001  raised again in the caller
            self._error = exc
        self._gate.close()
        with self._lock:
            self._leg = leg
            abandoned = self._abandoned
            self._over.set()
        if abandoned:
            leg.close()

    def take(self) -> Leg:
        """The leg, once it is ready.

        Raises
        ------
        BaseException
            What opening it has raised.
        """
        while not self._over.wait(_TICK):  # timed, for Ctrl-C
            give_way()
        if self._error is not None:
            raise self._error
        return cast("Leg", self._leg)

    def close(self) -> None:
        """Close the leg, now or, if it is not open yet, as soon as it is."""
        with self._lock:
            self._abandoned = True
            leg = self._leg
        if leg is not None:
            leg.close()
