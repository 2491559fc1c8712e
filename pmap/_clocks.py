"""What the system knows of the time of threads: on a CPU, in the kernel, waiting for a CPU.

In such a way that one thread can ask about another while that one runs, and mostly by clocks, which
are read without giving the GIL away: a file takes three turns at it, for which each time somebody
else's switch interval goes by.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "READABLE",
    "cpu_clock",
    "page_faults",
    "pool_seconds",
    "pool_threads",
    "system_seconds",
    "voluntary_switches",
    "waited_seconds",
]

#: Whether one thread can read another's CPU time.
READABLE = hasattr(time, "pthread_getcpuclockid")

#: Whether the system has such clocks as `_seconds` reads.
_HAS_CLOCKS = sys.platform.startswith("linux")

_POOL_THREAD = re.compile(r"polars-\d+")
#: Clocks of threads, as Linux numbers them: of all its time by ticks, that outside the kernel, exactly.
_TICKS, _USER_TICKS, _EXACT = 0, 1, 2


def cpu_clock() -> Callable[[], float]:
    """What reads the CPU seconds of the calling thread, from others too if they are `READABLE`."""
    if not READABLE:
        return time.thread_time
    clock = time.pthread_getcpuclockid(threading.get_ident())
    return lambda: time.clock_gettime(clock)


def waited_seconds(thread: int) -> float | None:
    """Seconds that a thread was ready to run and no CPU was free; ``None`` where nobody tells."""
    text = _read(f"/proc/self/task/{thread}/schedstat")
    return None if text is None else int(text.split()[1]) / 1e9


def system_seconds(thread: int) -> float | None:
    """Seconds that a thread was on a CPU in the kernel, to a hundredth; ``None`` where nobody tells."""
    if not _HAS_CLOCKS:
        return None
    try:
        return _seconds(thread, _TICKS) - _seconds(thread, _USER_TICKS)
    except OSError:
        return None


def _read(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(fd, 1000)
    finally:
        os.close(fd)


def voluntary_switches() -> int | None:
    """How often the calling thread has given up its CPU to wait; ``None`` where nobody tells."""
    used = _used_by("RUSAGE_THREAD")  # Linux
    return None if used is None else used.ru_nvcsw


def page_faults() -> int | None:
    """How often this process had to wait for a page of memory so far; ``None`` where nobody tells."""
    used = _used_by("RUSAGE_SELF")
    return None if used is None else used.ru_minflt


def _used_by(whom: str) -> Any:
    """What `getrusage` tells of them, if it does."""
    try:
        import resource  # noqa: PLC0415  POSIX only
    except ImportError:
        return None
    which = getattr(resource, whom, None)
    return None if which is None else resource.getrusage(which)


def pool_threads() -> list[int]:
    """Native ids of the threads of Polars' pool; none where threads can not be listed."""
    try:
        tasks = os.listdir("/proc/self/task")
    except OSError:
        return []
    return [int(task) for task in tasks if _POOL_THREAD.fullmatch(_name_of(task))]


def _name_of(task: str) -> str:
    try:
        with open(f"/proc/self/task/{task}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""  # it has ended meanwhile


_pool: tuple[int, list[int]] = (0, [])  # of which process, and its threads


def _known_pool() -> list[int]:
    """The threads of Polars' pool, looked for until all are there: they start one after the other."""
    global _pool  # noqa: PLW0603  once they are there they stay the same
    process, threads = _pool
    if process != os.getpid() or not threads or len(threads) < pl.thread_pool_size():
        _pool = (os.getpid(), pool_threads())
    return _pool[1]


def pool_seconds() -> float | None:
    """CPU seconds of Polars' pool so far; ``None`` where nobody tells."""
    try:
        return sum(_seconds(thread, _EXACT) for thread in _known_pool())
    except OSError:
        return None


def _seconds(thread: int, clock: int) -> float:
    """Of any thread of this process, by a number that Linux makes of both (as glibc does)."""
    return time.clock_gettime((~thread << 3) | 4 | clock)
