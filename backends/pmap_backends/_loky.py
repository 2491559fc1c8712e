"""loky's executor, one of our own, so that nobody else's settings or shutdown meet ours."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from loky.backend.context import get_context  # pyright: ignore[reportUnknownVariableType]
from loky.process_executor import ProcessPoolExecutor

from pmap.backend import Capabilities, ExecutorBackend, Locality
from pmap.errors import ArgumentError

if TYPE_CHECKING:
    from pmap.backend import WorkerSpec

__all__ = ["LokyBackend"]

#: loky replaces workers that grow by 300 MB, which frames easily do. Bytes.
_NO_LEAK_CHECK = str(1 << 50)


class LokyBackend(ExecutorBackend):
    """Process workers of loky; if one dies, the executor breaks and the core makes another."""

    def __init__(self, spec: WorkerSpec) -> None:
        if spec.max_tasks_per_child is not None:
            raise ArgumentError(
                "loky can not replace workers after max_tasks_per_child: use 'forkserver' or 'spawn'"
            )
        wanted = {**spec.environment(), "LOKY_MAX_MEMORY_LEAK_SIZE": _NO_LEAK_CHECK}
        context: Any = get_context("loky")
        pool = ProcessPoolExecutor(
            spec.n_workers,
            context=context,
            initializer=_prepare,
            initargs=(os.getpid(),),
            env={name: value for name, value in wanted.items() if os.environ.get(name) != value},
        )
        capabilities = Capabilities(
            locality=Locality.MACHINE, n_workers=spec.n_workers, owns_workers=True
        )
        super().__init__(pool, capabilities, partial(pool.shutdown, wait=True, kill_workers=True))


def _prepare(caller: int) -> None:
    """In each worker: leave Ctrl-C to the caller, and end when the caller does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(caller,), name="pmap-watch", daemon=True).start()


def _end_with(caller: int) -> None:
    while os.getppid() == caller:
        time.sleep(0.5)
    os._exit(1)
