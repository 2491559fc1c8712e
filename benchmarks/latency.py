"""A small call, warm and cold, beside the pools that a user would pick instead.

    python benchmarks/latency.py [--rounds 30] [--cold-rounds 5]

Warm: a 1,000-row frame in the same 8 slices through each pool, interleaved, medians.
Cold: a whole Python process from its start to its first result, interleaved, medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from functools import partial

import polars as pl

from pmap._bench._contenders import Joblib, Loky, Pmap, Processes, Setting
from pmap._bench._functions import double

FRAME = pl.DataFrame({"x": range(1000), "s": [str(i) for i in range(1000)]})
PARTITIONS = 8
WORKERS = 2


SETTING = Setting(WORKERS, PARTITIONS)
CONTENDERS = {
    "pmap forkserver": partial(Pmap, backend="forkserver"),
    "pmap spawn": partial(Pmap, backend="spawn"),
    "pmap loky": partial(Pmap, backend="loky"),
    "ProcessPoolExecutor(spawn)": Processes,
    "loky": Loky,
    "joblib": Joblib,
}


def warm(rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, one contender after the other in each round."""
    pools = {name: make(SETTING) for name, make in CONTENDERS.items()}
    expected = double(FRAME)
    times: dict[str, list[float]] = {name: [] for name in pools}
    try:
        for number in range(rounds + 3):
            for name, call in pools.items():
                started = time.perf_counter()
                result = call(FRAME, double)
                elapsed = time.perf_counter() - started
                if not result.equals(expected):
                    raise AssertionError(f"{name} gave a wrong result")
                if number >= 3:  # the first calls start the workers
                    times[name].append(elapsed)
    finally:
        for pool in pools.values():
            pool.close()
    return times


def cold(rounds: int) -> dict[str, list[float]]:
    """Seconds of whole programs that make one call."""
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, seconds in times.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, __file__, "--one", name], check=True)
            seconds.append(time.perf_counter() - started)
    return times


def table(title: str, times: dict[str, list[float]]) -> None:
    print(f"\n{title}")
    best = min(
        statistics.median(values) for name, values in times.items() if not name.startswith("pmap")
    )
    for name, values in sorted(times.items(), key=lambda item: statistics.median(item[1])):
        low, _, high = statistics.quantiles(values, n=4)
        median = statistics.median(values)
        print(
            f"  {name:28} {median * 1e3:9.2f} ms  ({low * 1e3:.2f} to {high * 1e3:.2f})  {median / best:5.2f} x the best other"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--cold-rounds", type=int, default=5)
    parser.add_argument("--one", choices=CONTENDERS, help="make one call and end")
    arguments = parser.parse_args()
    if arguments.one:
        pool = CONTENDERS[arguments.one](SETTING)
        pool(FRAME, double)
        pool.close()
        return
    table("warm call, 1,000 rows in 8 slices, 2 workers", warm(arguments.rounds))
    if arguments.cold_rounds:
        table("cold program", cold(arguments.cold_rounds))


if __name__ == "__main__":
    main()
