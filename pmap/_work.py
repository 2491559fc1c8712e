"""What a call is to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import polars as pl

    from pmap._partition import Partition

__all__ = ["Work"]


class Work(NamedTuple):
    """A function, and the partitions that it is for.

    Parameters
    ----------
    function
        Of the user.
    partitions
        In their order; a stream is read when there is room.
    frame
        That is split; ``None`` for a stream.
    n_partitions, rows
        Of all partitions; ``None`` for a stream.
    largest, total
        Bytes of the largest partition, and of all; 0 for a stream.
    want_frame
        Whether results must be frames.
    """

    function: Callable[..., Any]
    partitions: Iterator[Partition]
    frame: pl.DataFrame | None
    n_partitions: int | None
    rows: int | None
    largest: int
    total: int
    want_frame: bool
