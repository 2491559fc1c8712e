"""What happened in a call: the plan, a row a partition, what failed."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from pmap._gauge import Usage

if TYPE_CHECKING:
    from pmap._plan import Plan
    from pmap._schedule import Outcome

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


@dataclass(eq=False)
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
    failures : list of BaseException
        What failed and was skipped or returned, in the order of failing.
    """

    plan: Plan
    failures: list[BaseException] = field(default_factory=list[BaseException])
    seconds: float = 0.0
    start_seconds: float = 0.0
    _rows: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]], repr=False)
    _begun: float = field(default_factory=time.perf_counter, repr=False)

    def add(self, outcome: Outcome) -> None:
        """Note one attempt at a partition."""
        stats = outcome.stats
        if stats is not None:
            times = (int(stats.started * 1e6), int(stats.finished * 1e6))
            usage = stats.usage or Usage()
            self._rows.append(
                (
                    outcome.partition.index,
                    outcome.partition.rows,
                    stats.worker,
                    *times,
                    stats.function_seconds,
                    stats.transport_seconds,
                    stats.bytes_in,
                    stats.bytes_out,
                    outcome.attempt,
                    stats.loading_seconds,
                    usage.cpu + usage.others,
                    usage.pool,
                    usage.blocked,
                )
            )

    def finish(self) -> None:
        """The call is over."""
        self.seconds = time.perf_counter() - self._begun

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
        frame = pl.DataFrame(self._rows, schema=_TIMINGS, orient="row")
        return frame.sort("index", "attempt")

    def __str__(self) -> str:
        rows = self._rows
        function = sum(row[5] for row in rows)
        transport = sum(row[6] for row in rows)
        workers = len({row[2] for row in rows})
        lines = [
            f"{len(rows)} partitions, {sum(row[1] for row in rows):,} rows in {self.seconds:.3f} s",
            f"  in the function {function:.3f} s, moving data {transport:.3f} s, over {workers} worker(s)",
            f"  sent {sum(row[7] for row in rows):,} bytes, received {sum(row[8] for row in rows):,} bytes",
        ]
        if self.failures:
            lines.append(
                f"  {len(self.failures)} partition(s) failed, the first: {self.failures[0]!r}"
            )
        return "\n".join([str(self.plan), *lines])


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
