"""Scaling: the time of one call over rows, partitions, columns and workers, and its overheads.

The function does next to nothing, so that what is measured is what pmap adds. Of each point the
best of a few calls: whatever else runs here only adds to it.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

import pmap
from pmap._bench import _functions
from pmap._bench._bar import Bar
from pmap._bench._contenders import Loop, Processes, Setting
from pmap._bench._table import LOOP
from pmap._bench._workloads import numeric
from pmap._resources import available_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pmap._bench._contenders import Function

__all__ = ["Point", "beside_limits", "curves", "fit"]

#: Of a curve over partitions, columns or workers: what of the rest stays the same.
_ROWS_OF_PARTITIONS = 100_000
_CELLS_OF_COLUMNS = 10_000_000
_PARTS = 8
#: Seconds that all partitions of the curve over workers wait together.
_WAITED = 1.6
#: A pool that has no shared memory is not asked for more than this: bytes.
_MOST_OF_OTHERS = 400_000_000
#: Of the curves over rows: bytes of a row, and how often the frame is in memory at most.
_BYTES_OF_ROW, _COPIES = 32, 6
#: Seconds that a call takes at least.
_LEAST = 1e-6
#: Seconds after which a point is not measured again.
_LONG = 5.0


@dataclass(frozen=True)
class Point:
    """One call: what it was given, and the best of its times."""

    curve: str
    contender: str
    rows: int
    partitions: int
    columns: int
    workers: int
    bytes: int
    seconds: float

    def told(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def _steps(least: float, most: float, each_decade: int) -> list[int]:
    """Powers of ten, and `each_decade` numbers between each and the next."""
    first, last = math.log10(least), math.log10(most)
    n = max(1, round((last - first) * each_decade)) + 1
    return sorted({round(10 ** (first + (last - first) * i / (n - 1))) for i in range(n)})


class _Bench:
    def __init__(self, backend: str, workers: int, rounds: int, bar: Bar) -> None:
        self._bar = bar
        self._backend = backend
        self._workers = workers
        self._rounds = rounds
        self.points: list[Point] = []

    def rows(self, most: float) -> None:
        """From a thousand rows on; out alone, and out and back."""
        loop = Loop(Setting(1, _PARTS))
        for rows in _steps(min(1_000, most), most, 2):
            frame = numeric(rows)
            for curve, function in (("out", _functions.out), ("both ways", _functions.new)):
                name = f"rows, {curve}"
                self._measure(name, frame, function, _PARTS, self._workers)
                self._point(name, LOOP, frame, (_PARTS, 1), partial(loop, frame, function))

    def partitions(self, most: float, rows: int) -> None:
        """The same rows, in more and more parts."""
        frame = numeric(max(rows, int(most)))
        for n in _steps(1, most, 2):
            self._measure("partitions", frame, _functions.out, n, self._workers)

    def columns(self, most: float, cells: int) -> None:
        """As many cells, in more and more columns."""
        for n in _steps(1, most, 2):
            array = np.zeros((max(_PARTS, cells // n), n))
            frame = pl.DataFrame(array, schema=[f"c{i}" for i in range(n)])
            self._measure("columns", frame, _functions.out, _PARTS, self._workers)

    def workers(self, most: int, waited: float) -> None:
        """Of this machine's cores, and past them: work that waits needs no core."""
        n_parts = 2 * most
        frame = pl.DataFrame({"x": range(n_parts)})
        wait = partial(_wait, waited / n_parts)
        n = 1
        while n <= most:
            self._measure("workers", frame, wait, n_parts, n)
            n *= 2
        pmap.shutdown()

    def _measure(
        self, curve: str, frame: pl.DataFrame, function: Function, partitions: int, workers: int
    ) -> None:
        self._point(
            curve,
            f"pmap {self._backend}",
            frame,
            (partitions, workers),
            lambda: pmap.map_partitions(
                frame, function, n_partitions=partitions, backend=self._backend, n_jobs=workers
            ),
        )

    def others(self, most: float) -> None:
        """The same curve over rows of a pool that pickles frames, for comparison."""
        setting = Setting(self._workers, _PARTS)
        pool = Processes(setting)
        try:
            for rows in _steps(min(1_000, most), most, 2):
                frame = numeric(rows)
                if frame.estimated_size() > _MOST_OF_OTHERS:
                    break
                for curve, function in (("out", _functions.out), ("both ways", _functions.new)):
                    self._point(
                        f"rows, {curve}",
                        "ProcessPoolExecutor(spawn)",
                        frame,
                        (_PARTS, self._workers),
                        partial(pool, frame, function),
                    )
        finally:
            pool.close()

    def _point(
        self,
        curve: str,
        contender: str,
        frame: pl.DataFrame,
        cut: tuple[int, int],
        call: Callable[[], object],
    ) -> None:
        partitions, workers = cut
        self._bar.step(f"{curve}: {contender}")
        call()  # starts the workers, and touches the pages
        best = min(_repeated(call, self._rounds))
        self.points.append(
            Point(
                curve,
                contender,
                frame.height,
                min(partitions, frame.height),
                frame.width,
                workers,
                int(frame.estimated_size()),
                best,
            )
        )


def _fitting(rows: float) -> float:
    """As many rows as asked for, or as there is memory for: they go out, and come back."""
    available = available_memory()
    return rows if available is None else min(rows, available / (_BYTES_OF_ROW * _COPIES))


def _wait(seconds: float, part: pl.DataFrame) -> pl.DataFrame:
    time.sleep(seconds * part.height)
    return part


def _repeated(call: Callable[[], object], rounds: int) -> list[float]:
    seconds: list[float] = []
    while len(seconds) < rounds and sum(seconds) < _LONG:
        started = perf_counter()
        call()
        seconds.append(perf_counter() - started)
    return seconds


def curves(backend: str, *, workers: int, rounds: int, scale: float) -> list[Point]:
    """All curves on one backend.

    Parameters
    ----------
    backend
        Of pmap.
    workers
        For all curves but their own.
    rounds
        Calls of each point.
    scale
        Of the largest rows (10 to the 7.5), partitions (100,000), columns (1,000) and workers (the
        larger of 16 and four times the cores).
    """
    with Bar("curves", None) as bar, pmap.config(advise="off"):  # it is what it is on purpose
        bench = _Bench(backend, workers, rounds, bar)
        bench.rows(max(100, _fitting(10**7.5 * scale)))
        bench.partitions(max(10, 100_000 * scale), max(100, int(_ROWS_OF_PARTITIONS * scale)))
        bench.columns(max(10, 1_000 * scale), max(1_000, int(_CELLS_OF_COLUMNS * scale)))
        bench.others(max(100, _fitting(10**7.5 * scale)))
        bench.workers(
            max(2, int(max(16, 4 * pmap.cpu_count()) * min(1, scale))), _WAITED * min(1, scale)
        )
    return bench.points


def fit(points: Sequence[Point], contender: str) -> dict[str, float]:
    """The overheads of a call that describe these points best, none of them below 0.

    What the function itself takes, by the plain loop's time shared out among the workers, is none.

    Seconds are taken to be ``fixed + partition * partitions + cell * partitions * columns + byte *
    bytes``, with a second figure for bytes that come back. Least squares of relative errors, since
    times reach from a millisecond to seconds.

    Returns
    -------
    dict
        Seconds: ``fixed``, ``per_partition``, ``per_column_of_partition``, ``per_byte_out``,
        ``per_byte_back``; and ``median_error``, the median of the relative errors.
    """
    used = [p for p in points if p.contender == contender and p.curve != "workers"]
    if not used:
        return {}
    terms = np.array([_terms(point) for point in used], float)
    own = {(p.curve, p.rows): p.seconds for p in points if p.contender == LOOP}
    seconds = np.array([p.seconds - own.get((p.curve, p.rows), 0.0) / p.workers for p in used])
    seconds = np.maximum(seconds, _LEAST)
    found = _least_squares(terms / seconds[:, None], np.ones(len(used)))
    error = float(np.median(np.abs(terms @ found / seconds - 1)))
    names = ("fixed", "per_partition", "per_column_of_partition", "per_byte_out", "per_byte_back")
    return {**dict(zip(names, map(float, found), strict=True)), "median_error": error}


def _terms(point: Point) -> tuple[float, ...]:
    back = point.bytes if point.curve == "rows, both ways" else 0
    return (1.0, point.partitions, point.partitions * point.columns, point.bytes, back)


def _least_squares(terms: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Without what would be negative: that is left out, and the rest found anew."""
    kept = np.ones(terms.shape[1], bool)
    found = np.zeros(terms.shape[1])
    while kept.any():
        scale = np.abs(terms[:, kept]).max(axis=0)
        scale[scale == 0] = 1.0
        solve: Any = np.linalg.lstsq  # its types are not known to be those of arrays
        solved: np.ndarray = solve(terms[:, kept] / scale, wanted, rcond=None)[0] / scale
        found[:] = 0
        found[kept] = solved
        if (solved >= 0).all():
            break
        kept &= found > 0
    return np.maximum(found, 0)


def beside_limits(fitted: dict[str, float], limits: dict[str, float]) -> dict[str, float]:
    """How many times each overhead is what the machine takes at least for such a thing."""
    if not fitted:
        return {}
    trip, copy = limits["pipe_round_trip_seconds"], limits["memcpy_bytes_per_second"]
    return {
        "fixed_in_pipe_round_trips": fitted["fixed"] / trip,
        "partition_in_pipe_round_trips": fitted["per_partition"] / trip,
        "byte_out_in_copies": fitted["per_byte_out"] * copy,
        "byte_back_in_copies": fitted["per_byte_back"] * copy,
    }
