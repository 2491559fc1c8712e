"""What this process may use: CPUs by affinity and cgroup quota, memory by cgroup and machine.

`loky.cpu_count` and `os.process_cpu_count` look at the root of the cgroup tree or not at
all; a quota that a service manager puts on an inner group is seen only along the path of
the process's own group, so that path is walked here.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import time
from functools import cache, lru_cache
from pathlib import PurePosixPath
from typing import NamedTuple

__all__ = [
    "Memory",
    "available_memory",
    "cpu_count",
    "memory_kills",
    "memory_of",
    "open_files_limit",
    "tight_limits",
]

_CGROUPS = "/sys/fs/cgroup"
_PAGE = mmap.PAGESIZE


class Memory(NamedTuple):
    """What a process holds: all that is resident, and that of it which nobody shares. Bytes."""

    resident: int
    own: int


def cpu_count() -> int:
    """CPUs that this process may use.

    The least of the CPUs of its affinity mask, the quota of its cgroup (v1 or v2) and of
    every group above it, rounded up, and ``LOKY_MAX_CPU_COUNT`` if that is set, since
    joblib and loky obey it too.

    Returns
    -------
    int
        At least 1.

    Examples
    --------
    >>> import pmap
    >>> pmap.cpu_count() >= 1
    True
    """
    limits = [_affinity(), *(math.ceil(quota) for quota in _quotas())]
    with contextlib.suppress(KeyError, ValueError):
        limits.append(int(os.environ["LOKY_MAX_CPU_COUNT"]))
    return max(1, min(limits))


def _this_second() -> int:
    """What is read of the system holds for a second: reading it takes longer than a small call."""
    return int(time.monotonic())


def _affinity() -> int:
    with contextlib.suppress(AttributeError, OSError):  # not on every platform
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _own_groups(controller: str) -> tuple[str, ...]:
    """Folders of this process's cgroup and those above it that govern `controller`."""
    folders: list[str] = []
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and controller not in controllers.split(","):
            continue
        root = _root_of(controllers)
        inner = PurePosixPath(root, path.lstrip("/"))
        folders += [
            str(folder) for folder in (inner, *inner.parents) if folder.is_relative_to(root)
        ]
    return tuple(folder for folder in folders if os.path.isdir(folder))


def _root_of(controllers: str) -> str:
    """Of a hierarchy; version 1 has one for some controllers, named in any order."""
    if controllers and os.path.isdir(_CGROUPS):
        for name in os.listdir(_CGROUPS):
            if set(name.split(",")) == set(controllers.split(",")):
                return f"{_CGROUPS}/{name}"
    return _CGROUPS


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []  # no such controller or platform: no limit


def _number(path: str) -> float | None:
    for line in _lines(path):
        with contextlib.suppress(ValueError):  # "max"
            return float(line.split()[0])
    return None


def _quotas() -> list[float]:
    """CPUs granted by each group that limits them."""
    return _quotas_in(_this_second())


@lru_cache(maxsize=1)
def _quotas_in(second: int) -> list[float]:  # noqa: ARG001  what is known for that long
    quotas = (_quota(folder) for folder in _own_groups("cpu"))
    return [quota for quota in quotas if quota is not None]


def _quota(folder: str) -> float | None:
    for line in _lines(f"{folder}/cpu.max"):
        with contextlib.suppress(ValueError):  # "max", or nothing that we know
            granted, period = line.split()
            return float(granted) / float(period)
        return None
    granted_us = _number(f"{folder}/cpu.cfs_quota_us")  # -1: no limit
    if granted_us is None or granted_us <= 0:
        return None
    return granted_us / (_number(f"{folder}/cpu.cfs_period_us") or 100_000)


def available_memory() -> int | None:
    """Bytes that can still be allocated: the least of machine and cgroups; ``None`` if unknown."""
    return _memory_in(_this_second())


@lru_cache(maxsize=1)
def _memory_in(second: int) -> int | None:  # noqa: ARG001  what is known for that long
    known = [max(0, int(limit - used)) for limit, used in _memory_limits()]
    known += [
        int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if "MemAvailable" in line
    ]
    return min(known, default=None)


def _memory_limits() -> list[tuple[float, float]]:
    """Of each group with a limit: that limit, and what of it is in use, in bytes."""
    limits = ((_number(limit), used, stat) for limit, used, stat in _memory_files())
    return [(limit, _in_use(used, stat)) for limit, used, stat in limits if limit is not None]


def _in_use(used: str, stat: str) -> float:
    """Without cached files that nobody has looked at for long, which the kernel drops at need."""
    idle = [float(line.split()[1]) for line in _lines(stat) if line.startswith("inactive_file ")]
    return (_number(used) or 0.0) - sum(idle)


@cache
def _memory_files() -> tuple[tuple[str, str, str], ...]:
    names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    files = (
        (f"{folder}/{limit}", f"{folder}/{used}", f"{folder}/memory.stat")
        for folder in _own_groups("memory")
        for limit, used in names
    )
    return tuple(found for found in files if os.path.isfile(found[0]))


def memory_of(pid: int) -> Memory | None:
    """What a process holds at the moment; ``None`` if it has ended, or can't be told."""
    lines = _lines(f"/proc/{pid}/statm")
    if not lines:
        return None
    resident, shared = (int(pages) * _PAGE for pages in lines[0].split()[1:3])
    return Memory(resident, resident - shared)


def memory_kills(*, now: bool = True) -> int | None:
    """Processes that the kernel has ended so far for want of memory, where it counts them.

    Of this process's cgroup and those above it; without such, of the whole machine. If not
    asked for `now`, it may be what was counted within the last second.
    """
    if now:
        _kills_in.cache_clear()
    return _kills_in(_this_second())


@lru_cache(maxsize=1)
def _kills_in(second: int) -> int | None:  # noqa: ARG001  what is known for that long
    files = [f"{folder}/memory.events" for folder in _own_groups("memory")]
    files += [f"{folder}/memory.oom_control" for folder in _own_groups("memory")]
    counts = [_count_of_kills(path) for path in (*files, "/proc/vmstat")]
    return max((count for count in counts if count is not None), default=None)


def _count_of_kills(path: str) -> int | None:
    found = [int(line.split()[1]) for line in _lines(path) if line.startswith("oom_kill ")]
    return found[0] if found else None


def open_files_limit() -> int:
    """Files that this process may have open at once."""
    try:
        import resource  # noqa: PLC0415  POSIX only
    except ImportError:
        return 512  # the C library's default on Windows
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if soft == resource.RLIM_INFINITY else soft


#: Processes and threads of one user that are few for a pool of workers.
_FEW_PROCESSES = 1024


def tight_limits() -> str:
    """What `ulimit` says that may keep workers from starting, for messages; mostly nothing."""
    try:
        import resource  # noqa: PLC0415  POSIX only
    except ImportError:
        return ""
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    found: list[str] = []
    if 0 <= processes < _FEW_PROCESSES:
        found.append(f"{processes} processes and threads of this user (`ulimit -u`)")
    if space != resource.RLIM_INFINITY:
        found.append(f"{space:,} bytes of addresses for each process (`ulimit -v`)")
    return f"; the limits here are {' and '.join(found)}" if found else ""
