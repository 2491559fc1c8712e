"""Where the time of the paths that are used most goes.

A timer's signal interrupts the caller every millisecond, wherever it is: a thread that looks would
see it only where it lets go of the interpreter's lock. Noted is what each thread was in, of pmap or
the last thing that pmap called. A thread that waits counts as waiting. What workers do is in
`last_report().timings`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

import polars as pl

import pmap
from pmap._bench import _functions
from pmap._bench._limits import FIRST_CALL
from pmap._bench._text import seconds
from pmap._bench._workloads import WORKLOADS, job_of, mixed, numeric

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["profile"]

_BETWEEN_LOOKS = 0.001
_MOST_SHOWN = 14
#: Threads of pmap's that rest unless there is something to tidy up.
_RESTING = frozenset({"pmap-pages", "pmap-idle"})
#: Functions of pmap's that wait in C code: for a reply, and for a pipe.
_PLACES_OF_WAITING = frozenset({"_schedule.Run._next_done", "_processes._ProcessPool._run"})
#: Innermost functions in which a thread only waits.
_WAITS = frozenset({"wait", "poll", "select", "_wait_for_tstate_lock", "get", "join", "_worker"})


class _Sampler:
    """Counts where threads are, as long as its block lasts."""

    def __init__(self) -> None:
        self.looks = 0
        self.found: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Look from now on."""
        self._before = signal.signal(signal.SIGALRM, self._look)
        signal.setitimer(signal.ITIMER_REAL, _BETWEEN_LOOKS, _BETWEEN_LOOKS)
        return self

    def __exit__(self, *raised: object) -> None:
        """No more looks."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def _look(self, number: int, interrupted: FrameType | None) -> None:
        del number
        self.looks += 1
        for ident, frame in sys._current_frames().items():  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  documented
            if ident != threading.main_thread().ident:
                self._count(_name_of(ident), frame)
            elif interrupted is not None:
                self._count("caller", interrupted)

    def _count(self, thread: str, frame: FrameType) -> None:
        place = _place(frame)
        if place is not None and thread not in _RESTING:
            self.found[f"{thread:12} {place}"] += 1


def _name_of(ident: int) -> str:
    names = (thread.name for thread in threading.enumerate() if thread.ident == ident)
    return next(names, "gone")


def _place(frame: FrameType) -> str | None:
    """The innermost function of pmap's, and what it was in; nothing for threads without one."""
    innermost = frame.f_code.co_name
    inner: FrameType | None = frame
    while inner is not None and not _is_ours(inner):
        inner = inner.f_back
    if inner is None:
        return None
    module = str(inner.f_globals.get("__name__", "")).rpartition(".")[2]
    where = f"{module}.{inner.f_code.co_qualname}"
    if inner is frame:
        return f"{where} (waits)" if where in _PLACES_OF_WAITING else where
    return f"{where} > {'(waits)' if innermost in _WAITS else innermost}"


def _is_ours(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name.startswith(("pmap.", "pmap_backends.")) and not name.startswith("pmap._bench")


@dataclass(frozen=True)
class _Path:
    what: str
    call: Callable[[], object]
    calls: int


def _paths(scale: float, workers: int) -> list[_Path]:
    call = partial(pmap.map_partitions, n_jobs=workers, backend="forkserver")
    small, large = numeric(1_000), mixed(max(1_000, int(3_000_000 * scale)))
    parts = max(10, int(10_000 * scale))
    many, log = (
        pl.DataFrame({"x": range(parts)}),
        job_of(WORKLOADS["parse"], int(400_000 * scale), 0),
    )
    return [
        _Path(
            "a warm call of 1,000 rows, forkserver",
            lambda: call(small, _functions.through, n_partitions=8),
            max(3, int(200 * scale)),
        ),
        _Path(
            "the same, auto",
            lambda: pmap.map_partitions(small, _functions.through, n_jobs=workers),
            max(3, int(400 * scale)),
        ),
        _Path(
            f"{parts:,} partitions of a row",
            lambda: call(many, _functions.through, n_partitions=parts),
            1,
        ),
        _Path(
            f"{large.height:,} rows out and as much that is new back",
            lambda: call(large, _functions.new, n_partitions=8),
            max(2, int(8 * scale)),
        ),
        _Path(
            f"{log.frame.height:,} lines parsed in Python",
            lambda: call(log.frame, log.functions[0]),
            max(1, int(4 * scale)),
        ),
    ]


def profile(scale: float, workers: int | None) -> None:
    """Print it, path by path; the last is the start of a program."""
    pmap.config.set(advise="off")  # each path is what it is on purpose
    for path in _paths(scale, workers or pmap.cpu_count()):
        path.call()
        with _Sampler() as sampler:
            started = perf_counter()
            for _ in range(path.calls):
                path.call()
            taken = perf_counter() - started
        _tell(path, taken, sampler)
    pmap.shutdown()
    _tell_imports()


def _tell(path: _Path, taken: float, sampler: _Sampler) -> None:
    print(f"\n{path.what}: {seconds(taken / path.calls)} a call ({path.calls} calls)")
    report = pmap.last_report()
    if report is not None:
        timings = report.timings
        inside: Any = timings["function_seconds"].sum()
        moving: Any = timings["transport_seconds"].sum()
        print(
            f"  in workers, the last call: {seconds(inside)} in the function, {seconds(moving)} "
            f"moving data, {timings.height} partitions, {timings['worker'].n_unique()} workers"
        )
    for where, n in sampler.found.most_common(_MOST_SHOWN):
        print(f"  {n / max(1, sampler.looks):6.1%}  {where}", flush=True)


def _tell_imports() -> None:
    """What the first call adds to a program that has imported Polars."""
    command = [sys.executable, "-X", "importtime", "-c", FIRST_CALL]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  ours
    told = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imports = [_import_of(line) for line in told[1:]]  # the first is a heading
    names = [name for name, _ in imports]
    after = imports[names.index("polars") + 1 :]
    total = sum(own for _, own in after)
    print(f"\nimports of a first small call, after Polars: {seconds(total)}, {len(after)} modules")
    for name, own in sorted(after, key=lambda found: -found[1])[:_MOST_SHOWN]:
        print(f"  {seconds(own):>10}  {name}")


def _import_of(line: str) -> tuple[str, float]:
    """A line of `-X importtime`: the module, and its own seconds."""
    own, _, name = line.removeprefix("import time:").split("|")
    return name.strip(), int(own) / 1e6
