"""The ideal: independent copies of the plain loop, each on its share of the rows.

Nothing is sent, nothing comes back: each process has its share before the clock starts. Measured,
not computed, since virtual cores give less than their count.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import polars as pl

from pmap._bench._contenders import Loop, slices
from pmap._bench._workloads import WORKLOADS, Job, job_of

if TYPE_CHECKING:
    from pmap._bench._contenders import Function

__all__ = ["Copies"]

_GO = b"\n"
_PARTS_OF_A_SHARE = 64


class Copies:
    """Processes that run the loop when told, all at once."""

    def __init__(self, workload: str, rows: int, seed: int, workers: int) -> None:
        words = [workload, str(rows), str(seed), str(workers)]
        command = [sys.executable, "-m", __spec__.name, *words]
        self._copies = [
            subprocess.Popen(  # noqa: S603  this very module
                [*command, str(index)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for index in range(workers)
        ]
        self._wait()

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Let them run; how many rows each of them has made."""
        del frame, function
        for copy in self._copies:
            if copy.stdin is not None:
                copy.stdin.write(_GO)
                copy.stdin.flush()
        return pl.DataFrame({"rows": self._wait()})

    def _wait(self) -> list[int]:
        lines = [b"" if copy.stdout is None else copy.stdout.readline() for copy in self._copies]
        if not all(lines):
            raise RuntimeError("a copy of the loop has ended: see what it wrote to stderr")
        return [int(line) for line in lines]

    def close(self) -> None:
        """They end with their input."""
        for copy in self._copies:
            copy.communicate()


def _run(job: Job, loop: Loop) -> int:
    frame = job.frame
    for function in job.functions:
        frame = loop(frame, function)
    return frame.height


def main() -> None:
    """Be one of them: workload, rows, seed, how many there are, and which this is."""
    name, *numbers = sys.argv[1:]
    rows, seed, workers, index = map(int, numbers)
    workload = WORKLOADS[name]
    job, setting = job_of(workload, rows, seed), workload.setting(workers)
    # Every n-th of many small parts, so that all shares cost the same however skewed the rows are.
    many = setting.split(job.frame, _PARTS_OF_A_SHARE * workers)
    own = many[index::workers] or slices(job.frame.head(1), 1)
    job = Job(pl.concat(own, rechunk=True), job.functions)
    loop = Loop(setting.alone())
    sys.stdout.write("0\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        sys.stdout.write(f"{_run(job, loop)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
