"""What a process and all below it take: memory, each shared page once, and CPU seconds."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

__all__ = ["Family", "Peak", "cpu_seconds", "descendants", "pss"]

_SECONDS_BETWEEN_LOOKS = 0.02
#: Where `/proc/<pid>/stat` has the user's and the system's time, and the same of ended children,
#: counted from the state on.
_TIMES = slice(11, 15)
#: The same for its session, and for when it was started, in ticks: a number that another process
#: took has another.
_SESSION, _STARTED = 3, 19
#: Seconds in which whoever tidies up after others (trackers, nannies) may do so.
_TIDYING = 2.0


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
    return sum(map(int, _stat(pid)[_TIMES]))


def _stat(pid: int) -> list[str]:
    """What `/proc/<pid>/stat` says from the state on; nothing of a process that has ended."""
    with contextlib.suppress(OSError):
        # A command's name is in brackets, and may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


class Family:
    """A process, all below it and all of its session: those whose parent has gone are known, too."""

    def __init__(self, pid: int) -> None:
        known = dict.fromkeys((pid, *descendants(pid), *_of_session(pid)))
        self._started = {each: _start_of(each) for each in known}
        self._pid = pid

    def kill(self) -> None:
        """End all at once, but for those that tidy up when all others have gone; then `end` those."""
        for pid in self._started:
            if pid == self._pid or not _tidies_up(pid):
                _kill(pid)

    def end(self) -> None:
        """See to it that those below end, as they should once the first has."""
        deadline = time.monotonic() + _TIDYING
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in left:
            _kill(pid)

    def _left(self) -> list[int]:
        return [
            pid
            for pid, started in self._started.items()
            if pid != self._pid and started is not None and _start_of(pid) == started
        ]


def _of_session(leader: int) -> list[int]:
    every = [int(path.name) for path in Path("/proc").glob("[0-9]*")]  # none without /proc
    return [pid for pid in every if _stat(pid)[_SESSION : _SESSION + 1] == [str(leader)]]


def _tidies_up(pid: int) -> bool:
    """Whether it is a resource tracker, as of `multiprocessing`: it removes what has a name."""
    with contextlib.suppress(OSError):  # it has ended
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _start_of(pid: int) -> str | None:
    """When it was started; nothing for one that has ended, whether or not it was reaped."""
    fields = _stat(pid)
    return fields[_STARTED] if fields and fields[0] != "Z" else None


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


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
