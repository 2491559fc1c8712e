"""Anonymous memory that the caller owns and its workers open.

A segment has no name that could outlive the caller: the kernel frees its pages when the
last descriptor and the last mapping are gone, however the processes end. Three kinds, the
first that works here:

=========  ==========================================================  ==================
kind       what it is                                                  workers open
=========  ==========================================================  ==================
memfd      `memfd_create`: pages without a file system or its limits   /proc/<caller>/fd/n
unlinked   a temporary file without a name, where there is most room   /proc/<caller>/fd/n
named      a temporary file (0600, in a 0700 folder), removed on close  its path
=========  ==========================================================  ==================

Descriptors are used again, so a path alone does not name a segment: it begins with a mark
and a token, which whoever opens it checks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import mmap
import os
import secrets
import shutil
import struct
import sys
import tempfile
import threading
from collections import deque
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pmap._background import start_unseen
from pmap._interrupts import give_way
from pmap._resources import available_memory, cpu_count
from pmap._standard import keep_open
from pmap.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    #: To an address, from an address, so many bytes.
    Move = tuple[int, int, int]

__all__ = [
    "START",
    "Segment",
    "Shared",
    "Writer",
    "kind_for",
    "map_shared",
    "no_room",
    "open_shared",
]

#: Where the data begin: bytes. What lies before says what this is.
START = 64
_HEADER = struct.Struct("=8sq")
_MARK = b"pmap-seg"
#: Bytes that one system call writes at most: in between, Ctrl-C is looked for.
_AT_ONCE = 1 << 28

#: Of `prctl`.
_PR_GET_DUMPABLE = 3
#: Windows has no such links.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)

#: From this size on a mapping is worth its page tables. Bytes.
_WORTH_MAPPING = 1024 * 1024
#: From this size on several threads copy. Bytes.
_WORTH_THREADS = 8 * 1024 * 1024
#: Threads that copy at once; more do not fill the memory bus better.
_MOST_THREADS = 2
#: What each of them takes at a time. Bytes.
_PIECE = 2 * 1024 * 1024
#: From this size on it is worth asking how much memory is left. Bytes.
_WORTH_ASKING = 16 * 1024 * 1024

#: Others on the machine can not guess where it begins.
_tokens = itertools.count(secrets.randbits(62))


class Shared(NamedTuple):
    """A segment as others know it."""

    path: str
    token: int


def _memfd() -> tuple[int, str | None]:
    fd = os.memfd_create("pmap", os.MFD_CLOEXEC)
    os.fchmod(fd, 0o600)  # the kernel lets everybody in
    return fd, None


def _unlinked() -> tuple[int, str | None]:
    folder = _roomiest()
    with contextlib.suppress(OSError, AttributeError):  # many file systems have no such files
        flags = os.O_RDWR | os.O_TMPFILE | os.O_EXCL | os.O_CLOEXEC
        return os.open(folder, flags, 0o600), None
    fd, path = tempfile.mkstemp(prefix="pmap-", dir=folder)
    os.unlink(path)
    return fd, None


def _named() -> tuple[int, str | None]:
    folder = tempfile.mkdtemp(prefix="pmap-", dir=_roomiest())
    path = os.path.join(folder, "segment")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _NO_LINK
    return os.open(path, flags, 0o600), path


def _roomiest() -> str:
    """The folder for temporary files with most room.

    Raises
    ------
    FileNotFoundError
        When no folder can be written to.
    """
    room: dict[str, int] = {}
    for folder in ("/dev/shm", _usual_folder(), "/var/tmp"):  # noqa: S108  files there are made safely
        with contextlib.suppress(OSError, AttributeError):
            if os.access(folder, os.W_OK):
                stat = os.statvfs(folder)
                room[folder] = stat.f_bavail * stat.f_frsize
    return max(room, key=room.__getitem__, default="") or tempfile.gettempdir()


def _usual_folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return ""  # none of those that Python knows; there may be others


KINDS: dict[str, Callable[[], tuple[int, str | None]]] = {
    "memfd": _memfd,
    "unlinked": _unlinked,
    "named": _named,
}


def default_kind() -> str:
    """The first kind of segment that this machine grants, and that workers can open."""
    return _first_kind() if _is_open_to_workers() else "named"


@cache
def _first_kind() -> str:
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


def _is_open_to_workers() -> bool:
    """Whether the kernel shows this process's descriptors to others of its user.

    Not those of one that changed its user since it was started, as servers do, or that hides.
    """
    if not sys.platform.startswith("linux"):
        return True
    shown: int = _libc().prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
    return shown == 1


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def kind_for(transport: str) -> str:
    """Of the segments for what `config` calls `transport`."""
    if transport != "file" or default_kind() == "named":
        return default_kind()
    return "unlinked"


class Segment:
    """One piece of shared memory, owned by this process.

    To be closed by whoever made it: a finalizer in Python would swallow a Ctrl-C.
    """

    def __init__(self, kind: str | None = None) -> None:
        self.kind = kind or default_kind()
        keep_open()
        try:
            self._fd, self._name = KINDS[self.kind]()
        except OSError as exc:
            raise no_room(exc, "make a shared memory segment") from exc
        self._pid = os.getpid()
        self._memory: mmap.mmap | None = None
        self._writer = Writer(min(_MOST_THREADS, cpu_count())) if self.kind == "memfd" else None
        self.reusable = True  #: as long as no worker may have mapped it
        self.lent = False  #: whether it has become frames of the user's
        self.renew()

    def renew(self) -> None:
        """Make another segment of it, with the same pages: who knows the old one finds it gone."""
        #: How a worker on this machine opens it.
        self.shared = Shared(self._name or f"/proc/{self._pid}/fd/{self._fd}", next(_tokens))
        try:
            os.pwrite(self._fd, _HEADER.pack(_MARK, self.shared.token), 0)
        except OSError as exc:
            raise no_room(exc, f"write {_HEADER.size} bytes") from exc

    @property
    def n_bytes(self) -> int:
        """Memory, or disk, that it takes up."""
        return os.fstat(self._fd).st_blocks * 512

    def map(self, size: int) -> mmap.mmap:
        """Its first `size` bytes at least, read-only; the mapping outlives `close`.

        Raises
        ------
        TransportError
            When there is less: to read on would end the process by a signal.
        """
        if self._memory is None or len(self._memory) < size:
            self._memory = _map(self._fd, size, self.shared)
        return self._memory

    def map_writable(self, size: int) -> mmap.mmap:
        """Make it `size` bytes and map them, writable."""
        os.ftruncate(self._fd, size)
        return mmap.mmap(self._fd, size)

    def read(self, start: int, size: int) -> bytes:
        """Copy `size` bytes."""
        data = os.pread(self._fd, size, start)
        if len(data) < size:
            raise TransportError(f"a segment holds {len(data):,} bytes where {size:,} were said")
        return data

    def write(self, pieces: list[tuple[Any, int]], size: int = 0) -> None:
        """Write each piece at its offset; there are `size` bytes at least afterwards.

        Raises
        ------
        TransportError
            When there is no room, with the number of bytes.
        """
        refuse_if_full(self._fd, size)
        if self._writer is None:
            write_at(self._fd, pieces, size)
        else:
            self._writer.write(self._fd, pieces, size)

    def close(self) -> None:
        """Let go of the segment; its pages go when the last mapping does."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd, self._memory, self._writer = -1, None, None
        if self._name is not None and os.getpid() == self._pid:
            shutil.rmtree(os.path.dirname(self._name), ignore_errors=True)


def write_at(fd: int, pieces: list[tuple[Any, int]], size: int = 0) -> None:
    """Write pieces (anything with a buffer) at their offsets; the file has `size` bytes at least.

    By `pwrite` and not through a mapping: new pages need not be zeroed first, and a full
    file system is an error rather than a signal.
    """
    try:
        for piece, offset in pieces:
            at, view = offset, memoryview(piece).cast("B")
            while view:
                n = os.pwrite(fd, view[:_AT_ONCE], at)
                at, view = at + n, view[n:]
                if n >= _WORTH_MAPPING:
                    give_way()
        if os.fstat(fd).st_size < size:
            os.ftruncate(fd, size)  # what is left out at the end
    except OSError as exc:
        total = sum(memoryview(piece).nbytes for piece, _ in pieces)
        raise no_room(exc, f"write {total:,} bytes") from exc


def _copy(base: int, arrays: list[tuple[int, Any]], n_threads: int) -> None:
    """Copy ctypes arrays to offsets from `base`, in several threads if they are large.

    Each takes the next bytes that nobody has taken: where workers keep the CPUs busy, a thread may
    come late, and nobody waits for what it has not begun.
    """
    moves = [(base + at, ctypes.addressof(array), len(array)) for at, array in arrays]
    if n_threads == 1 or sum(size for *_, size in moves) < _WORTH_THREADS:
        _move_all(deque(moves))
        return
    left = deque(_cut(moves))
    at_work = [threading.Lock() for _ in range(n_threads - 1)]
    for lock in at_work:
        start_unseen(partial(_help, left, lock))
    try:
        _move_all(left)
    finally:  # a Ctrl-C too: what is being copied must stay until it is copied
        left.clear()
        for lock in at_work:
            with lock:
                pass


def _cut(moves: list[Move]) -> Iterator[Move]:
    """What is to be copied, in pieces that take a moment each."""
    for to, source, size in moves:
        for at in range(0, size, _PIECE):
            yield to + at, source + at, min(_PIECE, size - at)


def _help(left: deque[Move], at_work: threading.Lock) -> None:
    with at_work:
        _move_all(left)


def _move_all(left: deque[Move]) -> None:
    with contextlib.suppress(IndexError):
        while True:
            ctypes.memmove(*left.popleft())  # other threads go on meanwhile


def refuse_if_full(fd: int, size: int) -> None:
    """Raise before memory runs out: the kernel would rather kill a process than say so.

    Raises
    ------
    TransportError
        When a segment in memory can not grow to `size`.
    """
    if size < _WORTH_ASKING or not is_memory(fd):
        return
    new, left = size - os.fstat(fd).st_blocks * 512, available_memory()
    if left is not None and new > left:
        raise TransportError(
            f"{size:,} bytes do not fit into memory, where {left:,} are left: send fewer columns or "
            "smaller partitions, or use pmap.config(transport='file')"
        )


class Writer:
    """Writes again and again into a file in memory.

    Pages that are there are written through a mapping, twice as fast as by system calls.

    Parameters
    ----------
    n_threads
        That copy at once, where it is worth it.
    """

    def __init__(self, n_threads: int = 1) -> None:
        self._n_threads = n_threads
        self._n_written = 0
        self._memory: memoryview | None = None
        self._address = 0

    def write(self, fd: int, pieces: list[tuple[Any, int]], size: int) -> None:
        """As `write_at`; to `size`, the end of all pieces."""
        if size > self._n_written or size < _WORTH_MAPPING:
            write_at(fd, pieces, size)
            self._n_written = max(size, self._n_written)
            return
        if self._memory is None or len(self._memory) < size:
            memory = mmap.mmap(fd, 0, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
            self._memory = memoryview(memory)
            self._address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        large: list[tuple[int, Any]] = [
            (at, piece) for piece, at in pieces if isinstance(piece, ctypes.Array)
        ]
        _copy(self._address, large, self._n_threads)
        for piece, at in pieces:
            if not isinstance(piece, ctypes.Array):
                view = memoryview(piece).cast("B")
                self._memory[at : at + view.nbytes] = view


@contextlib.contextmanager
def open_shared(shared: Shared, flags: int = os.O_RDONLY) -> Generator[int]:
    """A caller's segment in a worker, as a descriptor.

    Raises
    ------
    TransportError
        When the segment is gone, or something else is in its place.
    """
    try:
        fd = os.open(shared.path, flags | os.O_CLOEXEC | _no_link(shared.path))
    except FileNotFoundError as exc:
        raise TransportError(f"a shared segment is gone: {shared.path}: {exc}") from exc
    except OSError as exc:
        raise TransportError(
            f"a worker can not open a shared segment of its caller: {exc}"
        ) from exc
    try:
        if os.pread(fd, _HEADER.size, 0) != _HEADER.pack(_MARK, shared.token):
            raise TransportError(f"{shared.path} is not the segment that was meant")
        yield fd
    finally:
        os.close(fd)


def _no_link(path: str) -> int:
    """No link is followed but those of the kernel's own, to what a process has open."""
    return 0 if path.startswith("/proc/") else _NO_LINK


def map_shared(shared: Shared, size: int = 0, *, writable: bool = False) -> mmap.mmap:
    """Map a caller's segment in a worker, read-only unless asked; at least `size` bytes."""
    with open_shared(shared, os.O_RDWR if writable else os.O_RDONLY) as fd:
        return _map(fd, size, shared, writable=writable)


def is_memory(fd: int) -> bool:
    """Whether a descriptor is of memory without a file system behind it."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:")
    except OSError:  # no such platform
        return False


def _map(fd: int, size: int, shared: Shared, *, writable: bool = False) -> mmap.mmap:
    there = os.fstat(fd).st_size
    if there < size:
        raise TransportError(f"{shared.path} holds {there:,} bytes where {size:,} were said")
    return mmap.mmap(fd, 0, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))


def no_room(exc: BaseException, doing: str) -> TransportError:
    """An error of the system while moving a frame, as a `TransportError` that helps."""
    code = exc.errno if isinstance(exc, OSError) else None
    hint = {
        errno.ENOSPC: "the memory, or the folder, for shared segments is full: send fewer columns, or "
        "smaller partitions, or set TMPDIR to a folder with more room",
        errno.ENOMEM: "the machine has no memory left: send fewer columns, or smaller partitions",
        errno.EFBIG: "the limit for the size of a file (`ulimit -f`) is in the way",
        errno.EMFILE: "too many open files in this process: raise `ulimit -n`, or use fewer workers",
        errno.ENOENT: "set TMPDIR to a folder that can be written to",
        errno.ENFILE: "too many open files on this machine",
    }.get(code or 0, "see the cause")
    return TransportError(f"could not {doing}: {exc} ({hint})")
