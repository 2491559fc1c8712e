"""Which rows of a failing partition it is: the smallest run of them that fails by itself.

Two binary searches, for the end of the run and then for its beginning. What is found has
been seen to fail; that nothing smaller fails is certain where more rows never heal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmap._partition import Partition

__all__ = ["Narrowed", "narrow"]


class Narrowed(NamedTuple):
    """The smallest run of rows that fails, its error, and how many calls it took to find it."""

    partition: Partition
    error: BaseException
    n_calls: int


def narrow(
    partition: Partition,
    error: BaseException,
    error_of: Callable[[Partition], BaseException | None],
) -> Narrowed:
    """Find the smallest run of rows that fails as the whole does.

    Parameters
    ----------
    partition, error
        What has failed, and with what; only an error of the same class counts.
    error_of
        Runs rows by themselves.
    """
    found, n_calls = Narrowed(partition, error, 0), 0
    for shorter in (_without_end, _without_beginning):
        low, high = 0, found.partition.rows  # so many rows pass, so many fail
        whole = found.partition
        while high - low > 1:
            middle = (low + high) // 2
            part = shorter(whole, middle)
            seen, n_calls = error_of(part), n_calls + 1
            if seen is None or type(seen) is not type(error):
                low = middle
            else:
                high, found = middle, Narrowed(part, seen, n_calls)
    return found._replace(n_calls=n_calls)


def _without_end(partition: Partition, rows: int) -> Partition:
    return replace(partition, rows=rows)


def _without_beginning(partition: Partition, rows: int) -> Partition:
    return replace(partition, start=partition.start + partition.rows - rows, rows=rows)
