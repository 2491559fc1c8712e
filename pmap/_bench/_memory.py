"""How many rows this machine has memory for, since all contenders of a workload live at once.

What each takes was measured on 64-bit Linux, with two workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmap._bench._table import CONTENDERS
from pmap._bench._workloads import job_of
from pmap._resources import available_memory

if TYPE_CHECKING:
    from collections.abc import Collection

    from pmap._bench._workloads import Workload

__all__ = ["affordable_rows"]

#: Of what is free, what may be used.
_PART = 0.8
#: Bytes of a process with Polars in it; and what clusters have beside their workers.
_PROCESS = 40_000_000
_CLUSTERS = {"ray": 600_000_000, "dask": 150_000_000}
#: Copies of a frame: that everybody keeps, and that the one whose turn it is takes beside.
_KEPT, _USED = 2, 6
_SAMPLE = 2_000


def affordable_rows(workload: Workload, rows: int, names: Collection[str], workers: int) -> int:
    """As many as asked for, or as fit; 0 if not even the processes do."""
    available = available_memory()
    if available is None:
        return rows
    of_all = sum(_bytes_beside_frames(name, workload.setting(workers).workers) for name in names)
    left = available * _PART - of_all
    each = _bytes_of_row(workload, workers) * (_KEPT * len(names) + _USED)
    return max(0, min(rows, int(left / each)))


def _bytes_beside_frames(name: str, workers: int) -> int:
    cluster = next((size for word, size in _CLUSTERS.items() if name.startswith(word)), 0)
    return cluster + _PROCESS * (1 if CONTENDERS[name].alone else 1 + workers)


def _bytes_of_row(workload: Workload, workers: int) -> float:
    """Of its frame, and of the argument of each worker's function."""
    job = job_of(workload, _SAMPLE, seed=0)
    arguments = [getattr(function, "args", ()) for function in job.functions[:1]]
    bound = sum(_size(each) for args in arguments for each in args)
    return max(1.0, (job.frame.estimated_size() + bound * workers) / _SAMPLE)


def _size(value: object) -> int:
    size = getattr(value, "estimated_size", None)
    return int(size()) if size is not None else 0
