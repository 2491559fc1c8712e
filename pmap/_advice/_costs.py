"""Predicted seconds of each way to run a function over all rows, from what was measured here."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from pmap import _pools
from pmap._figures import figures
from pmap._partition import PARTITIONS_PER_WORKER
from pmap._plan import default_process_backend
from pmap._registry import get_backend
from pmap.backend import WorkerSpec

if TYPE_CHECKING:
    from pmap._advice._measure import Measured

__all__ = ["Rate", "costs_of", "transport_seconds"]

#: Rows that are serialised to see how long that takes.
_SERIALISED = 50_000


@dataclass(frozen=True, slots=True)
class Rate:
    """Seconds of a call: some for itself, and some for each row."""

    per_call: float
    per_row: float

    @classmethod
    def of(cls, timed: list[tuple[int, float]]) -> Rate:
        """From rows and seconds of calls, the smallest and the largest."""
        (rows, seconds), (more_rows, more_seconds) = min(timed), max(timed)
        if more_rows < 4 * max(1, rows):
            return cls(0.0, more_seconds / max(1, more_rows))
        per_row = max(0.0, more_seconds - seconds) / (more_rows - rows)
        return cls(max(0.0, seconds - per_row * rows), per_row)

    def seconds(self, rows: int, calls: int = 1) -> float:
        """Of so many calls on so many rows in all."""
        return self.per_call * calls + self.per_row * rows


def transport_seconds(frame: pl.DataFrame, bytes_out_per_row: float) -> float:
    """Seconds that sending all rows and fetching all results takes, by really serialising some."""
    some = frame.head(_SERIALISED)
    start = time.perf_counter()
    sink = io.BytesIO()
    try:
        some.write_ipc_stream(sink)
    except pl.exceptions.PolarsError:  # an Object column: it can not travel at all
        return float("inf")
    pl.read_ipc_stream(sink.getvalue())
    seconds = time.perf_counter() - start
    sent = max(1, some.estimated_size()) / some.height
    return seconds * frame.height / some.height * (1 + bytes_out_per_row / sent)


def is_warm(n_workers: int) -> bool:
    """Whether worker processes are there already."""
    spec = WorkerSpec(n_workers=n_workers, threads=1, max_tasks_per_child=None)
    return _pools.is_warm(get_backend(default_process_backend()[0]), spec)


def costs_of(
    rate: Rate, total: int, n_workers: int, measured: Measured | None, moving: float
) -> dict[str, float]:
    """Seconds of each way but native code."""
    parts = max(1, min(total, PARTITIONS_PER_WORKER * n_workers))
    kind = "short" if measured is None else measured.kind
    serial = rate.seconds(total, parts)
    apart = serial / min(n_workers, parts)
    direct = rate.seconds(total)
    backend, _ = default_process_backend()
    starting = figures.call_seconds(backend)
    if not is_warm(n_workers):
        starting += figures.start_seconds(backend)  # as it was in this process, or as is usual
    return {
        "direct": direct,
        "serial": serial,
        "threads": apart if kind in {"waits", "free"} else serial,
        "processes": starting + moving + (serial if kind == "pool" else apart),
    }
