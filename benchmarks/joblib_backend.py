"""joblib on pmap's pools beside joblib on its own loky: many tasks on a frame, tiny tasks, scikit-learn.

    python benchmarks/joblib_backend.py [--mb 200] [--tasks 200] [--tiny 10000] [--rounds 3] [--only frame tiny search]

Both are warm, and take turns in one run. The memory that a call takes is what it takes at most, in
the caller, its segments and its workers, beside what was there before.
"""

from __future__ import annotations

import argparse
import contextlib
import operator
import os
import statistics
import threading
import time

import joblib
import polars as pl
import psutil

import pmap

BACKENDS = ("pmap", "loky")
WORKERS = 2


def strings(mb: int) -> pl.DataFrame:
    """A frame of that many megabytes, most of them strings."""
    rows = mb * 1_000_000 // 58
    return pl.select(pl.int_range(rows).alias("i")).with_columns(
        s=pl.lit("a string of some thirty bytes ") + pl.col("i").cast(pl.String)
    )


def count(frame: pl.DataFrame, i: int) -> int:
    return frame.height + i


class Watch:
    """The most memory that this process, its segments and its workers took meanwhile, in bytes more than before."""

    def __enter__(self):
        self._before = self._most = _taken()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self._most = max(self._most, _taken())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.taken = self._most - self._before


def _taken() -> int:
    """What is each process's own, and what lies in segments."""
    me = psutil.Process()
    own = segments = 0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has ended
            own += process.memory_full_info().uss
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # it was of the listing itself
            if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:"):
                segments += os.fstat(int(fd)).st_blocks * 512
    return own + segments


def seconds(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def parallel(backend: str, tasks) -> list:
    with joblib.parallel_config(backend=backend, n_jobs=WORKERS):
        return joblib.Parallel()(tasks)


def compare(name: str, run, rounds: dict[str, int]) -> dict[str, float]:
    """Warm both up, then let them take turns; medians in seconds."""
    times: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    for turn in range(max(rounds.values())):
        for backend in BACKENDS if turn % 2 else BACKENDS[::-1]:
            if turn < rounds[backend]:
                times[backend].append(seconds(lambda: run(backend)))  # noqa: B023  called at once
    medians = {backend: statistics.median(taken) for backend, taken in times.items()}
    for backend, taken in medians.items():
        print(f"  {name}: {backend} {taken:.3f} s (of {len(times[backend])})", flush=True)
    print(
        f"  {name}: pmap takes {medians['pmap'] / medians['loky']:.3f} of loky's time", flush=True
    )
    return medians


def compare_frame(mb: int, tasks: int, rounds: int) -> None:
    frame = strings(mb)
    size = frame.to_arrow(compat_level=pl.CompatLevel.newest()).nbytes
    print(f"{tasks} tasks on a frame of {size / 1e6:.0f} MB")

    def run(backend: str) -> None:
        found = parallel(backend, (joblib.delayed(count)(frame, i) for i in range(tasks)))
        assert found == [frame.height + i for i in range(tasks)]

    for backend in BACKENDS:  # the workers are there, and have imported all
        parallel(backend, (joblib.delayed(count)(frame.head(1000), i) for i in range(8)))
    with Watch() as watch:
        run("pmap")
    print(f"  frame: pmap takes {watch.taken / size:.2f} times the frame's memory", flush=True)
    compare("frame", run, {"pmap": rounds, "loky": 1})


def compare_tiny(tasks: int, rounds: int) -> None:
    print(f"{tasks:,} trivial tasks")

    def run(backend: str) -> None:
        found = parallel(backend, (joblib.delayed(operator.neg)(i) for i in range(tasks)))
        assert found == [-i for i in range(tasks)]

    for backend in BACKENDS:
        run(backend)
    compare("tiny", run, dict.fromkeys(BACKENDS, 3 * rounds))


def compare_search(rounds: int) -> None:
    from sklearn.datasets import make_classification
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    print("a grid search of scikit-learn")
    x, y = make_classification(2000, 20, random_state=0)
    grid = {"C": [0.1, 1.0, 10.0], "gamma": ["scale", 0.01, 0.1]}

    def run(backend: str) -> None:
        with joblib.parallel_config(backend=backend, n_jobs=WORKERS):
            GridSearchCV(SVC(), grid, cv=5).fit(x, y)

    for backend in BACKENDS:
        run(backend)
    compare("search", run, dict.fromkeys(BACKENDS, rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--tiny", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["frame", "tiny", "search"])
    options = parser.parse_args()
    pmap.register_joblib_backend()
    if "frame" in options.only:
        compare_frame(options.mb, options.tasks, options.rounds)
    if "tiny" in options.only:
        compare_tiny(options.tiny, options.rounds)
    if "search" in options.only:
        compare_search(options.rounds)


if __name__ == "__main__":
    main()
