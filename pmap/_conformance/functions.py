"""Whatever can be called, and whatever it returns."""

# ruff: noqa: S101, PLR2004  tests assert, and expect plain numbers

from __future__ import annotations

import os
import sys
import threading
from typing import Any, cast

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import pmap
from pmap._conformance.base import Base
from pmap._conformance.gate import index_here
from pmap._conformance.samples import FUNCTIONS, RESULTS, Counting, Unopenable, plain
from pmap.errors import ResultTypeError, UnpicklableFunctionError

__all__ = ["Functions"]


class Functions(Base):
    """Functions and their results."""

    @pytest.mark.parametrize("kind", FUNCTIONS)
    def test_kinds_of_functions(self, kind: str) -> None:
        """They give what they give in a plain loop."""
        self._check(plain(), FUNCTIONS[kind], n_partitions=5)

    @pytest.mark.parametrize("rows", [5, 5_000])
    def test_closures(self, rows: int) -> None:
        """They take along what they close over, frames and large data included."""
        table, offsets = plain(rows), list(range(10 * rows))

        def joined(part: pl.DataFrame) -> pl.DataFrame:
            return part.join(table, on="x", how="left").with_columns(last=offsets[-1])

        self._check(plain(), joined, n_partitions=4)

    def test_a_class_is_instantiated_once_in_each_worker(self) -> None:
        """Not once a partition: a model is loaded once."""
        result = self._map(plain(), cast("Any", Counting), n_partitions=12)
        seen = result.group_by("instance").agg(pl.col("seen").max())["seen"]
        assert seen.len() <= self._capabilities.n_workers
        assert seen.sum() == 12

    def test_the_initializer_runs_once_in_each_worker(self) -> None:
        """`config(initializer=...)` runs before the first partition."""
        self._need_other_processes()
        name = f"_pmap_{os.urandom(4).hex()}"

        def initialize() -> None:
            setattr(sys, name, getattr(sys, name, 0) + 1)

        with pmap.config(initializer=initialize):
            runs = list(self._iterate(plain(), lambda _: getattr(sys, name), n_partitions=12))
        assert runs == [1] * 12

    def test_what_can_not_be_pickled_is_named(self) -> None:
        """Before anything starts."""
        self._need_other_processes()
        lock = threading.Lock()
        with pytest.raises(UnpicklableFunctionError, match="closure variable 'lock'"):
            self._map(plain(), lambda part: part if lock else None, n_partitions=2)

    def test_a_function_that_does_not_unpickle(self) -> None:
        """The error in the worker is the caller's, and says when it happened."""
        self._need_other_processes()
        with pytest.raises(ZeroDivisionError, match="can not be opened") as caught:
            self._map(plain(), Unopenable(), n_partitions=2)
        assert any("unpickling the function" in note for note in caught.value.__notes__)
        self._check_usable()

    @pytest.mark.parametrize("kind", RESULTS)
    def test_kinds_of_results(self, kind: str) -> None:
        """`iter_partitions` gives whatever the function returned."""
        value = RESULTS[kind]
        assert list(self._iterate(plain(), lambda _: value, n_partitions=3)) == [value] * 3

    @pytest.mark.parametrize("rows", [6, 60_000])
    def test_frames_as_results_of_an_iteration(self, rows: int) -> None:
        """By themselves, and inside what is no frame."""
        frame = plain(rows)
        alone = list(self._iterate(frame, lambda part: part, n_partitions=3))
        inside = list(self._iterate(frame, lambda part: {"frame": part}, n_partitions=3))
        assert_frame_equal(pl.concat(alone), frame)
        assert_frame_equal(pl.concat([result["frame"] for result in inside]), frame)

    def test_a_result_that_does_not_pickle(self) -> None:
        """Where it has to be pickled, it is an error of its partition."""

        def lock(_: pl.DataFrame) -> Any:
            return threading.Lock()

        if self._is_elsewhere:
            with pytest.raises(TypeError, match="pickle") as caught:
                list(self._iterate(plain(), lock, n_partitions=3))
            assert any("of 3 (rows" in note for note in caught.value.__notes__)
            self._check_usable()
        else:
            assert len(list(self._iterate(plain(), lock, n_partitions=3))) == 3

    def test_a_result_that_does_not_unpickle(self) -> None:
        """It is an error of its partition, too."""
        self._need_other_processes()
        with pytest.raises(ZeroDivisionError, match="can not be opened") as caught:
            list(self._iterate(plain(), lambda _: Unopenable(), n_partitions=3))
        assert any("of 3 (rows" in note for note in caught.value.__notes__)
        self._check_usable()

    @pytest.mark.parametrize(
        "value", [1, "text", [1, 2], pl.Series([1])], ids=lambda v: type(v).__name__
    )
    def test_a_result_that_is_no_frame(self, value: object) -> None:
        """`map_partitions` says which partition gave what, and what to use instead."""
        expected = f"partition 1 of 3.* {type(value).__name__}, .*iter_partitions"
        with pytest.raises(ResultTypeError, match=expected) as caught:
            self._map(plain(), lambda part: value if index_here() == 1 else part, n_partitions=3)
        assert caught.value.index == 1
