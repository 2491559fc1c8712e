"""What runs in the processes of the spawn and forkserver pools.

A worker has one link to its pool (`_link`) and shares nothing with other workers. A thread
watches that and ends the process when it closes, so that no worker outlives its
caller, even one that is killed; where the kernel can see to that, it does so too (`_life`).

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
from typing import TYPE_CHECKING, NamedTuple

from pmap_backends._life import LifeLine, end_with
from pmap_backends._link import WorkerEnd

if TYPE_CHECKING:
    import resource

__all__ = [
    "ENDING",
    "FORK",
    "READY",
    "REFUSED",
    "REQUEST",
    "SHARED",
    "WAIT",
    "Ending",
    "main",
    "polars_pool_runs",
    "reap",
]

READY = b"ready "
REFUSED = b"refused "

#: Why there is no fork.
_POOL_RUNS = b"Polars' thread pool runs in the fork server"
_NO_PROC = b"/proc does not say whether Polars' thread pool runs in the fork server"

#: What is asked of the fork server: what, and which of `SHARED` to have, as bits; or which pid.
REQUEST = struct.Struct("!cq")
FORK, WAIT = b"F", b"W"
#: Libraries that take 0.1 s to import, and that workers need where the caller does: for large frames.
SHARED = ("numpy", "pyarrow")
#: What it answers to `WAIT`: an `Ending`.
ENDING = struct.Struct("!qq")
#: Bytes of what the system counts a process's memory in.
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024
#: Seconds that a worker that closed its link may take to end by itself.
_GRACE = 0.5


def main(role: str, fds: list[int], line: tuple[str, int] | None) -> None:
    """Entry point of a fresh interpreter, whose garbage collector waits until all is imported."""
    life = None if line is None else LifeLine(*line)
    end_with(life)
    _serve(socket.socket(fileno=fds[0]), life) if role == "server" else _work(WorkerEnd(fds))


def _work(pool: WorkerEnd) -> None:
    """Take tasks, answer each, until the pool closes the link."""
    pool.keep()
    watched = pool.fds[0]
    threading.Thread(target=_end_with_pipe, args=(watched,), name="pmap-watch", daemon=True).start()
    from pmap._worker import execute  # noqa: PLC0415  imports Polars: the watch starts first

    gc.freeze()  # what is there stays: the collector need not look at it again
    gc.enable()
    try:
        pool.send(READY + str(os.getpid()).encode())
        while True:
            pool.send(execute(pool.receive()))
    except (EOFError, OSError):
        _leave(0)  # the pool has closed the link


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


def _serve(control: socket.socket, life: LifeLine | None) -> None:
    """Fork workers on request, until the control socket closes."""
    _preload("pmap._worker", "cloudpickle", "multiprocessing.connection")
    # Python 3.12+ warns at a fork beside any thread; here there are the allocator's alone.
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
    while True:
        data, fds, _, _ = socket.recv_fds(control, REQUEST.size, 2)
        if not data:
            os._exit(0)
        what, number = REQUEST.unpack(data)
        if what == FORK:
            _preload(*(name for bit, name in enumerate(SHARED) if number >> bit & 1))
            pool = WorkerEnd(fds)
            _fork(control, pool, life)
            pool.close()
        else:
            control.sendall(ENDING.pack(*reap(number)))


def _preload(*names: str) -> None:
    """Import what workers need; never ``__main__``, whose code could run a query."""
    new = [name for name in names if name not in sys.modules]
    for name in new:
        importlib.import_module(name)
    if new:
        gc.freeze()  # the collector of a worker leaves the shared pages alone


def _fork(control: socket.socket, pool: WorkerEnd, life: LifeLine | None) -> None:
    runs = polars_pool_runs()
    if runs is not False:
        pool.send(REFUSED + (_POOL_RUNS if runs else _NO_PROC))
        return
    try:
        pid = os.fork()
    except OSError as exc:
        pool.send(REFUSED + f"the fork server can not fork: {exc}".encode())
        return
    if pid == 0:
        control.close()
        os.setpgid(0, 0)  # a function that signals its group means what it has started
        end_with(life)
        _reseed()
        _work(pool)


def _reseed() -> None:
    """NumPy's global generator would give every fork the same numbers (`random` sees to itself)."""
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


class Ending(NamedTuple):
    """How a process ended: exit code as of `subprocess`, and the most memory it held, in bytes."""

    exitcode: int
    peak_memory: int


def reap(pid: int) -> Ending:
    """See to the end of a child that has closed its link."""
    deadline = time.monotonic() + _GRACE
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return _ending(status, usage)
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            return _ending(*os.wait4(pid, 0)[1:])
        time.sleep(0.001)


def _ending(status: int, usage: resource.struct_rusage) -> Ending:
    return Ending(os.waitstatus_to_exitcode(status), usage.ru_maxrss * _MEMORY_UNIT)
