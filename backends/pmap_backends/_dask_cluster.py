"""A dask cluster of pmap's own: the scheduler in this process, workers in processes beside it.

Workers are started here, each by a fresh interpreter, and not by the nannies of a
`LocalCluster`, which use `multiprocessing`: see `_dask_process`. A worker gets one task at a
time, pinned to it, since dask blames a death on every task that the worker had been given.
So one worker can be killed, blamed and replaced. All but ``__init__`` and `close` runs in
the thread of dask's event loop, and so needs no locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sys
import threading
from concurrent.futures import BrokenExecutor
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self, cast

from distributed import Client, LocalCluster, SchedulerPlugin

from pmap.backend import Capabilities, Locality
from pmap.errors import BackendError, WorkerDiedError, WorkerStartError
from pmap_backends._dask_process import DaskWorker, command
from pmap_backends._dask_send import quiet, send

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from distributed import Scheduler

    from pmap.backend import WorkerSpec

__all__ = ["OwnCluster"]

#: Workers that may end in a row before they are ready.
_MAX_START_FAILURES = 3
#: Seconds after which dask would give up a silent worker, or an idle scheduler.
_NEVER = 1e9
#: Seconds that a cancelled task may take to end by itself; to start a worker takes longer.
_GRACE = 0.1
#: Seconds for which dask's client collects messages; its own 10 ms are half of a task's latency.
_BATCH = 0.001

# Their annotations are partial.
_new_client: Any = Client
_new_cluster: Any = LocalCluster


class _ClusterGoneError(BackendError, BrokenExecutor):
    """The cluster is of no more use; the core makes another."""


class OwnCluster:
    """Scheduler, client and workers; the workers start with the first task.

    Parameters
    ----------
    spec
        How many workers, their environment, and how long they live.

    Raises
    ------
    WorkerStartError
        When the scheduler does not start.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.capabilities = Capabilities(
            locality=Locality.CLUSTER, n_workers=spec.n_workers, owns_workers=True
        )
        self.client: Any = None
        self._spec = spec
        self._env = spec.environment()
        self._numbers = itertools.count()
        self._workers: dict[str, DaskWorker] = {}
        self._free: asyncio.Queue[DaskWorker | None] = asyncio.Queue()  # None: no more will come
        self._keepers: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self._closed = False
        self._undo = contextlib.ExitStack()
        try:
            self._start()
        except Exception as exc:
            self.close()
            raise WorkerStartError(f"dask's scheduler did not start: {exc}") from exc

    def _start(self) -> None:
        self._folder = self._undo.enter_context(
            TemporaryDirectory(prefix="pmap-dask-", ignore_cleanup_errors=True)
        )
        hush = self._undo.enter_context(_Hush())
        self._cluster = self._start_scheduler()
        self._undo.callback(self._cluster.close)
        hush.only_thread(self._cluster.sync(_thread_of_loop))
        self._undo.callback(self._sync, self._end_workers)
        self.client = _new_client(self._cluster, set_as_default=False, direct_to_workers=True)
        self._undo.callback(self.client.close)  # before the workers end: what runs learns why
        self._undo.callback(self._sync, self._refuse)
        self.client.scheduler_comm.interval = _BATCH

    def _start_scheduler(self) -> Any:
        cluster = _new_cluster(
            n_workers=0,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # "/health" alone, and never on 0.0.0.0
            silence_logs=False,
            scheduler_kwargs={
                "allowed_failures": 0,  # pmap counts attempts
                "dashboard": False,
                "idle_timeout": _NEVER,
                "local_directory": self._folder,
                "plugins": [_Arrivals(self._welcome)],
                "worker_ttl": _NEVER,  # a function may hold the GIL as long as it likes
            },
        )
        with contextlib.suppress(ValueError):  # dask puts it there; it holds no modules
            sys.path.remove(cluster.scheduler.local_directory)
        return cluster

    async def carry(self, payload: bytes) -> bytes:
        """Run a payload on the next worker that is free.

        Raises
        ------
        WorkerDiedError
            The worker ended; with its pid, and how.
        BackendError
            No worker starts, or the cluster is closed or gone.
        """
        if not self._closed and self.client.status != "running":
            raise _ClusterGoneError("dask's scheduler is gone")
        self._ensure_workers()
        worker = await self._take()
        try:
            return await self._send(worker, payload)
        except WorkerDiedError as died:
            died.pid, died.exitcode = worker.pid, await worker.exit_code()
            raise
        except BackendError as exc:
            if self._closed:
                raise BackendError("the cluster was closed while this ran") from exc
            raise _ClusterGoneError(str(exc)) from exc
        finally:
            self._give_back(worker)

    async def _send(self, worker: DaskWorker, payload: bytes) -> bytes:
        """Have the worker run it; if nobody waits for that any more, it ends at once."""
        sending = quiet(send(self.client, payload, worker.address))
        try:
            return cast("bytes", await asyncio.shield(sending))
        except asyncio.CancelledError:
            await asyncio.wait({sending}, timeout=_GRACE)
            if not sending.done():
                sending.cancel()
                worker.kill()
            raise

    async def _take(self) -> DaskWorker:
        while True:
            worker = await self._free.get()
            if worker is None:
                self._free.put_nowait(None)  # for the next who waits
                raise self._nobody()
            if worker.is_usable():
                worker.tasks_left -= 1
                return worker

    def _nobody(self) -> BackendError:
        if self._closed:
            return BackendError("the cluster was closed before this ran")
        why = self._failure or "what they wrote to stderr says why"
        return WorkerStartError(
            f"{_MAX_START_FAILURES} workers in a row ended before they were ready: {why}"
        )

    def _give_back(self, worker: DaskWorker) -> None:
        if worker.is_usable():
            self._free.put_nowait(worker)
        else:
            worker.kill()

    def _ensure_workers(self) -> None:
        if not self._keepers and not self._closed:
            self._free = asyncio.Queue()
            count = self._spec.n_workers
            self._keepers = {asyncio.create_task(self._keep_one()) for _ in range(count)}

    async def _keep_one(self) -> None:
        """Have a worker, and another after it."""
        failures = 0
        while failures < _MAX_START_FAILURES and not self._closed:
            came = await self._one_life(f"pmap-{next(self._numbers)}")
            failures = 0 if came else failures + 1
        self._keepers = {task for task in self._keepers if task is not asyncio.current_task()}
        if not self._keepers:
            self._free.put_nowait(None)

    async def _one_life(self, name: str) -> bool:
        """Of one worker; whether it came to the cluster."""
        worker = self._workers[name] = DaskWorker(self._spec.max_tasks_per_child)
        try:
            where = command(self._cluster.scheduler_address, name, self._folder)
            await worker.live(where, self._env)
        except Exception as exc:  # noqa: BLE001  whatever it is, those who wait must be told
            self._failure = exc
        finally:
            del self._workers[name]
        return worker.address is not None

    def _welcome(self, name: str, address: str) -> None:
        worker = self._workers.get(name)
        if worker is not None:
            worker.address = address
            self._free.put_nowait(worker)

    def close(self) -> None:
        """Stop everything now, running tasks included; not in the thread of the loop."""
        self._undo.close()

    def _sync(self, function: Callable[[], Awaitable[None]]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the scheduler
            self._cluster.sync(function)

    async def _refuse(self) -> None:
        self._closed = True
        self._free.put_nowait(None)

    async def _end_workers(self) -> None:
        for worker in self._workers.values():
            worker.kill()
        await asyncio.gather(*self._keepers)


class _Arrivals(SchedulerPlugin):
    """Tells of each worker that has come."""

    name = "pmap-arrivals"

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self._tell = tell

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """As dask calls it."""
        self._tell(str(scheduler.workers[worker].name), worker)


class _Hush(logging.Filter):
    """Keeps to itself what our scheduler logs; records of the user's own clusters pass.

    Dask's own `silence_logs` would change the level for all clusters of the process.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread: int | None = None  # not known yet: any
        known = [name for name in logging.root.manager.loggerDict if _is_dasks(name)]
        # The last is made while a scheduler starts, and says at once what is not installed.
        self._loggers = list(map(logging.getLogger, [*known, "distributed.http.proxy"]))

    def __enter__(self) -> Self:
        for logger in self._loggers:
            logger.addFilter(self)
        return self

    def __exit__(self, *_: object) -> None:
        for logger in self._loggers:
            logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is let through."""
        return self._thread not in {None, record.thread} or record.levelno >= logging.CRITICAL

    def only_thread(self, ident: int) -> None:
        """From now on, only what comes from the thread of our scheduler."""
        self._thread = ident


def _is_dasks(logger: str) -> bool:
    return logger.partition(".")[0] == "distributed"


async def _thread_of_loop() -> int:
    return threading.get_ident()
