"""What is between a pool and one of its workers: tasks one way, and answers the other.

Answers come through a pipe, whose end is the worker's. Tasks go, where the system has such sockets,
through an inbox that keeps them apart, and of which the pool holds both ends. So one may wait there
behind the task that runs, and the worker need not wait until the pool has heard of that and sent
another; and if a second worker has nothing to do, the pool takes it back. Both read whole messages, and
the kernel sees to it that one of them gets it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING

from pmap_backends._life import keep_from_forks

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from multiprocessing.connection import Connection

__all__ = ["HAS_INBOX", "LONGEST", "Link", "WorkerEnd", "blocking_pair"]

#: Whether tasks have a road of their own.
HAS_INBOX = sys.platform.startswith("linux")
#: The longest message of an inbox, and what there is room for: bytes. A buffer of that size is what each
#: message is read into; the C library has it at hand, where it would map a larger one.
LONGEST, _ROOM = 64 * 1024, 128 * 1024
#: In the place of a task that is longer: it comes through the pipe. No pickle begins so.
_BY_PIPE = b"\0"
#: What follows a task, by which it is known when it is taken back: pickles end before it.
_NUMBER = struct.Struct("q")
_LONGEST_MESSAGE = LONGEST + _NUMBER.size


class Link:
    """The pool's ends.

    Raises
    ------
    OSError
        When the system grants no more descriptors.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            ours, self._theirs = map(stack.enter_context, blocking_pair())
            self._inbox = _Inbox() if HAS_INBOX else None
            stack.pop_all()
        self._pipe = _connection(ours.detach())
        self.fileno = self._pipe.fileno

    @contextlib.contextmanager
    def handed_over(self) -> Generator[list[int]]:
        """The descriptors that a worker is started with; all are closed if that fails."""
        fds = [self._theirs.fileno()]
        try:
            yield fds if self._inbox is None else [*fds, self._inbox.end.fileno()]
        except BaseException:
            self.close()
            raise
        finally:
            self._theirs.close()  # who holds it hides the worker's death

    def send(self, task: bytes, number: int) -> bool:
        """Send a task, which does not block if the worker has read all others; whether there was room."""
        is_short = self._inbox is not None and len(task) <= LONGEST
        if self._inbox is not None and not self._inbox.put(task if is_short else _BY_PIPE, number):
            return False
        if not is_short:
            with contextlib.suppress(OSError):  # who listens hears that the worker is gone
                self._pipe.send_bytes(task)
        return True

    def receive(self) -> bytes:
        """The next answer."""
        return self._pipe.recv_bytes()

    def take_back(self) -> set[int]:
        """Take all tasks out that the worker has not read: their numbers."""
        return set() if self._inbox is None else set(self._inbox.empty())

    def close(self) -> None:
        """The worker is to end."""
        if self._inbox is not None:
            self._inbox.close()
        self._pipe.close()


class _Inbox:
    """Tasks that a worker has not read yet."""

    def __init__(self) -> None:
        self._entry, self.end = blocking_pair(socket.SOCK_SEQPACKET)
        self._entry.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)

    def put(self, task: bytes, number: int) -> bool:
        """Whether there is room: where there is none the death of who should make some is not heard."""
        try:
            self._entry.sendmsg((task, _NUMBER.pack(number)), (), socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def empty(self) -> Iterator[int]:
        """The worker may read some of them meanwhile: these are its own."""
        with contextlib.suppress(BlockingIOError):
            while True:
                message = self.end.recv(_LONGEST_MESSAGE, socket.MSG_DONTWAIT)
                yield _NUMBER.unpack(message[-_NUMBER.size :])[0]

    def close(self) -> None:
        self._entry.close()
        self.end.close()


def blocking_pair(kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
    """Two sockets that are connected, whatever time-out the program has set for new ones."""
    pair = socket.socketpair(socket.AF_UNIX, kind)
    for end in pair:
        end.settimeout(None)  # which is of the pair's, in whatever process
    return pair


class WorkerEnd:
    """The worker's ends, of descriptors that it was started with."""

    def __init__(self, fds: list[int]) -> None:
        self.fds = fds
        self._pipe = _connection(fds[0])
        self._inbox = socket.socket(fileno=fds[1]) if HAS_INBOX else None
        self.send = self._pipe.send_bytes

    def keep(self) -> None:
        """No fork that a function makes, and no program that it starts, shall have them."""
        for fd in self.fds:
            os.set_inheritable(fd, False)  # noqa: FBT003
        keep_from_forks(self.fds)

    def receive(self) -> bytes:
        """The next task, and what is behind its pickle.

        Raises
        ------
        EOFError
            When the pool has closed the link.
        """
        if self._inbox is None:
            return self._pipe.recv_bytes()
        task = self._inbox.recv(_LONGEST_MESSAGE)
        if not task:
            raise EOFError
        return self._pipe.recv_bytes() if task.startswith(_BY_PIPE) else task

    def close(self) -> None:
        """Another process has them."""
        if self._inbox is not None:
            self._inbox.close()
        self._pipe.close()


def _connection(fd: int) -> Connection:
    from multiprocessing.connection import Connection  # noqa: PLC0415  while the process starts

    return Connection(fd)
