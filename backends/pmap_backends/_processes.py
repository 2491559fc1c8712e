"""The pool behind `spawn` and `forkserver`: one link a worker, to which one thread listens at a time.

Nothing is shared between workers: no queue, lock or semaphore that a dying one could hold.
So a worker can be killed, blamed and replaced alone. Who touches what:

- any thread: `submit`, `withdraw` and `close`, which take the lock, hand out tasks, start workers;
- whoever listens (`_listen`): reads replies and deaths, resolves futures (never under the lock,
  since callbacks are the core's), hands out what waits.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

from pmap._interrupts import deferred
from pmap._resources import tight_limits
from pmap._warn import warn
from pmap.backend import Capabilities, Locality
from pmap.errors import BackendError, WorkerDiedError, WorkerStartError
from pmap_backends._child import READY, REFUSED
from pmap_backends._item import Item
from pmap_backends._launch import ForkserverLauncher, SpawnLauncher
from pmap_backends._listen import Listener
from pmap_backends._worker import BRIEF_AHEAD, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from concurrent.futures import Future

    from pmap.backend import Task, WorkerSpec
    from pmap_backends._launch import Launcher

__all__ = ["ForkserverBackend", "SpawnBackend"]

#: Seconds within which a worker must be ready.
_START_TIMEOUT = 60.0
#: Workers that may die in a row before their first task.
_MAX_START_FAILURES = 3
#: A worker takes long if so many tasks were over while it ran one: for each that workers have.
_LONG = 2


class _ProcessPool:
    """Workers, what waits for them, and the thread that listens to them."""

    _living: ClassVar[weakref.WeakSet[_ProcessPool]] = weakref.WeakSet()

    def __init__(self, spec: WorkerSpec, launcher: Callable[[Mapping[str, str]], Launcher]) -> None:
        self.capabilities = Capabilities(
            locality=Locality.MACHINE,
            n_workers=spec.n_workers,
            killable=True,
            owns_workers=True,
            sends_ahead=BRIEF_AHEAD,
        )
        self._spec = spec
        self._env = spec.environment()
        self._launcher = launcher(self._env)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)  # a worker is ready, or has gone
        self._numbers = itertools.count()
        self._n_over = 0  # tasks so far
        self._waiting: deque[Item] = deque()
        self._workers: dict[int, Worker] = {}  # by the descriptor of their link
        self._start_failures = 0
        self._closed = False
        self._listener = Listener(self._hear, self._check_starting)
        self.attend, self.leave = self._listener.attend, self._listener.leave
        self._living.add(self)

    def submit(self, task: Task) -> Future[Any]:
        """Give the task to a worker, start one for it, or let it wait."""
        with self._lock:
            item = Item(task, next(self._numbers))
            if self._closed:
                raise BackendError("this pool is closed")
            self._listener.start()
            self._listener.expect()
            self._waiting.append(item)
            try:
                self._assign()
            except WorkerStartError:
                self._waiting.remove(item)
                raise
        return item.future

    def start_workers(self) -> None:
        """Begin to, without waiting."""
        with self._lock:
            if not self._closed and not self._launcher.prepare():
                self._start_all()

    def _start_all(self) -> None:
        self._listener.start()
        while self._n_missing:
            if self._start_worker(may_fail=bool(self._workers)) is None:
                break

    def warm_up(self) -> None:
        """Start all workers, and wait until they are ready; what fails, fails at the first task."""
        with self._lock, contextlib.suppress(WorkerStartError):
            if self._closed:
                return
            self._start_all()
        with self._changed:
            self._changed.wait_for(self._is_settled, timeout=_START_TIMEOUT)

    @property
    def is_ready(self) -> bool:
        """Whether workers are there that can begin at once."""
        with self._lock:
            return bool(self._workers) and self._is_settled()

    def _is_settled(self) -> bool:
        return self._closed or all(worker.ready for worker in self._workers.values())

    def withdraw(self, futures: Collection[Future[Any]]) -> list[Future[Any]]:
        """Those whose tasks were sent ahead, or wait again, and which no worker has read: none will."""
        if self._closed or self._is_changing_here():
            return []
        wanted = set(futures)
        with deferred, self._lock:  # what was taken must not be lost by a Ctrl-C
            for worker in self._workers.values():
                if any(item.future in wanted for item in worker.items):
                    self._wait_again(worker.take_back())
            found = [item.future for item in self._waiting if item.future in wanted]
            self._waiting = deque(item for item in self._waiting if item.future not in wanted)
            self._assign()
        for future in found:
            future.set_exception(BackendError("this was withdrawn before it ran"))
        return found

    def _is_changing_here(self) -> bool:
        """Whether this thread has the lock: an iterator that is garbage may be closed at any moment."""
        try:
            self._changed.notify(0)  # nobody, which only who has the lock may
        except RuntimeError:
            return False
        return True

    # Handing out, under the lock.

    def _assign(self) -> None:
        """Give what waits to workers that are free, and have more started if that is not enough.

        Once all are at work one more is sent ahead to each. Who is free, or yet to be started, gets what
        has waited longest, be it in another worker.
        """
        while True:
            free = next((worker for worker in self._workers.values() if worker.is_free), None)
            if free is not None or self._n_missing:
                self._take_back()
            if not self._waiting:
                return
            worker = free or self._first_with_room(self._waiting[0].task)
            if worker is None:
                self._grow()
                return
            item = self._waiting.popleft()
            if item.claim() and not worker.give(item, self._n_over):
                self._waiting.appendleft(item)
                return

    def _first_with_room(self, task: Task) -> Worker | None:
        """Of the workers with the least to do who should be done first; none if one will be free before."""
        if self._n_missing or not self._is_settled():
            return None
        late = self._late()
        with_room = (worker for worker in self._workers.values() if worker.has_room_for(task))
        on_time = (worker for worker in with_room if worker.begun >= late)
        return min(on_time, key=lambda worker: (len(worker.items), worker.begun), default=None)

    def _late(self) -> int:
        """Who began before so many tasks were over takes long: nothing is to wait for that."""
        return self._n_over - _LONG * sum(len(worker.items) for worker in self._workers.values())

    def _take_back(self) -> None:
        """Have those wait for any worker that wait in one, unless others have waited longer."""
        with_more = [worker for worker in self._workers.values() if len(worker.items) > 1]
        for worker in sorted(with_more, key=lambda worker: worker.items[1].number):
            if self._waiting and self._waiting[0].number < worker.items[1].number:
                return
            self._wait_again(worker.take_back())

    def _wait_again(self, items: Collection[Item]) -> None:
        if items:
            self._waiting = deque(sorted([*items, *self._waiting], key=lambda item: item.number))

    def _take_from_late(self) -> None:
        """What waits behind a task that takes long need not do so."""
        late = self._late()
        for worker in self._workers.values():
            if worker.begun < late:
                self._wait_again(worker.take_back())

    @property
    def _n_missing(self) -> int:
        """Workers that there may be and are not, not even starting."""
        return self._spec.n_workers - len(self._workers)

    def _grow(self) -> None:
        """As many are to be starting as there are tasks that wait, up to what there may be."""
        n_starting = sum(not worker.ready for worker in self._workers.values())
        for _ in range(min(self._n_missing, len(self._waiting) - n_starting)):
            self._start_worker(may_fail=bool(self._workers))

    def _start_worker(self, *, may_fail: bool) -> Worker | None:
        try:
            process = self._launcher.start()
        except WorkerStartError:
            if may_fail:
                return None  # those that run will do
            raise
        worker = Worker(process, self._spec.max_tasks_per_child)
        fd = process.link.fileno()
        self._workers[fd] = worker
        self._listener.register(fd)
        self._listener.wake()
        return worker

    # Listening, one thread at a time.

    def _hear(self, fd: int) -> None:
        worker = self._workers.get(fd)
        if worker is None:
            return
        try:
            message = worker.process.link.receive()
        except (EOFError, OSError):
            self._bury(fd, worker)
            return
        except BaseException:  # of a signal's handler: the rest would be taken for another message
            worker.process.kill()
            raise
        if worker.ready:
            self._finish(fd, worker, message)
        elif message.startswith(REFUSED):
            self._stop_forking(message[len(REFUSED) :].decode())
            self._bury(fd, worker)
        else:
            worker.process.pid = int(message[len(READY) :])
            with self._changed:
                worker.ready, self._start_failures = True, 0
                self._changed.notify_all()
                self._assign()

    def _finish(self, fd: int, worker: Worker, message: bytes) -> None:
        item: Item | None = None
        try:
            with self._lock:
                self._n_over += 1
                item = worker.finish(self._n_over)
                self._take_from_late()
                self._assign()
                retire = worker.exhausted and not worker.items
        finally:
            if item is not None:
                item.future.set_result(message)
        if retire:
            self._bury(fd, worker)

    def _bury(self, fd: int, worker: Worker) -> None:
        """A worker is gone, or is let go: blame the task that it ran, keep the others."""
        with self._lock:
            if self._workers.pop(fd, None) is None:
                return  # `close` has taken it, and sees to its end
            self._changed.notify_all()
        self._listener.unregister(fd)
        worker.process.link.close()
        ending = worker.process.wait()
        exitcode = None if ending is None else ending.exitcode
        blamed: list[tuple[Future[Any], BaseException]] = []
        with self._lock:
            if not worker.ready:
                self._start_failures += 1
            elif worker.items:
                died = WorkerDiedError(
                    exitcode=exitcode,
                    pid=worker.process.pid,
                    peak_memory=None if ending is None else ending.peak_memory,
                )
                blamed.append((worker.items.popleft().future, died))
                self._wait_again(worker.items)
            if self._closed:  # meanwhile: nobody else will see to what waited in the worker
                blamed += self._drop_waiting(BackendError("the pool was closed before this ran"))
            else:
                blamed += self._give_up_starting(exitcode) or self._reassign()
        for future, exc in blamed:
            future.set_exception(exc)

    def _reassign(self) -> list[tuple[Future[Any], BaseException]]:
        try:
            self._assign()
        except WorkerStartError as exc:
            return self._drop_waiting(exc)
        return []

    def _give_up_starting(self, exitcode: int | None) -> list[tuple[Future[Any], BaseException]]:
        if self._start_failures < _MAX_START_FAILURES:
            return []
        self._start_failures = 0
        return self._drop_waiting(
            WorkerStartError(
                f"{_MAX_START_FAILURES} workers in a row ended before their first task, the last "
                f"{_how(exitcode)}; what they wrote to stderr says why{tight_limits()}"
            )
        )

    def _drop_waiting(self, exc: BaseException) -> list[tuple[Future[Any], BaseException]]:
        dropped = [(item.future, exc) for item in self._waiting if item.claim()]
        self._waiting.clear()
        return dropped

    def _check_starting(self) -> None:
        late = time.monotonic() - _START_TIMEOUT
        with self._lock:
            stuck = [(fd, w) for fd, w in self._workers.items() if not w.ready and w.started < late]
        for fd, worker in stuck:
            worker.process.kill()
            self._bury(fd, worker)

    def _stop_forking(self, why: str) -> None:
        warn(f"pmap starts workers with spawn from now on: {why}")
        with self._lock:
            self._launcher.close()
            self._launcher = SpawnLauncher(self._env)

    # The end.

    def close(self) -> None:
        """Stop the workers now, running tasks included; idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            workers = list(self._workers.values())
            self._workers.clear()
            self._changed.notify_all()
        for item in waiting:
            item.drop()
        self._listener.close()
        self._end(workers)

    def _end(self, workers: list[Worker]) -> None:
        for worker in workers:
            if worker.items:
                worker.process.kill()  # it would not see that its link closes before it is done
            worker.process.link.close()
        for worker in workers:
            worker.process.wait()
        self._launcher.close()
        for worker in workers:
            for item in worker.items:
                item.future.set_exception(BackendError("the pool was closed while this ran"))

    @classmethod
    def forget_in_child(cls) -> None:
        """In a fork of the caller: let go of the links, which would keep the workers alive."""
        for pool in list(cls._living):
            pool.forget()

    def forget(self) -> None:
        """Be of no use any more, without ending what is the parent's."""
        self._closed = True
        for worker in self._workers.values():
            worker.process.link.close()
        self._launcher.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ProcessPool.forget_in_child)


def _how(exitcode: int | None) -> str:
    if exitcode is None:
        return "in a way that can not be told"
    if exitcode < 0:
        return f"by {signal.Signals(-exitcode).name}"
    return f"with exit code {exitcode}"


class SpawnBackend(_ProcessPool):
    """Workers that are fresh interpreters: works everywhere, takes longest to start."""

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec, SpawnLauncher)


class ForkserverBackend(_ProcessPool):
    """Workers forked from a process that has imported Polars and never used it; Linux only."""

    def __init__(self, spec: WorkerSpec) -> None:
        if not sys.platform.startswith("linux"):
            raise BackendError(
                "forkserver needs Linux, where it can be proven that Polars' engine does not run "
                "in the server: use backend='spawn'"
            )
        super().__init__(spec, ForkserverLauncher)
