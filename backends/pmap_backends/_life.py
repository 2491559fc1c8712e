"""Processes that end with the caller, whatever they are at: the kernel sees to it.

A thread that watches a pipe needs the interpreter's lock to act, and code in C may never let
go of that. So, on Linux, the caller holds a pipe that nothing is ever written to. Each process
that it starts opens the pipe anew and wants SIGKILL for what happens on it; all that can
happen is the end of its last writer, and that is the caller.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LifeLine", "end_with", "keep_from_forks", "life_line"]


class LifeLine(NamedTuple):
    """The caller's pipe as others find it; the inode says that it is still the same."""

    path: str
    inode: int


@cache
def _pipe() -> tuple[int, int]:
    """Of this process, held until its end."""
    return os.pipe()


def life_line() -> LifeLine | None:
    """Caller's side: what a process needs to `end_with` this one; ``None``: no such thing here."""
    if not sys.platform.startswith("linux"):
        return None
    reader, _ = _pipe()
    return LifeLine(f"/proc/{os.getpid()}/fd/{reader}", os.fstat(reader).st_ino)


def end_with(line: LifeLine | None) -> None:
    """Child's side: be killed when the caller ends.

    Nothing changes where the pipe can not be opened: a slower watch is kept everywhere.
    """
    if line is None:
        return
    with contextlib.suppress(OSError):  # the caller has ended, or /proc is closed to us
        fd = os.open(line.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        found = os.fstat(fd)
        if stat.S_ISFIFO(found.st_mode) and found.st_ino == line.inode:
            _kill_at_the_end_of(fd)
        else:
            os.close(fd)


def _kill_at_the_end_of(fd: int) -> None:
    import fcntl  # noqa: PLC0415  not on every platform

    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    with contextlib.suppress(BlockingIOError):  # the caller lives
        os.read(fd, 1)
        os._exit(1)  # it ended while this was being said


def keep_from_forks(fds: Iterable[int]) -> None:
    """Child's side: a fork that a function makes shall have nothing of these descriptors.

    Who holds a worker's pipes hides its death, and could speak in its place. They lead nowhere
    then, rather than to what is opened next.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=partial(_lead_nowhere, tuple(fds)))


def _lead_nowhere(fds: tuple[int, ...]) -> None:
    with contextlib.suppress(OSError):  # no /dev/null: as it was
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in fds:
            os.dup2(nowhere, fd, inheritable=False)
        os.close(nowhere)


def _let_go() -> None:
    """In a fork of the caller, which must not seem to be the caller."""
    if _pipe.cache_info().currsize:
        for fd in _pipe():
            with contextlib.suppress(OSError):  # the program has closed it
                os.close(fd)
        _pipe.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
