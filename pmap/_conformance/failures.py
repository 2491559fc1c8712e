"""Functions that raise, exit, hang or kill their worker."""

# ruff: noqa: S101, PLR2004  tests assert, and expect plain numbers

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import pmap
from pmap._conformance.base import Base
from pmap._conformance.gate import Wait, index_here
from pmap._conformance.samples import (
    ERRORS,
    LockedError,
    MuteError,
    RaiseOn,
    UnopenableError,
    plain,
)
from pmap.errors import (
    FunctionExitError,
    PartitionTimeoutError,
    PmapWarning,
    RemoteError,
    RemoteTraceback,
    WorkerDiedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmap._conformance.gate import Gate

__all__ = ["Failures"]


def _attempt() -> int:
    info = pmap.current_partition()
    return -1 if info is None else info.attempt


def _die_once(part: pl.DataFrame) -> pl.DataFrame:
    if index_here() == 1 and _attempt() == 0:
        os._exit(3)
    return part


class Failures(Base):
    """Whatever goes wrong in a partition names it, and the backend stays usable."""

    def _check_blame(self, error: BaseException) -> None:
        assert any("in partition 2 of 4 (rows 6 to 8)" in note for note in error.__notes__)
        if self._is_elsewhere:
            assert isinstance(error.__cause__, RemoteTraceback)
            assert "RaiseOn" in str(error.__cause__) or "samples.py" in str(error.__cause__)
        self._check_usable()

    @pytest.mark.parametrize("kind", ERRORS)
    def test_errors_come_back_as_themselves(self, kind: str) -> None:
        """With a note that names the partition, and the worker's traceback as the cause."""
        original = ERRORS[kind]()
        with pytest.raises(type(original)) as caught:
            self._map(plain(), RaiseOn(2, ERRORS[kind]), n_partitions=4)
        assert type(caught.value) is type(original)
        assert repr(caught.value.args) == repr(original.args)
        self._check_blame(caught.value)

    @pytest.mark.parametrize("make", [SystemExit, GeneratorExit, lambda: SystemExit(3)])
    def test_exits_of_functions(self, make: Callable[[], BaseException]) -> None:
        """A function can end neither its worker nor the caller."""
        with pytest.raises(FunctionExitError, match="Exit") as caught:
            self._map(plain(), RaiseOn(2, make), n_partitions=4)
        assert caught.value.index == 2
        self._check_usable()

    @pytest.mark.parametrize(
        "error", [UnopenableError("one, ", "two"), LockedError("one, two")], ids=repr
    )
    def test_errors_that_can_not_travel(self, error: Exception) -> None:
        """They come as a `RemoteError` that tells all."""
        kind = type(error)
        arguments = ("one, ", "two") if kind is UnopenableError else ("one, two",)

        def fail(part: pl.DataFrame) -> pl.DataFrame:
            return RaiseOn(2, lambda: kind(*arguments))(part)

        with pytest.raises(RemoteError if self._is_elsewhere else kind, match="one, two") as caught:
            self._map(plain(), fail, n_partitions=4)
        assert kind.__name__ in repr(caught.value)
        self._check_blame(caught.value)

    def test_an_error_without_text(self) -> None:
        """An error whose ``str()`` raises is told all the same."""
        with pytest.raises((MuteError, RemoteError)) as caught:
            self._map(plain(), RaiseOn(2, MuteError), n_partitions=4)
        assert any("in partition 2 of 4" in note for note in caught.value.__notes__)
        self._check_usable()

    def test_on_error_skip(self) -> None:
        """The rows are missing, and a warning says so."""
        with pytest.warns(PmapWarning, match="1 of 4 partitions failed.*bad"):
            result = self._map(
                plain(), RaiseOn(2, lambda: ValueError("bad")), n_partitions=4, on_error="skip"
            )
        assert_frame_equal(result, plain().filter(~pl.col("x").is_in([6, 7, 8])))

    def test_on_error_return(self) -> None:
        """The rows are missing, and the errors are in the report."""
        result = self._map(
            plain(), RaiseOn(2, lambda: ValueError("bad")), n_partitions=4, on_error="return"
        )
        assert_frame_equal(result, plain().filter(~pl.col("x").is_in([6, 7, 8])))
        report = pmap.last_report()
        assert report is not None
        assert [repr(error) for error in report.failures] == ["ValueError('bad')"]

    def test_on_error_while_iterating(self) -> None:
        """The error of a partition that failed is in the place of its result."""
        iterate = self._iterate(
            plain(), RaiseOn(2, lambda: ValueError("bad")), n_partitions=4, on_error="return"
        )
        results = list(iterate)
        failed = results.pop(2)
        assert isinstance(failed, ValueError)
        assert str(failed) == "bad"
        assert [part["x"][0] for part in results] == [0, 3, 9]

    def test_retries(self) -> None:
        """A partition may fail so many times, and knows at which attempt it is."""

        def fail_twice(part: pl.DataFrame) -> pl.DataFrame:
            if index_here() == 1 and _attempt() < 2:
                raise ValueError("again")
            return part.with_columns(attempt=_attempt())

        result = self._map(plain(4), fail_twice, n_partitions=4, retries=2)
        assert result["attempt"].to_list() == [0, 2, 0, 0]

    def test_retries_end(self) -> None:
        """After the last attempt, the error is the caller's."""
        with pytest.raises(ValueError, match="always") as caught:
            self._map(plain(), RaiseOn(2, lambda: ValueError("always")), n_partitions=4, retries=1)
        assert any("attempt 2 of 2" in note for note in caught.value.__notes__)

    def test_a_worker_that_dies(self) -> None:
        """The error names the partition that it ran."""
        self._need_own_processes()
        with pytest.raises(WorkerDiedError, match=r"partition 1 of 4 \(rows 3 to 5\)") as caught:
            self._map(plain(), _die_once, n_partitions=4)
        assert caught.value.index == 1
        self._check_usable()

    def test_a_worker_that_dies_once(self) -> None:
        """A retry runs on another worker."""
        self._need_own_processes()
        assert_frame_equal(self._map(plain(), _die_once, n_partitions=4, retries=1), plain())

    def test_timeout(self, gate: Gate) -> None:
        """A partition that runs too long is stopped; the others go on."""
        self._need_own_processes()
        result = self._map(plain(), Wait(gate, 1), n_partitions=4, timeout=2, on_error="return")
        assert_frame_equal(result, plain().filter(~pl.col("x").is_in([3, 4, 5])))
        report = pmap.last_report()
        assert report is not None
        (error,) = report.failures
        assert isinstance(error, PartitionTimeoutError)
        assert error.index == 1
        self._check_usable()
