"""What a function finds around it, and what it leaves behind."""

# ruff: noqa: S101, PLR2004  tests assert, and expect plain numbers

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import pmap
from pmap._conformance.base import Base
from pmap._conformance.gate import index_here
from pmap._conformance.samples import add, plain

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Surroundings"]


class _Result:
    """Of a partition."""

    def __init__(self, part: pl.DataFrame) -> None:
        self.rows = part.height


def _make_result(part: pl.DataFrame) -> _Result:
    return _Result(part)


def _info(_: pl.DataFrame) -> tuple[int, int | None, int, int]:
    info = pmap.current_partition()
    return (-1, None, -1, -1) if info is None else (info.index, info.count, info.attempt, info.rows)


def _draw(_: pl.DataFrame) -> list[float]:
    info = pmap.current_partition()
    return [] if info is None else info.rng.random(3).tolist()


def _say(_: pl.DataFrame) -> None:
    sys.stdout.write(f"out {index_here()}\n")
    sys.stderr.write(f"err {index_here()}\n")


def _log(_: pl.DataFrame) -> None:
    logging.getLogger("pmap.conformance").warning("log %d", index_here())


def _map_inside(part: pl.DataFrame) -> tuple[bool, str, bool]:
    pids = list(pmap.iter_partitions(part, lambda _: os.getpid(), n_partitions=2))
    report = pmap.last_report()
    inner = pmap.map_partitions(part, add, n_partitions=2)
    plan = "" if report is None else report.plan.backend
    return inner.equals(add(part)), plan, set(pids) == {os.getpid()}


class Surroundings(Base):
    """The partition, randomness, output, the process, the report."""

    def test_current_partition(self) -> None:
        """It knows its number, how many there are, the attempt, and its rows."""
        expected = [(i, 4, 0, 3) for i in range(4)]
        assert list(self._iterate(plain(), _info, n_partitions=4)) == expected
        assert pmap.current_partition() is None

    def test_results_go_when_they_are_dropped(self) -> None:
        """Without the garbage collector, which may come much later: they may be large."""
        gc.collect()
        gc.disable()
        try:
            results = list(self._iterate(plain(), _make_result, n_partitions=4))
            alive = [weakref.ref(result) for result in results]
            del results
            assert not any(ref() for ref in alive)
        finally:
            gc.enable()

    def test_current_partition_of_a_stream(self) -> None:
        """How many there are is not known."""
        assert list(self._iterate([plain(1), plain(2)], _info)) == [
            (0, None, 0, 1),
            (1, None, 0, 2),
        ]

    def test_seeds(self) -> None:
        """Random numbers are the same on every backend, and others in each partition."""
        with pmap.config(seed=7):
            drawn = list(self._iterate(plain(), _draw, n_partitions=4))
            assert drawn == list(
                pmap.iter_partitions(plain(), _draw, n_partitions=4, backend="serial")
            )
        assert len({tuple(numbers) for numbers in drawn}) == 4

    def test_without_a_seed(self) -> None:
        """Random numbers are fresh."""
        drawn = [
            tuple(numbers)
            for _ in range(2)
            for numbers in self._iterate(plain(), _draw, n_partitions=4)
        ]
        assert len(set(drawn)) == 8

    def test_a_map_inside_a_map(self) -> None:
        """It runs right there, in its worker."""
        assert (
            list(self._iterate(plain(), _map_inside, n_partitions=4))
            == [(True, "serial", True)] * 4
        )

    def test_a_map_inside_a_map_on_threads(self) -> None:
        """Unless another backend is asked for."""

        def inside(part: pl.DataFrame) -> pl.DataFrame:
            return pmap.map_partitions(part, add, n_partitions=2, n_jobs=2, backend="threads")

        self._check(plain(), inside, n_partitions=4)

    def test_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What is printed comes out of the caller's own streams."""
        self._need_this_machine()
        list(self._iterate(plain(), _say, n_partitions=4))
        said = capsys.readouterr()
        assert sorted(said.out.splitlines()) == [f"out {i}" for i in range(4)]
        assert sorted(said.err.splitlines()) == [f"err {i}" for i in range(4)]

    def test_logging(self, caplog: pytest.LogCaptureFixture) -> None:
        """What is logged comes out of the caller's own loggers, once."""
        self._need_this_machine()
        list(self._iterate(plain(), _log, n_partitions=4))
        assert sorted(caplog.messages) == [f"log {i}" for i in range(4)]

    def test_output_of_a_partition_that_fails(self, capsys: pytest.CaptureFixture[str]) -> None:
        """It is not lost."""
        self._need_this_machine()

        def fail(_: pl.DataFrame) -> None:
            sys.stdout.write("last words\n")
            raise ValueError("after the last words")

        with pytest.raises(ValueError, match="after"):
            self._map(plain(2), fail, n_partitions=1)
        assert capsys.readouterr().out == "last words\n"

    def test_workers_are_where_the_capabilities_say(self) -> None:
        """In this process, or in others."""
        pids = set(self._iterate(plain(), lambda _: os.getpid(), n_partitions=8))
        assert (os.getpid() in pids) is not self._is_elsewhere

    def test_native_threads_are_capped(self) -> None:
        """Polars' pool in a worker has as many threads as the plan says."""
        if not self._capabilities.owns_workers:
            pytest.skip("the workers' environment is not this backend's")
        sizes = set(self._iterate(plain(), lambda _: pl.thread_pool_size(), n_partitions=4))
        report = pmap.last_report()
        assert report is not None
        assert sizes == {report.plan.threads_per_worker}

    def test_relative_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """They mean in a worker what they mean in the caller, also after a change of folder."""
        if not self._capabilities.owns_workers and self._is_elsewhere:
            pytest.skip("the workers' folder is not this backend's")
        list(self._iterate(plain(), lambda part: part.height, n_partitions=4))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "here").touch()
        assert all(self._iterate(plain(), lambda _: os.path.exists("here"), n_partitions=4))

    def test_the_report(self) -> None:
        """It has a row for each partition."""
        self._map(plain(), add, n_partitions=4)
        report = pmap.last_report()
        assert report is not None
        assert report.plan.n_partitions == 4
        assert report.timings["index"].to_list() == [0, 1, 2, 3]
        assert report.timings["rows"].to_list() == [3] * 4
        assert (report.timings["started"] <= report.timings["finished"]).all()

    def test_progress(self) -> None:
        """A callable hears of every partition."""
        heard: list[Any] = []
        self._map(plain(), add, n_partitions=4, progress=heard.append)
        assert (heard[-1].partitions, heard[-1].rows) == (4, 12)

    def test_no_warnings(self) -> None:
        """A map that goes well says nothing."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self._check_usable()
