"""How long what is left takes in the caller, by what the partitions so far took: rather too little."""

from __future__ import annotations

import math

__all__ = ["Pace"]

#: Rows of a partition that is not small: of those of the average one.
_FULL = 2 / 3
#: What a larger one is taken to take at most, of what a small one took.
_MOST_STRETCHED = 2.0


class Pace:
    """Seconds a row of the partitions of a job.

    A function may take its time for each call, for each row, or both. So what a small partition took is
    stretched to those that are larger, but not to more than twice as much, and only until one of them
    is done.

    Parameters
    ----------
    rows, count
        Of the whole job; ``None`` for a stream, of which as much is taken to be left as is done.
    """

    def __init__(self, rows: int | None, count: int | None) -> None:
        self._rows, self._count = rows, count
        self._rows_done = self.n_done = 0
        self.seconds, self.rows_timed = 0.0, 0  #: of those that were not skipped
        self._full_seconds, self._full_rows = 0.0, 0
        self._best_rate = math.inf
        self._of_small = (math.inf, 1)  # the least seconds, and rows

    def skip(self, rows: int) -> None:
        """A partition is done that says nothing about the others."""
        self._rows_done += rows
        self.n_done += 1

    def note(self, rows: int, seconds: float) -> None:
        """A partition is done."""
        self.skip(rows)
        self.seconds += seconds
        self.rows_timed += rows
        if self._is_full(rows):
            self._full_seconds += seconds
            self._full_rows += rows
            self._best_rate = min(self._best_rate, seconds / max(1, rows))
        else:
            self._of_small = min(self._of_small, (seconds, max(1, rows)))

    def _is_full(self, rows: int) -> bool:
        if not self._rows or not self._count:
            return True
        return rows >= _FULL * self._rows / self._count

    @property
    def knows_large(self) -> bool:
        """Whether one is done that is not small."""
        return self._full_rows > 0

    def n_left(self, *, running: bool) -> int | None:
        """Partitions that nobody has begun."""
        return None if self._count is None else max(0, self._count - self.n_done - running)

    def rows_left(self, running_rows: int = 0) -> int:
        """Rows of these; of a stream, none are known."""
        return 0 if self._rows is None else max(0, self._rows - self._rows_done - running_rows)

    def seconds_left(self, running_rows: int = 0, running_seconds: float = 0.0) -> float:
        """Of the plain loop, without the partition that runs; that one takes so long at least."""
        if self._rows is None or self._count is None:
            return self.seconds + running_seconds
        rows_left = self.rows_left(running_rows)
        seconds, rows = self._full_seconds, self._full_rows
        if running_rows and self._is_full(running_rows):
            seconds, rows = seconds + running_seconds, rows + running_rows
        by_rows = min(seconds / rows, self._best_rate) * rows_left if rows else 0.0
        return max(by_rows, self._by_small(rows_left, self.n_left(running=running_rows > 0) or 0))

    def _by_small(self, rows_left: int, n_left: int) -> float:
        seconds, rows = self._of_small
        if not n_left or seconds == math.inf:
            return 0.0
        larger = 1.0 if self.knows_large else rows_left / n_left / rows
        return seconds * n_left * min(_MOST_STRETCHED, max(1.0, larger))
