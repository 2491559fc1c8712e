"""Order of results, and calls that end early or run at the same time."""

# ruff: noqa: S101, PLR2004  tests assert, and expect plain numbers

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pmap._conformance.base import Base
from pmap._conformance.gate import PATIENCE, Gate, Wait, index_here
from pmap._conformance.samples import RaiseOn, add, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

__all__ = ["Order"]


class Order(Base):
    """What comes when."""

    def test_results_as_completed(self, gate: Gate) -> None:
        """With `maintain_order=False`, a slow partition does not hold up another."""
        self._need_two_workers()
        wait = Wait(gate, 0)
        results = self._iterate(
            plain(2), lambda part: wait(part)["x"].item(), n_partitions=2, maintain_order=False
        )
        with contextlib.closing(results):
            first = next(results)  # the other still waits at the gate
            gate.open()
            assert [first, *results] == [1, 0]

    def test_results_in_order(self, gate: Gate) -> None:
        """A partition that is done early waits for those before it."""
        self._need_two_workers()
        bell = Gate(self.host)
        wait, ring = Wait(gate, 0), Wait(bell, 1)

        def open_when_the_second_has_begun() -> None:
            bell.await_arrivals(1)
            bell.open()
            gate.open()

        with ThreadPoolExecutor(1) as thread:
            opening = thread.submit(open_when_the_second_has_begun)
            results = self._iterate(
                plain(2), lambda part: ring(wait(part))["x"].item(), n_partitions=2
            )
            assert list(results) == [0, 1]
            opening.result(PATIENCE)

    def test_rows_in_any_order(self) -> None:
        """With `maintain_order=False`, all rows are there."""
        self._check(plain(1_000), add, n_partitions=20, maintain_order=False)

    def test_an_iteration_that_is_closed(self) -> None:
        """It leaves the backend usable."""
        results = self._iterate(plain(1_000), lambda part: part["x"].sum(), chunk_size=10)
        assert next(results) == sum(range(10))
        results.close()
        with pytest.raises(StopIteration):
            next(results)
        self._check_usable()

    def test_an_iteration_that_is_not_begun(self) -> None:
        """Nothing happens."""
        self._iterate(plain(), RaiseOn(0, ValueError), n_partitions=2).close()
        self._check_usable()

    def test_a_stream_that_raises(self) -> None:
        """Its error is the caller's, and the backend stays usable."""

        def stream() -> Iterator[pl.DataFrame]:
            for _ in range(20):
                yield plain(2)
            raise ZeroDivisionError("the stream broke")

        with pytest.raises(ZeroDivisionError, match="the stream broke"):
            list(self._iterate(stream(), add))
        with pytest.raises(ZeroDivisionError, match="the stream broke"):
            self._map(stream(), add)
        self._check_usable()

    def test_a_stream_is_read_when_there_is_room(self) -> None:
        """An endless one, too; what is read ahead is bounded."""
        n_read = 0

        def stream() -> Iterator[pl.DataFrame]:
            nonlocal n_read
            while True:
                n_read += 1
                yield plain(1)

        with contextlib.closing(self._iterate(stream(), lambda part: part.height)) as results:
            assert [next(results) for _ in range(30)] == [1] * 30
        assert n_read <= 30 + 20 * (self._capabilities.n_workers + 1)

    def test_a_map_inside_an_iteration(self) -> None:
        """The consumer may use the backend for something else."""
        for x in self._iterate(plain(4), lambda part: part["x"].item(), n_partitions=4):
            assert self._map(plain(8), partial(add, number=x), n_partitions=4)["x"][0] == x

    def test_threads_may_map_at_the_same_time(self) -> None:
        """Each gets its own results."""
        both_are_there = threading.Barrier(2)

        def maps(number: int) -> list[int]:
            both_are_there.wait(PATIENCE)
            frames = [
                self._map(plain(6_000), lambda part: add(part, number), n_partitions=4)
                for _ in range(10)
            ]
            return [frame["x"][0] for frame in frames]

        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(maps, [1, 2])) == [[1] * 10, [2] * 10]

    def test_the_first_error_ends_the_call(self) -> None:
        """What is left is not begun; the backend stays usable."""
        begun: list[Any] = []

        def stream() -> Iterator[pl.DataFrame]:
            for _ in range(1_000):
                begun.append(None)
                yield plain(1)

        with pytest.raises(ValueError, match="early"):
            self._map(stream(), RaiseOn(3, lambda: ValueError("early")))
        assert len(begun) < 1_000
        self._check_usable()

    def test_errors_are_not_kept_waiting(self, gate: Gate) -> None:
        """An error that ends the call is raised while an earlier partition still runs."""
        self._need_own_processes()
        self._need_two_workers()
        wait = Wait(gate, 0)

        def fail(part: pl.DataFrame) -> pl.DataFrame:
            if index_here() == 1:
                raise ValueError("while the first one waits")
            return wait(part)

        with pytest.raises(ValueError, match="while the first one waits"):
            list(self._iterate(plain(2), fail, n_partitions=2))
        self._check_usable()
