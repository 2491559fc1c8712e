"""What backend="auto" takes, beside the best of all that it might have done instead.

    python benchmarks/regret.py [--rounds 3] [--scale 1.0] [--only NAME ...] [--ways auto loop ...]

Each workload is run as a plain loop over the partitions that pmap makes, as one call of the function on
the whole frame (where that gives the same), on threads, on every process backend and by auto,
in another order in each round, all in one process: warm, with workers that are there, and cold,
after `pmap.shutdown()`. The best is that of the medians, warm or cold alike.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import os
import random
import re
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

import pmap

if TYPE_CHECKING:
    from collections.abc import Callable

PROCESSES = ["forkserver", "spawn", "loky"]
WAYS = ["loop", "whole", "threads", *PROCESSES, "auto"]
#: What auto may take: of the best; and of the loop, with so many seconds on top.
MOST_OF_BEST, MOST_OF_LOOP, SLACK = 1.10, 1.02, 0.002

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Workload:
    """A frame of about so many rows at scale 1, and a function."""

    name: str
    rows: int
    frame: Callable[[int], pl.DataFrame]
    function: Callable[[pl.DataFrame], pl.DataFrame]
    is_one_piece: bool = True  #: the function gives the same for the whole frame


def numbers(rows: int) -> pl.DataFrame:
    return pl.DataFrame({"x": RNG.random(rows), "g": RNG.integers(0, 100, rows)})


def texts(rows: int) -> pl.DataFrame:
    return pl.DataFrame({"n": RNG.integers(0, 10**9, rows)}).select(
        "n", t=pl.format("user-{}@example-{}.org, seen {} times", "n", pl.col("n") % 97, "n")
    )


def jsons(rows: int) -> pl.DataFrame:
    frame = texts(rows)
    who = zip(frame["n"].to_list(), frame["t"].to_list(), strict=True)
    return pl.DataFrame(
        {"j": [json.dumps({"id": n, "tags": ["a", "b"], "who": t}) for n, t in who]}
    )


def wide(rows: int) -> pl.DataFrame:
    return pl.DataFrame({f"c{i}": RNG.random(rows) for i in range(12)})


def python_arithmetic(part: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"y": [sum(divmod(int(x * 1e6), 7)) % 11 for x in part["x"].to_list()]})


def regex(part: pl.DataFrame) -> pl.DataFrame:
    pattern = re.compile(r"user-(\d+)@([\w-]+)\.org, seen (\d+)")
    rows = [pattern.match(t).groups() for t in part["t"].to_list()]
    return pl.DataFrame(rows, schema=["a", "b", "c"], orient="row")


def parse_json(part: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"id": [json.loads(j)["id"] for j in part["j"].to_list()]})


def by_pandas(part: pl.DataFrame) -> pl.DataFrame:
    frame = part.to_pandas()
    return pl.DataFrame({"y": frame["t"].map(lambda t: len(t.split("@")[0])).to_numpy()})


def numpy_fft(part: pl.DataFrame) -> pl.DataFrame:
    x = part["x"].to_numpy()
    y = x
    for _ in range(6):
        y = np.sqrt(np.abs(np.sin(y) + x))
    return pl.DataFrame({"y": y})


def hashing(part: pl.DataFrame) -> pl.DataFrame:
    data = part["x"].to_numpy().tobytes()
    return pl.DataFrame({"h": [hashlib.sha256(data[i:]).hexdigest() for i in range(4)]})


@functools.cache
def model() -> Any:
    from sklearn.ensemble import RandomForestRegressor

    x = np.random.default_rng(0).random((500, 12))
    forest = RandomForestRegressor(n_estimators=20, n_jobs=1, random_state=0)
    return forest.fit(x, x.sum(axis=1))


def predict(part: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"y": model().predict(part.to_numpy())})


def sleeping(part: pl.DataFrame) -> pl.DataFrame:
    time.sleep(part.height * 1e-4)
    return part.head(1)


def native(part: pl.DataFrame) -> pl.DataFrame:
    x = pl.col("x")
    return part.select(y=(x.sin() * x.cos()).exp().log1p() + pl.col("g").sqrt())


def native_strings(part: pl.DataFrame) -> pl.DataFrame:
    return part.select(
        pl.col("t").str.extract(r"user-(\d+)").str.to_integer(), u=pl.col("t").str.to_uppercase()
    )


def skewed(part: pl.DataFrame) -> pl.DataFrame:
    heavy = part["g"].to_list()
    return pl.DataFrame({"y": [sum(range(60)) if g > 90 else g for g in heavy]})


def skew(rows: int) -> pl.DataFrame:
    return numbers(rows).sort("g")


def string_heavy(part: pl.DataFrame) -> pl.DataFrame:
    return part.with_columns(t=pl.Series([t.swapcase() for t in part["t"].to_list()]))


def tiny(part: pl.DataFrame) -> pl.DataFrame:
    return part.with_columns(y=pl.col("x") * 2)


def keyed(part: pl.DataFrame) -> pl.DataFrame:
    groups = {
        key[0]: group["x"].to_list() for key, group in part.group_by("g", maintain_order=True)
    }
    return pl.DataFrame({"g": list(groups), "y": [sum(sorted(xs)) for xs in groups.values()]})


_LOOKUP = {i: str(i * 7) for i in range(300_000)}


def make_lookup() -> Callable[[pl.DataFrame], pl.DataFrame]:
    table = _LOOKUP

    def lookup(part: pl.DataFrame) -> pl.DataFrame:
        return pl.DataFrame({"y": [table.get(int(x * 4e5), "") for x in part["x"].to_list()]})

    return lookup


def light(part: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"n": [sum(1 for x in part["x"].to_list() if x > 0.5)]})


WORKLOADS = [
    Workload("python, 1,000 rows", 1_000, numbers, python_arithmetic),
    Workload("python, 1 million rows", 1_000_000, numbers, python_arithmetic),
    Workload("python, 3 million rows", 3_000_000, numbers, python_arithmetic),
    Workload("regex", 300_000, texts, regex),
    Workload("json", 200_000, jsons, parse_json),
    Workload("pandas", 500_000, texts, by_pandas),
    Workload("numpy", 6_000_000, numbers, numpy_fft),
    Workload("hashing big values", 4_000_000, numbers, hashing, is_one_piece=False),
    Workload("scikit-learn", 60_000, wide, predict),
    Workload("sleeping", 8_000, numbers, sleeping, is_one_piece=False),
    Workload("native Polars, 6 million rows", 6_000_000, numbers, native),
    Workload("native Polars, strings", 1_000_000, texts, native_strings),
    Workload("skewed", 2_000_000, skew, skewed),
    Workload("string-heavy", 700_000, texts, string_heavy),
    Workload("tiny", 1_000, numbers, tiny),
    Workload("keyed", 1_000_000, numbers, keyed, is_one_piece=False),
    Workload("lookup in the closure", 1_000_000, numbers, make_lookup()),
    Workload("light Python on much data", 2_000_000, numbers, light, is_one_piece=False),
]


def parts_of(frame: pl.DataFrame) -> list[pl.DataFrame]:
    heights = pmap.iter_partitions(frame, lambda part: part.height, backend="serial")
    ends = [0, *itertools.accumulate(heights)]
    return [frame.slice(start, end - start) for start, end in itertools.pairwise(ends)]


def loop(parts: list[pl.DataFrame], function: Any) -> pl.DataFrame:
    return pl.concat([function(part) for part in parts], rechunk=False)


def run(way: str, frame: pl.DataFrame, parts: list[pl.DataFrame], function: Any) -> pl.DataFrame:
    if way == "loop":
        return loop(parts, function)
    if way == "whole":
        return function(frame)
    return pmap.map_partitions(frame, function, backend=way)


def warm_up(frame: pl.DataFrame, function: Any, ways: list[str]) -> None:
    """Whatever auto may choose is there, as are the others."""
    for backend in {*PROCESSES[:1], *ways} - {"loop", "whole", "auto"}:
        pmap.map_partitions(frame.head(100), function, backend=backend, n_partitions=4)


def measure(work: Workload, ways: list[str], rounds: int, scale: float) -> dict[str, list[float]]:
    """Seconds by way, warm, and "way, cold"."""
    frame = work.frame(max(100, int(work.rows * scale)))
    parts = parts_of(frame)
    wanted = loop(parts, work.function)
    shuffled = random.Random(work.name)
    times: dict[str, list[float]] = {}
    todo = [way for way in ways if way != "whole" or work.is_one_piece]
    for number in range(rounds + 1):
        for cold in (False, True):
            if not cold:
                warm_up(frame, work.function, todo)
            for way in shuffled.sample(todo, len(todo)):
                if cold and way in {"loop", "whole"}:
                    continue
                if cold:
                    pmap.shutdown()
                started = time.perf_counter()
                result = run(way, frame, parts, work.function)
                elapsed = time.perf_counter() - started
                if number == 0:
                    if not result.equals(wanted):
                        raise AssertionError(f"{way} gave a wrong result for {work.name!r}")
                else:
                    times.setdefault(f"{way}, cold" if cold else way, []).append(elapsed)
    return times


def verdict(work: Workload, times: dict[str, list[float]]) -> bool:
    """Print a workload's rows; whether auto kept within its bars."""
    medians = {way: statistics.median(values) for way, values in times.items()}
    good = True
    print(f"\n{work.name}")
    for suffix, state in (("", "warm"), (", cold", "cold")):
        ways = {
            way: medians[way if way in {"loop", "whole"} else way + suffix]
            for way in WAYS
            if (way if way in {"loop", "whole"} else way + suffix) in medians
        }
        auto = ways.pop("auto", None)
        told = "  ".join(f"{way} {seconds * 1e3:.1f}" for way, seconds in ways.items())
        if auto is None or not ways:
            print(f"  {state}: {told}")
            continue
        best = min(ways, key=lambda way: ways[way])
        regret, of_loop = auto / ways[best], auto / ways.get("loop", ways[best])
        kept = (
            auto <= MOST_OF_BEST * ways[best] + SLACK
            and auto <= MOST_OF_LOOP * ways.get("loop", auto) + SLACK
        )
        good &= kept
        mark = "" if kept else "   <-- over"
        print(f"  {state}: {told}  (ms)")
        spread = times["auto" + suffix]
        print(
            f"        auto {auto * 1e3:.1f} ({min(spread) * 1e3:.1f} to {max(spread) * 1e3:.1f}), "
            f"{regret:.2f} x the best ({best}), {of_loop:.2f} x the loop{mark}"
        )
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the rows")
    parser.add_argument("--only", nargs="*", default=[work.name for work in WORKLOADS])
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS)
    arguments = parser.parse_args()
    pmap.config.set(advise="off", n_jobs=-1)
    print(f"{pmap.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {arguments.rounds} rounds")
    kept = []
    for work in WORKLOADS:
        if work.name in arguments.only:
            times = measure(work, arguments.ways, arguments.rounds, arguments.scale)
            kept.append(verdict(work, times))
    print(f"\n{sum(kept)} of {len(kept)} workloads within the bars")


if __name__ == "__main__":
    main()
