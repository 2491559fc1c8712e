"""Fork is refused, by whatever road it comes in.

Polars' engine is multithreaded. A forked child gets a copy of the locks that the engine's
threads hold, but not the threads that would release them: sooner or later it waits forever.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from pmap._clocks import pool_threads
from pmap._warn import warn
from pmap.errors import ForkRefusedError

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

__all__ = ["check_process", "note_fork_default", "refuse_fork", "start_method_of"]

_WHY = (
    "Polars' engine runs threads, and a forked child inherits the locks they hold without the "
    "threads that would release them, so it hangs"
)
_FIX = (
    "Leave backend= away (the default picks processes that are safe), or say backend='forkserver' "
    "or backend='spawn'"
)


_sound_pid = -1
_noted = False


def start_method_of(context: object) -> str | None:
    """Of a `multiprocessing` context: its start method, without pinning the process's own."""
    loaded = sys.modules.get("multiprocessing.context")
    if loaded is None or not isinstance(context, loaded.BaseContext):
        return None  # where the module is not loaded, nobody has a context
    method: str | None = cast("BaseContext", context).get_start_method(allow_none=True)
    return method or default_start_method()


def default_start_method() -> str:
    """What `multiprocessing` takes on this platform when nobody says anything."""
    import multiprocessing  # noqa: PLC0415  a process that forks has loaded it already

    return multiprocessing.get_all_start_methods()[0]


def refuse_fork(backend: object) -> None:
    """Raise if `backend` would fork this process.

    Raises
    ------
    ForkRefusedError
        For the name, a fork context, and pools and executors made of one.
    """
    road = _fork_road(backend)
    if road is not None:
        raise ForkRefusedError(f"{road} would fork this process: {_WHY}. {_FIX}.")


def _fork_road(backend: object) -> str | None:
    if isinstance(backend, str):
        return f"backend={backend!r}" if backend in {"fork", "multiprocessing"} else None
    if start_method_of(backend) == "fork":
        return "a fork context of multiprocessing"
    context: Any = next(
        (
            found
            for name in ("_mp_context", "_ctx", "_context")
            if (found := getattr(backend, name, None)) is not None
        ),
        None,
    )
    if start_method_of(context) == "fork":
        return f"this {type(backend).__name__}, whose start method is fork,"
    if type(backend).__name__ == "MultiprocessingBackend":
        return "joblib's multiprocessing backend"
    return None


def note_fork_default() -> None:
    """Say once that the process-wide start method is fork and that pmap does not use it."""
    global _noted  # noqa: PLW0603
    loaded = sys.modules.get("multiprocessing")
    if not _noted and loaded and loaded.get_start_method(allow_none=True) == "fork":
        _noted = True
        warn(
            f"multiprocessing's start method is fork here; pmap does not use it: {_WHY}. "
            "It starts workers in a way of its own and leaves the setting as it is."
        )


def check_process() -> None:
    """Raise in a process that was forked after Polars had been used.

    Raises
    ------
    ForkRefusedError
        When Polars' thread pool exists here but none of its threads does.
    """
    global _sound_pid  # noqa: PLW0603
    if _sound_pid == os.getpid():
        return
    if not _engine_lives():
        raise ForkRefusedError(
            f"this process ({os.getpid()}) was forked after Polars had been used: {_WHY}, and any Polars "
            "query here may hang. Start this process with the 'spawn' or 'forkserver' method instead "
            "(multiprocessing.get_context('spawn'); DataLoader(multiprocessing_context='spawn'); joblib "
            "with backend='loky'), or fork before the first use of Polars."
        )
    _sound_pid = os.getpid()


def _engine_lives() -> bool:
    """Whether the threads of Polars' pool are here; starts the pool where there was none."""
    pl.thread_pool_size()  # starts the pool unless it was started, or inherited
    if not os.path.isdir("/proc/self/task"):
        return _canary()
    deadline = time.monotonic() + 0.5
    while not pool_threads():
        if time.monotonic() > deadline:  # a thread names itself shortly after it started
            return False
        time.sleep(0.001)
    return True


def _canary() -> bool:
    """Whether a query ends, where threads can not be listed."""
    query = pl.DataFrame({"x": [1, 2]}).lazy().filter(pl.col("x") > 1)
    thread = threading.Thread(target=query.collect, daemon=True)
    thread.start()
    thread.join(5)
    return not thread.is_alive()
