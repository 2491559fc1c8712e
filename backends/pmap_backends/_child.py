"""What runs in the processes of the spawn and forkserver pools.

A worker has one duplex pipe to its pool and shares nothing with other workers. A thread
watches that pipe and ends the process when it closes, so that no worker outlives its
caller, even one that is killed.

The fork server is a process of our own that has imported Polars but never ran a query:
its forks are whole, and ready in milliseconds. It proves so before each fork.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import socket
import struct
import sys
import threading
import time
import warnings
from multiprocessing.connection import Connection

__all__ = ["FORK", "READY", "REFUSED", "REQUEST", "WAIT", "main", "polars_pool_runs"]

READY = b"ready "
REFUSED = b"refused "

#: What is asked of the fork server: what, and which pid.
REQUEST = struct.Struct("!cq")
FORK, WAIT = b"F", b"W"
#: Seconds that a worker that closed its pipe may take to end by itself.
_GRACE = 0.5


def main(role: str, fd: int) -> None:
    """Entry point of a fresh interpreter."""
    _serve(socket.socket(fileno=fd)) if role == "server" else _work(fd)


def _work(fd: int) -> None:
    """Take payloads from the pipe, answer each, until it closes."""
    threading.Thread(target=_end_with_pipe, args=(fd,), name="pmap-watch", daemon=True).start()
    from pmap._worker import execute  # noqa: PLC0415  imports Polars: the watch starts first

    pipe = Connection(fd)
    try:
        pipe.send_bytes(READY + str(os.getpid()).encode())
        while True:
            pipe.send_bytes(execute(pipe.recv_bytes()))
    except (EOFError, OSError):
        _leave(0)  # the pool has closed the pipe


def _end_with_pipe(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, getattr(select, "POLLRDHUP", 0))  # hang-ups only; the data is not ours
    poll.poll()
    _leave(1)


def _leave(code: int) -> None:
    """End now: nothing in an idle worker is worth the interpreter's slow way out."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            continue  # closed, or none: nothing to flush
    os._exit(code)


def polars_pool_runs() -> bool | None:
    """Whether Polars' thread pool was started in this process; ``None``: can't be told.

    A fork of such a process inherits a pool without its threads, and hangs.
    """
    try:
        tasks = os.listdir("/proc/self/task")
    except OSError:
        return None
    return any(_is_pool_thread(task) for task in tasks)


def _is_pool_thread(task: str) -> bool:
    try:
        with open(f"/proc/self/task/{task}/comm") as file:
            name = file.read().strip()
    except OSError:
        return False  # the thread has ended meanwhile
    return name.startswith("polars-") and name[7:].isdigit()


def _serve(control: socket.socket) -> None:
    """Fork workers on request, until the control socket closes."""
    _preload()
    while True:
        data, fds, _, _ = socket.recv_fds(control, REQUEST.size, 1)
        if not data:
            os._exit(0)
        what, pid = REQUEST.unpack(data)
        if what == FORK:
            _fork(control, fds[0])
        else:
            control.sendall(struct.pack("!q", _reap(pid)))


def _preload() -> None:
    """Import what workers need; never ``__main__``, whose code could run a query."""
    for name in ("pmap._worker", "pyarrow.ipc", "cloudpickle"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector of a worker leaves the shared pages alone
    # Python 3.12+ warns at a fork beside any thread; here there are the allocator's alone.
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)


def _fork(control: socket.socket, fd: int) -> None:
    if polars_pool_runs() is not False:
        Connection(fd).send_bytes(REFUSED + b"Polars' thread pool runs in the fork server")
        return
    if os.fork() == 0:
        control.close()
        _reseed()
        _work(fd)
    os.close(fd)


def _reseed() -> None:
    """NumPy's global generator would give every fork the same numbers (`random` sees to itself)."""
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


def _reap(pid: int) -> int:
    """Exit code of a worker that has closed its pipe."""
    deadline = time.monotonic() + _GRACE
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.001)
