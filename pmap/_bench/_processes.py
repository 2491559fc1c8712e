"""What a process and all below it take: memory, each shared page once, and CPU seconds."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

__all__ = ["Peak", "cpu_seconds", "descendants", "kill", "pss"]

_SECONDS_BETWEEN_LOOKS = 0.02
#: Where `/proc/<pid>/stat` has the user's and the system's time, and the same of ended children,
#: counted from the state on.
_TIMES = slice(11, 15)


def descendants(pid: int) -> list[int]:
    """Processes that came of it and live."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found


def pss(pid: int) -> int:
    """Proportional set size of a process and its descendants: bytes."""
    return sum(map(_pss_of, (pid, *descendants(pid))))


def _pss_of(pid: int) -> int:
    with contextlib.suppress(OSError):  # it has ended
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """Of a process and its descendants, those that ended included: in hundredths of a second."""
    ticks = sum(map(_ticks_of, (pid, *descendants(pid))))
    return ticks / os.sysconf("SC_CLK_TCK")


def _ticks_of(pid: int) -> int:
    with contextlib.suppress(OSError):  # it has ended
        # A command's name is in brackets, and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[_TIMES]))
    return 0


def kill(pid: int) -> None:
    """End a process and all below it, at once."""
    for each in (*descendants(pid), pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


class Peak(threading.Thread):
    """The most that a process and all below it hold together, looked at now and then.

    Attributes
    ----------
    start_bytes, bytes
        What they held at first, and the most since then.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._over = threading.Event()
        self.start_bytes = self.bytes = pss(pid)

    def run(self) -> None:
        """Look until told to stop."""
        while not self._over.wait(_SECONDS_BETWEEN_LOOKS):
            self.bytes = max(self.bytes, pss(self._pid))

    def stop(self) -> int:
        """Bytes at the most."""
        self._over.set()
        self.join()
        return max(self.bytes, pss(self._pid))
