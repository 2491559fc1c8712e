"""The partition that failed, in the user's hands: its rows, on disk, or run once more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmap._apply import apply
from pmap._function import instantiate
from pmap._wire import facts_of
from pmap.errors import ArgumentError, PmapError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import polars as pl

    from pmap._context import PartitionInfo
    from pmap._partition import Partition

__all__ = ["FailedPartition", "attach"]

_METHODS = ("partition", "save", "replay")


class FailedPartition:
    """What an error of a map knows of the partition that it is about.

    Attributes
    ----------
    index : int
        The partition's number, from 0.
    start, rows : int
        Its first row in the frame, and how many there are; with ``config(bisect=True)``
        those of the smallest run of rows that still fails.
    attempt : int
        The attempt that failed, from 0.
    backend : str
        Where it ran.
    worker : int or None
        Process id of the worker, where that is known.

    Notes
    -----
    It refers to the rows of the caller's frame, without a copy, and so keeps them alive.
    In another process it still knows the numbers, but neither rows nor function.
    """

    def __init__(  # noqa: PLR0913  facts, each by name
        self,
        partition: Partition,
        info: PartitionInfo,
        function: Callable[..., Any],
        *,
        want_frame: bool,
        backend: str,
        worker: int | None,
    ) -> None:
        self.index = partition.index
        self.start = partition.start
        self.rows = partition.rows
        self.attempt = info.attempt
        self.backend = backend
        self.worker = worker
        self._info = info
        self._want_frame = want_frame
        self._partition: Partition | None = partition
        self._function: Callable[..., Any] | None = function

    def partition(self) -> pl.DataFrame:
        """The very rows, without a copy."""
        if self._partition is None:
            raise PmapError("the rows of this partition stayed in the process where the map ran")
        return self._partition.frame()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the rows to a file: Parquet if it is called ``*.parquet``, else Arrow IPC.

        Raises
        ------
        ArgumentError
            For the name of another format.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in {".parquet", ".arrow", ".ipc", ".feather"}:
            raise ArgumentError(f"{str(path)!r}: name it *.arrow (Arrow IPC) or *.parquet")
        frame, file = self.partition(), Path(path)
        frame.write_parquet(file) if suffix == ".parquet" else frame.write_ipc(file)

    def replay(self) -> Any:
        """Call the function on the rows again, here, where a debugger can follow it.

        `pmap.current_partition` says what it said in the worker. What killed a worker will
        end this process too.
        """
        frame = self.partition()
        assert self._function is not None  # noqa: S101  as the rows are there
        function = instantiate(self._function)
        return apply(function, frame, self._info, want_frame=self._want_frame)

    def __getstate__(self) -> dict[str, Any]:
        """Without what would make an error as large as its data."""
        return {**self.__dict__, "_partition": None, "_function": None}

    def __repr__(self) -> str:
        return f"<partition {self.index}: {self.rows:,} rows from row {self.start:,}>"


def attach(failed: FailedPartition, error: BaseException) -> None:
    """Let the error tell of it: ``error.partition()``, ``error.save(path)``, ``error.replay()``.

    An exception of the user's that has such a name itself keeps it.
    """
    facts = facts_of(error)  # so no `__setattr__` of the user's is asked
    facts["pmap_failed"] = failed
    for name in _METHODS:
        if not hasattr(type(error), name):
            facts[name] = getattr(failed, name)
