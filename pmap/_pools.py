"""Warm pools: kept between calls, stopped after a rest, at exit, or by `shutdown`."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pmap._background import start_helper
from pmap._context import depth
from pmap._figures import figures
from pmap._interrupts import deferred

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmap.backend import Backend, BackendFactory, WorkerSpec

    Key = tuple[BackendFactory, WorkerSpec, int]

__all__ = ["cold_since", "discard", "is_warm", "lease", "prepare", "shutdown", "start"]


class _Pool:
    """A backend, and who uses it."""

    def __init__(self, backend: Backend, idle_timeout: float) -> None:
        self.backend = backend
        self.idle_timeout = idle_timeout
        self.users = 0
        self.rested = time.monotonic()
        self.made: float | None = time.time()  #: seconds since the epoch, until a call has it

    def is_stale(self) -> bool:
        """Whether nobody has used it for as long as it may rest."""
        return self.users == 0 and time.monotonic() - self.rested > self.idle_timeout


class _Pools:
    """All pools of this process."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Know nothing: at the start, and in a fork, whose pools are its parent's."""
        self._lock = threading.Lock()
        self._pools: dict[Key, _Pool] = {}
        self._reaper: threading.Thread | None = None

    def take(self, key: Key, idle_timeout: float) -> Backend:
        with self._lock:
            pool = self._get(key, idle_timeout)
            pool.users += 1
            pool.idle_timeout = idle_timeout
            pool.made = None
            return pool.backend

    def prepare(self, key: Key, idle_timeout: float) -> None:
        with self._lock:
            self._get(key, idle_timeout)

    def start(self, key: Key, idle_timeout: float) -> None:
        with self._lock:
            known = self._pools.get(key)
            if known is not None:
                known.made = None  # a call that has failed since then
                return
            backend: Any = self._get(key, idle_timeout).backend
        backend.start_workers()

    def _get(self, key: Key, idle_timeout: float) -> _Pool:
        if key not in self._pools:
            factory, spec, _ = key
            self._pools[key] = _Pool(factory(spec), idle_timeout)
            self._watch()
        return self._pools[key]

    def give_back(self, key: Key, backend: Backend) -> None:
        with self._lock:
            pool = self._pools.get(key)
            if pool is not None and pool.backend is backend:
                pool.users -= 1
                pool.rested = time.monotonic()

    def find(self, key: Key) -> Backend | None:
        pool = self._pools.get(key)
        return None if pool is None else pool.backend

    def cold_since(self, key: Key) -> float | None:
        pool = self._pools.get(key)
        return time.time() if pool is None else pool.made

    def remove(self, wanted: Callable[[_Pool], bool]) -> None:
        """Close the pools that are `wanted`, outside the lock."""
        with deferred:
            with self._lock:
                keys = [key for key, pool in self._pools.items() if wanted(pool)]
                gone = [self._pools.pop(key) for key in keys]
            for pool in gone:
                pool.backend.close()

    def _watch(self) -> None:
        if self._reaper is None:
            self._reaper = start_helper("pmap-idle", self._reap)

    def _reap(self) -> None:
        while True:
            with self._lock:
                if not self._pools:
                    self._reaper = None
                    return
                pause = min(pool.idle_timeout for pool in self._pools.values()) / 4
            time.sleep(min(max(pause, 0.01), 5.0))
            self.remove(_Pool.is_stale)


_pools = _Pools()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.forget)


def prepare(factory: BackendFactory, spec: WorkerSpec, idle_timeout: float) -> None:
    """Have a warm pool there for a lease."""
    _pools.prepare((factory, spec, depth.get()), idle_timeout)


def start(factory: BackendFactory, spec: WorkerSpec, idle_timeout: float) -> None:
    """Have the workers of a pool start, if there is no such pool yet; does not wait for them."""
    _pools.start((factory, spec, depth.get()), idle_timeout)


class lease:  # noqa: N801  a context manager; one made of a generator fails on frozen exceptions
    """A warm pool, made if there is none, for the time of the block."""

    def __init__(self, factory: BackendFactory, spec: WorkerSpec, idle_timeout: float) -> None:
        self._key = (factory, spec, depth.get())
        self._backend = _pools.take(self._key, idle_timeout)

    def __enter__(self) -> Backend:
        return self._backend

    def __exit__(self, *_: object) -> None:
        _pools.give_back(self._key, self._backend)


_condemned: weakref.WeakSet[Backend] = weakref.WeakSet()


def is_condemned(backend: Backend) -> bool:
    """Whether a call has given the pool up: what breaks in it says nothing about a partition."""
    return backend in _condemned


def discard(backend: Backend) -> None:
    """Close a pool that is of no more use; the next lease makes another."""
    _condemned.add(backend)
    _pools.remove(lambda pool: pool.backend is backend)


def cold_since(factory: BackendFactory, spec: WorkerSpec) -> float | None:
    """When the workers of such a pool began to start, or would now; ``None`` if a call has had them.

    Seconds since the epoch.
    """
    return _pools.cold_since((factory, spec, depth.get()))


def is_warm(factory: BackendFactory, spec: WorkerSpec) -> bool:
    """Whether there is such a pool, and its workers have started."""
    backend = _pools.find((factory, spec, depth.get()))
    return backend is not None and getattr(backend, "is_ready", True)


def shutdown() -> None:
    """Stop all warm pools now, and give back the memory that was kept for the next call.

    Examples
    --------
    >>> import pmap
    >>> pmap.shutdown()
    """
    _pools.remove(lambda _: True)
    if "pmap._pages" in sys.modules:  # else there was no call
        import_module("pmap._pages").trim(0)  # once another thread has imported it
    figures.forget_missed()


atexit.register(shutdown)
