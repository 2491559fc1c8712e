"""What starting workers and moving frames takes, as measured in this process.

Until something was measured here, starting takes as long as is usual, and data move as fast
as this machine fills fresh memory, which is tried once.
"""

from __future__ import annotations

import threading
import time

__all__ = ["Figures", "figures"]

#: Until workers were started here: seconds.
_USUAL_START = {"forkserver": 0.35, "spawn": 0.8, "loky": 0.8, "threads": 0.0005}
#: A call of workers that are there, beside moving its data: seconds.
_USUAL_CALL = {"threads": 0.0005}
_USUAL_CALL_OF_PROCESSES = 0.004
#: Copies of fresh memory that sending a frame costs: it is written, mapped, and read elsewhere.
_COPIES = 3
#: What is copied to learn how fast memory is: bytes.
_PROBE_BYTES = 4 << 20
#: Data from which on a call says something about speed: bytes.
_WORTH_NOTING = 1 << 20
#: Weight of the newest measurement.
_NEWEST = 0.5
#: Workers may be found so many times slower than the caller was alone, and after so many seconds half
#: of that is forgotten: neighbours of a machine come and go. Until they were tried they are taken to be
#: as slow as on two virtual cores that are one in truth, where a start that is not worth it costs most.
_MOST_SLOWDOWN, _USUAL_SLOWDOWN, _HALF_LIFE = 2.0, 1.25, 60.0


class Figures:
    """Seconds and bytes per second; any thread may ask and note."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start: dict[str, float] = {}
        self._bytes_per_second: float | None = None
        self._slowdown, self._slowdown_noted = _USUAL_SLOWDOWN, 0.0
        self._missed: dict[str, float] = {}

    def start_seconds(self, backend: str) -> float:
        """Seconds until new workers of a backend are ready."""
        return self._start.get(backend, _USUAL_START.get(backend, 1.0))

    def missed(self, backend: str) -> float:
        """Seconds that workers of a backend would have saved so far, had they been there."""
        return self._missed.get(backend, 0.0)

    def note_missed(self, backend: str, seconds: float) -> None:
        """A call would have been so much faster on workers that are there."""
        with self._lock:
            self._missed[backend] = self.missed(backend) + max(0.0, seconds)

    def forget_missed(self) -> None:
        """Who stops the workers does not miss them."""
        with self._lock:
            self._missed.clear()

    @property
    def slowdown(self) -> float:
        """How many times longer a function takes in a worker beside others than in the caller alone.

        CPUs share caches, memory and, often, cores: two of them seldom do twice as much as one.
        """
        kept: float = 0.5 ** ((time.monotonic() - self._slowdown_noted) / _HALF_LIFE)
        return _USUAL_SLOWDOWN + (self._slowdown - _USUAL_SLOWDOWN) * kept

    def call_seconds(self, backend: str) -> float:
        """Seconds that a call costs at least on workers that are there."""
        return _USUAL_CALL.get(backend, _USUAL_CALL_OF_PROCESSES)

    def move_seconds(self, n_bytes: float) -> float:
        """Seconds for so many bytes, to workers or back."""
        if n_bytes < _WORTH_NOTING and self._bytes_per_second is None:
            return n_bytes / 1e9
        if self._bytes_per_second is None:
            self._bytes_per_second = _probe() / _COPIES
        return n_bytes / self._bytes_per_second

    def note_start(self, backend: str, seconds: float) -> None:
        """Workers were started."""
        with self._lock:
            before = self._start.get(backend, seconds)
            self._start[backend] = before + _NEWEST * (seconds - before)
            self._missed.pop(backend, None)

    def note_slowdown(self, times: float) -> None:
        """The function took so many times longer in workers."""
        with self._lock:
            now = self.slowdown
            found = min(_MOST_SLOWDOWN, max(1.0, times))
            self._slowdown = now + _NEWEST * (found - now)
            self._slowdown_noted = time.monotonic()

    def note_moved(self, n_bytes: int, seconds: float) -> None:
        """A call moved so many bytes in so much time of the caller and of each worker."""
        if n_bytes < _WORTH_NOTING or seconds <= 0:
            return
        with self._lock:
            speed = n_bytes / seconds
            before = self._bytes_per_second or speed
            self._bytes_per_second = before + _NEWEST * (speed - before)


def _probe() -> float:
    """Bytes per second at which fresh memory is filled."""
    source = bytes(_PROBE_BYTES)
    started = time.perf_counter()
    bytearray(source)
    return _PROBE_BYTES / (time.perf_counter() - started)


figures = Figures()
