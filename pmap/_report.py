"""What happened in a call: the plan, a row a partition, what failed."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

if TYPE_CHECKING:
    from pmap._plan import Plan
    from pmap._schedule import Outcome
    from pmap._wire import Stats

__all__ = ["Report", "last_report", "remember"]

_TIMINGS: dict[str, pl.DataType] = {
    "index": pl.Int64(),
    "rows": pl.Int64(),
    "worker": pl.Int64(),
    "started": pl.Datetime("us", "UTC"),
    "finished": pl.Datetime("us", "UTC"),
    "function_seconds": pl.Float64(),
    "transport_seconds": pl.Float64(),
    "bytes_in": pl.Int64(),
    "bytes_out": pl.Int64(),
    "attempt": pl.Int64(),
    "loading_seconds": pl.Float64(),
    "cpu_seconds": pl.Float64(),
    "pool_seconds": pl.Float64(),
    "blocked_seconds": pl.Float64(),
}


class _Attempt(NamedTuple):
    """One attempt at a partition."""

    number: int
    rows: int
    attempt: int
    stats: Stats

    def timing(self) -> tuple[Any, ...]:
        """As a row of `_TIMINGS`."""
        stats = self.stats
        usage = stats.usage
        return (
            self.number,
            self.rows,
            stats.worker,
            int(stats.started * 1e6),
            int(stats.finished * 1e6),
            stats.function_seconds,
            stats.transport_seconds,
            stats.bytes_in,
            stats.bytes_out,
            self.attempt,
            stats.loading_seconds,
            0.0 if usage is None else usage.cpu + usage.others,
            None if usage is None else usage.pool,
            None if usage is None else usage.blocked,
        )


class Report:
    """What happened in one call.

    Attributes
    ----------
    plan : Plan
        Workers, partitions, backend, and why.
    seconds : float
        From the call to its end.
    start_seconds : float
        Until new workers were there; 0 for warm ones.
    moving_seconds : float
        For moving data: in the caller, and in each worker on average.
    failures : list of BaseException
        What failed and was skipped or returned, in the order of failing.
    """

    def __init__(self, plan: Plan, begun: float) -> None:
        self.plan = plan
        self.failures: list[BaseException] = []
        self.seconds = 0.0
        self.start_seconds = 0.0
        self.moving_seconds = 0.0
        self._attempts: list[_Attempt] = []
        self._begun = begun  # of `time.perf_counter`

    def add(self, outcome: Outcome) -> None:
        """Note one attempt at a partition."""
        if outcome.stats is not None:
            partition = outcome.partition
            self._attempts.append(
                _Attempt(partition.index, partition.rows, outcome.attempt, outcome.stats)
            )

    def finish(self) -> None:
        """The call is over."""
        self.seconds = time.perf_counter() - self._begun

    @property
    def stats(self) -> list[Stats]:
        """Of each attempt, in the order of finishing."""
        return [attempt.stats for attempt in self._attempts]

    def raise_failures(self) -> None:
        """Raise all that failed as one `ExceptionGroup`, if anything did.

        After a call with ``on_error="return"`` or ``"skip"``: its result can be used, or
        saved, before the failures are dealt with by ``except*``. Each of them has its
        partition in hand, see `pmap.errors.failed_partition`.

        Raises
        ------
        ExceptionGroup
            `BaseExceptionGroup` if an error is no `Exception`, such as a panic of Polars.
        """
        if self.failures:
            n = len(self.failures)
            raise BaseExceptionGroup(f"{n} partition{'' if n == 1 else 's'} failed", self.failures)

    @property
    def timings(self) -> pl.DataFrame:
        """A row for each attempt, in the order of partitions.

        Columns: ``index``, ``rows``, ``worker`` (pid), ``started`` and ``finished`` (UTC),
        ``function_seconds``, ``transport_seconds`` (in the worker), ``bytes_in``,
        ``bytes_out`` (what was copied or sent; 0 where everything lay in memory that both
        sides have), ``attempt`` (from 0), ``loading_seconds`` (making the function ready in
        the worker, with all that it imports), and of the function's time: ``cpu_seconds`` (all
        threads of its process), ``pool_seconds`` (of these, Polars' own pool) and
        ``blocked_seconds`` (asleep or waiting), the latter two null where nobody looked.
        """
        rows = [attempt.timing() for attempt in self._attempts]
        frame = pl.DataFrame(rows, schema=_TIMINGS, orient="row")
        return frame.sort("index", "attempt")

    def __str__(self) -> str:
        stats = self.stats
        function = sum(s.function_seconds for s in stats)
        workers = len({s.worker for s in stats})
        n_rows = sum(attempt.rows for attempt in self._attempts)
        starting = f", starting workers {self.start_seconds:.3f} s" if self.start_seconds else ""
        lines = [
            f"{len(stats)} partitions, {n_rows:,} rows in {self.seconds:.3f} s",
            f"  in the function {function:.3f} s, moving data {self.moving_seconds:.3f} s{starting}, over {workers} worker(s)",
            f"  sent {sum(s.bytes_in for s in stats):,} bytes, received {sum(s.bytes_out for s in stats):,} bytes",
        ]
        if self.failures:
            lines.append(
                f"  {len(self.failures)} partition(s) failed, the first: {self.failures[0]!r}"
            )
        return "\n".join([str(self.plan), *lines])

    def __repr__(self) -> str:
        return f"<Report: {self}>"


_last: Report | None = None
_of_thread = threading.local()


def remember(report: Report) -> None:
    """Make it the last report, of this thread and of the process."""
    global _last  # noqa: PLW0603
    _last = _of_thread.report = report


def last_report() -> Report | None:
    """The report of this thread's last call; of the process's, if this thread made none.

    Returns
    -------
    Report or None
        With ``plan``, ``timings`` (a `DataFrame`, a row a partition), ``seconds`` and
        ``failures``; printing it gives a summary. ``None`` before the first call.

    Examples
    --------
    >>> import polars as pl, pmap
    >>> out = pmap.map_partitions(pl.DataFrame({"x": [1, 2]}), lambda p: p, n_partitions=2)
    >>> pmap.last_report().timings["rows"].to_list()
    [1, 1]
    """
    return getattr(_of_thread, "report", None) or _last
