"""A folder that one job writes, and that survives its end at any instant.

Files are there in whole or not at all: written under a name that nobody can guess, and then
given their own. Only the owner may enter, and one process at a time: the kernel undoes its lock
when it ends, however that comes about.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import secrets
import stat
from typing import IO, TYPE_CHECKING, Any

from pmap._interrupts import deferred
from pmap._warn import warn
from pmap.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Folder"]

_LOCK = "lock"
_UNFINISHED = ".tmp"
#: Systems other than POSIX lack some.
_SAFE = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_HELD = frozenset({errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK})


class Folder:
    """A folder of one's own, locked until it is closed.

    Parameters
    ----------
    path
        Where; made if it is not there.
    known
        How names of its files begin: with any other in it, it is somebody else's.
    """

    def __init__(self, path: str, known: tuple[str, ...]) -> None:
        try:
            self.path = os.path.abspath(path)
        except OSError as exc:
            raise _said(exc, f"checkpoint={path!r}: the working folder is gone") from exc
        self._known = (*known, _LOCK)
        self._lock: IO[bytes] | None = None

    def open(self) -> None:
        """Make it if it is not there, and keep others out; to be closed even if that fails.

        Raises
        ------
        CheckpointError
            When it is in use, or not the user's own, or can not be made.
        """
        with self._saying("opened"):
            self._claim()
            with deferred:
                self._lock = _open(self.at(_LOCK), os.O_RDWR | os.O_CREAT)
            self._take_lock(self._lock.fileno())
            self._tidy()

    def at(self, name: str) -> str:
        """The path of a file in it."""
        return os.path.join(self.path, name)

    def _claim(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            os.mkdir(self.path, 0o700)
        others = [
            name
            for name in os.listdir(self.path)
            if not name.removeprefix(".").startswith(self._known)
        ]
        if others:
            raise CheckpointError(
                f"{self.path} is no checkpoint: {min(others)} is in it. Give checkpoint= a folder "
                "of its own, which need not be there yet"
            )
        self._check_owner()

    def _check_owner(self) -> None:
        """What others may write, they may have written."""
        if not hasattr(os, "geteuid"):
            return
        found = os.stat(self.path)
        if found.st_uid != os.geteuid() and found.st_uid != self._owner_of_new():
            raise CheckpointError(f"{self.path} belongs to another user: give another checkpoint=")
        if not os.listdir(self.path):
            os.chmod(self.path, 0o700)
        elif stat.S_IMODE(found.st_mode) & 0o022:
            raise CheckpointError(
                f"others may write to {self.path}, and so may have changed it: delete it, or, if you "
                f"trust them, chmod 700 {self.path}"
            )

    def _owner_of_new(self) -> int:
        """Whom this file system takes us for: over a network that may be nobody."""
        name = self.at(f".{_LOCK}.{secrets.token_hex(8)}{_UNFINISHED}")
        with _open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            os.unlink(name)
            return os.fstat(file.fileno()).st_uid

    def _take_lock(self, fd: int) -> None:
        try:
            _lock(fd)
        except OSError as exc:
            if exc.errno in _HELD:
                raise CheckpointError(
                    f"another job is using the checkpoint {self.path}: wait until it is over, or give "
                    "another path"
                ) from None
            warn(f"the file system of {self.path} has no locks: let no two jobs use it at once")

    def _tidy(self) -> None:
        """Files of a job that was killed while it wrote them."""
        for name in os.listdir(self.path):
            if name.endswith(_UNFINISHED):
                os.unlink(self.at(name))

    def names(self) -> list[str]:
        """Of the files in it."""
        return [name for name in os.listdir(self.path) if name != _LOCK]

    def read(self, name: str) -> bytes:
        """A file; no link is followed.

        Raises
        ------
        FileNotFoundError
            When it is not there.
        CheckpointError
            When it can not be read.
        """
        try:
            with _open(self.at(name), os.O_RDONLY) as file:
                return file.read()
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise _said(exc, f"{self.at(name)} can not be read") from exc

    def write(self, name: str, data: bytes) -> None:
        """A file, in whole or not at all."""
        unfinished = self.at(f".{name}.{secrets.token_hex(8)}{_UNFINISHED}")
        with self._saying(f"written: {name}"):
            try:
                with deferred:
                    file = _open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                with file:
                    _write_all(file, data)
                os.replace(unfinished, self.at(name))
            except BaseException:
                with contextlib.suppress(FileNotFoundError):  # it was never made, or has its name
                    os.unlink(unfinished)
                raise
            self._sync()

    def append(self, name: str, line: bytes) -> None:
        """A line at the end of a file, in whole or, but for a kill, not at all."""
        with self._saying(f"written: {name}"):
            with deferred:
                file = _open(self.at(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            with file:
                size = os.fstat(file.fileno()).st_size
                try:
                    _write_all(file, line)
                except BaseException:
                    os.ftruncate(file.fileno(), size)
                    raise
            if size == 0:
                self._sync()

    def cut(self, name: str, size: int) -> None:
        """Leave only the first bytes of a file."""
        with self._saying(f"written: {name}"), _open(self.at(name), os.O_WRONLY) as file:
            os.ftruncate(file.fileno(), size)

    def _sync(self) -> None:
        """Names are on the disk, too, where folders can be opened at all."""
        if not hasattr(os, "O_DIRECTORY"):
            return
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _saying(self, verb: str) -> Generator[None]:
        """Errors of the system in words."""
        try:
            yield
        except CheckpointError:
            raise
        except OSError as exc:
            raise _said(exc, f"the checkpoint {self.path} could not be {verb}") from exc

    def close(self) -> None:
        """Let others in."""
        if self._lock is not None:
            self._lock.close()


def _said(exc: OSError, what: str) -> CheckpointError:
    reason = exc.strerror or str(exc)
    way_out = (
        ". What was kept before is intact: make room, and run the same call again"
        if exc.errno in _NO_ROOM
        else ""
    )
    error = CheckpointError(f"{what}: {reason}{way_out}")
    error.errno = exc.errno
    return error


def _open(path: str, flags: int) -> IO[bytes]:
    """A file of the owner's alone; no link is followed."""
    mode = "rb" if flags & (os.O_WRONLY | os.O_RDWR) == 0 else "r+b" if flags & os.O_RDWR else "wb"
    return open(path, mode, buffering=0, opener=lambda name, _: os.open(name, flags | _SAFE, 0o600))


def _write_all(file: IO[bytes], data: bytes) -> None:
    """To the disk itself; a system call may write less than it was given."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def _lock(fd: int) -> None:
    try:
        fcntl: Any = importlib.import_module("fcntl")
    except ImportError:
        msvcrt: Any = importlib.import_module("msvcrt")
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
