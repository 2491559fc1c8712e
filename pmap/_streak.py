"""Whether partitions are so brief that some may wait in a worker, behind the one that runs.

A worker that is done need not wait then until the caller has heard of it and sent another, and the
caller, which takes as long as a worker for so small a partition, is not woken for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pmap._wire import Stats

__all__ = ["Streak"]

#: A partition that takes less in its worker, with all that it is sent and sends, is brief. Seconds.
_BRIEF = 0.002
#: So many of them in a row promise that the next are brief too.
_IN_A_ROW = 16


class Streak:
    """Counts brief partitions.

    What waits behind one that is long after all waits while other workers may have nothing to do. So
    one long partition ends the streak, and the last partitions are not sent ahead.

    Parameters
    ----------
    count
        Partitions that there are; of a stream, whose end may be near, nothing is promised.
    last
        So many of them are the last.
    """

    def __init__(self, count: int | None, last: int) -> None:
        self._end = (count or 0) - last
        self._in_a_row = 0

    def note(self, stats: Stats | None) -> None:
        """Of a partition that has come back."""
        is_brief = stats is not None and stats.finished - stats.started < _BRIEF
        self._in_a_row = self._in_a_row + 1 if is_brief else 0

    def goes_on(self, index: int) -> bool:
        """Whether the partition of this index should be brief, and is none of the last."""
        return self._in_a_row >= _IN_A_ROW and index < self._end
