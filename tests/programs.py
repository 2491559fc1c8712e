"""Programs that tests run, each a Python of its own, and the processes that come of them."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import time
import uuid
from typing import IO, TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _typeshed import StrPath

#: Seconds after which a program hangs: a little less than pytest gives a test, whose own message
#: would not show what the program wrote.
PATIENCE = 55.0
#: Seconds in which happens, on the slowest machine, what happens at once on this one.
SOON = 30.0

_MARK = "TEST_PROGRAM_MARK"


def run(  # noqa: PLR0913  how a program is run, each by name
    *arguments: StrPath,
    before: Iterable[StrPath] = (),
    stdin: str | IO[str] = "",
    output: IO[str] | None = None,
    cwd: StrPath | None = None,
    family: Family | None = None,
    patience: float = PATIENCE,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, well or not.

    Parameters
    ----------
    *arguments
        Of Python.
    before
        Words in front of Python, as of ``taskset``.
    stdin
        What it reads: a text through a pipe, or a file.
    output
        Where all goes that it writes; without one, it is caught.
    cwd
        Where it runs; without one, here.
    family
        By which to know what comes of it.
    patience
        Seconds after which it hangs.
    **variables
        Of its environment, beside this process's own.

    Raises
    ------
    subprocess.TimeoutExpired
        It hung, and was killed with all that came of it; a note says what it wrote to stderr.
    """
    family = family or Family()
    reads: dict[str, Any] = {"input" if isinstance(stdin, str) else "stdin": stdin}
    try:
        return subprocess.run(
            [*before, sys.executable, *arguments],
            **reads,
            stdout=output or subprocess.PIPE,
            stderr=output or subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **variables, **family.variables},
            timeout=patience,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        family.kill()
        exc.add_note((exc.stderr or b"").decode())
        raise


class Family:
    """A program and every process that comes of it, known by a mark in their environment.

    Attributes
    ----------
    variables : dict[str, str]
        What the program must have in its environment.
    """

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self.variables = {_MARK: self._mark}

    def __iter__(self) -> Iterator[psutil.Process]:
        """Those that live now."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark:
                    yield process

    def left(self, within: float = SOON) -> list[str]:
        """The commands of those that have not ended in so many seconds."""
        return [command(process) for process in alive(self, within)]

    def kill(self) -> None:
        """End all of them."""
        for process in self:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def alive(processes: Iterable[psutil.Process], within: float = SOON) -> list[psutil.Process]:
    """Those that have not ended in so many seconds; returns as soon as all have."""
    left, deadline = list(processes), time.monotonic() + within
    while (
        left := [process for process in left if _lives(process)]
    ) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def _lives(process: psutil.Process) -> bool:
    """Whether it runs; it may have ended without that anybody has taken note."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def command(process: psutil.Process) -> str:
    """What it runs; nothing, if it is just ending."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def wait_until(true: Callable[[], bool]) -> None:
    """Garbage that is in the way is collected."""
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.01)
