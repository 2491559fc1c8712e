"""Which rows of a failing partition it is: the smallest run of them that fails by itself.

Two binary searches, for the end of the run and then for its beginning. What is found has
been seen to fail; that nothing smaller fails is certain where more rows never heal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pmap._wire import note

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmap._config import Options
    from pmap._partition import Partition
    from pmap._schedule import Outcome

__all__ = ["Narrowed", "Narrower", "narrow"]


class Narrower:
    """Outcomes with errors, narrowed to the rows at fault if that is asked for.

    Parameters
    ----------
    options
        Of the call.
    error_of
        Runs rows by themselves, with other options than the call's.
    """

    def __init__(
        self, options: Options, error_of: Callable[[Partition, Options], BaseException | None]
    ) -> None:
        self._options = options
        self._error_of = error_of

    def __call__(self, outcome: Outcome) -> Outcome:
        """The outcome, or another that names fewer rows."""
        if outcome.error is None or not self._options.bisect:
            return outcome
        options = replace(self._options, retries=0, on_error="return", partition_wise=False)
        partition, error, n_calls = narrow(
            outcome.partition, outcome.error, lambda part: self._error_of(part, options)
        )
        note(
            error,
            f"pmap: bisected in {n_calls} calls: {partition.rows:,} of the partition's "
            f"{outcome.partition.rows:,} rows fail by themselves, from row {partition.start:,} on",
        )
        return outcome._replace(partition=partition, error=error)


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
