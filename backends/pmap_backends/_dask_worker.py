"""What runs in the worker processes of a dask cluster of pmap's own."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import shutil
import threading
import time

from dask import config
from distributed import Worker

__all__ = ["main"]

#: Seconds between looks at whether the caller lives.
_LOOK = 0.5


def main(scheduler: str, name: str, folder: str, caller: int) -> None:
    """Entry point: serve the scheduler until the caller ends this process, or ends itself."""
    threading.Thread(
        target=_end_with, args=(caller, folder), name="pmap-watch", daemon=True
    ).start()
    importlib.import_module("pmap._worker")  # Polars too: registered means ready
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is an error here
    asyncio.run(_serve(scheduler, name, folder))
    if os.getppid() != caller:  # killed: its folder is left to the last of its workers
        shutil.rmtree(folder, ignore_errors=True)


async def _serve(scheduler: str, name: str, folder: str) -> None:
    # A thread that samples all stacks is of no use without a dashboard.
    config.set({"distributed.worker.profile.enabled": False})  # pyright: ignore[reportUnknownMemberType]
    async with Worker(
        scheduler,
        name=name,
        nthreads=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        local_directory=folder,
        memory_limit=0,  # no spilling and no pausing: a paused worker waits for ever
    ) as worker:
        await worker.finished()


def _end_with(caller: int, folder: str) -> None:
    """End this process when the caller has ended, even if it was killed."""
    while os.getppid() == caller:
        time.sleep(_LOOK)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
