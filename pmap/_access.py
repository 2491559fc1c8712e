"""The backend of a run: from the warm pools by name, or the user's own."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from pmap import _pools
from pmap._dtypes import refuse_unsupported
from pmap._function import check_picklable
from pmap._interrupts import deferred
from pmap._registry import adopt, get_backend
from pmap._resources import memory_of
from pmap.backend import Locality
from pmap.errors import ArgumentError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from pmap._config import Options
    from pmap._plan import Choice
    from pmap._schedule import Access
    from pmap._work import Work
    from pmap.backend import Backend, BackendFactory, WorkerSpec

__all__ = ["is_name", "is_of_one_call", "open_access", "start_ahead"]


#: Options for which a partition must be stopped, and when.
_LIMITS = {"timeout": "runs too long", "memory_limit": "takes too much memory"}


def start_ahead(work: Work, options: Options, choice: Choice) -> None:
    """Have the workers of a call start, if there are none, before all else is made ready for it.

    Not those of a stream, which may need fewer; nor for what a checkpoint may have already.

    Raises
    ------
    ArgumentError, UnpicklableFunctionError, UnsupportedDtypeError
        For what can not be done with them, and what can not be sent to them.
    """
    if work.frame is None or options.checkpoint is not None or not is_name(choice.target):
        return
    factory = get_backend(str(choice.target))
    if hasattr(factory, "start_workers") and _pools.cold_since(factory, choice.spec) is not None:
        _refuse_blind_limit(options)
        check_picklable(work.function)
        if options.initializer is not None:
            check_picklable(options.initializer)
        refuse_unsupported(work.frame.get_columns())
        with deferred:
            _pools.start(factory, choice.spec, options.idle_timeout)


def open_access(target: object, spec: WorkerSpec, options: Options, stack: ExitStack) -> Access:
    """Get hold of a backend until `stack` is closed.

    Raises
    ------
    ArgumentError
        When `timeout` or `memory_limit` is asked of a backend that can not stop a partition.
    """
    named = is_name(target)
    factory: Any = get_backend(str(target)) if named else None
    access = (
        _OfOneCall(str(target), factory, spec, stack)
        if is_of_one_call(factory)
        else _Warm(str(target), spec, options.idle_timeout, stack)
        if named
        else _Foreign(target, spec, stack)
    )
    capabilities = access.backend.capabilities
    can_stop = capabilities.locality is Locality.MACHINE and (
        capabilities.killable or capabilities.owns_workers
    )
    for name, what in _LIMITS.items():
        if getattr(options, name) is not None and not can_stop:
            raise ArgumentError(
                f"backend {access.name!r} can not stop a partition that {what}: "
                f"{name}= needs backend='forkserver', 'spawn' or 'loky'"
            )
    _refuse_blind_limit(options)
    return access


def _refuse_blind_limit(options: Options) -> None:
    if options.memory_limit is not None and memory_of(os.getpid()) is None:
        raise ArgumentError("memory_limit= needs /proc, which says what workers hold")


def is_name(target: object) -> bool:
    """Whether it is of a backend, and no address."""
    return isinstance(target, str) and "://" not in target


def is_of_one_call(factory: object) -> bool:
    """Whether no pool of a backend is kept for the next call."""
    return bool(getattr(factory, "of_one_call", False))


class _Warm:
    """A backend by name, from the warm pools."""

    def __init__(self, name: str, spec: WorkerSpec, idle_timeout: float, stack: ExitStack) -> None:
        self.name = name
        self.spec = spec
        self._factory = get_backend(name)
        self._idle_timeout = idle_timeout
        self._stack = stack
        self.backend: Backend = self._lease()

    def _lease(self) -> Backend:
        _pools.prepare(self._factory, self.spec, self._idle_timeout)  # which may take a while
        with deferred:
            return self._stack.enter_context(
                _pools.lease(self._factory, self.spec, self._idle_timeout)
            )

    @property
    def is_lost(self) -> bool:
        """Whether another call has given this pool up."""
        return _pools.is_condemned(self.backend)

    def give_up(self) -> None:
        """Stop the pool, which is broken, or whose workers can only be stopped together."""
        _pools.discard(self.backend)

    def renew(self) -> bool:
        """Stop the broken pool and take a new one."""
        self.give_up()
        self.backend = self._lease()
        return True


class _OfOneCall:
    """A backend by name of which no warm pool is kept."""

    def __init__(
        self, name: str, factory: BackendFactory, spec: WorkerSpec, stack: ExitStack
    ) -> None:
        self.name = name
        self.spec: WorkerSpec | None = None
        self.is_lost = False
        with deferred:
            self.backend: Backend = factory(spec)
            stack.callback(self.backend.close)

    def give_up(self) -> None:
        """It ends with the call."""

    def renew(self) -> bool:
        """What it was made of is the user's."""
        return False


class _Foreign:
    """A backend, executor, client or address of the user's."""

    def __init__(self, target: object, spec: WorkerSpec, stack: ExitStack) -> None:
        self.name, self.backend = adopt(target, spec)
        self.spec: WorkerSpec | None = None
        self.is_lost = False
        if self.backend is not target and not isinstance(target, Executor):
            stack.callback(self.backend.close)  # a client that was made for an address, say

    def give_up(self) -> None:
        """It is not ours to stop."""

    def renew(self) -> bool:
        """It is not ours to replace."""
        return False
