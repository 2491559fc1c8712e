"""The failing partition in the user's hands: its rows, on disk, run again, and narrowed."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import time
from dataclasses import dataclass

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pmap
from pmap import errors

DF = pl.DataFrame({"x": range(100)})
BACKENDS = ["auto", "serial", "threads", "spawn", "forkserver", "loky"]


def fail(part):
    if part["x"].is_in([30]).any():
        raise ValueError(f"attempt {pmap.current_partition().attempt}")
    return part


def failing(function=fail, frame=DF, **options):
    """The error that a map of four partitions ends with."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011  of whatever class
        pmap.map_partitions(frame, function, **{"n_partitions": 4, **options})
    return caught.value


class TestItsRows:
    @pytest.mark.slow_elsewhere
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_are_in_the_users_exception(self, backend):
        error = failing(backend=backend)
        assert error.partition().equals(DF[25:50])
        failed = errors.failed_partition(error)
        assert (failed.index, failed.start, failed.rows, failed.attempt) == (1, 25, 25, 0)
        assert backend in {failed.backend, "auto"}

    def test_are_in_the_error_of_a_dead_worker(self, process_backend):
        def kill(part):
            os.kill(os.getpid(), signal.SIGKILL) if 30 in part["x"] else None
            return part

        assert failing(kill, backend=process_backend).partition().equals(DF[25:50])

    @pytest.mark.slow_elsewhere
    def test_are_in_the_error_of_a_late_one(self, process_backend):
        def hang(part):
            time.sleep(60) if 30 in part["x"] else None
            return part

        error = failing(hang, backend=process_backend, timeout=1)
        assert isinstance(error, errors.PartitionTimeoutError)
        assert error.partition().equals(DF[25:50])

    def test_are_in_each_that_is_returned(self, process_backend):
        def fail_often(part):
            raise ValueError(part["x"][0])

        out = list(
            pmap.iter_partitions(
                DF, fail_often, backend=process_backend, n_partitions=4, on_error="return"
            )
        )
        assert [error.partition()["x"][0] for error in out] == [0, 25, 50, 75]

    def test_of_a_stream_are_those_of_its_frame(self):
        error = failing(frame=[DF[:20], DF[20:40], DF[40:]], backend="serial", n_partitions=None)
        assert error.partition().equals(DF[20:40])

    def test_stay_when_the_frame_goes(self):
        frame = pl.DataFrame({"x": range(100)})
        error = failing(frame=frame, backend="forkserver")
        del frame
        assert error.partition().equals(DF[25:50])


class TestTheUsersOwnNames:
    def test_stay_as_they_are(self):
        class Special(Exception):
            partition = "mine"

        def fail_specially(part):
            raise Special

        error = failing(fail_specially, backend="serial")
        assert error.partition == "mine"
        assert errors.failed_partition(error).partition().equals(DF[:25])

    def test_a_frozen_exception_has_them_too(self):
        @dataclass(frozen=True)
        class Frozen(Exception):
            code: int

        def fail_frozen(part):
            raise Frozen(3)

        kinds = {"serial": Frozen, "threads": Frozen, "forkserver": errors.RemoteError}
        for backend, kind in kinds.items():  # its pickle can not be opened again
            error = failing(fail_frozen, backend=backend, n_partitions=1)
            assert type(error) is kind
            assert error.partition().equals(DF)
            assert any("partition 0 of 1" in note for note in error.__notes__)

    def test_another_error_has_none(self):
        with pytest.raises(LookupError, match="no partition is known of this KeyError"):
            errors.failed_partition(KeyError())
        with pytest.raises(LookupError):
            errors.WorkerDiedError("made by hand").partition()


class TestSaving:
    @pytest.mark.parametrize(
        ("name", "read"),
        [("part.arrow", pl.read_ipc), ("part.ipc", pl.read_ipc), ("part.parquet", pl.read_parquet)],
    )
    def test_gives_a_file(self, tmp_path, name, read):
        error = failing(backend="forkserver")
        error.save(tmp_path / name)
        assert read(tmp_path / name).equals(DF[25:50])

    def test_in_another_format_is_refused(self, tmp_path):
        with pytest.raises(errors.ArgumentError, match=r"csv.*\*\.arrow .* or \*\.parquet"):
            failing(backend="serial").save(tmp_path / "part.csv")


class TestReplaying:
    def test_runs_the_function_here_and_as_there(self, process_backend):
        error = failing(backend=process_backend, retries=1)
        assert str(error) == "attempt 1"
        with pytest.raises(ValueError, match="attempt 1") as caught:
            error.replay()
        assert "test_failed.py" in str(caught.traceback[-1].path)  # where a debugger stops

    def test_has_the_same_random_numbers(self):
        def fail_by_chance(part):
            raise ValueError(float(pmap.current_partition().rng.random()))

        with pmap.config(seed=3):
            error = failing(fail_by_chance, backend="forkserver")
        with pytest.raises(ValueError, match=str(error)):
            error.replay()

    def test_of_what_is_mended_gives_the_result(self):
        fault = {"there": True}

        def fail_if_there(part):
            if fault["there"]:
                raise ValueError
            return part.select(y=pl.col("x") * 2)

        error = failing(fail_if_there, backend="serial")
        fault["there"] = False
        assert error.replay().equals(DF[:25].select(y=pl.col("x") * 2))


@pytest.mark.parametrize(
    "carry", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy], ids=["pickled", "copied"]
)
def test_an_error_that_travels_keeps_the_numbers_and_not_the_rows(carry):
    error = carry(failing(frame=pl.DataFrame({"x": range(1_000_000)}), backend="forkserver"))
    assert errors.failed_partition(error).index == 0
    assert len(pickle.dumps(error)) < 10_000
    assert str(error) == "attempt 0"


def test_an_error_of_a_map_inside_a_map_is_about_the_outer_partition():
    def inner(part):
        return pmap.map_partitions(part, fail, n_partitions=5)

    error = failing(inner, backend="forkserver")
    assert error.partition().equals(DF[25:50])
    assert len(error.__notes__) == 2


class TestBisecting:
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_finds_the_row(self, backend):
        with pmap.config(bisect=True):
            error = failing(backend=backend)
        assert error.partition().equals(DF[30:31])
        assert "1 of the partition's 25 rows fail by themselves, from row 30 on" in "".join(
            error.__notes__
        )

    @pytest.mark.slow_elsewhere
    def test_finds_the_row_that_kills(self, process_backend):
        def kill(part):
            os.kill(os.getpid(), signal.SIGKILL) if 30 in part["x"] else None
            return part

        with pmap.config(bisect=True):
            error = failing(kill, backend=process_backend)
        assert isinstance(error, errors.WorkerDiedError)
        assert error.partition().equals(DF[30:31])

    @given(st.integers(0, 99), st.integers(0, 99))
    def test_finds_the_run_that_fails_together(self, one, other):
        low, high = sorted((one, other))

        def fail_together(part):
            if low in part["x"] and high in part["x"]:
                raise ValueError
            return part

        with pmap.config(bisect=True):
            error = failing(fail_together, backend="serial", n_partitions=1)
        assert error.partition()["x"].to_list() == list(range(low, high + 1))

    @pytest.mark.parametrize("backend", ["serial", "forkserver"])
    def test_is_for_all_that_fail(self, backend):
        def fail_thrice(part):
            if part["x"].is_in([3, 30, 99]).any():
                raise ValueError
            return part

        with pmap.config(bisect=True):
            out = pmap.map_partitions(
                DF, fail_thrice, backend=backend, n_partitions=4, on_error="return"
            )
        assert out.equals(DF[50:75])
        rows = [error.partition()["x"].to_list() for error in pmap.last_report().failures]
        assert sorted(rows) == [[3], [30], [99]]

    def test_takes_another_error_for_none(self):
        def fail_otherwise(part):
            if part.height < 25:
                raise KeyError("another")
            raise ValueError("of the whole")

        with pmap.config(bisect=True):
            error = failing(fail_otherwise, backend="serial")
        assert isinstance(error, ValueError)
        assert error.partition().equals(DF[:25])
