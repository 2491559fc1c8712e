"""Threads of this process: for functions that release the GIL or wait."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from pmap.backend import Capabilities, ExecutorBackend, Locality

if TYPE_CHECKING:
    from pmap.backend import WorkerSpec

__all__ = ["ThreadsBackend"]


class ThreadsBackend(ExecutorBackend):
    """A `ThreadPoolExecutor`; partitions are slices, nothing is copied or pickled."""

    def __init__(self, spec: WorkerSpec) -> None:
        pool = ThreadPoolExecutor(spec.n_workers, thread_name_prefix="pmap")
        capabilities = Capabilities(locality=Locality.PROCESS, n_workers=spec.n_workers)
        super().__init__(
            pool, capabilities, partial(pool.shutdown, wait=False, cancel_futures=True)
        )
