"""Rounds of calls: every contender once a round, in an order drawn anew."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pmap._bench._bar import Bar
from pmap._bench._host import Order
from pmap._bench._hosts import Host, HostError
from pmap._bench._processes import Peak, cpu_seconds
from pmap._bench._table import CONTENDERS, IDEAL, LOOP, Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from pmap._bench._workloads import Workload

__all__ = ["Course", "Row", "compare"]


@dataclass(frozen=True)
class Course:
    """How it is measured.

    Attributes
    ----------
    workers
        That each contender may have.
    rounds, settling_rounds, cold_rounds
        Calls on warm workers; those before them that are told alone: who starts workers when a job is
        worth them, or looks at a function before it is trusted, has them by then; and first calls, each
        in a process of its own.
    seed
        Of data and of the order.
    timeout
        Seconds that one contender may take for one answer.
    folder
        Of temporary files.
    """

    workers: int
    rounds: int
    settling_rounds: int
    cold_rounds: int
    seed: int
    timeout: float
    folder: str


@dataclass
class Row:
    """What one contender took for one workload.

    Attributes
    ----------
    cold, settling, warm
        Seconds of first calls, of the next few, and of calls on warm workers.
    cpu_seconds
        Of all its processes, a warm call.
    peak_bytes
        That all its processes held together at most in a warm call (PSS).
    error
        Why there is nothing, or what was wrong.
    """

    contender: str
    cold: list[float] = field(default_factory=list[float])
    settling: list[float] = field(default_factory=list[float])
    warm: list[float] = field(default_factory=list[float])
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    error: str | None = None
    cpu_samples: list[float] = field(default_factory=list[float], repr=False)


class _Match:
    """One workload, and all who take part in it."""

    def __init__(self, workload: Workload, rows: int, names: Iterable[str], course: Course) -> None:
        self._workload = workload
        self._rows = rows
        self._course = course
        self._random = random.Random(f"{course.seed} {workload.name}")  # noqa: S311  an order, no secret
        self._prints: dict[str, str] = {}
        self.rows = {name: Row(name) for name in names}
        self.size: dict[str, Any] = {}

    def run(self) -> None:
        """All rounds."""
        course = self._course
        calls = course.cold_rounds + course.settling_rounds + course.rounds + 1
        with Bar(self._workload.name, len(self.rows) * calls) as self._bar:
            for _ in range(course.cold_rounds - 1):
                with self._hosts() as hosts:
                    self._round("first call", hosts, self._cold)
            with self._hosts() as hosts:
                self._round("first call", hosts, self._cold)
                for _ in range(course.settling_rounds):
                    self._round("settling call", hosts, self._settling)
                for _ in range(course.rounds):
                    self._round("warm call", hosts, self._warm)
                self._round("memory", hosts, self._peak)
        self._check()

    @contextlib.contextmanager
    def _hosts(self) -> Generator[dict[str, Host]]:
        """A process for each contender, with its data: they start together, and end together."""
        course, hosts = self._course, dict[str, Host]()
        with contextlib.ExitStack() as stack:
            for name in self._shuffled(self.rows):
                order = Order(self._workload.name, name, self._rows, course.seed, course.workers)
                hosts[name] = stack.enter_context(Host(order, course.timeout, course.folder))
            for name in list(hosts):
                self._guarded(name, hosts, self._ready)
            try:
                yield hosts
            except BaseException:
                for host in hosts.values():
                    host.kill()
                raise
            for host in hosts.values():
                host.dismiss()

    def _round(self, what: str, hosts: dict[str, Host], do: Callable[[Host, str], None]) -> None:
        for name in self._shuffled(hosts):
            self._bar.step(f"{what}: {name}")
            self._guarded(name, hosts, do)

    def _shuffled(self, names: Iterable[str]) -> list[str]:
        known = [name for name in names if self.rows[name].error is None]
        return self._random.sample(known, len(known))

    def _guarded(self, name: str, hosts: dict[str, Host], do: Callable[[Host, str], None]) -> None:
        """One contender's failure is its own."""
        try:
            do(hosts[name], name)
        except HostError as exc:
            self.rows[name].error = str(exc)
            host = hosts.pop(name)
            host.kill()  # it would not answer to being told to end, either
            host.close()

    def _ready(self, host: Host, name: str) -> None:
        del name
        self.size = host.ready()

    def _cold(self, host: Host, name: str) -> None:
        self.rows[name].cold += host.call()
        self._prints[name] = host.fingerprint()

    def _settling(self, host: Host, name: str) -> None:
        self.rows[name].settling += host.call()

    def _warm(self, host: Host, name: str) -> None:
        host.wake()
        row, before = self.rows[name], cpu_seconds(host.pid)
        row.warm += host.call(self._workload.repeat)
        row.cpu_samples.append(cpu_seconds(host.pid) - before)

    def _peak(self, host: Host, name: str) -> None:
        """In a round of its own: to look at memory takes time from who is looked at."""
        host.wake()
        peak = Peak(host.pid)
        peak.start()
        try:
            host.call()
        finally:
            self.rows[name].peak_bytes = peak.stop()

    def _check(self) -> None:
        """Whether all gave what the loop gave; the ideal gives nothing back."""
        expected = self._prints.get(LOOP)
        for name, row in self.rows.items():
            found = self._prints.get(name)
            if name != IDEAL and expected is not None and found not in {None, expected}:
                row.error = row.error or "its result differs from the plain loop's"
            if row.cpu_samples:
                calls = len(row.cpu_samples) * self._workload.repeat
                row.cpu_seconds = sum(row.cpu_samples) / calls


def compare(workload: Workload, rows: int, names: Iterable[str], course: Course) -> dict[str, Any]:
    """Measure a workload: its size, a row a contender, and who was left out and why."""
    entries = [CONTENDERS[name] for name in names]
    applying = [entry for entry in entries if entry.applies(workload)]
    there = [entry.name for entry in applying if not entry.missing]
    match = _Match(workload, rows, there, course)
    match.run()
    return {
        "name": workload.name,
        "what": workload.what,
        "parallel_helps": workload.parallel_helps,
        "workers": workload.setting(course.workers).workers,
        **match.size,
        "contenders": [_told(row) for row in match.rows.values()],
        "left_out": {entry.name: _why(entry) for entry in applying if entry.missing},
    }


def _told(row: Row) -> dict[str, Any]:
    return {
        "contender": row.contender,
        "cold_seconds": row.cold,
        "settling_seconds": row.settling,
        "warm_seconds": row.warm,
        "cpu_seconds": row.cpu_seconds,
        "peak_bytes": row.peak_bytes,
        "error": row.error,
    }


def _why(entry: Entry) -> str:
    return f"not there: {', '.join(entry.missing)}"
