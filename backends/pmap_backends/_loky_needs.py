"""What loky needs of a machine, which workers of pmap's own do without."""

from __future__ import annotations

import errno
import os
import sys

from loky import process_executor
from loky.backend import resource_tracker

from pmap._resources import tight_limits
from pmap_backends._launch import not_granted, refuse_frozen

__all__ = ["do_without_proc", "remedy", "start_tracker"]

_INSTEAD = "use backend='forkserver' or 'spawn', which do without"
#: Of semaphores with names, where the system has no place for them.
_NO_PLACE = frozenset({errno.ENOENT, errno.EROFS, errno.EACCES, errno.ENOSPC, errno.ENOSYS})


def start_tracker() -> None:
    """Start loky's process that removes semaphores, unless it runs.

    Raises
    ------
    WorkerStartError
        When the system grants no process, or this program is no Python.
    """
    refuse_frozen()
    try:
        resource_tracker.ensure_running()
    except OSError as exc:
        raise not_granted("start loky's resource tracker", exc) from exc


def remedy(failure: BaseException | None) -> str:
    """What to do when no worker of loky's starts, as far as the system tells; begins with ``:``."""
    if sys.stdout is None or sys.stderr is None:
        return f": loky needs sys.stdout and sys.stderr, which are None here; {_INSTEAD}"
    if not os.path.isdir(_working_folder()):
        return f": loky needs a working folder, and this one was deleted: os.chdir, or {_INSTEAD}"
    code = failure.errno if isinstance(failure, OSError) else None
    if code in _NO_PLACE:
        return f": loky needs a /dev/shm that can be written to, for semaphores; {_INSTEAD}"
    return tight_limits()


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def do_without_proc() -> None:
    """In each worker: have loky not look up its memory where the system does not show it.

    It does so to replace workers that leak, which pmap has turned off in any case.
    """
    if sys.platform.startswith("linux") and not os.path.exists("/proc/self/stat"):
        process_executor._USE_PSUTIL = False  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
