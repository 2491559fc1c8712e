"""Whose fault it was, and in which words: a partition's failure as the user reads it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from pmap.errors import (
    BackendError,
    PartitionError,
    PartitionTimeoutError,
    PmapError,
    WorkerDiedError,
)

if TYPE_CHECKING:
    from pmap._carry import Answer, Flight
    from pmap._config import Options

__all__ = ["Blame", "as_ours", "failure_of"]


class Blame:
    """Words for the failures of one call.

    Parameters
    ----------
    options
        `timeout` and `retries` are named.
    count
        How many partitions there are, if that is known.
    """

    def __init__(self, options: Options, count: int | None) -> None:
        self._options = options
        self._of = "" if count is None else f" of {count}"

    def _where(self, flight: Flight) -> str:
        part = flight.partition
        rows = f"rows {part.start} to {part.start + part.rows - 1}" if part.rows else "no rows"
        return f"partition {part.index}{self._of} ({rows})"

    def death(self, flight: Flight, failure: WorkerDiedError) -> PartitionError:
        """The error of a partition whose worker died: of itself, or because it was late."""
        where = self._where(flight)
        if flight.timed_out:
            return PartitionTimeoutError(
                f"{where} ran longer than timeout={self._options.timeout} seconds; its worker was killed",
                index=flight.partition.index,
            )
        number = "" if failure.pid is None else f" {failure.pid}"
        return WorkerDiedError(
            f"{where}: its worker process{number} died{_how_it_ended(failure.exitcode)}",
            index=flight.partition.index,
            exitcode=failure.exitcode,
            pid=failure.pid,
        )

    def put(
        self, error: BaseException, flight: Flight, backend: str, answer: Answer | None
    ) -> None:
        """Say on the error itself where it happened."""
        if isinstance(error, PartitionError) and error.index is None:
            error.index = flight.partition.index
            error.args = (f"{self._where(flight)}: {error}",)
        worker = "" if answer is None or answer.stats is None else f", worker {answer.stats.worker}"
        error.add_note(
            f"pmap: in {self._where(flight)} on backend {backend!r}{worker}, "
            f"attempt {flight.attempt + 1} of {self._options.retries + 1}"
        )


def failure_of(flight: Flight) -> BaseException | None:
    """Of the backend; the function's own comes in the reply."""
    if flight.future.cancelled():
        return BackendError("the backend cancelled a task, or was closed")
    return flight.future.exception()


def as_ours(failure: BaseException) -> BaseException:
    """Another library's exception, at our boundary."""
    if isinstance(failure, PmapError):
        return failure
    ours = BackendError(f"the backend failed: {type(failure).__name__}: {failure}")
    ours.__cause__ = failure
    return ours


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is None:
        return ""
    if exitcode >= 0:
        return f" with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    hint = " (the kernel does that when memory runs out)" if name == "SIGKILL" else ""
    return f" by signal {name}{hint}"
