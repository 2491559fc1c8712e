"""How worker processes are started: by a fresh interpreter, or by a fork server of our own.

Not by `multiprocessing.Process`: that would run the user's ``__main__`` again (and so need
a guard in every script), pin the process-wide start method, start a resource tracker, and
leave no way to give a worker an environment but to change this process's own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol, TypeVar

from pmap._resources import tight_limits
from pmap._standard import keep_open
from pmap.errors import WorkerStartError
from pmap_backends import _child
from pmap_backends._life import life_line
from pmap_backends._link import Link, blocking_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pmap_backends._child import Ending

__all__ = [
    "ForkserverLauncher",
    "Launcher",
    "SpawnLauncher",
    "WorkerProcess",
    "not_granted",
    "python_command",
    "refuse_frozen",
]

_Made = TypeVar("_Made")

#: Seconds to wait for the end of a process that was told to end.
_PATIENCE = 2.0


class WorkerProcess(Protocol):
    """A started worker: the way to it, and its end."""

    link: Link
    pid: int | None

    def kill(self) -> None:
        """End it now."""
        ...

    def wait(self) -> Ending | None:
        """Reap it after its link has closed; ``None`` if how it ended can't be told."""
        ...


class Launcher(Protocol):
    """Starts workers."""

    def prepare(self) -> bool:
        """Begin with what workers are made of, without waiting; whether there is such a thing."""
        ...

    def start(self) -> WorkerProcess:
        """Start one; returns before it is ready."""
        ...

    def close(self) -> None:
        """Free what starting needed; the workers are the pool's."""
        ...

    def forget(self) -> None:
        """In a fork of the caller: let go, without ending what is the parent's."""
        ...


def refuse_frozen() -> None:
    """Refuse to start the program again, and again, in place of a Python.

    Raises
    ------
    WorkerStartError
        When this program was frozen into an executable, as by PyInstaller.
    """
    executable = _executable()
    if getattr(sys, "frozen", False) and executable in {sys.executable, ""}:
        raise WorkerStartError(
            f"this program is frozen: {sys.executable} is no Python to start workers with. Use "
            "backend='threads' or 'serial', or call multiprocessing.set_executable(path) with a "
            "Python that has the same packages"
        )


def _executable() -> str:
    """As `multiprocessing` has it, which is not imported to say what Python says too."""
    spawn = sys.modules.get("multiprocessing.spawn")
    return os.fsdecode((sys.executable if spawn is None else spawn.get_executable()) or "")


def python_command(code: str) -> list[str]:
    """A command that runs `code` in a fresh Python with this one's flags and import paths.

    Raises
    ------
    WorkerStartError
        When it is not known which Python that is, as in some embedding programs, or there is
        none, as in frozen ones.
    """
    refuse_frozen()
    executable = _executable()
    if not executable:
        raise WorkerStartError(
            "no Python interpreter is known to start workers with: call multiprocessing.set_executable(path)"
        )
    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list[str])()
    # The path comes first: a file polars.py beside the user's script must not be imported.
    paths = [str(path) for path in sys.path]
    return [executable, *flags, "-c", f"import sys; sys.path[:] = {paths!r}; {code}"]


def _start_interpreter(
    role: str, fds: list[int], env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start Python with some descriptors."""
    line = life_line()
    arguments = f"{role!r}, {fds}, {None if line is None else tuple(line)!r}"
    # nothing is garbage of what it imports
    code = f"import gc; gc.disable(); from pmap_backends._child import main; main({arguments})"
    command = python_command(code)
    try:
        return subprocess.Popen(  # noqa: S603  our own interpreter, no shell
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            cwd=_working_folder(),
            pass_fds=fds,
            process_group=0,  # Ctrl-C in a terminal is the caller's alone
        )
    except OSError as exc:
        raise not_granted(f"start a worker process ({command[0]})", exc) from exc


def not_granted(doing: str, exc: Exception) -> WorkerStartError:
    """An error of the system while starting something, with what to do about it."""
    code = exc.errno if isinstance(exc, OSError) else None
    hint = {
        errno.EMFILE: "raise `ulimit -n`, or use fewer workers (n_jobs)",
        errno.ENOMEM: "use fewer workers (n_jobs)",
        errno.EACCES: "this user may not run it",
    }.get(code or 0, "raise `ulimit -u`, use fewer workers (n_jobs), or backend='serial'")
    return WorkerStartError(f"could not {doing}: {exc}: {hint}{tight_limits()}")


def _working_folder() -> str | None:
    """The caller's own; if that was deleted, one in which Python 3.13 starts at all."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return os.sep
    return None


def _end(process: subprocess.Popen[bytes], patience: float) -> int | None:
    try:
        return process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(_PATIENCE)


def _granted(make: Callable[[], _Made]) -> _Made:
    """What takes descriptors, if the system has any left."""
    keep_open()
    try:
        return make()
    except OSError as exc:
        raise not_granted("make a pipe for a worker", exc) from exc


class _Spawned:
    """A worker that is a child of this process."""

    def __init__(self, link: Link, process: subprocess.Popen[bytes]) -> None:
        self.link = link
        self.pid: int | None = process.pid
        self._process = process
        self._ending: Ending | None = None

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> Ending | None:
        if self._process.returncode is None:
            self._process.returncode = 0  # from now on it is ours to reap
            with contextlib.suppress(ChildProcessError):  # the program has reaped it itself
                self._ending = _child.reap(self._process.pid)
        return self._ending


class SpawnLauncher:
    """A fresh interpreter for each worker."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def prepare(self) -> bool:
        """There is nothing but workers."""
        return False

    def start(self) -> WorkerProcess:
        """Start one; it imports Polars before it is ready."""
        link = _granted(Link)
        with link.handed_over() as fds:
            process = _start_interpreter("worker", fds, self._env)
        return _Spawned(link, process)

    def close(self) -> None:
        """Nothing to free."""

    forget = close


class _Forked:
    """A worker that is a child of the fork server."""

    def __init__(
        self, link: Link, launcher: ForkserverLauncher, server: subprocess.Popen[bytes] | None
    ) -> None:
        self.link = link
        self.pid: int | None = None  # told by its first message
        self._launcher = launcher
        self._server = server

    def kill(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, 9)

    def wait(self) -> Ending | None:
        return None if self.pid is None else self._launcher.ending_of(self.pid, self._server)


class ForkserverLauncher:
    """Forks of a process that has imported Polars and never used it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> bool:
        """Start the server; its forks need milliseconds, once it is asked for them."""
        self._server()
        return True

    def start(self) -> WorkerProcess:
        """Ask the server for a fork; does not wait for it."""
        link = _granted(Link)
        try:
            with link.handed_over() as fds:
                self._ask_for_fork(fds)
        except OSError as exc:
            raise WorkerStartError(f"the fork server is gone: {exc}") from exc
        return _Forked(link, self, self._process)

    def _ask_for_fork(self, fds: list[int]) -> None:
        # A program that has no use for these, as long as its frames are small, does not wait for them.
        shared = sum(1 << bit for bit, name in enumerate(_child.SHARED) if name in sys.modules)
        request = _child.REQUEST.pack(_child.FORK, shared)
        try:
            socket.send_fds(self._server(), [request], fds)
        except OSError:  # it was killed just now: another one
            self.close()
            socket.send_fds(self._server(), [request], fds)

    def _server(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it was killed: make another
        if self._control is None:
            ours, theirs = _granted(blocking_pair)
            with theirs:
                self._process = _start_interpreter("server", [theirs.fileno()], self._env)
            ours.settimeout(_PATIENCE)
            self._control = ours
        return self._control

    def ending_of(self, pid: int, server: subprocess.Popen[bytes] | None) -> Ending | None:
        """How a worker ended; ``None`` if the server that it is a fork of is gone too."""
        if self._control is None or self._process is not server:
            return None
        try:
            self._control.sendall(_child.REQUEST.pack(_child.WAIT, pid))
            answer = self._control.recv(_child.ENDING.size)
        except OSError:
            self.close()  # a late answer would be taken for the next one's
            return None
        return _child.Ending(*_child.ENDING.unpack(answer)) if answer else None

    def forget(self) -> None:
        """Let go of the control socket, which would keep the server alive."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def close(self) -> None:
        """End the server."""
        self.forget()
        if self._process is not None:
            _end(self._process, _PATIENCE)
            self._process = None
