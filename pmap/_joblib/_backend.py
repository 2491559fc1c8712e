"""What joblib calls, and nothing else: its contract of a backend, onto a session."""

from __future__ import annotations

import multiprocessing
import threading
import warnings
from typing import TYPE_CHECKING, Any

from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    ThreadingBackend,
)

from pmap._context import in_worker
from pmap._joblib._inside import forget_batches
from pmap._joblib._options import check_names, read_options
from pmap._joblib._session import Session
from pmap._resources import cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmap._joblib._session import Flight

__all__ = ["PmapBackend"]


class PmapBackend(AutoBatchingMixin, ParallelBackendBase):
    """joblib's backend on pmap's pools; `register_joblib_backend` says which options it has."""

    supports_inner_max_num_threads = True
    supports_retrieve_callback = True
    supports_sharedmem = False
    uses_threads = False

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        check_names(options)
        self._options = options
        self._configured: dict[str, Any] = {}
        self._n_jobs = 1
        self._taking = threading.Lock()
        self._workers: Session | None = None
        self.parallel: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it has no workers."""
        return _make, (self.nesting_level, self.inner_max_num_threads, self._options)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """As joblib counts: -1 all CPUs that may be used, -2 all but one; ``None`` is 1."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or n_jobs == 1 or _is_daemon():
            return 1
        return n_jobs if n_jobs > 0 else max(1, cpu_count() + 1 + n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: Any = None,  # noqa: ARG002  joblib has decided by then
        require: Any = None,  # noqa: ARG002
        **backend_kwargs: Any,
    ) -> int:
        """Get hold of workers; how many there are."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if in_worker():
            raise FallbackToBackend(self._nested())
        with self._taking:
            if self._workers is not None:  # one of parallel_config's, in use by another Parallel
                raise FallbackToBackend(
                    _make(self.nesting_level, self.inner_max_num_threads, self._options)
                )
            threads = {"inner_max_num_threads": self.inner_max_num_threads}
            options = read_options({**threads, **self._options, **backend_kwargs})
            self._workers = Session(n_jobs, options)
        self.parallel, self._configured, self._n_jobs = parallel, backend_kwargs, n_jobs
        return n_jobs

    def _nested(self) -> ParallelBackendBase:
        """Inside a worker: threads, and inside these nothing in parallel."""
        level = self.nesting_level or 0
        kind = ThreadingBackend if level <= 1 else SequentialBackend
        return kind(nesting_level=level)

    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> Flight:
        """Give a batch to the workers."""
        if self._workers is None:
            raise RuntimeError("this Parallel call is over, or was aborted: it has no workers")
        return self._workers.submit(func, callback)

    #: What joblib before 1.5 calls it.
    apply_async = submit

    def retrieve_result_callback(self, out: Any) -> Any:
        """What a batch returned; raises what it raised."""
        return out.result()

    def stop_call(self) -> None:
        """What the tasks of a call shared goes when it is over."""
        if self._workers is not None:
            self._workers.end_call()

    def terminate(self) -> None:
        """Leave the workers to the next call."""
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.close()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: FBT001, FBT002  as joblib has it
        """Stop what runs, by the end of its workers; others are not touched."""
        self.terminate()
        forget_batches(self.parallel)
        if ensure_ready:
            self.configure(n_jobs=self._n_jobs, parallel=self.parallel, **self._configured)


def _is_daemon() -> bool:
    """In a process of a pool of `multiprocessing`'s there is nothing parallel, as joblib has it."""
    if not multiprocessing.current_process().daemon:
        return False
    warnings.warn(
        "pmap-backed parallel loops cannot run in a daemonic process of multiprocessing, "
        "setting n_jobs=1",
        stacklevel=4,
    )
    return True


def _make(
    nesting_level: int | None, inner_max_num_threads: int | None, options: dict[str, Any]
) -> PmapBackend:
    return PmapBackend(nesting_level, inner_max_num_threads, **options)
