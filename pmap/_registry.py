"""Backends by name, by entry point; and whatever else a user may pass as `backend=`."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from pmap._config import nearest
from pmap._forkguard import refuse_fork
from pmap.backend import Backend, Capabilities, ExecutorBackend, Locality
from pmap.errors import ArgumentError, MissingDependencyError, UnknownBackendError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from pmap.backend import BackendFactory, WorkerSpec

__all__ = ["GROUP", "adopt", "available_backends", "get_backend"]

GROUP = "pmap.backends"
_DISTRIBUTION = "polars-pmap"


@cache
def _registered() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415  not needed at import

    return {point.name: point for point in (*entry_points(group=GROUP), *_own().values())}


@cache
def _own() -> dict[str, EntryPoint]:
    """Those of our own distribution, whose names are taken: a tenth of the time of looking at all."""
    from importlib.metadata import (  # noqa: PLC0415  as above
        PackageNotFoundError,
        distribution,
    )

    try:
        points = distribution(_DISTRIBUTION).entry_points
    except PackageNotFoundError:
        return {}  # some frozen programs have the entry points alone
    return {point.name: point for point in points if point.group == GROUP}


def available_backends() -> tuple[str, ...]:
    """Names of all registered backends, pmap's own and those of other distributions.

    Returns
    -------
    tuple of str
        Sorted. A name may need an extra: `get_backend` says so.

    Examples
    --------
    >>> import pmap
    >>> "spawn" in pmap.available_backends()
    True
    """
    return tuple(sorted(_registered()))


def get_backend(name: str) -> BackendFactory:
    """The factory that is registered under `name`.

    Parameters
    ----------
    name
        One of `available_backends`.

    Returns
    -------
    BackendFactory
        Call it with a `pmap.backend.WorkerSpec`.

    Raises
    ------
    UnknownBackendError
        No backend of that name; the message lists those that exist.
    MissingDependencyError
        It is known, but what it needs is not installed; the message says what to install.
    ForkRefusedError
        For ``"fork"`` and ``"multiprocessing"``.

    Examples
    --------
    >>> import pmap
    >>> from pmap.backend import WorkerSpec
    >>> pmap.get_backend("serial")(WorkerSpec(n_workers=1)).capabilities.n_workers
    1
    """
    refuse_fork(name)
    point = _own().get(name) or _registered().get(name)
    if point is None:
        names = available_backends()
        raise UnknownBackendError(
            f"no backend is called {name!r}{nearest(name, names)}; there are auto, {', '.join(names)}"
        )
    try:
        return _load(point)
    except ImportError as exc:
        raise MissingDependencyError(_how_to_install(point, exc)) from exc


@cache
def _load(point: EntryPoint) -> BackendFactory:
    return cast("BackendFactory", point.load())


def _how_to_install(point: EntryPoint, exc: ImportError) -> str:
    distribution = point.dist.name if point.dist is not None else _DISTRIBUTION
    return f'backend {point.name!r} needs what is not installed ({exc}): pip install "{distribution}[{point.name}]"'


def adopt(target: object, spec: WorkerSpec) -> tuple[str, Backend]:
    """Make a backend of an object, or of an address, that the user passed.

    Returns
    -------
    tuple of str and Backend
        A name for messages, and the backend, which stays the user's: it is not closed.
    """
    refuse_fork(target)
    if isinstance(target, type):
        raise ArgumentError(f"backend={target.__name__} is a class: give an instance, or a name")
    if isinstance(target, Backend):
        return type(target).__name__, target
    if isinstance(target, Executor):
        return type(target).__name__, ExecutorBackend(target, _capabilities(target, spec))
    for name in _registered():
        backend = _try_adopt(name, target, spec)
        if backend is not None:
            return name, backend
    raise ArgumentError(
        f"backend={target!r} ({type(target).__name__}) can not carry tasks: give the name of a backend "
        f"({', '.join(available_backends())}), a concurrent.futures.Executor, or a backend object"
    )


def _try_adopt(name: str, target: object, spec: WorkerSpec) -> Backend | None:
    try:
        factory: Any = get_backend(name)
    except MissingDependencyError:
        return None  # what is not installed can not have made the target
    return factory.adopt(target, spec) if hasattr(factory, "adopt") else None


def _capabilities(executor: Executor, spec: WorkerSpec) -> Capabilities:
    """What is known of a foreign executor; of an unknown kind, only that it moves bytes."""
    n_workers = getattr(executor, "_max_workers", None) or spec.n_workers
    if type(executor).__name__ == "InterpreterPoolExecutor":
        raise ArgumentError(
            "Polars can not be imported in sub-interpreters: use backend='threads' or 'forkserver'"
        )
    if isinstance(executor, ThreadPoolExecutor):
        locality = Locality.PROCESS
    elif hasattr(executor, "_processes"):  # the standard library's and loky's
        locality = Locality.MACHINE
    else:
        locality = Locality.CLUSTER
    return Capabilities(locality=locality, n_workers=n_workers)
