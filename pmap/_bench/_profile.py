"""Where the time of the paths that are used most goes.

Threads of the caller are looked at every millisecond (`sys._current_frames`): what each was in, of
pmap or the last thing that pmap called. A thread that waits counts as waiting. What workers do is in
`last_report().timings`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import polars as pl

import pmap
from pmap._bench import _functions
from pmap._bench._text import seconds
from pmap._bench._workloads import mixed, numeric

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["profile"]

_BETWEEN_LOOKS = 0.001
_MOST_SHOWN = 14
#: Innermost functions in which a thread only waits.
#: Threads of pmap's that rest unless there is something to tidy up.
_RESTING = frozenset({"pmap-pages", "pmap-idle"})
#: Functions of pmap's that wait in C code: for a reply, and for a pipe.
_PLACES_OF_WAITING = frozenset({"_schedule.Run._next_done", "_processes._ProcessPool._run"})
_WAITS = frozenset({"wait", "poll", "select", "_wait_for_tstate_lock", "get", "join", "_worker"})


class _Sampler(threading.Thread):
    """Counts where the other threads are."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self.looks = 0
        self.found: Counter[str] = Counter()

    def run(self) -> None:
        """Look until told to stop."""
        while not self._over.wait(_BETWEEN_LOOKS):
            self.looks += 1
            for ident, frame in sys._current_frames().items():  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  documented
                if ident != self.ident:
                    self._count(ident, frame)

    def _count(self, ident: int, frame: FrameType) -> None:
        thread = "caller" if ident == threading.main_thread().ident else _name_of(ident)
        place = _place(frame)
        if place is not None and thread not in _RESTING:
            self.found[f"{thread:12} {place}"] += 1

    def stop(self) -> None:
        """No more looks."""
        self._over.set()
        self.join()


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
    many = pl.DataFrame({"x": range(parts)})
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
    ]


def profile(scale: float, workers: int | None) -> None:
    """Print it, path by path; the fifth is the start of a program."""
    for path in _paths(scale, workers or pmap.cpu_count()):
        path.call()
        sampler = _Sampler()
        sampler.start()
        started = perf_counter()
        for _ in range(path.calls):
            path.call()
        taken = perf_counter() - started
        sampler.stop()
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
    """What `import pmap` adds to a program that has imported Polars."""
    command = [sys.executable, "-X", "importtime", "-c", "import polars; import pmap"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  ours
    told = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    lines = [_import_of(line) for line in told[1:]]  # the first is a heading
    names = [name for name, _, _ in lines]
    after = lines[names.index("polars") + 1 :]
    print(f"\nimport pmap, after Polars: {seconds(after[-1][2])}, {len(after)} modules")
    for name, own, _ in sorted(after, key=lambda line: -line[1])[:_MOST_SHOWN]:
        print(f"  {seconds(own):>10}  {name}")


def _import_of(line: str) -> tuple[str, float, float]:
    """A line of `-X importtime`: the module, its own seconds, and those with what it imports."""
    own, total, name = line.removeprefix("import time:").split("|")
    return name.strip(), int(own) / 1e6, int(total) / 1e6
