"""The standard descriptors, which programs and functions close.

What is opened next takes their numbers, and what is printed, by C code or a child process,
then goes there: into a frame, or into a worker's pipe. So none is left closed.
"""

from __future__ import annotations

import contextlib
import os

__all__ = ["keep_open"]


def keep_open() -> None:
    """Have standard descriptors that are closed lead nowhere."""
    try:
        for fd in range(3):
            os.get_inheritable(fd)  # of all system calls that would fail, the quickest
    except OSError:
        _fill()


def _fill() -> None:
    with contextlib.suppress(OSError):  # no /dev/null: as it was
        while (fd := os.open(os.devnull, os.O_RDWR)) < 3:  # noqa: PLR2004  the lowest that is closed
            os.set_inheritable(fd, True)  # noqa: FBT003  as they are: children need them no less
        os.close(fd)
