"""Dask: a cluster of the user's, on other machines, or one of pmap's own on this machine.

To a cluster of the user's go bytes, as to any scheduler of tasks: its workers need pmap,
Polars and the modules that the function imports. Dask runs a task whose worker died again
by itself, up to ``distributed.scheduler.allowed-failures`` times, before pmap hears of it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, Protocol

from distributed import Client
from distributed.deploy.cluster import Cluster

from pmap.backend import Capabilities, Locality
from pmap.errors import ArgumentError, BackendError
from pmap_backends._dask_cluster import OwnCluster
from pmap_backends._dask_send import send, settle

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pmap.backend import Task, WorkerSpec

__all__ = ["DaskBackend"]

#: Of the addresses that are dask's; others may be other backends'.
_SCHEMES = ("tcp", "tls", "ucx", "ws", "wss", "inproc")

_new_client: Any = Client  # its annotations are partial


class _Road(Protocol):
    """A way to a cluster."""

    client: Any

    @property
    def capabilities(self) -> Capabilities: ...

    async def carry(self, payload: bytes) -> bytes: ...

    def close(self) -> None: ...


class DaskBackend:
    """Tasks through a dask cluster.

    Parameters
    ----------
    spec
        The workers of a cluster of pmap's own: processes with one thread each, listening on
        the loopback alone.
    cluster
        Another cluster instead; see `adopt`.
    """

    def __init__(self, spec: WorkerSpec, cluster: _Road | None = None) -> None:
        self._cluster = OwnCluster(spec) if cluster is None else cluster
        self.capabilities = self._cluster.capabilities
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        # Dask closes clusters and loops at exit too; what was registered last comes first.
        if type(self._cluster) is not _UsersClient:  # that one has nothing to close
            atexit.register(self.close)

    @classmethod
    def adopt(cls, target: object, spec: WorkerSpec) -> DaskBackend | None:
        """A backend on what is the user's and stays so.

        Parameters
        ----------
        target
            A `Client`, a cluster, or the address of a scheduler.
        spec
            Not looked at: the workers are as they are.

        Returns
        -------
        DaskBackend or None
            ``None`` if `target` is nothing of dask's. Its `close` closes no more than the
            client that was made for a cluster or an address.

        Raises
        ------
        ArgumentError
            For an asynchronous client or cluster, whose loop this call would block.
        BackendError
            When the cluster does not answer.
        """
        if not isinstance(target, Client | Cluster) and not _is_address(target):
            return None
        if getattr(target, "asynchronous", False):
            raise ArgumentError(
                f"{target!r} is asynchronous, and waits for the loop that this call would block: "
                "give the address of its scheduler"
            )
        try:
            road = _UsersClient(target) if isinstance(target, Client) else _OurClient(target)
        except Exception as exc:
            raise BackendError(f"no dask cluster answers at {target!r}: {exc}") from exc
        return cls(spec, road)

    def submit(self, task: Task) -> Future[Any]:
        """Send the task's payload; to cancel the future releases dask's, and so cancels it."""
        coroutine = self._cluster.carry(task.payload)
        try:
            return asyncio.run_coroutine_threadsafe(
                coroutine, self._cluster.client.loop.asyncio_loop
            )
        except RuntimeError as exc:
            coroutine.close()
            raise BackendError(f"the dask client is closed: {exc}") from exc

    def close(self) -> None:
        """Stop what was started here; idempotent."""
        if self._pid != os.getpid():
            return  # a fork of the caller, whose cluster it is
        with self._lock:
            if not self._closed:
                self._closed = True
                self._cluster.close()
        atexit.unregister(self.close)


def _is_address(target: object) -> bool:
    return isinstance(target, str) and target.partition("://")[0] in _SCHEMES and "://" in target


class _UsersClient:
    """To a cluster of the user's, by the user's client."""

    def __init__(self, client: Any) -> None:
        self.client = client
        threads = sum(client.nthreads().values())
        self.capabilities = Capabilities(locality=Locality.CLUSTER, n_workers=max(1, threads))

    async def carry(self, payload: bytes) -> bytes:
        """Run a payload on any worker."""
        return await send(self.client, payload)

    def close(self) -> None:
        """Nothing here is ours."""


class _OurClient(_UsersClient):
    """To a cluster of the user's, by a client that was made for it."""

    def __init__(self, target: object) -> None:
        super().__init__(_new_client(target, set_as_default=False))

    def close(self) -> None:
        """Leave the cluster, which goes on."""
        with contextlib.suppress(OSError, RuntimeError):  # it may be gone already
            self.client.sync(settle, callback_timeout=5)
        self.client.close()
