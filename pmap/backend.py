"""The contract of a backend: three members, tasks in, futures out.

A backend is an object with `capabilities`, `submit(task)` and `close()`. It is made by a
factory, which is what the entry-point group ``pmap.backends`` names: a callable that takes
a `WorkerSpec` (a class whose ``__init__`` does is one). A factory may also have
``adopt(target, spec)``: given an object or an address that the user passed as `backend=`,
it returns a backend for it, or ``None`` if it is not its own kind.

Order, back-pressure, retries, timeouts, progress and the lifetime of shared memory live in
pmap's core, once, for every backend.

Examples
--------
A backend on threads, whole:

>>> from concurrent.futures import ThreadPoolExecutor
>>> from pmap.backend import Capabilities, ExecutorBackend, Locality, WorkerSpec
>>> def plain_threads(spec: WorkerSpec) -> ExecutorBackend:
...     pool = ThreadPoolExecutor(spec.n_workers)
...     return ExecutorBackend(
...         pool, Capabilities(locality=Locality.PROCESS, n_workers=spec.n_workers)
...     )
>>> import polars as pl, pmap
>>> backend = plain_threads(WorkerSpec(n_workers=2))
>>> pmap.map_partitions(pl.DataFrame({"x": [1, 2]}), lambda p: p, backend=backend).height
2
>>> backend.close()
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor, Future

__all__ = [
    "Backend",
    "BackendFactory",
    "Capabilities",
    "ExecutorBackend",
    "Locality",
    "Task",
    "WorkerSpec",
]

#: Read by native libraries when they are imported, so they must be in a worker's
#: environment before it starts; an initializer comes too late.
THREAD_VARIABLES = (
    "POLARS_MAX_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


class Locality(enum.Enum):
    """Where the workers of a backend are, seen from the caller."""

    PROCESS = "this process"
    MACHINE = "this machine"
    CLUSTER = "a cluster"


class Capabilities(NamedTuple):
    """What the core may rely on.

    Parameters
    ----------
    locality
        `PROCESS`: tasks see the caller's objects; `MACHINE`: they can open the caller's
        shared memory; `CLUSTER`: they get bytes only.
    n_workers
        How many tasks can run at once.
    killable
        One worker may be killed (SIGKILL) and only its own task fails.
    owns_workers
        The worker processes were started by this backend for its `WorkerSpec`, so that
        their environment, and with it the size of Polars' thread pool, is as asked.
    sends_ahead
        How many tasks that are brief (`Task.is_brief`) are sent to a worker behind the one that it
        runs, so that it need not wait for the next; if that worker dies, or another one has nothing
        to do, they go to others.
    """

    locality: Locality
    n_workers: int
    killable: bool = False
    owns_workers: bool = False
    sends_ahead: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """The workers that the core asks a backend for; equal specs share a warm pool.

    Parameters
    ----------
    n_workers
        How many workers, at least 1.
    threads
        How many native threads each worker may use; ``None`` leaves it to the libraries.
    max_tasks_per_child
        Replace a worker after so many tasks; ``None``: never.
    keep_memory
        Whether a worker may keep memory that it does not use for the next partition; not where somebody
        watches how much it holds.
    """

    n_workers: int
    threads: int | None = None
    max_tasks_per_child: int | None = None
    keep_memory: bool = True

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a worker: `base` (default: this process's), threads capped, memory reused.

        A smaller number of threads that the user has set already stays, as does what was said to the
        allocator.
        """
        env = dict(os.environ if base is None else base)
        from pmap import _allocator  # noqa: PLC0415  for who starts workers

        _allocator.set_up(env, self.threads, keep=self.keep_memory)
        if self.threads is not None:
            for name in THREAD_VARIABLES:
                env[name] = str(_smaller(env.get(name, ""), self.threads))
        return env


def _smaller(present: str, cap: int) -> int:
    return min(int(present), cap) if present.isdecimal() and int(present) > 0 else cap


class Task:
    """One partition's work: call it with no argument, anywhere, and return what it returns.

    Where the workers are other processes, `payload` is bytes and `run` is an importable
    function of pmap from bytes to bytes, so a task is cheap to pickle; a backend that
    moves bytes by itself sends `payload` alone and calls `pmap.backend.execute`. A task
    that `is_brief` should be over in a moment, as those before it were.
    """

    __slots__ = ("is_brief", "payload", "run")

    def __init__(self, run: Callable[[Any], Any], payload: Any) -> None:
        self.run = run
        self.payload = payload
        self.is_brief = False

    def __call__(self) -> Any:
        """Run the task here."""
        return self.run(self.payload)


def execute(payload: bytes) -> bytes:
    """Run a task's payload in a worker process; never raises."""
    from pmap import _worker  # noqa: PLC0415  the caller does not need what workers need

    return _worker.execute(payload)


@runtime_checkable
class Backend(Protocol):
    """Turns tasks into futures, and nothing else.

    One that starts its workers itself may also have ``start_workers()``, which begins to and waits
    for nothing: a call makes all else ready meanwhile; and ``warm_up()``, which starts them and waits
    until they are ready, from whatever thread: ``backend="auto"`` calls it while the function
    still runs in the caller; and ``is_ready``, which says whether they are. One whose workers
    somebody has to listen to may have ``attend(seconds)`` and ``leave()``: a call that waits for
    results calls the first, which listens until something was heard or the time is over, or returns
    ``False`` if another thread does; and the second when it does something else for a while. One that
    sends tasks ahead to workers may have ``withdraw(futures)``, for a call that is stopped: it gives
    back those of them whose tasks have not been begun, and now never will be; each of these has an
    exception then.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What the core may rely on; must not change while the backend lives."""
        ...

    def submit(self, task: Task) -> Future[Any]:
        """Start `task` soon and return its future at once.

        The future's result is what the task returned. Its exception, if any, says that
        the *worker* failed: a `WorkerDiedError`, a `BackendError`, or a
        `concurrent.futures.BrokenExecutor` if the backend is of no more use. Must be
        safe to call from several threads.
        """
        ...

    def close(self) -> None:
        """Stop the workers now, running tasks included, and free everything; idempotent."""
        ...


class BackendFactory(Protocol):
    """What an entry point of the group ``pmap.backends`` names."""

    def __call__(self, spec: WorkerSpec, /) -> Backend:
        """Make a backend; workers may start later, with the first task."""
        ...


class ExecutorBackend:
    """Any `concurrent.futures.Executor` as a backend.

    Parameters
    ----------
    executor
        Where tasks are submitted.
    capabilities
        What the core may rely on.
    close
        Called by `close`; by default nothing, since the executor is somebody else's.
    """

    def __init__(
        self,
        executor: Executor,
        capabilities: Capabilities,
        close: Callable[[], object] | None = None,
    ) -> None:
        self._executor = executor
        self._close = close
        self.capabilities = capabilities

    def submit(self, task: Task) -> Future[Any]:
        """Submit to the executor."""
        return self._executor.submit(task)

    def close(self) -> None:
        """Call the `close` that was given."""
        if self._close is not None:
            self._close()
