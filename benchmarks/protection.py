"""What it costs on a healthy run that a dead, late or hungry worker would be found out.

    python benchmarks/protection.py [--partitions 10000] [--rounds 5]

Tiny partitions, in turn with the protection and without it: workers do not write on the
board what they run, and the caller does not look at them.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from unittest import mock

import polars as pl

import pmap
from pmap import _board, _watch


def same(part: pl.DataFrame) -> pl.DataFrame:
    return part


def bare() -> contextlib.ExitStack:
    """Without the protection, as long as the block lasts."""
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(_board.Board, "take", return_value=None))
    stack.enter_context(mock.patch.object(_watch.Watch, "look", return_value=None))
    return stack


def seconds(frame: pl.DataFrame, partitions: int, backend: str) -> float:
    started = time.perf_counter()
    out = pmap.map_partitions(frame, same, n_partitions=partitions, backend=backend, n_jobs=2)
    elapsed = time.perf_counter() - started
    if not out.equals(frame):
        raise AssertionError(f"{backend} gave a wrong result")
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backends", nargs="*", default=["forkserver", "spawn", "loky"])
    arguments = parser.parse_args()
    frame = pl.DataFrame({"x": range(arguments.partitions)})
    for backend in arguments.backends:
        seconds(frame, 100, backend)
        ratios, each = [], []
        for _ in range(arguments.rounds):
            protected = seconds(frame, arguments.partitions, backend)
            with bare():
                ratios.append(protected / seconds(frame, arguments.partitions, backend))
            each.append(protected / arguments.partitions)
        print(
            f"{backend:12}{statistics.median(each) * 1e3:7.3f} ms a partition; with the protection "
            f"{statistics.median(ratios):.3f} of the time without ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    pmap.shutdown()


if __name__ == "__main__":
    main()
