"""What it costs to move a frame to workers and back, beside the pools that a user would pick.

    python benchmarks/transport.py [--rows 6000000] [--rounds 3] [--sizes] [--memory]

Two workers, warm, every contender given the same slices, interleaved in one run:

- ``out``: the frame goes out, one row a partition comes back;
- ``through``: it goes out and comes back as it is;
- ``new``: it goes out, and as much that is new comes back;
- ``chained``: the result of ``new`` goes out again (pmap alone knows that it is there);
- ``call``: as ``chained``, of a frame of 1,000 rows, so that the difference is the transport.

Each round has the contenders in another order: who comes after one that filled the caches and
took the memory pays for it.

The plain loop shows what the function itself takes; a copy of the bytes in memory and the
same bytes through a pipe show what the machine can do. Contenders that are not installed
are left out, and named. ``--memory`` measures each alone: the most that all processes
together held beyond what they held before (PSS, so that shared pages count once).
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import random
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pmap._bench import _functions
from pmap._bench._contenders import (
    Dask,
    Joblib,
    Loky,
    Loop,
    Mpire,
    Pmap,
    Processes,
    Ray,
    Setting,
)
from pmap._bench._limits import through_pipe
from pmap._bench._processes import Peak
from pmap._bench._workloads import mixed, numeric

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmap._bench._contenders import Contender

WORKERS = 2
PARTITIONS = 8


# What travels.


def strings(rows: int) -> pl.DataFrame:
    """Long strings: about 80 bytes a row."""
    number = pl.Series("n", np.arange(rows)).cast(pl.String)
    return pl.DataFrame({"s": number}).select(
        pl.format("a name that fits no view: {}", "s"), t=pl.format("and another of them: {}", "s")
    )


def nested(rows: int) -> pl.DataFrame:
    """A list and a struct in each row: about 60 bytes a row."""
    flat = numeric(rows)
    return flat.select(
        pl.concat_list("a", "c").alias("list"), pl.struct("b", "d").alias("struct"), pl.col("b")
    )


FRAMES = {"numeric": numeric, "mixed": mixed, "strings": strings, "nested": nested}


# What is done with it: next to nothing, so that moving it is what is measured.


FUNCTIONS = {"out": _functions.out, "through": _functions.through, "new": _functions.new}


# Who moves it.


SETTING = Setting(WORKERS, PARTITIONS)

CONTENDERS: dict[str, tuple[str, Callable[[Setting], Contender]]] = {
    "plain loop": ("polars", Loop),
    "pmap": ("polars", Pmap),
    "pmap forkserver": ("polars", partial(Pmap, backend="forkserver")),
    "pmap loky": ("loky", partial(Pmap, backend="loky")),
    "pmap, by files": ("polars", partial(Pmap, transport="file")),
    "ProcessPoolExecutor(spawn)": ("polars", Processes),
    "loky": ("loky", Loky),
    "joblib": ("joblib", Joblib),
    "mpire": ("mpire", Mpire),
    "dask.distributed": ("distributed", Dask),
    "ray": ("ray", Ray),
}


def others(names: Any) -> list[str]:
    return [name for name in names if not name.startswith("pmap") and name != "plain loop"]


# How it is measured.


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def compare(
    frame: pl.DataFrame, pools: dict[str, Contender], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each call, one contender after the other in each round."""
    times: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in pools} for kind in (*FUNCTIONS, "chained", "call")
    }
    small = frame.head(1_000)
    shuffled = random.Random(0)
    for number in range(rounds + 1):
        for kind, function in FUNCTIONS.items():
            for name, call in shuffled.sample(list(pools.items()), len(pools)):
                elapsed, result = timed(lambda call=call, function=function: call(frame, function))
                if number == 0:  # starts the workers; and is the result right?
                    check(name, kind, frame, result)
                else:
                    times[kind][name].append(elapsed)
                if kind == "new" and name.startswith("pmap"):
                    for what, whole in (("chained", result), ("call", small)):
                        elapsed, _ = timed(
                            lambda call=call, whole=whole: call(whole, _functions.out)
                        )
                        if number > 0:
                            times[what][name].append(elapsed)
                del result
    return times


def check(name: str, kind: str, frame: pl.DataFrame, result: pl.DataFrame) -> None:
    if not result.equals(Loop(SETTING)(frame, FUNCTIONS[kind])):
        raise AssertionError(f"{name} gave a wrong result for {kind!r}")


def limits(size: int) -> None:
    """What the machine does with so many bytes."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    copy = min(timed(lambda: np.copyto(target, source))[0] for _ in range(5))
    print(f"  one copy in memory        {copy * 1e3:9.1f} ms  {size / copy / 1e9:6.2f} GB/s")
    pipe = min(timed(lambda: through_pipe(source.data))[0] for _ in range(2))
    print(f"  the bytes through a pipe  {pipe * 1e3:9.1f} ms  {size / pipe / 1e9:6.2f} GB/s")


def table(title: str, times: dict[str, list[float]], size: int) -> None:
    print(f"\n{title}")
    known = {name: statistics.median(values) for name, values in times.items() if values}
    best = min((known[name] for name in others(known)), default=None)
    for name, median in sorted(known.items(), key=lambda item: item[1]):
        spread = f"({min(times[name]) * 1e3:.1f} to {max(times[name]) * 1e3:.1f})"
        ratio = "" if best is None else f"{best / median:8.1f} x as fast as the best other pool"
        rate = f"{size / median / 1e9:7.2f} GB/s"
        print(f"  {name:28}{median * 1e3:10.1f} ms {spread:22}{rate}{ratio}")


# Memory.


def memory(kind: str, rows: int, names: list[str]) -> None:
    """Each contender in a process of its own: peak of all its processes together."""
    for what in FUNCTIONS:
        print(
            f"\n{what}: peak memory of all processes together (PSS), {kind} frame of {rows:,} rows"
        )
        peaks: dict[str, int] = {}
        for name in names:
            command = [sys.executable, __file__, "--peak", what, "--only", name]
            command += ["--frame", kind, "--rows", str(rows)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            peaks[name] = int(done.stdout.split()[-1])
        best = min((peaks[name] for name in others(peaks)), default=None)
        for name, peak in sorted(peaks.items(), key=lambda item: item[1]):
            ratio = "" if best is None else f"{peak / best:6.2f} of the leanest other pool"
            print(f"  {name:28}{peak / 1e6:8.0f} MB {ratio}")


def peak_of(call: Contender, frame: pl.DataFrame, function: Any) -> int:
    """Of one call on warm workers: bytes, the frame itself and the processes included."""
    call(frame.head(100_000), function)
    ctypes.CDLL(None).malloc_trim(0)
    peak = Peak(os.getpid())
    peak.start()
    result = call(frame, function)
    most = peak.stop()
    del result
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=6_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frame", choices=FRAMES, default="mixed")
    parser.add_argument("--sizes", action="store_true", help="every frame, from 1 kB up")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--peak", choices=FUNCTIONS, help="of one contender, as a number")
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), help="of the contenders")
    arguments = parser.parse_args()
    there = {
        name: make
        for name, (package, make) in CONTENDERS.items()
        if name in arguments.only and importlib.util.find_spec(package)
    }
    for name in set(arguments.only) - set(there):
        print(f"left out: {name} is not installed")
    if arguments.memory:
        memory(arguments.frame, arguments.rows, list(there))
        return
    if arguments.peak:
        ((_, make),) = there.items()
        call = make(SETTING)
        print(peak_of(call, FRAMES[arguments.frame](arguments.rows), FUNCTIONS[arguments.peak]))
        call.close()
        return
    pools = {name: make(SETTING) for name, make in there.items()}
    kinds = FRAMES if arguments.sizes else [arguments.frame]
    try:
        for kind in kinds:
            for rows in sizes(arguments):
                frame = FRAMES[kind](rows)
                size = int(frame.estimated_size())
                print(
                    f"\n=== {kind} frame: {rows:,} rows, {size / 1e6:,.3f} MB, load {os.getloadavg()[0]:.1f}"
                )
                limits(size)
                for what, times in compare(frame, pools, arguments.rounds).items():
                    table(what, times, size)
    finally:
        for pool in pools.values():
            pool.close()


def sizes(arguments: argparse.Namespace) -> list[int]:
    if not arguments.sizes:
        return [arguments.rows]
    return [
        rows
        for rows in (20, 1_000, 100_000, 1_000_000, 6_000_000, 35_000_000)
        if rows <= arguments.rows
    ]


if __name__ == "__main__":
    main()
