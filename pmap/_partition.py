"""How a frame, or a stream of frames, becomes partitions.

Boundaries are a function of rows, bytes and the number of workers alone, never of timing,
so that results and seeds are the same in every run.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from pmap._size import estimate
from pmap.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Partition", "Split", "partitions_of_frame", "partitions_of_stream"]

#: Several partitions a worker, so that skew evens out.
PARTITIONS_PER_WORKER = 4

#: Their sizes, a quarter of them after the other. What is done last is cut fine, as by factoring (Hummel,
#: Schonberg and Flynn 1992): a frame that is sorted often has most work at its end, and no worker is left
#: alone for long, whatever made it slower than the others. So is what is done first: where the rest is done
#: fastest is known before much time has gone by.
_SIZES = (1, 3, 3, 1)

#: Partitions that are larger than this on average are cut further: bytes.
MAX_PARTITION_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """Rows `start` to `start + rows` of `source`."""

    index: int
    start: int
    rows: int
    source: pl.DataFrame
    row_bytes: float

    def frame(self) -> pl.DataFrame:
        """The rows, without a copy."""
        if self.rows == self.source.height:
            return self.source
        return self.source.slice(self.start, self.rows)

    @property
    def n_bytes(self) -> int:
        """Estimated size in bytes."""
        return int(self.rows * self.row_bytes)

    @property
    def source_bytes(self) -> int:
        """Estimated size of the whole of `source` in bytes."""
        return int(self.source.height * self.row_bytes)


class Split(NamedTuple):
    """How the user wants it: a count, or rows each; neither means by size and workers."""

    n_partitions: int | None
    chunk_size: int | None


def partitions_of_frame(
    frame: pl.DataFrame, size: int, split: Split, n_workers: int
) -> list[Partition]:
    """Contiguous partitions of all rows; none is empty.

    Parameters
    ----------
    frame
        What is split.
    size
        Of the frame, in bytes, about.
    split
        ``n_partitions=k`` gives exactly ``min(k, rows)``, whose sizes differ by at most
        one row; ``chunk_size=c`` gives `c` rows each but the last.
    n_workers
        Used only where `split` says nothing: then for each worker there are some, the first and the
        last ones smaller than the others.
    """
    row_bytes = size / max(1, frame.height)
    bounds = _bounds(frame.height, size, split, n_workers)
    return [
        Partition(index, start, stop - start, frame, row_bytes)
        for index, (start, stop) in enumerate(itertools.pairwise(bounds))
    ]


def _bounds(rows: int, size: int, split: Split, n_workers: int) -> list[int]:
    if split.chunk_size is not None:
        return [*range(0, rows, split.chunk_size), rows]
    if split.n_partitions is not None:
        return _equal(rows, split.n_partitions)
    count = max(PARTITIONS_PER_WORKER * n_workers, -(-size // MAX_PARTITION_BYTES))
    sizes = [_SIZES[len(_SIZES) * i // count] for i in range(count)]
    whole = sum(sizes)
    if n_workers == 1 or rows < whole:
        return _equal(rows, count)
    return [rows * end // whole for end in itertools.accumulate(sizes, initial=0)]


def _equal(rows: int, count: int) -> list[int]:
    count = min(count, rows)
    return [rows * i // count for i in range(count + 1)] if count else [0]


def partitions_of_stream(frames: Iterable[object]) -> Iterator[Partition]:
    """Each frame of a stream is one partition, read when there is room for it.

    Raises
    ------
    ArgumentError
        When the stream holds something that is no `DataFrame`.
    """
    for index, frame in enumerate(frames):
        if not isinstance(frame, pl.DataFrame):
            raise ArgumentError(
                f"item {index} of the iterable is a {type(frame).__name__}, not a polars DataFrame{_remedy(frame)}"
            )
        yield Partition(index, 0, frame.height, frame, estimate(frame) / max(1, frame.height))


def _remedy(item: object) -> str:
    return ": call .collect() on it" if isinstance(item, pl.LazyFrame) else ""
