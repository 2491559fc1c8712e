"""When a partition fails: which, why, what became of the others, and nothing hangs.

Real deaths of real processes; what must have happened exactly once is counted in files.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import warnings

import polars as pl
import pytest

import pmap
from pmap import errors

DF = pl.DataFrame({"x": range(100)})
PROCESSES = ["spawn", "forkserver", "loky"]


def at(part: pl.DataFrame, *rows: int) -> bool:
    """Whether this is a partition that begins with one of these rows."""
    return part["x"][0] in rows


class TestTheUsersException:
    @pytest.mark.parametrize("backend", ["serial", "threads", *PROCESSES])
    def test_comes_back_as_itself(self, backend):
        class Custom(Exception):
            def __init__(self, text, code):
                super().__init__(text, code)
                self.code = code

        def fail(part):
            if at(part, 50):
                raise Custom("no", 7)
            return part

        with pytest.raises(Custom) as caught:
            pmap.map_partitions(DF, fail, backend=backend, n_partitions=4)
        assert caught.value.code == 7
        assert re.search(
            r"partition 2 of 4 \(rows 50 to 74\) on backend '\w+', worker \d+, attempt 1 of 1",
            caught.value.__notes__[0],
        )

    @pytest.mark.parametrize("backend", PROCESSES)
    def test_has_the_workers_traceback_as_its_cause(self, backend):
        def inner_function():
            return 1 / 0

        with pytest.raises(ZeroDivisionError) as caught:
            pmap.map_partitions(DF, lambda part: inner_function(), backend=backend)
        assert isinstance(caught.value.__cause__, errors.RemoteTraceback)
        assert "inner_function" in str(caught.value.__cause__)

    @pytest.mark.parametrize("backend", ["serial", "threads", *PROCESSES])
    def test_a_panic_is_no_hang(self, backend):
        def panic(part):
            raise pl.exceptions.PanicException("the engine")

        with pytest.raises(pl.exceptions.PanicException, match="the engine"):
            pmap.map_partitions(DF, panic, backend=backend)

    @pytest.mark.parametrize("backend", ["serial", "threads", *PROCESSES])
    def test_exits_are_named(self, backend):
        with pytest.raises(errors.FunctionExitError, match=r"partition \d of 2 .*SystemExit\(3\)"):
            pmap.map_partitions(DF, lambda part: sys.exit(3), backend=backend, n_partitions=2)

    @pytest.mark.parametrize("backend", PROCESSES)
    def test_one_that_does_not_unpickle_comes_as_text(self, backend):
        class Stubborn(Exception):
            def __init__(self, one, two):
                super().__init__(f"{one} and {two}")

        def fail(part):
            raise Stubborn("bread", "butter")

        with pytest.raises(errors.RemoteError, match="Stubborn: bread and butter") as caught:
            pmap.map_partitions(DF, fail, backend=backend)
        assert "raise Stubborn" in str(caught.value.__cause__)

    @pytest.mark.parametrize("backend", PROCESSES)
    def test_one_whose_text_raises(self, backend):
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError("no text")

            __repr__ = __str__

        def fail(part):
            raise Mute

        with pytest.raises((Mute, errors.RemoteError)) as caught:
            pmap.map_partitions(DF, fail, backend=backend)
        assert isinstance(caught.value.__cause__, errors.RemoteTraceback)

    @pytest.mark.parametrize("backend", PROCESSES)
    def test_a_huge_message_is_cut(self, backend):
        def fail(part):
            raise ValueError("long " * 20_000_000)

        with pytest.raises(errors.RemoteError, match="characters left out") as caught:
            pmap.map_partitions(DF, fail, backend=backend, n_partitions=1)
        assert len(str(caught.value)) < 100_000

    @pytest.mark.parametrize("backend", PROCESSES)
    def test_recursion(self, backend):
        def deep(part):
            return deep(part)

        with pytest.raises(RecursionError):
            pmap.map_partitions(DF, deep, backend=backend)

    @pytest.mark.parametrize("backend", PROCESSES)
    def test_an_unpicklable_result(self, backend):
        with pytest.raises(TypeError, match="pickle") as caught:
            list(pmap.iter_partitions(DF, lambda part: (x for x in "ab"), backend=backend))
        assert any("sending the result back" in note for note in caught.value.__notes__)

    @pytest.mark.parametrize("backend", ["serial", "threads", *PROCESSES])
    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (
                lambda part: part["x"],
                r"Series, not a polars DataFrame: return series\.to_frame\(\)",
            ),
            (lambda part: part["x"].sum(), r"int, not a polars DataFrame"),
            (lambda part: part.to_arrow(), r"Table.*pl\.from_arrow"),
        ],
        ids=["series", "number", "arrow"],
    )
    def test_a_result_that_is_no_frame(self, backend, make, says):
        with pytest.raises(
            errors.ResultTypeError, match=rf"partition \d of 2 .*{says}.*iter_partitions"
        ):
            pmap.map_partitions(DF, make, backend=backend, n_partitions=2)


def kill(part):
    if at(part, 25):
        os.kill(os.getpid(), signal.SIGKILL)
    return part


class TestDeaths:
    @pytest.mark.parametrize("backend", PROCESSES)
    def test_leave_the_others_alone(self, backend, tmp_path):
        def note_and_kill(part):
            with open(tmp_path / str(part["x"][0]), "a") as file:
                file.write("x")
            return kill(part)

        out = pmap.map_partitions(
            DF, note_and_kill, backend=backend, n_partitions=4, on_error="return"
        )
        assert out["x"].to_list() == [*range(25), *range(50, 100)]
        (failure,) = pmap.last_report().failures
        assert isinstance(failure, errors.WorkerDiedError)
        assert failure.index == 1
        assert {file.name: file.read_text() for file in tmp_path.iterdir()} == dict.fromkeys(
            ["0", "25", "50", "75"], "x"
        )

    @pytest.mark.parametrize("backend", PROCESSES)
    def test_are_retried(self, backend, tmp_path):
        def die_twice(part):
            if at(part, 25):
                marker = tmp_path / str(pmap.current_partition().attempt)
                marker.touch()
                if pmap.current_partition().attempt < 2:
                    os.kill(os.getpid(), signal.SIGKILL)
            return part

        assert pmap.map_partitions(
            DF, die_twice, backend=backend, n_partitions=4, retries=2
        ).equals(DF)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["0", "1", "2"]

    @pytest.mark.parametrize("backend", PROCESSES)
    def test_the_pool_goes_on(self, backend):
        with pytest.raises(errors.WorkerDiedError):
            pmap.map_partitions(DF, kill, backend=backend, n_partitions=4)
        assert pmap.map_partitions(DF, lambda part: part, backend=backend).equals(DF)


class TestTimeouts:
    @pytest.mark.slow_elsewhere
    @pytest.mark.parametrize("backend", PROCESSES)
    def test_stop_the_partition_alone(self, backend):
        def hang(part):
            if at(part, 25):
                time.sleep(60)
            return part

        with pytest.raises(errors.PartitionTimeoutError, match=r"partition 1 of 4 .*timeout=2"):
            pmap.map_partitions(DF, hang, backend=backend, n_partitions=4, timeout=2)
        out = pmap.map_partitions(
            DF, hang, backend=backend, n_partitions=4, timeout=2, on_error="return"
        )
        assert out["x"].to_list() == [*range(25), *range(50, 100)]

    @pytest.mark.slow_elsewhere
    @pytest.mark.parametrize("backend", PROCESSES)
    def test_count_from_the_start_in_the_worker(self, backend):
        """Sixteen partitions of 0.2 s wait for one worker, longer in all than the limit."""

        def nap(part):
            time.sleep(0.2)
            return part

        assert pmap.map_partitions(
            DF, nap, backend=backend, n_partitions=16, n_jobs=1, timeout=3
        ).equals(DF)

    def test_auto_takes_processes(self):
        def hang(part):
            time.sleep(60)

        with pytest.raises(TimeoutError):
            pmap.map_partitions(DF, hang, n_partitions=2, timeout=0.5)


class TestOnErrorAndRetries:
    @pytest.mark.parametrize("backend", ["auto", "serial", "threads", *PROCESSES])
    def test_skip_warns_once(self, backend):
        def fail(part):
            if at(part, 0, 50):
                raise ValueError(part["x"][0])
            return part

        with pytest.warns(errors.PmapWarning, match="2 of 4 partitions failed") as caught:
            out = pmap.map_partitions(DF, fail, backend=backend, n_partitions=4, on_error="skip")
        assert out["x"].to_list() == [*range(25, 50), *range(75, 100)]
        assert [warning.filename for warning in caught] == [__file__]

    @pytest.mark.parametrize("backend", ["auto", "serial", "threads", *PROCESSES])
    def test_return_keeps_them(self, backend):
        def fail(part):
            if at(part, 0, 50):
                raise ValueError(part["x"][0])
            return part["x"].to_list()

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            out = list(
                pmap.iter_partitions(DF, fail, backend=backend, n_partitions=4, on_error="return")
            )
        assert out[1::2] == [[*range(25, 50)], [*range(75, 100)]]
        assert [failure.args[0] for failure in out[::2]] == [0, 50]
        assert set(pmap.last_report().failures) == set(out[::2])

    @pytest.mark.parametrize("backend", ["serial", "forkserver"])
    def test_failures_can_be_raised_together(self, backend):
        def fail(part):
            if at(part, 0, 50):
                raise ValueError(part["x"][0])
            if at(part, 75):
                raise pl.exceptions.PanicException("no Exception")
            return part

        out = pmap.map_partitions(DF, fail, backend=backend, n_partitions=4, on_error="return")
        assert out.equals(DF[25:50])
        with pytest.raises(BaseExceptionGroup, match="3 partitions failed") as caught:
            pmap.last_report().raise_failures()
        values, others = caught.value.split(ValueError)
        assert sorted(error.args[0] for error in values.exceptions) == [0, 50]
        assert [type(error) for error in others.exceptions] == [pl.exceptions.PanicException]

    def test_no_failures_raise_nothing(self):
        pmap.map_partitions(DF, lambda part: part, backend="serial")
        pmap.last_report().raise_failures()

    @pytest.mark.parametrize("backend", ["auto", "serial", "threads", *PROCESSES])
    def test_retries(self, backend):
        def fail_first(part):
            if pmap.current_partition().attempt < 2:
                raise OSError("again")
            return part.with_columns(attempt=pl.lit(pmap.current_partition().attempt))

        out = pmap.map_partitions(DF, fail_first, backend=backend, n_partitions=3, retries=2)
        assert out["attempt"].to_list() == [2] * 100
        assert out.drop("attempt").equals(DF)
        with pytest.raises(OSError, match="again") as caught:
            pmap.map_partitions(DF, fail_first, backend=backend, n_partitions=3, retries=1)
        assert "attempt 2 of 2" in caught.value.__notes__[0]

    def test_retry_on(self, tmp_path):
        def fail(part):
            (tmp_path / str(pmap.current_partition().attempt)).touch()
            raise KeyError("x")

        with pmap.config(retry_on=(OSError,)), pytest.raises(KeyError):
            pmap.map_partitions(DF, fail, backend="serial", retries=3, n_partitions=1)
        assert [file.name for file in tmp_path.iterdir()] == ["0"]

    @pytest.mark.parametrize("backend", PROCESSES)
    def test_raise_does_not_wait_for_the_others(self, backend):
        def fail_or_sleep(part):
            if at(part, 0):
                raise ValueError("first")
            time.sleep(50)

        with pytest.raises(ValueError, match="first"):
            pmap.map_partitions(DF, fail_or_sleep, backend=backend, n_partitions=4, n_jobs=2)


class TestStreams:
    @pytest.mark.parametrize("backend", ["auto", "serial", "threads", *PROCESSES])
    def test_a_generator_that_raises_half_way(self, backend):
        def frames():
            yield from [DF, DF]
            raise LookupError("no more")

        with pytest.raises(LookupError, match="no more"):
            pmap.map_partitions(frames(), lambda part: part, backend=backend)
        assert pmap.map_partitions(DF, lambda part: part, backend=backend).equals(DF)

    @pytest.mark.parametrize("backend", ["serial", "threads", *PROCESSES])
    def test_abandoned_half_way(self, backend):
        results = pmap.iter_partitions(
            DF, lambda part: part.height, backend=backend, n_partitions=50
        )
        assert next(results) == 2
        results.close()
        assert pmap.map_partitions(DF, lambda part: part, backend=backend).equals(DF)

    @pytest.mark.parametrize("backend", ["serial", "threads", *PROCESSES])
    def test_are_read_only_as_far_as_needed(self, backend):
        read = []

        def frames():
            for i in range(1000):
                read.append(i)
                yield pl.DataFrame({"x": [i]})

        results = pmap.iter_partitions(
            frames(), lambda part: part["x"][0], backend=backend, n_jobs=2
        )
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert len(read) < 50
        results.close()
