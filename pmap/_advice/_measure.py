"""What bounds a function: Polars' own pool, waiting, Python's lock, or none of them.

Measured on whole calls of some tens of milliseconds. Plain CPU time over wall time says nothing
on a busy machine, so time in the kernel's run queue counts as wanting to run.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from pmap._advice._runner import Runner

__all__ = ["Measured", "measure"]

#: Seconds of work below which the figures mean nothing.
LEAST = 0.03
_TICK = 0.001
#: Delay of a ticking thread, in seconds, up to which the lock is taken to be free.
FREE_TICK = 0.001


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one call.

    Attributes
    ----------
    rows, seconds
        Of the call.
    pool_share
        Of its CPU time, what other threads took: Polars' own pool.
    cpu
        CPU time of all threads over wall time.
    blocked
        Of its wall time, what its thread neither ran nor waited for a CPU.
    tick
        Median delay of a thread that wants Python's lock each millisecond. Seconds.
    bytes_out
        Of its result, estimated.
    has_python_inside
        Whether Polars calls Python functions: its pool's time is theirs then.
    """

    rows: int
    seconds: float
    pool_share: float
    cpu: float
    blocked: float
    tick: float
    bytes_out: int
    has_python_inside: bool = False

    @property
    def is_enough(self) -> bool:
        """Whether the call was long enough to judge by."""
        return self.seconds >= LEAST

    @property
    def kind(self) -> str:
        """``"pool"``, ``"waits"``, ``"free"`` (of Python's lock), ``"python"`` or ``"short"``."""
        if not self.is_enough:
            return "short"
        if self.pool_share >= 0.5 and self.cpu >= 0.2 and not self.has_python_inside:  # noqa: PLR2004  native functions have .74 or more, all others .02
            return "pool"
        if self.blocked >= 0.5 and self.cpu < 0.3:  # noqa: PLR2004  what sleeps or reads has .9, what works below .1; its pool may work for it
            return "waits"
        return "free" if self.tick < FREE_TICK else "python"


class _Ticker(threading.Thread):
    """Wants to run each millisecond, and notes how late it does."""

    def __init__(self) -> None:
        super().__init__(name="pmap-ticker", daemon=True)
        self.delays: list[float] = []
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            start = time.perf_counter()
            time.sleep(_TICK)
            self.delays.append(time.perf_counter() - start - _TICK)

    def stop(self) -> float:
        self._over.set()
        self.join(timeout=5)
        return statistics.median(self.delays) if self.delays else 0.0


def measure(
    runner: Runner, rows: pl.DataFrame, *, has_python_inside: bool = False
) -> Measured | None:
    """Measure one call on these rows; ``None`` if it raises."""
    ticker = _Ticker()
    ticker.start()
    process, thread, wanted = time.process_time(), time.thread_time(), _wanted()
    try:
        ran = runner.call(rows)
        process, thread = time.process_time() - process, time.thread_time() - thread
        wanted = None if wanted is None else (_wanted() or 0.0) - wanted
    finally:
        tick = ticker.stop()
    if ran.error is not None:
        return None
    size = getattr(ran.value, "estimated_size", None)
    busy = thread if wanted is None else wanted
    blocked = max(0.0, 1 - busy / max(ran.seconds, 1e-9))
    share = max(0.0, process - thread) / max(process, 1e-9)
    cpu = process / max(ran.seconds, 1e-9)
    n_bytes = int(size()) if size else 0
    return Measured(rows.height, ran.seconds, share, cpu, blocked, tick, n_bytes, has_python_inside)


def _wanted() -> float | None:
    """Seconds that this thread ran or stood in the run queue; ``None`` where it is not told."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            running, queued, _ = file.read().split()
    except (OSError, ValueError):  # a kernel without it, or no /proc
        return None
    return (int(running) + int(queued)) / 1e9


def has_lock() -> bool:
    """Whether this Python has a global lock."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())
