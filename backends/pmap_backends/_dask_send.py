"""One payload to a dask cluster and its answer back, with dask's exceptions as pmap's."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from distributed import KilledWorker
from distributed.client import FutureCancelledError

from pmap.backend import execute
from pmap.errors import BackendError, PmapError, WorkerDiedError

__all__ = ["quiet", "send", "settle"]

#: Larger payloads are sent beside the graph, in which dask would pickle them several times:
#: 20 MB take 30 ms and not 170. Dask warns of graphs of 10 MB. Bytes.
_LARGE = 1 << 20

_GATHER = "pmap-gather"
#: Seconds that what was cancelled may take to end.
_PATIENCE = 1.0


async def send(client: Any, payload: bytes, worker: str | None = None) -> bytes:
    """Run `payload`, in the thread of the client's loop.

    Parameters
    ----------
    client
        A `distributed.Client`, whose own annotations are partial.
    payload
        What `pmap.backend.execute` takes.
    worker
        Address of the worker that is to run it; if it is gone meanwhile, another does.

    Returns
    -------
    bytes
        What `execute` returned.

    Raises
    ------
    WorkerDiedError
        The worker ended, as often as dask tries by itself.
    BackendError
        Dask did not run it: connection lost, cancelled, or the cluster was closed.
    """
    where = {} if worker is None else {"workers": [worker]}
    try:
        beside = len(payload) > _LARGE and await _has_workers(client)
        data = await client.scatter(payload, hash=False, **where) if beside else payload
        future = client.submit(execute, data, pure=False, allow_other_workers=bool(where), **where)
        try:
            # The client gathers for all who wait at once: one who is cancelled in there would
            # take the others with it, and leave a client that gathers nothing any more.
            return cast("bytes", await asyncio.shield(quiet(future)))
        finally:
            future.release()  # which cancels it, if nobody waits for it any more
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise  # the caller's wish
        raise BackendError("dask cancelled a task") from exc
    except Exception as exc:
        raise _translated(exc) from exc


async def settle() -> None:
    """Wait until nothing is asked of a client that is to be closed; dask would complain."""
    asking = {task for task in asyncio.all_tasks() if task.get_name() == _GATHER}
    if asking:
        await asyncio.wait(asking, timeout=_PATIENCE)


def quiet(awaitable: Any) -> asyncio.Future[Any]:
    """A task for it; asyncio is not to complain if nobody looks at its exception any more."""
    task: asyncio.Task[Any] = asyncio.ensure_future(awaitable)
    task.set_name(_GATHER)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return task


async def _has_workers(client: Any) -> bool:
    """A cluster that adapts to its load starts none for data, only for tasks."""
    return bool(await client.nthreads())


def _translated(exc: Exception) -> PmapError:
    lost = isinstance(exc, FutureCancelledError) and exc.reason == "lost dependencies"
    if lost or isinstance(exc, KilledWorker):  # lost: with the worker that held the payload
        return WorkerDiedError()
    return BackendError(f"dask did not run a task: {type(exc).__name__}: {exc}")
