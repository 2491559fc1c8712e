"""Partitions that are run in pieces, because in one they took more memory than they may."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl

from pmap._gather import gather
from pmap.errors import ResultTypeError

if TYPE_CHECKING:
    from pmap._partition import Partition

__all__ = ["Pieces"]


class _Whole:
    """A partition that was split, and what its pieces gave so far, by their first row."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.frames: dict[int, pl.DataFrame | None] = {}
        self.rows = 0
        self.is_lost = False


class Pieces:
    """All partitions of a call that were split.

    A piece is a partition too, with the index of the whole and fewer rows.
    """

    def __init__(self) -> None:
        self._wholes: dict[int, _Whole] = {}

    def split(self, partition: Partition) -> tuple[Partition, Partition]:
        """The halves of a partition, or of a piece of one."""
        self._wholes.setdefault(partition.index, _Whole(partition))
        half = partition.rows // 2
        return (
            replace(partition, rows=half),
            replace(partition, start=partition.start + half, rows=partition.rows - half),
        )

    def add(self, piece: Partition, value: Any) -> tuple[Partition, Any] | None:
        """The whole partition and its value; ``None`` as long as other pieces are missing.

        Raises
        ------
        ResultTypeError, SchemaMismatchError
            When what the pieces gave can not be put together.
        """
        whole = self._wholes.get(piece.index)
        if whole is None:
            return piece, value
        if value is not None and not isinstance(value, pl.DataFrame):
            raise ResultTypeError(
                "it was split because it took more than memory_limit, and what the function returned "
                f"for its parts, a {type(value).__qualname__}, can not be put together: return frames"
            )
        whole.frames[piece.start] = value
        whole.rows += piece.rows
        if whole.rows < whole.partition.rows:
            return None
        frames = [(piece.index, whole.frames[start]) for start in sorted(whole.frames)]
        return whole.partition, gather(frames, None)

    def lose(self, piece: Partition) -> None:
        """It has failed for good: the other pieces do not matter any more."""
        if piece.index in self._wholes:
            self._wholes[piece.index].is_lost = True

    def is_lost(self, piece: Partition) -> bool:
        """Whether another piece of its partition has failed for good."""
        return piece.index in self._wholes and self._wholes[piece.index].is_lost
