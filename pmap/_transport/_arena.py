"""Memory of the worker's own, and how the caller's is read into it.

`process_vm_readv` copies from one process to another without a shared page between them, so
that a worker holds no more than the partition that it works on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import mmap
import os
import secrets
import sys
import weakref
from functools import cache
from typing import TYPE_CHECKING, Any

from pmap._transport._parcel import Memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Arena", "PullRefusedError", "is_possible", "own_memory", "pull", "pull_bytes"]

#: Buffers that one call reads at most (the kernel's limit).
_BATCH = 1024
#: Arenas from this size on ask for large pages. Bytes.
_LARGE = 4 * 1024 * 1024


class PullRefusedError(Exception):
    """The kernel does not let this process read the caller's memory."""


class _Vector(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("size", ctypes.c_size_t))


@cache
def _readv() -> Any:
    return ctypes.CDLL(None, use_errno=True).process_vm_readv


def is_possible() -> bool:
    """Whether this platform has the call; whether it is permitted is seen when it is tried."""
    return sys.platform == "linux"


_proof = ctypes.create_string_buffer(secrets.token_bytes(16), 16)


def own_memory() -> Memory:
    """The memory of this process as a place."""
    return Memory(os.getpid(), ctypes.addressof(_proof), _proof.raw)


def _renew_proof() -> None:
    _proof.raw = secrets.token_bytes(16)  # a fork has the same addresses with other data


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_proof)


def pull(memory: Memory, reads: Iterable[tuple[int, int, int]]) -> None:
    """Copy from another process: its address, a size, and this process's address, each.

    Raises
    ------
    PullRefusedError
        When the kernel forbids it, or the process is not the one that was meant.
    """
    proof = ctypes.create_string_buffer(16)
    first = (memory.proof_at, 16, ctypes.addressof(proof))
    wanted = itertools.chain([first], (read for read in reads if read[1] > 0))
    while batch := list(itertools.islice(wanted, _BATCH)):
        _pull(memory.pid, batch)
    if proof.raw != memory.proof:
        raise PullRefusedError(f"process {memory.pid} is not the caller")


def _pull(pid: int, batch: list[tuple[int, int, int]]) -> None:
    while batch:
        count = len(batch)
        theirs = (_Vector * count)(*(_Vector(address, size) for address, size, _ in batch))
        ours = (_Vector * count)(*(_Vector(address, size) for _, size, address in batch))
        call = _readv()
        call.restype = ctypes.c_ssize_t
        done: int = call(pid, ours, count, theirs, count, 0)
        if done <= 0:
            code = ctypes.get_errno()
            raise PullRefusedError(
                f"reading the memory of process {pid}: {errno.errorcode.get(code, code)}"
            )
        batch = list(_rest(batch, done))


def _rest(batch: list[tuple[int, int, int]], done: int) -> Iterator[tuple[int, int, int]]:
    """What is left after `done` bytes: one call moves 2 GB at most."""
    for theirs, size, ours in batch:
        skip = min(size, done)
        done -= skip
        if skip < size:
            yield theirs + skip, size - skip, ours + skip


def pull_bytes(memory: Memory, address: int, size: int) -> bytes:
    """A few bytes of another process."""
    buffer = ctypes.create_string_buffer(size)
    pull(memory, [(address, size, ctypes.addressof(buffer))])
    return buffer.raw


class Arena:
    """Anonymous memory for one partition, used again when nothing looks at it any more."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._user: weakref.ref[memoryview] | None = None

    def take(self, size: int, *, keep: bool) -> memoryview:
        """`size` bytes; whoever holds the view, or a view of it, holds the memory."""
        if not keep:
            return memoryview(_new(size))
        if self._memory is None or self._in_use() or len(self._memory) < size:
            self._memory = _new(size)
        view = memoryview(self._memory)
        self._user = weakref.ref(view)
        return view

    def _in_use(self) -> bool:
        return self._user is not None and self._user() is not None

    def __bool__(self) -> bool:
        return self._memory is not None

    def forget(self) -> None:
        """Give the memory back, now or when its last user goes."""
        self._memory = self._user = None


def _new(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size)
    if size >= _LARGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
