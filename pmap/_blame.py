"""Whose fault it was, and in which words: a partition's failure as the user reads it."""

from __future__ import annotations

import signal
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from pmap._resources import memory_kills
from pmap._wire import note
from pmap.errors import (
    BackendError,
    MemoryLimitError,
    PartitionError,
    PartitionTimeoutError,
    PmapError,
    WorkerDiedError,
)

if TYPE_CHECKING:
    from pmap._carry import Flight
    from pmap._config import Options
    from pmap._wire import Stats

__all__ = ["Blame", "as_ours", "failure_of", "how_it_ended"]


class Blame:
    """Words for the failures of one call.

    Parameters
    ----------
    options
        Limits and `retries` are named.
    count
        How many partitions there are, if that is known.
    backend
        Its name.
    elsewhere
        Whether its workers are processes, which the kernel may end.
    """

    def __init__(
        self, options: Options, count: int | None, backend: str, *, elsewhere: bool
    ) -> None:
        self._options = options
        self._of = "" if count is None else f" of {count}"
        self._backend = backend
        # Reading it takes longer than a small task.
        self._kills = memory_kills(now=False) if elsewhere else None

    def _where(self, flight: Flight) -> str:
        part = flight.partition
        rows = f"rows {part.start} to {part.start + part.rows - 1}" if part.rows else "no rows"
        return f"partition {part.index}{self._of} ({rows})"

    def death(self, flight: Flight, died: WorkerDiedError) -> PartitionError:
        """The error of a partition whose worker died: of itself, or because it was stopped."""
        where, index = self._where(flight), flight.partition.index
        if flight.timed_out:
            return PartitionTimeoutError(
                f"{where} ran longer than timeout={self._options.timeout} seconds; its worker was killed",
                index=index,
            )
        if flight.over_limit:
            return MemoryLimitError(f"{where}: {self._too_much(flight)}", index=index)
        number = "" if died.pid is None else f" {died.pid}"
        peak = max(flight.peak_memory, died.peak_memory or 0) or None
        struck = died.exitcode == -signal.SIGKILL and self._memory_ran_out()
        how = how_it_ended(died.exitcode, peak, out_of_memory=struck)
        return WorkerDiedError(
            f"{where}: its worker process{number} died{how}",
            index=index,
            exitcode=died.exitcode,
            pid=died.pid,
            peak_memory=peak,
            out_of_memory=struck,
        )

    def _too_much(self, flight: Flight) -> str:
        way_out = (
            "one row is not to be split further"
            if self._options.partition_wise
            else "give smaller partitions (n_partitions=, chunk_size=), or let pmap split those that "
            "need it, if the function treats parts as it treats the whole: config(partition_wise=True)"
        )
        return (
            f"its worker held {_bytes(flight.over_limit)} of its own, more than "
            f"memory_limit={_bytes(self._options.memory_limit or 0)}, and was stopped: {way_out}"
        )

    def _memory_ran_out(self) -> bool:
        """Whether the kernel has ended processes for want of memory since the call began."""
        kills = memory_kills()
        return kills is not None and self._kills is not None and kills > self._kills

    def put(self, error: BaseException, flight: Flight, stats: Stats | None) -> None:
        """Say on the error itself where it happened."""
        if isinstance(error, PartitionError) and error.index is None:
            error.index = flight.partition.index
            error.args = (f"{self._where(flight)}: {error}",)
        worker = "" if stats is None else f", worker {stats.worker}"
        note(
            error,
            f"pmap: in {self._where(flight)} on backend {self._backend!r}{worker}, "
            f"attempt {flight.attempt + 1} of {self._options.retries + 1}",
        )


def failure_of(flight: Flight) -> BaseException | None:
    """Of the backend; the function's own comes in the reply."""
    try:
        return flight.future.exception()
    except CancelledError:
        return BackendError("the backend cancelled a task, or was closed")


def as_ours(failure: BaseException) -> BaseException:
    """Another library's exception, at our boundary."""
    if isinstance(failure, PmapError):
        return failure
    ours = BackendError(f"the backend failed: {type(failure).__name__}: {failure}")
    ours.__cause__ = failure
    return ours


def how_it_ended(exitcode: int | None, peak: int | None, *, out_of_memory: bool) -> str:
    """The end of a sentence that says that a worker died."""
    if exitcode is None:
        how = ""
    elif exitcode >= 0:
        how = f" with exit code {exitcode}"
    else:
        how = f" by signal {signal.Signals(-exitcode).name}"
    held = "" if peak is None else f", having held {_bytes(peak)} at most"
    if out_of_memory:
        return f"{how}{held}: the kernel ended it, or another, because memory ran out"
    if exitcode == -signal.SIGKILL:
        return f"{how}{held} (the kernel does that when memory runs out)"
    return how + held


def _bytes(number: float) -> str:
    """A number of bytes that a person can read."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:  # noqa: PLR2004  as units go
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.2f} GB"
