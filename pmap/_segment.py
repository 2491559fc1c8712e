"""Anonymous memory that the caller owns and its workers open.

A segment has no name that could outlive the caller: the kernel frees its pages when the
last descriptor and the last mapping are gone, however the processes end. Three kinds, the
first that works here:

=========  ==========================================================  ==================
kind       what it is                                                  workers open
=========  ==========================================================  ==================
memfd      `memfd_create`: pages without a file system or its limits   /proc/<caller>/fd/n
unlinked   a temporary file without a name                             /proc/<caller>/fd/n
named      a temporary file (0600, in a 0700 folder), removed on close  its path
=========  ==========================================================  ==================
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pmap.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Segment", "SegmentPool", "map_path"]


def _memfd() -> tuple[int, str | None]:
    return os.memfd_create("pmap", os.MFD_CLOEXEC), None


def _unlinked() -> tuple[int, str | None]:
    fd, path = tempfile.mkstemp(prefix="pmap-")
    Path(path).unlink()
    return fd, None


def _named() -> tuple[int, str | None]:
    folder = tempfile.mkdtemp(prefix="pmap-")
    path = os.path.join(folder, "segment")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), path


#: Largest segment that is kept for the next result. Bytes.
_KEPT_BYTES = 4 * 1024 * 1024

KINDS: dict[str, Callable[[], tuple[int, str | None]]] = {
    "memfd": _memfd,
    "unlinked": _unlinked,
    "named": _named,
}


@cache
def default_kind() -> str:
    """The first kind of segment that this machine grants."""
    for kind in ("memfd", "unlinked"):
        try:
            fd, _ = KINDS[kind]()
        except (OSError, AttributeError):
            continue  # not on this platform, or forbidden: the next kind
        reachable = os.path.exists(f"/proc/{os.getpid()}/fd/{fd}")
        os.close(fd)
        if reachable:
            return kind
    return "named"


class Segment:
    """One piece of shared memory, owned by this process.

    To be closed by whoever made it: a finalizer in Python would swallow a Ctrl-C.
    """

    def __init__(self, kind: str | None = None) -> None:
        try:
            self._fd, self._name = KINDS[kind or default_kind()]()
        except OSError as exc:
            raise no_room(exc, "make a shared memory segment") from exc
        self._pid = os.getpid()
        self.mapped = False  #: so that nobody may write into it any more

    @property
    def path(self) -> str:
        """Where a worker on this machine opens it."""
        return self._name or f"/proc/{self._pid}/fd/{self._fd}"

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self._fd).st_size

    def map(self) -> mmap.mmap:
        """Map what is there, read-only; the mapping outlives `close`."""
        self.mapped = True
        return mmap.mmap(self._fd, 0, prot=mmap.PROT_READ)

    def read(self, size: int) -> bytes:
        """Copy the first `size` bytes."""
        return os.pread(self._fd, size, 0)

    def map_writable(self, size: int) -> mmap.mmap:
        """Make it `size` bytes of zeros and map them, writable."""
        os.ftruncate(self._fd, size)
        return mmap.mmap(self._fd, size)

    def write(self, data: bytes) -> None:
        """Write all of `data` at the start."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as exc:
            self.close()
            raise no_room(exc, f"write {len(data):,} bytes") from exc

    def close(self) -> None:
        """Let go of the segment; its pages go when the last mapping does."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if self._name is not None and os.getpid() == self._pid:
            shutil.rmtree(os.path.dirname(self._name), ignore_errors=True)


class SegmentPool:
    """Segments for workers to write into, made when needed and used again.

    What an earlier worker wrote stays there: writers say how much is theirs.
    """

    def __init__(self) -> None:
        self._free: list[Segment] = []

    def take(self) -> Segment:
        """A segment that nobody uses."""
        return self._free.pop() if self._free else Segment()

    def give_back(self, segment: Segment) -> None:
        """Return a segment: kept, with its pages, if nobody maps it and it is not large."""
        if not segment.mapped and segment.size <= _KEPT_BYTES:
            self._free.append(segment)
        else:
            segment.close()

    def close(self) -> None:
        """Let go of all of them."""
        while self._free:
            self._free.pop().close()


def map_path(path: str, *, writable: bool = False) -> mmap.mmap:
    """Map a caller's segment in a worker, read-only unless asked."""
    fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        return mmap.mmap(fd, 0, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
    finally:
        os.close(fd)


def no_room(exc: BaseException, doing: str) -> TransportError:
    """An error of the system while moving a frame, as a `TransportError` that helps."""
    code = exc.errno if isinstance(exc, OSError) else None
    hint = {
        errno.ENOSPC: "memory for shared segments is full: send fewer columns, or smaller partitions",
        errno.ENOMEM: "the machine has no memory left: send fewer columns, or smaller partitions",
        errno.EMFILE: "too many open files in this process: raise `ulimit -n`, or use fewer workers",
        errno.ENFILE: "too many open files on this machine",
    }.get(code or 0, "see the cause")
    return TransportError(f"could not {doing}: {exc} ({hint})")
