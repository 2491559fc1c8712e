"""backend="auto": begin in the caller, and start workers only when what is left pays for them.

The first partitions run in the caller, timed, and their results are used, so the function
is never called more often than the job needs, and a small job never waits for a process.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pmap import _pools
from pmap._plan import default_process_backend
from pmap._registry import get_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmap._partition import Partition
    from pmap._schedule import Outcome
    from pmap.backend import WorkerSpec

__all__ = ["Judge"]

#: What starting workers costs. Seconds.
_COLD_SECONDS = 0.5
#: What a first round trip with workers that are there costs. Seconds.
_WARM_SECONDS = 0.005
#: Speed of frames to workers and back. Bytes per second.
_BYTES_PER_SECOND = 500e6


def _is_frozen() -> bool:
    """Whether this program was made into an executable, as by PyInstaller."""
    return bool(getattr(sys, "frozen", False))


class Judge:
    """Decides, after each partition in the caller, whether workers would be faster.

    Parameters
    ----------
    spec
        The workers that would be started.
    total_rows, total_bytes
        Of the whole job; ``None`` for a stream, of which as much is taken to be left as is
        done already.
    """

    def __init__(self, spec: WorkerSpec, total_rows: int | None, total_bytes: int) -> None:
        self._spec = spec
        self._total_rows = total_rows
        self._total_bytes = total_bytes
        self._rows = 0
        self._seconds = 0.0
        self.n_done = 0
        self.name, self._why_name = default_process_backend()
        self.pays = False

    def note(self, outcome: Outcome) -> None:
        """Take a partition's time into account, unless it was read from a checkpoint."""
        if outcome.stats is None:
            return
        self.n_done += 1
        self._rows += outcome.partition.rows
        self._seconds += outcome.stats.function_seconds

    def gate(self, partitions: Iterator[Partition]) -> Iterator[Partition]:
        """The partitions that the caller runs itself."""
        for_caller = iter(partitions)
        while not self._decide():
            partition = next(for_caller, None)
            if partition is None:
                return
            yield partition

    def _decide(self) -> bool:
        if self.n_done > 0 and self._spec.n_workers > 1 and not _is_frozen():
            self.pays = self._saved() > self._cost()
        return self.pays

    @property
    def _left(self) -> float:
        """Seconds of the plain loop that are left."""
        if self._total_rows is None:
            return self._seconds
        return self._seconds * (self._total_rows - self._rows) / max(1, self._rows)

    def _saved(self) -> float:
        return self._left * (1 - 1 / self._spec.n_workers)

    def _cost(self) -> float:
        warm = _pools.is_warm(get_backend(self.name), self._spec)
        return (_WARM_SECONDS if warm else _COLD_SECONDS) + self._total_bytes / _BYTES_PER_SECOND

    @property
    def reason(self) -> str:
        """The decision in a sentence, with its figures."""
        done = f"{self.n_done} partition{'' if self.n_done == 1 else 's'} took {self._seconds:.3f} s in the caller"
        if not self.pays and _is_frozen():
            return f"backend: auto stayed in the caller: {done}; a frozen program has no Python for workers"
        if not self.pays:
            return (
                f"backend: auto stayed in the caller: {done}; starting workers would not have paid"
            )
        return (
            f"backend: auto: {done}, {self._left:.1f} s were left, and workers cost about {self._cost():.2f} s; "
            f"{self.name}: {self._why_name}"
        )
