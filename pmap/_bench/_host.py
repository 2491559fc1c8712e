"""A process in which one contender runs one workload, told by lines of JSON.

So a contender that hangs or crashes ends nobody else's run, and what its processes take of memory
and CPU can be told apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any

from pmap._bench._table import CONTENDERS, Made
from pmap._bench._workloads import WORKLOADS, job_of

if TYPE_CHECKING:
    import polars as pl

    from pmap._bench._contenders import Contender

__all__ = ["Order", "command"]


#: Seconds of a call that is not made again just to wake workers; and the part of its rows that is.
_LONG, _PART_TO_WAKE = 0.25, 16


@dataclass(frozen=True)
class Order:
    """What a host is to run."""

    workload: str
    contender: str
    rows: int
    seed: int
    workers: int


def command(order: Order) -> list[str]:
    """How to start a host."""
    return [sys.executable, "-m", __spec__.name, json.dumps(asdict(order))]


class _Host:
    def __init__(self, order: Order) -> None:
        workload, self._entry = WORKLOADS[order.workload], CONTENDERS[order.contender]
        self._workload = workload
        self._made = Made(workload, workload.setting(order.workers), order.rows, order.seed)
        self._job = job_of(workload, order.rows, order.seed)
        self._contender: Contender | None = None
        self._last: pl.DataFrame | None = None
        self._usual = 0.0  # seconds of a call
        if self._entry.name == "ideal":  # its processes are there before the clock starts
            self._contender = self._entry.make(self._made)

    def ready(self) -> dict[str, Any]:
        """What it has."""
        return {"bytes": int(self._job.frame.estimated_size()), "rows": self._job.frame.height}

    def call(self, n: int) -> dict[str, Any]:
        """Seconds of `n` calls; the first of all makes the contender."""
        seconds: list[float] = []
        for _ in range(n):
            self._last = None
            started = perf_counter()
            if self._contender is None:
                self._contender = self._entry.make(self._made)
            self._last = self._run(self._contender, self._job.frame)
            seconds.append(perf_counter() - started)
        self._usual = min(seconds)
        return {"seconds": seconds}

    def wake(self) -> dict[str, Any]:
        """Have workers that rested do something, untimed: all, or a little if that takes long."""
        frame = self._job.frame
        if self._contender is not None:
            few = -(-frame.height // _PART_TO_WAKE) if self._usual > _LONG else frame.height
            self._run(self._contender, frame.head(few))
        return {}

    def _run(self, contender: Contender, frame: pl.DataFrame) -> pl.DataFrame:
        for function in self._job.functions[:1] if self._entry.whole else self._job.functions:
            frame = contender(frame, function)
        return frame

    def fingerprint(self) -> dict[str, Any]:
        """Of the last result: its rows in their order, and its dtypes."""
        if self._last is None:
            raise RuntimeError("there was no call yet")
        compared = self._workload.compared(self._last)
        digest = hashlib.blake2b(str(compared.schema).encode(), digest_size=16)
        digest.update(compared.hash_rows(seed=0).to_numpy().tobytes())
        self._last = None  # many hosts live at once
        return {"fingerprint": digest.hexdigest(), "rows": compared.height}

    def close(self) -> None:
        if self._contender is not None:
            self._contender.close()


def _serve(host: _Host, answers: IO[str]) -> None:
    print(json.dumps(host.ready()), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer = getattr(host, order["do"])(*order["with"])
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Serve until the input ends."""
    order = Order(**json.loads(sys.argv[1]))
    # Libraries print what they like: it goes to where errors go, and answers keep the pipe.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        host = _Host(order)
        try:
            _serve(host, answers)
        finally:
            host.close()


if __name__ == "__main__":
    main()
