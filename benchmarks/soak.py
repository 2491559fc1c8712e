"""Random maps with random faults, from several threads, each result beside the plain loop's.

    python benchmarks/soak.py [--minutes 10 | --deeds 100] [--threads 4] [--seed 1] [--backends spawn loky]

The seed decides what is done; ``--replay 2/117`` does one thing alone, the 117th of thread 2.
Ends with a table, and with status 1 at the first thing that is wrong: a result, an error, or
a process, descriptor, thread or semaphore that is left. What makes no progress for a minute
is shown with all stacks, and ends with a status of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import math
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import psutil

import pmap
from pmap.errors import PartitionTimeoutError, WorkerDiedError

PROCESSES = ["spawn", "forkserver", "loky"]
BACKENDS = ["auto", "serial", "threads", *PROCESSES]
SMALL = pl.DataFrame({"x": range(1000)})
LARGE = pl.DataFrame({"x": range(400_000)}).with_columns(s=pl.col("x").cast(pl.String))
#: Seconds that a partition may run where one hangs; much, for all share few cores.
TIMEOUT = 4.0
#: Seconds without progress that are too many.
STALLED = 60.0
#: Seconds within which all that ends by itself has ended.
SETTLED = 20.0


class PlannedError(Exception):
    """What a function under test raises."""


def crash() -> None:
    faulthandler.disable()  # loky's workers would print all their stacks
    ctypes.string_at(0)


FAULTS: dict[str, Any] = {
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": crash,
    "hang": lambda: time.sleep(10 * STALLED),
}
ERRORS = {"exception": PlannedError, "hang": PartitionTimeoutError, "unpicklable": TypeError}


@dataclass
class Function:
    """Doubles x; in some partitions, at so many attempts, something else happens."""

    faults: dict[int, tuple[str, int]]
    unit: int

    def __call__(self, part: pl.DataFrame) -> Any:
        here = pmap.current_partition()
        assert here is not None
        kind, times = self.faults.get(here.index, ("none", 0))
        if here.attempt < times:
            if kind == "unpicklable":
                return threading.Lock()
            if kind == "exception":
                raise PlannedError(here.index)
            FAULTS[kind]()
        return part.with_columns(y=pl.col("x") * 2 + self.unit)


@dataclass
class Deed:
    """One map: what is done, and what must come of it."""

    choice: random.Random
    backends: list[str]
    description: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choose = self.choice
        self.backend = choose.choice(self.backends)
        self.way = choose.choice(["map", "map", "ordered", "unordered", "abandoned"])
        self.size = choose.choice(["small", "small", "large", "shared"])
        self.n_parts = choose.randint(1, 12)
        self.retries = choose.choice([0, 0, 1, 2])
        self.on_error = choose.choice(["raise", "skip", "return"])
        self.function = Function(self._faults(), choose.randrange(1000))
        self.take = choose.randint(1, self.n_parts)

    def _faults(self) -> dict[int, tuple[str, int]]:
        if self.choice.random() < 0.4:
            return {}
        kinds = ["exception"]
        if self.backend in PROCESSES:
            kinds += ["exit", "kill", "segfault"]
            kinds += ["unpicklable"] if self.way != "map" else []
            kinds += ["hang"] if self.choice.random() < 0.1 else []
        indices = self.choice.sample(range(self.n_parts), min(self.n_parts, 2))
        return {i: (self.choice.choice(kinds), self.choice.randint(1, 3)) for i in indices}

    def __str__(self) -> str:
        return (
            f"{self.way} of a {self.size} frame in {self.n_parts} on {self.backend}, "
            f"retries={self.retries}, on_error={self.on_error}, faults={self.function.faults}"
        )

    # What must come of it.

    @property
    def lost(self) -> dict[int, str]:
        """Partitions that fail for good."""
        faults = self.function.faults
        return {i: kind for i, (kind, times) in faults.items() if times > self.retries}

    def explains(self, error: BaseException) -> bool:
        """Whether it is the error of one of them."""
        for index, kind in self.lost.items():
            named = f"partition {index} of {self.n_parts}"
            told = f"{error} {getattr(error, '__notes__', '')}"
            if isinstance(error, ERRORS.get(kind, WorkerDiedError)) and named in told:
                return True
        return False

    # Doing it.

    def run(self) -> None:
        """Do it, and look at what comes of it."""
        frame = SMALL if self.size == "small" else LARGE
        frame = pmap.share(frame) if self.size == "shared" else frame
        rows = -(-frame.height // self.n_parts)
        self.parts = [frame.slice(at, rows) for at in range(0, frame.height, rows)]
        self.n_parts = len(self.parts)
        call: dict[str, Any] = {
            "backend": self.backend,
            "n_jobs": 2,
            "chunk_size": rows,
            "retries": self.retries,
            "on_error": self.on_error,
        }
        if any(kind == "hang" for kind, _ in self.function.faults.values()):
            call["timeout"] = TIMEOUT
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "skip" tells how many
            try:
                self._map(frame, call) if self.way == "map" else self._iterate(frame, call)
            except Exception as exc:
                if self.on_error == "raise" and self.explains(exc):
                    return
                raise
        may_end_well = self.on_error != "raise" or not self.lost or self.way == "abandoned"
        check(may_end_well, "no error came")

    def _map(self, frame: pl.DataFrame, call: dict[str, Any]) -> None:
        out = pmap.map_partitions(frame, self.function, schema=SCHEMAS[frame.width], **call)
        whole = pl.DataFrame(schema=SCHEMAS[frame.width])
        kept = [self.plain(i) for i in range(self.n_parts) if i not in self.lost]
        check(out.equals(pl.concat([whole, *kept])), "the result is another than the loop's")
        failures = pmap.last_report().failures
        check(len(failures) == len(self.lost), f"not all failures are there: {failures}")
        check(all(map(self.explains, failures)), f"failures that were not to be: {failures}")

    def plain(self, index: int) -> pl.DataFrame:
        """What the loop gives."""
        return self.parts[index].with_columns(y=pl.col("x") * 2 + self.function.unit)

    def _iterate(self, frame: pl.DataFrame, call: dict[str, Any]) -> None:
        ordered = self.way != "unordered"
        results = pmap.iter_partitions(frame, self.function, maintain_order=ordered, **call)
        seen: list[int] = []
        with contextlib.closing(results):
            for result in results:
                if isinstance(result, BaseException):
                    check(self.explains(result), f"an error that was not to be: {result!r}")
                else:
                    seen.append(self._index(result))
                if self.way == "abandoned" and len(seen) == self.take:
                    break
            else:
                wanted = [i for i in range(self.n_parts) if i not in self.lost]
                check(sorted(seen) == wanted, f"results of {seen}, not of {wanted}")
        check(not ordered or seen == sorted(seen), f"results in the order {seen}")

    def _index(self, result: pl.DataFrame) -> int:
        index = result["x"][0] // self.parts[0].height
        check(result.equals(self.plain(index)), f"another result than the loop's for {index}")
        return int(index)


SCHEMAS = {1: {"x": pl.Int64, "y": pl.Int64}, 2: {"x": pl.Int64, "s": pl.String, "y": pl.Int64}}


def check(fine: object, what: str) -> None:
    if not fine:
        raise AssertionError(what)


class Soak:
    """Threads that do deeds until time is up, or so many are done, or one goes wrong."""

    def __init__(self, seed: int, backends: list[str], deadline: float, most: float) -> None:
        self._seed = seed
        self._backends = backends
        self._deadline = deadline
        self._most = most
        self.done: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []
        self.busy: dict[int, tuple[float, str]] = {}  # since when each thread is at what

    def deed(self, thread: int, number: int) -> Deed:
        """What a thread does as its n-th."""
        return Deed(random.Random(f"{self._seed}/{thread}/{number}"), self._backends)

    def work(self, thread: int) -> None:
        """Until the end."""
        number = 0
        while number < self._most and time.monotonic() < self._deadline and not self.wrong:
            self.do(thread, number)
            number += 1
        self.busy.pop(thread, None)

    def do(self, thread: int, number: int) -> None:
        """One thing, and note what it was or what is wrong with it."""
        deed = self.deed(thread, number)
        self.busy[thread] = time.monotonic(), f"{thread}/{number}: {deed}"
        try:
            deed.run()
        except Exception:  # noqa: BLE001  whatever it is, it is wrong
            self.wrong.append(f"{thread}/{number}: {deed}\n{traceback.format_exc()}")
        self.done[deed.backend, deed.way] += 1
        self.done[deed.backend, "faults"] += len(deed.function.faults)

    def watch(self, threads: list[threading.Thread]) -> None:
        """Until they end, or one of them makes no progress."""
        while any(thread.is_alive() for thread in threads):
            # A thread without Python, for when this one can not go on either.
            faulthandler.dump_traceback_later(STALLED, exit=True)
            threads[0].join(1)
            threads.append(threads.pop(0))
            late = time.monotonic() - STALLED
            for since, what in list(self.busy.values()):
                if since < late:
                    print(f"no progress with {what}", file=sys.stderr, flush=True)
                    faulthandler.dump_traceback(all_threads=True)
                    os._exit(2)
        faulthandler.cancel_dump_traceback_later()

    def table(self) -> str:
        """What was done."""
        columns = ["map", "ordered", "unordered", "abandoned", "faults"]
        lines = [f"  {'backend':12}" + "".join(f"{name:>11}" for name in columns)]
        for backend in self._backends:
            counts = "".join(f"{self.done[backend, name]:>11,}" for name in columns)
            lines.append(f"  {backend:12}{counts}")
        return "\n".join(lines)


def holdings() -> dict[str, set[str]]:
    """What this process has that must not grow, by kind and name."""
    children = psutil.Process().children(recursive=True)
    workers = {p for p in children if "resource_tracker" not in " ".join(_command(p))}
    shared = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    mine = f"-{os.getpid()}-"
    return {
        "processes": {str(process) for process in workers},
        "threads": {str(thread) for thread in threading.enumerate()},
        "descriptors": set(_open_files()),
        "semaphores": {name for name in shared if mine in name},
    }


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def _open_files() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found.append(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return found


def left_since(before: dict[str, set[str]]) -> dict[str, set[str]]:
    """What there is more than before, when all has ended that ends by itself."""
    # The last report has the failures of its call, and they have the rows that failed.
    pmap.map_partitions(pl.DataFrame({"x": [1]}), lambda part: part, backend="serial")
    pmap.shutdown()
    deadline = time.monotonic() + SETTLED
    while True:
        gc.collect()
        pmap.shutdown()  # memory that came back since
        now = holdings()
        more = {
            kind: now[kind] - before[kind] for kind in now if len(now[kind]) > len(before[kind])
        }
        if not more or time.monotonic() > deadline:
            return more
        time.sleep(0.1)  # threads of pmap's and loky's look up now and then


def warm_up(backends: list[str]) -> dict[str, set[str]]:
    """Have all there that stays: modules, loky's tracker; and say what that is."""
    for backend in backends:
        pmap.map_partitions(LARGE, Function({}, 0), backend=backend, n_jobs=2, n_partitions=4)
    pmap.shutdown()
    gc.collect()
    return holdings()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--deeds", type=int, help="so many of each thread, however long it takes")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--replay", help="THREAD/NUMBER of one thing to do alone")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    before = warm_up(arguments.backends)
    begun = time.monotonic()
    deadline = math.inf if arguments.deeds else begun + 60 * arguments.minutes
    soak = Soak(arguments.seed, arguments.backends, deadline, arguments.deeds or math.inf)
    if arguments.replay:
        thread, number = map(int, arguments.replay.split("/"))
        threads = [threading.Thread(target=soak.do, args=(thread, number), daemon=True)]
    else:
        numbers = range(arguments.threads)
        threads = [threading.Thread(target=soak.work, args=(n,), daemon=True) for n in numbers]
    for thread in threads:
        thread.start()
    soak.watch(threads)
    print(soak.table(), flush=True)
    if soak.wrong:
        sys.exit("wrong: " + "\n".join(soak.wrong))
    left = left_since(before)
    if left:
        sys.exit(f"left: {left}")
    print(f"nothing is left after {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
