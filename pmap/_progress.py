"""How far a call is: tqdm's bar, or whatever the user calls."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Progress", "ProgressCounts"]


class ProgressCounts(NamedTuple):
    """Counts so far; totals are ``None`` for a stream, whose end is not known."""

    partitions: int
    rows: int
    failed: int
    total_partitions: int | None
    total_rows: int | None


class Progress:
    """Counts partitions that are over, and shows it as asked.

    Parameters
    ----------
    show
        ``True`` for tqdm's bar, a callable that takes `ProgressCounts`, or nothing.
    """

    def __init__(self, show: Any, total_partitions: int | None, total_rows: int | None) -> None:
        self._counts = ProgressCounts(0, 0, 0, total_partitions, total_rows)
        self._call: Callable[[ProgressCounts], object] | None = show if callable(show) else None
        self._bar: Any = _bar(total_rows) if show and self._call is None else None
        self._tell(0)

    def advance(self, rows: int, *, failed: bool) -> None:
        """One more partition is over."""
        if self._call is None and self._bar is None:
            return
        counts = self._counts
        self._counts = counts._replace(
            partitions=counts.partitions + 1, rows=counts.rows + rows, failed=counts.failed + failed
        )
        self._tell(rows)

    def _tell(self, rows: int) -> None:
        counts = self._counts
        if self._call is not None:
            self._call(counts)
        if self._bar is not None:
            total = "" if counts.total_partitions is None else f"/{counts.total_partitions}"
            failed = f", {counts.failed} failed" if counts.failed else ""
            self._bar.set_postfix_str(
                f"{counts.partitions}{total} partitions{failed}", refresh=False
            )
            self._bar.update(rows)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _bar(total_rows: int | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without widgets gets the plain bar
        from tqdm.auto import tqdm  # noqa: PLC0415

    # With a lock of its own: tqdm's is also one of multiprocessing, which pins the start method.
    bar: Any = type("Bar", (tqdm,), {"_lock": threading.RLock()})
    return bar(total=total_rows, unit=" rows", unit_scale=True)
