"""loky's workers, each in an executor of its own: one that dies does not take the others along.

Our own executors, so that nobody else's settings or shutdown meet ours. A worker first says
its pid; so a death before that is a failed start, and one after it is its task's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
import time
import weakref
from collections import deque
from concurrent.futures import BrokenExecutor, Future
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from loky import process_executor
from loky.backend.context import get_context  # pyright: ignore[reportUnknownVariableType]
from loky.process_executor import ProcessPoolExecutor

from pmap.backend import Capabilities, Locality
from pmap.errors import ArgumentError, BackendError, WorkerDiedError, WorkerStartError
from pmap_backends._item import Item
from pmap_backends._life import end_with, keep_from_forks, life_line
from pmap_backends._loky_needs import do_without_proc, remedy, start_tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pmap.backend import Task, WorkerSpec
    from pmap_backends._life import LifeLine

__all__ = ["LokyBackend"]

#: loky replaces workers that grow by 300 MB, which frames easily do. Bytes.
_NO_LEAK_CHECK = str(1 << 50)
#: Workers that may die in a row before their first task.
_MAX_START_FAILURES = 3
#: Seconds to wait for the exit code of a process that has ended.
_PATIENCE = 1.0
_STDERR = 2


class _Worker:
    """An executor of one process."""

    def __init__(self, env: Mapping[str, str]) -> None:
        context: Any = get_context("loky")
        self._executor: Any = ProcessPoolExecutor(
            1,
            context=context,
            initializer=_prepare,
            initargs=(os.getpid(), life_line()),
            env=dict(env),
        )
        try:
            self.ready: Future[int] = self._executor.submit(os.getpid)
        except BaseException:
            self.stop(wait=False)  # its thread may run, and would keep the program from its end
            raise
        _end_before_loky_waits()

    def run(self, task: Task) -> Future[Any]:
        """Submit to the executor, which has nothing else to do."""
        future: Future[Any] = self._executor.submit(task)
        return future

    def exitcode(self) -> int | None:
        """How the process ended, where loky lets us see it."""
        processes: dict[int, Any] = getattr(self._executor, "_processes", None) or {}
        process = processes.get(self.ready.result())
        if process is None:
            return None
        process.join(_PATIENCE)
        code: int | None = process.exitcode
        return code

    def stop(self, *, wait: bool) -> None:
        """End the process now."""
        self._executor.shutdown(wait=wait, kill_workers=True)


class LokyBackend:
    """Process workers of loky, which can be killed and replaced one by one.

    Callbacks of futures run in a thread of the executor that they are of, never under the lock.
    """

    _living: ClassVar[weakref.WeakSet[LokyBackend]] = weakref.WeakSet()

    def __init__(self, spec: WorkerSpec) -> None:
        if spec.max_tasks_per_child is not None:
            raise ArgumentError(
                "loky can not replace workers after max_tasks_per_child: use 'forkserver' or 'spawn'"
            )
        start_tracker()  # before there is a semaphore, which a kill would leave
        self.capabilities = Capabilities(
            locality=Locality.MACHINE, n_workers=spec.n_workers, killable=True, owns_workers=True
        )
        wanted = {**spec.environment(), "LOKY_MAX_MEMORY_LEAK_SIZE": _NO_LEAK_CHECK}
        self._env = {name: value for name, value in wanted.items() if os.environ.get(name) != value}
        self._lock = threading.Lock()
        self._growing = threading.RLock()  # one thread at a time starts workers
        self._waiting: deque[Item] = deque()
        self._workers: set[_Worker] = set()
        self._free: list[_Worker] = []
        self._start_failures = 0
        self._closed = False
        self._awaited: set[Future[Any]] = set()  # by threads that the program waits for at its end
        self._living.add(self)

    @property
    def is_ready(self) -> bool:
        """Whether workers are there that can begin at once."""
        with self._lock:
            return bool(self._workers) and all(worker.ready.done() for worker in self._workers)

    def submit(self, task: Task) -> Future[Any]:
        """Give the task to a worker, start one for it, or let it wait."""
        item = Item(task)
        if not _is_left_at_exit(threading.current_thread()):
            self._awaited.add(item.future)
            item.future.add_done_callback(self._awaited.discard)
        with self._lock:
            if self._closed:
                raise BackendError("this pool is closed")
            self._waiting.append(item)
        self._assign()
        return item.future

    def _assign(self) -> None:
        while work := self._next_work():
            item, worker = work
            if item.claim():
                self._start(item, worker)
            else:
                self._set_free(worker)
        self._grow()

    def _next_work(self) -> tuple[Item, _Worker] | None:
        with self._lock:
            if self._closed or not self._waiting or not self._free:
                return None
            return self._waiting.popleft(), self._free.pop()

    def _start(self, item: Item, worker: _Worker) -> None:
        try:
            future = worker.run(item.task)
        except Exception:  # noqa: BLE001  it died while it had nothing to do: nobody's fault
            with self._lock:
                self._waiting.appendleft(item)
            self._remove(worker)
        else:
            future.add_done_callback(partial(self._finish, item, worker))

    def _set_free(self, worker: _Worker) -> None:
        with self._lock:
            self._free.append(worker)

    def _finish(self, item: Item, worker: _Worker, future: Future[Any]) -> None:
        failure = BackendError("cancelled") if future.cancelled() else future.exception()
        if self._closed:
            failure = BackendError("the pool was closed while this ran")
        elif isinstance(failure, BrokenExecutor):
            died = WorkerDiedError(exitcode=worker.exitcode(), pid=worker.ready.result())
            died.__cause__, failure = failure, died
            self._remove(worker)
        else:
            self._set_free(worker)
        self._assign()
        if failure is None:
            item.future.set_result(future.result())
        else:
            item.future.set_exception(failure)

    # Workers.

    def _grow(self) -> None:
        """Start workers for what waits, as many as may be."""
        with self._growing:
            while self._may_grow() and self._add():
                pass

    def _may_grow(self) -> bool:
        with self._lock:
            starting = sum(not worker.ready.done() for worker in self._workers)
            is_full = len(self._workers) >= self.capabilities.n_workers
            return not self._closed and not is_full and len(self._waiting) > starting

    def _add(self) -> bool:
        try:
            worker = _Worker(self._env)
        except Exception as exc:  # noqa: BLE001  loky raises what the system does, and more
            self._refuse(exc)
            return False
        with self._lock:
            is_late = self._closed
            self._workers.add(worker)
        if is_late:
            self._remove(worker)
            return False
        worker.ready.add_done_callback(partial(self._welcome, worker))
        return True

    def _welcome(self, worker: _Worker, ready: Future[int]) -> None:
        failure = BackendError("cancelled") if ready.cancelled() else ready.exception()
        if failure is None:
            self._start_failures = 0
            self._set_free(worker)
        else:
            self._remove(worker)
            self._start_failures += 1
        if self._start_failures >= _MAX_START_FAILURES:
            self._start_failures = 0
            self._refuse(failure)
        self._assign()

    def _refuse(self, failure: BaseException | None) -> None:
        """No worker can be started: what waits fails, unless there are other workers."""
        with self._lock:
            if self._workers or self._closed:
                return
            waiting = list(self._waiting)
            self._waiting.clear()
        error = WorkerStartError(f"loky's workers can not be started: {failure}{remedy(failure)}")
        error.__cause__ = failure
        for item in waiting:
            if item.claim():
                item.future.set_exception(error)

    def _remove(self, worker: _Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.stop(wait=False)

    # The end.

    def close(self) -> None:
        """Stop the workers now, running tasks included; idempotent."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            workers = list(self._workers)
            self._workers.clear()
        for item in waiting:
            item.drop()
        for worker in workers:
            worker.stop(wait=True)

    @classmethod
    def close_unawaited(cls) -> None:
        """At the end of the program: what only daemon threads want, or nobody, is not waited for."""
        for pool in list(cls._living):
            if pool._is_busy() and not pool._awaited:  # noqa: SLF001  its own
                pool.close()  # without /proc loky can not kill, so what rests ends as loky has it

    def _is_busy(self) -> bool:
        with self._lock:
            return bool(self._waiting) or len(self._free) < len(self._workers)


def _is_left_at_exit(thread: threading.Thread) -> bool:
    return thread.daemon or thread is threading.main_thread()


@cache
def _end_before_loky_waits() -> None:
    """Once loky has its exit handler, which waits until all has run: have ours called before it."""
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        # or loky would register its own again, for each executor
        process_executor.process_pool_executor_at_exit = register
        register(LokyBackend.close_unawaited)


def _prepare(caller: int, line: LifeLine | None) -> None:
    """In each worker: leave Ctrl-C to the caller, and end when the caller does."""
    end_with(line)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # a function that signals its group means what it has started
    _keep_pipes()
    do_without_proc()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(caller,), name="pmap-watch", daemon=True).start()


def _keep_pipes() -> None:
    """From programs and forks that functions start: who holds a worker's pipes hides its death from loky."""
    with contextlib.suppress(OSError):  # no such folder
        pipes: list[int] = []
        for fd in map(int, os.listdir("/dev/fd")):
            with contextlib.suppress(OSError):  # it was of the listing itself
                os.set_inheritable(fd, fd <= _STDERR)
                pipes += [fd] if stat.S_ISFIFO(os.fstat(fd).st_mode) and fd > _STDERR else []
        keep_from_forks(pipes)


def _end_with(caller: int) -> None:
    while os.getppid() == caller:
        time.sleep(0.5)
    os._exit(1)
