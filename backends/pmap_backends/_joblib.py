"""joblib: whatever backend of it is active, so that a cluster that joblib knows can carry a map.

`joblib.parallel_config(backend="dask")`, ray's, spark's and other people's: they take calls and
give results, and that is all that a task needs. To them go bytes, as to any scheduler. The
backend is the one that is active where the map is called, so this one lives as long as that call.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from joblib.parallel import BatchedCalls, Parallel, SequentialBackend, get_active_backend

from pmap._forkguard import refuse_fork
from pmap.backend import Capabilities, Locality
from pmap.errors import BackendError
from pmap_backends._item import Item

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from pmap.backend import Task, WorkerSpec

__all__ = ["JoblibBackend"]


class JoblibBackend:
    """Tasks through the joblib backend that is active in this thread.

    Parameters
    ----------
    spec
        How many workers, where `joblib.parallel_config` does not say it.

    Raises
    ------
    ForkRefusedError
        For joblib's ``multiprocessing``.
    BackendError
        When joblib's backend does not start.
    """

    #: What is active is another for the next call: no warm pool is kept of it.
    of_one_call = True

    def __init__(self, spec: WorkerSpec) -> None:
        found: tuple[Any, Any] = get_active_backend()
        active, n_jobs = found
        refuse_fork(active)
        # Counted from all CPUs it is the cluster's to say how many these are.
        wanted = spec.n_workers if n_jobs is None or int(n_jobs) > 0 else int(n_jobs)
        self._parallel: Any = Parallel(n_jobs=wanted, backend=active)
        try:
            self._parallel.__enter__()
        except Exception as exc:
            raise BackendError(f"joblib's {type(active).__name__} does not start: {exc}") from exc
        self._joblibs: Any = self._parallel._backend  # noqa: SLF001  another, if it has fallen back
        n_workers = max(1, self._joblibs.effective_n_jobs(wanted))
        self.capabilities = Capabilities(locality=Locality.CLUSTER, n_workers=n_workers)
        self._lock = threading.Lock()
        self._waiting: deque[Item] = deque()
        self._flying: set[Item] = set()
        self._closed = False
        self._is_sequential = isinstance(self._joblibs, SequentialBackend)
        # A thread for each worker, where joblib's backend does not tell when a result is there.
        waits = self._is_sequential or not self._joblibs.supports_retrieve_callback
        self._threads = ThreadPoolExecutor(n_workers) if waits else None
        if hasattr(self._joblibs, "start_call"):
            self._joblibs.start_call()

    def submit(self, task: Task) -> Future[Any]:
        """Hand the task to joblib's backend when there is room, a batch of its own."""
        item = Item(task)
        with self._lock:
            if self._closed:
                raise BackendError("this backend is closed")
            self._waiting.append(item)
        self._assign()
        return item.future

    def _assign(self) -> None:
        """No more than run at once: what waits here can be cancelled, and what joblib has can not."""
        while True:
            with self._lock:
                room = self.capabilities.n_workers - len(self._flying)
                if self._closed or not self._waiting or room <= 0:
                    return
                item = self._waiting.popleft()
                if not item.claim():
                    continue
                self._flying.add(item)
            self._start(item)

    def _start(self, item: Item) -> None:
        try:
            if self._threads is not None:
                self._threads.submit(self._run_and_wait, item)
                return
            job = self._hand_over(item.task, partial(self._settle, item))
        except Exception as exc:  # noqa: BLE001  joblib's backends raise what they like
            failure = BackendError(f"joblib's backend takes no task: {exc}")
            failure.__cause__ = exc
            self._finish(item, item.future.set_exception, failure)
            return
        if hasattr(job, "add_done_callback"):  # dask calls back for results alone
            job.add_done_callback(partial(self._hear, item))

    def _hand_over(self, task: Task, callback: Callable[[Any], object]) -> Any:
        nested = self._joblibs.get_nested_backend()
        calls: Any = BatchedCalls([(task.run, (task.payload,), {})], nested, None, {})
        if not hasattr(self._joblibs, "submit"):  # before joblib 1.5
            return self._joblibs.apply_async(calls, callback)
        return self._joblibs.submit(calls, callback)

    # In threads of joblib's backend, or in ours.

    def _run_and_wait(self, item: Item) -> None:
        try:
            if self._is_sequential:
                value = item.task()
            else:
                (value,) = self._joblibs.retrieve_result(self._hand_over(item.task, _ignore))
        except BaseException as exc:  # noqa: BLE001  whatever it is, somebody waits for it
            self._finish(item, item.future.set_exception, exc)
        else:
            self._finish(item, item.future.set_result, value)

    def _settle(self, item: Item, out: Any) -> None:
        try:
            (value,) = self._joblibs.retrieve_result_callback(out)
        except BaseException as exc:  # noqa: BLE001  whatever it is, somebody waits for it
            self._finish(item, item.future.set_exception, exc)
        else:
            self._finish(item, item.future.set_result, value)

    def _hear(self, item: Item, done: Any) -> None:
        failure = BackendError("cancelled") if done.cancelled() else done.exception()
        if failure is not None:
            self._finish(item, item.future.set_exception, failure)

    def _finish(self, item: Item, settle: Callable[[Any], None], what: Any) -> None:
        with self._lock:
            is_first = item in self._flying
            self._flying.discard(item)
        self._assign()
        if is_first:  # it may be told in two ways, and be dropped meanwhile
            settle(what)

    # The end.

    def close(self) -> None:
        """Leave joblib's backend, and stop what runs as far as that lets itself be stopped; idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting, flying = list(self._waiting), list(self._flying)
            self._waiting.clear()
            self._flying.clear()
        for item in waiting:
            item.drop()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._leave(is_busy=bool(flying))
        for item in flying:
            item.future.set_exception(BackendError("the backend was closed while this ran"))

    def _leave(self, *, is_busy: bool) -> None:
        if hasattr(self._joblibs, "stop_call"):
            self._joblibs.stop_call()
        if is_busy and hasattr(self._joblibs, "abort_everything"):
            self._joblibs.abort_everything(ensure_ready=False)
        else:
            self._parallel.__exit__(None, None, None)


def _ignore(_: object) -> None:
    """Who waits for the result knows when it is there."""
