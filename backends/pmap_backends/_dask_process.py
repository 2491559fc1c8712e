"""The worker processes of a dask cluster of pmap's own, seen from the caller.

Each is a fresh interpreter that runs `_dask_worker.main`, with no nanny: a nanny would
start it by `multiprocessing`, which runs the user's ``__main__`` again (and so needs a
guard in every script), and would change this process's own environment to give it one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess

from pmap_backends._launch import python_command

__all__ = ["DaskWorker", "command"]

#: Seconds that a worker which has left the cluster may take to end.
_GRACE = 1.0


class DaskWorker:
    """One process.

    Parameters
    ----------
    max_tasks
        How many tasks it may have; ``None``: no limit.

    Attributes
    ----------
    address : str or None
        Where it listens, once it has come to the cluster.
    tasks_left : float
        How many tasks it still may have.
    """

    def __init__(self, max_tasks: int | None) -> None:
        self.address: str | None = None
        self.tasks_left = float("inf") if max_tasks is None else max_tasks
        self._killed = False
        self._process: asyncio.subprocess.Process | None = None

    async def live(self, arguments: list[str], env: dict[str, str]) -> None:
        """From its start to its end."""
        self._process = await asyncio.create_subprocess_exec(
            *arguments,
            env=env,
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C in a terminal is the caller's alone
        )
        if self._killed:
            self.kill()
        await self._process.wait()

    @property
    def pid(self) -> int | None:
        """Of the process, if it was started."""
        return None if self._process is None else self._process.pid

    def is_usable(self) -> bool:
        """Whether it lives, and may have another task."""
        lives = self._process is not None and self._process.returncode is None
        return lives and not self._killed and self.tasks_left > 0

    def kill(self) -> None:
        """End it now, or as soon as it has started."""
        self._killed = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                self._process.kill()

    async def exit_code(self) -> int | None:
        """Of one that has left the cluster, and so is about to end; as of `subprocess`."""
        if self._process is None:
            return None
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self._process.wait(), _GRACE)
        return None


def command(scheduler: str, name: str, folder: str) -> list[str]:
    """What starts a worker.

    Parameters
    ----------
    scheduler
        Address to serve.
    name
        By which the scheduler is to know the worker.
    folder
        For what dask writes to disk.
    """
    return python_command(
        "from pmap_backends._dask_worker import main; "
        f"main({scheduler!r}, {name!r}, {folder!r}, {os.getpid()})"
    )
