"""What this machine does at best: what any transport, call or start has to be compared with."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import partial
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["FIRST_CALL", "limits", "seconds_of", "through_pipe"]

_CHUNK = 1 << 20
_ECHO = """
import os, sys
while data := os.read(0, 64):
    os.write(1, data)
"""


#: `import pmap` alone imports nothing.
FIRST_CALL = """
import polars, pmap
pmap.map_partitions(polars.DataFrame({"x": [1]}), lambda part: part)
"""


def limits(size: int, rounds: int) -> dict[str, float]:
    """Each limit with its unit in its name.

    Parameters
    ----------
    size
        Bytes that are copied.
    rounds
        How often each is measured. The best counts: whatever else runs here only adds to it.
    """
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    copy = min(seconds_of(lambda: np.copyto(target, source)) for _ in range(rounds + 1))
    pipe = min(seconds_of(lambda: through_pipe(source.data)) for _ in range(rounds))
    start, polars, pmap = _starts(("pass", "import polars", FIRST_CALL), rounds + 2)
    return {
        "memcpy_bytes_per_second": size / copy,
        "pipe_bytes_per_second": size / pipe,
        "pipe_round_trip_seconds": _round_trip(200 * rounds),
        "process_start_seconds": start,
        "import_polars_seconds": polars - start,
        "first_call_seconds": pmap - polars,
    }


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call takes."""
    started = perf_counter()
    call()
    return perf_counter() - started


def _starts(codes: Sequence[str], rounds: int) -> list[float]:
    """Seconds of a process for each, in turn."""
    commands = [[sys.executable, "-c", code] for code in codes]
    best = [float("inf")] * len(codes)
    for _ in range(rounds):
        for i, command in enumerate(commands):
            taken = seconds_of(partial(subprocess.run, command, check=True))
            best[i] = min(best[i], taken)
    return best


def _round_trip(n: int) -> float:
    """A byte to another process and back, through two pipes."""
    with subprocess.Popen(  # noqa: S603  the program above
        [sys.executable, "-S", "-c", _ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as echo:
        if echo.stdin is None or echo.stdout is None:
            raise RuntimeError("a process without pipes")
        there, back = echo.stdin.fileno(), echo.stdout.fileno()

        def once() -> None:
            os.write(there, b"x")
            os.read(back, 64)

        once()
        found = median(seconds_of(once) for _ in range(n))
        echo.stdin.close()
    return found


def through_pipe(data: memoryview) -> None:
    """Send bytes through a pipe, to a thread that reads them."""
    read, write = os.pipe()
    reader = threading.Thread(target=_drain, args=(read, len(data)))
    reader.start()
    while data:
        data = data[os.write(write, data[:_CHUNK]) :]
    reader.join()
    os.close(read)
    os.close(write)


def _drain(read: int, size: int) -> None:
    while size:
        size -= len(os.read(read, _CHUNK))
