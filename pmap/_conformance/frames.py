"""Whatever frame there is, and however it is split."""

# ruff: noqa: S101, PLR2004  tests assert, and expect plain numbers

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pmap._conformance.base import Base
from pmap._conformance.gate import index_here
from pmap._conformance.samples import FRAMES, add, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Frames"]


class Frames(Base):
    """Frames on their way there and back."""

    @pytest.mark.parametrize("kind", FRAMES)
    def test_kinds_of_frames(self, kind: str) -> None:
        """Rows, order, dtypes, nulls and flags arrive and come back as they are."""
        self._check(FRAMES[kind](), lambda part: part, n_partitions=4)

    @pytest.mark.parametrize("kind", FRAMES)
    def test_kinds_of_frames_made_by_workers(self, kind: str) -> None:
        """A worker's own frame comes back as it is, however small the partition."""
        frame = FRAMES[kind]()
        made = list(self._iterate(plain(2), lambda _: frame, n_partitions=2))
        for result in made:
            assert_frame_equal(result, frame, check_exact=True)
            assert result.flags == frame.flags

    @pytest.mark.parametrize("kind", FRAMES)
    def test_functions_see_partitions_as_they_are(self, kind: str) -> None:
        """Schema, height and flags inside the function are those of a slice."""
        frame = FRAMES[kind]()
        seen = list(
            self._iterate(
                frame, lambda part: (part.schema, part.height, part.flags), n_partitions=1
            )
        )
        assert seen == [(frame.schema, frame.height, frame.flags)]

    @pytest.mark.parametrize("rows", [23, 50_000])
    @pytest.mark.parametrize("count", [1, 2, 7])
    def test_n_partitions(self, rows: int, count: int) -> None:
        """So many, of which none is empty and none is larger than another by two rows."""
        heights = list(self._iterate(plain(rows), lambda part: part.height, n_partitions=count))
        assert len(heights) == count
        assert sum(heights) == rows
        assert max(heights) - min(heights) <= 1
        self._check(plain(rows), add, n_partitions=count)

    @pytest.mark.parametrize("rows", [23, 50_001])
    def test_chunk_size(self, rows: int) -> None:
        """So many rows each, but the last."""
        size = rows // 4
        heights = list(self._iterate(plain(rows), lambda part: part.height, chunk_size=size))
        assert heights == [size] * 4 + [rows - 4 * size]
        self._check(plain(rows), add, chunk_size=size)

    def test_a_split_of_pmaps_own(self) -> None:
        """Without a count or a size, all rows are there once, and no partition is empty."""
        heights = list(self._iterate(plain(23), lambda part: part.height))
        assert sum(heights) == 23
        assert min(heights) > 0
        self._check(plain(23), add)

    def test_many_partitions(self) -> None:
        """Far more than workers."""
        self._check(plain(500), add, chunk_size=1)

    def test_more_partitions_than_rows(self) -> None:
        """Each row is a partition, and none is empty."""
        assert list(self._iterate(plain(3), lambda part: part.height, n_partitions=50)) == [1, 1, 1]

    def test_a_frame_without_rows(self) -> None:
        """The function is called once, on it, in the caller."""
        empty = plain(0)
        assert list(self._iterate(empty, lambda part: (os.getpid(), part.schema))) == [
            (os.getpid(), empty.schema)
        ]
        self._check(empty, lambda part: part.with_columns(y=pl.lit("text")))

    def test_a_frame_without_rows_and_a_schema(self) -> None:
        """Nothing has to be called."""
        result = self._map(plain(0), lambda _: 1 / 0, schema={"y": pl.Int8})
        assert_frame_equal(result, pl.DataFrame(schema={"y": pl.Int8}))

    def test_a_declared_schema(self) -> None:
        """Every partition is brought to it, if no value changes."""
        result = self._map(
            plain(), lambda part: part.select("x"), n_partitions=3, schema={"x": pl.Int16}
        )
        assert_frame_equal(result, plain().select(pl.col("x").cast(pl.Int16)))

    def test_dtypes_that_differ_harmlessly(self) -> None:
        """Nothing but nulls beside values, and integers of other widths, are reconciled."""

        def odd(part: pl.DataFrame) -> pl.DataFrame:
            dtype = [pl.Null, pl.Int8, pl.Int32][index_here()]
            number = part["x"].item()
            return pl.DataFrame({"x": [number or None, number or None]}, schema={"x": dtype})

        result = self._map(plain(3), odd, n_partitions=3)
        expected = pl.DataFrame({"x": [None, None, 1, 1, 2, 2]}, schema={"x": pl.Int32})
        assert_frame_equal(result, expected)

    @pytest.mark.parametrize("rows", [10, 20_000])
    def test_a_stream_of_frames(self, rows: int) -> None:
        """Each frame of an iterable is a partition, an empty one too."""
        frames = [plain(rows), plain(rows)[3:], plain(0), plain(1), add(plain(rows))]
        self._check(frames, add)

        def stream() -> Iterator[pl.DataFrame]:
            yield from frames

        heights = list(self._iterate(stream(), lambda part: part.height))
        assert heights == [frame.height for frame in frames]

    @pytest.mark.parametrize("rows", [10, 20_000])
    def test_a_stream_of_the_same_frame(self, rows: int) -> None:
        """One object may come again and again."""
        frame, other = plain(rows), add(plain(rows))
        self._check([frame, other] * 15, add)

    def test_an_empty_stream(self) -> None:
        """Nothing in, nothing out."""
        assert self._map([], add).shape == (0, 0)
        assert list(self._iterate([], add)) == []
