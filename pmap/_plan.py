"""How many workers and threads, which backend, and why."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from pmap._forkguard import note_fork_default, refuse_fork, start_method_of
from pmap._resources import available_memory, cpu_count
from pmap.backend import WorkerSpec

if TYPE_CHECKING:
    from pmap._config import Options
    from pmap._work import Work

__all__ = [
    "Choice",
    "Plan",
    "choose",
    "default_process_backend",
    "plan_workers",
    "requested_workers",
]

#: What a worker needs before any data: the interpreter, Polars, pyarrow. Bytes.
_WORKER_BYTES = 150 * 1024 * 1024
#: Copies of a partition that a typical function holds at once.
_COPIES = 3


class Plan(NamedTuple):
    """What was picked for a call, and why.

    Attributes
    ----------
    backend : str
        Its name.
    n_workers : int
        How many partitions run at once.
    threads_per_worker : int or None
        Native threads that each worker may use; ``None`` where workers share this process.
    n_partitions : int or None
        ``None`` for a stream, whose end is not known.
    why : tuple of str
        A sentence for each choice.
    """

    backend: str
    n_workers: int
    threads_per_worker: int | None
    n_partitions: int | None
    why: tuple[str, ...] = ()

    def __str__(self) -> str:
        threads = (
            ""
            if self.threads_per_worker is None
            else f" with {_count(self.threads_per_worker, 'thread')} each"
        )
        parts = (
            "a stream of partitions"
            if self.n_partitions is None
            else _count(self.n_partitions, "partition")
        )
        head = f"{parts} on backend {self.backend!r}, {_count(self.n_workers, 'worker')}{threads}"
        return "\n".join([head, *(f"  - {reason}" for reason in self.why)])

    def __repr__(self) -> str:
        return f"<Plan: {self}>"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class Choice(NamedTuple):
    """Where a call begins, before anything is started.

    Attributes
    ----------
    target : object
        The backend: a name, or the user's own.
    is_auto : bool
        Whether pmap may go elsewhere from there.
    spec : WorkerSpec
        The workers, where they are pmap's to choose.
    why, why_workers : tuple of str
        A sentence for each choice.
    """

    target: object
    is_auto: bool
    spec: WorkerSpec
    why: str
    why_workers: tuple[str, ...]


def choose(work: Work, options: Options, *, nested: bool) -> Choice:
    """Where a call begins; `nested` is one inside a mapped function that names no backend.

    Raises
    ------
    ForkRefusedError
        When the backend that was asked for would fork this process.
    """
    spec, why_workers = plan_workers(options, work.n_partitions, work.largest)
    target, is_auto, why = _choose_backend(options, nested=nested)
    return Choice(target, is_auto, spec, why, why_workers)


def _choose_backend(options: Options, *, nested: bool) -> tuple[object, bool, str]:
    target = options.backend
    refuse_fork(target)
    if nested:
        return "serial", False, "backend: a map inside a map runs inside its worker"
    method = start_method_of(target)
    if method is not None:
        return method, False, f"backend: pmap's own pool for a {method} context"
    if target != "auto":
        return target, False, "backend: as asked"
    note_fork_default()
    needs = (options.timeout, options.memory_limit, options.max_tasks_per_child)
    if any(need is not None for need in needs):
        name, reason = default_process_backend()
        return name, False, f"backend: what was asked needs processes; {name}: {reason}"
    return "serial", True, "backend: auto begins in the caller"


def requested_workers(n_jobs: int | None, cpus: int) -> tuple[int, str]:
    """Workers by joblib's meaning of `n_jobs`, before any other limit, and why."""
    if n_jobs is None or n_jobs == -1:
        return cpus, f"{_count(cpus, 'usable CPU')}"
    if n_jobs < 0:
        return max(1, cpus + 1 + n_jobs), f"n_jobs={n_jobs} of {_count(cpus, 'usable CPU')}"
    return n_jobs, f"n_jobs={n_jobs}"


def plan_workers(
    options: Options, n_partitions: int | None, partition_bytes: int
) -> tuple[WorkerSpec, tuple[str, ...]]:
    """The workers for a call, and why so many.

    Parameters
    ----------
    options
        Of the call.
    n_partitions
        Not more workers than that, if it is known.
    partition_bytes
        Of the largest partition: not more workers than memory allows.
    """
    cpus = cpu_count()
    n_workers, reason = requested_workers(options.n_jobs, cpus)
    why = [f"workers: {reason}"]
    if n_partitions is not None and n_partitions < n_workers:
        n_workers = max(1, n_partitions)
        why.append(f"workers: not more than the {_count(n_partitions, 'partition')}")
    fitting = _workers_that_fit(partition_bytes)
    if fitting < n_workers:
        n_workers = fitting
        why.append(f"workers: memory allows {fitting}")
    threads = options.inner_max_num_threads or max(1, cpus // n_workers)
    named = (
        "inner_max_num_threads"
        if options.inner_max_num_threads
        else f"{_count(cpus, 'CPU')} / {n_workers}"
    )
    why.append(f"threads of Polars, BLAS and OpenMP in each worker process: {threads} ({named})")
    spec = WorkerSpec(
        n_workers=n_workers,
        threads=threads,
        max_tasks_per_child=options.max_tasks_per_child,
        keep_memory=options.memory_limit is None,
    )
    return spec, tuple(why)


def _workers_that_fit(partition_bytes: int) -> int:
    memory = available_memory()
    if memory is None:
        return sys.maxsize
    return max(1, memory // (_WORKER_BYTES + _COPIES * partition_bytes))


def default_process_backend() -> tuple[str, str]:
    """The fastest safe way to start workers here, and why."""
    if sys.platform.startswith("linux") and os.path.isdir("/proc/self/task"):
        return (
            "forkserver",
            "workers start fastest as forks of a process that imported Polars and never used it",
        )
    if sys.platform == "win32":
        return "loky", "the pools of pmap's own need POSIX"
    return "spawn", "fresh interpreters are safe on every platform"
