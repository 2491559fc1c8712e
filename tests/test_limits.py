"""Limits of time and memory: whose worker is stopped, when, and what becomes of the others."""

from __future__ import annotations

import threading
import time

import polars as pl
import pytest

import pmap
from pmap import errors

pytestmark = pytest.mark.once  # costly, and the same on every Python

DF = pl.DataFrame({"x": range(64)})
MB = 1_000_000


def hold(n_bytes, wait):
    """Hold so much memory; as long as `wait` says, the caller looks every 20 ms."""
    data = bytearray(n_bytes)
    data[::4096] = b"x" * len(range(0, n_bytes, 4096))
    threading.Event().wait(wait)
    return data


class HungryByRow:
    """Takes so much a row, 50 MB; waits to be stopped when it is more than 400 MB with the rest."""

    def __init__(self, each=50 * MB):
        self.each = each

    def __call__(self, part):
        wanted = part.height * self.each
        hold(wanted, 60 if wanted > 200 * MB else 0)
        return part.with_columns(rows=pl.lit(part.height))


class TestAMemoryLimit:
    @pytest.mark.slow_elsewhere
    def test_is_an_error_with_figures_and_a_way_out(self, process_backend):
        with pmap.config(memory_limit="400 MB"), pytest.raises(MemoryError) as caught:
            pmap.map_partitions(DF, HungryByRow(), n_partitions=4, backend=process_backend)
        assert isinstance(caught.value, errors.MemoryLimitError)
        said = str(caught.value)
        assert "of 4 (rows " in said
        assert "more than memory_limit=400 MB" in said
        assert "n_partitions=, chunk_size=" in said
        assert "config(partition_wise=True)" in said
        assert caught.value.partition().height == 16

    @pytest.mark.slow_elsewhere
    def test_splits_what_may_be_split(self, process_backend):
        with pmap.config(memory_limit="400 MB", partition_wise=True):
            out = pmap.map_partitions(DF, HungryByRow(), n_partitions=4, backend=process_backend)
        assert out["x"].to_list() == list(range(64))
        assert out["rows"].to_list() == [4] * 64
        timings = pmap.last_report().timings
        assert timings["index"].to_list() == [0, 1, 2, 3]

    def test_does_not_split_a_row(self):
        with (
            pmap.config(memory_limit="400 MB", partition_wise=True),
            pytest.raises(errors.MemoryLimitError, match="one row is not to be split") as caught,
        ):
            pmap.map_partitions(DF, HungryByRow(500 * MB), n_partitions=32, backend="forkserver")
        assert caught.value.partition().height == 1

    def test_leaves_the_others_alone(self):
        def hungry(part):
            return HungryByRow()(part) if part["x"][0] == 16 else part

        with pmap.config(memory_limit="400 MB"):
            out = pmap.map_partitions(
                DF, hungry, n_partitions=4, backend="forkserver", on_error="return"
            )
        assert out["x"].to_list() == [*range(16), *range(32, 64)]
        (error,) = pmap.last_report().failures
        assert isinstance(error, errors.MemoryLimitError)

    def test_a_piece_that_fails_is_the_failure_of_the_partition(self):
        def fail_in_a_piece(part):
            if part.height <= 4 and 20 in part["x"]:
                raise ValueError("in a piece")
            return HungryByRow()(part)

        with pmap.config(memory_limit="400 MB", partition_wise=True):
            out = pmap.map_partitions(
                DF, fail_in_a_piece, n_partitions=4, backend="forkserver", on_error="return"
            )
        assert out["x"].to_list() == [*range(16), *range(32, 64)]
        (error,) = pmap.last_report().failures
        assert 20 in error.partition()["x"]

    def test_splits_nothing_whose_results_are_no_frames(self):
        def count(part):
            return len(HungryByRow()(part))

        call = {"n_partitions": 8, "backend": "forkserver", "on_error": "return"}
        with pmap.config(memory_limit="400 MB", partition_wise=True):
            out = list(pmap.iter_partitions(DF, count, **call))
        assert {type(error) for error in out} == {errors.ResultTypeError}
        assert "split because it took more than memory_limit" in str(out[0])
        assert "partition 0 of 8" in str(out[0])

    def test_of_what_does_not_take_so_much_changes_nothing(self, process_backend):
        with pmap.config(memory_limit="2 GB"):
            out = pmap.map_partitions(DF, lambda part: part, backend=process_backend)
        assert out.equals(DF)

    def test_is_not_about_memory_that_was_freed(self):
        """Each piece is larger than the ones before it, and so has no place where they were."""

        def grow(part):
            for size in range(50, 250, 20):
                pl.int_range(size * MB // 8, eager=True).sum()
                threading.Event().wait(0.05)  # the caller looks
            return part

        with pmap.config(memory_limit="400 MB"):
            out = pmap.map_partitions(DF, grow, n_partitions=2, n_jobs=2, backend="forkserver")
        assert out.equals(DF)

    def test_makes_auto_take_processes(self):
        with pmap.config(memory_limit="2 GB"):
            pmap.map_partitions(DF, lambda part: part)
        assert pmap.last_report().plan.backend in {"forkserver", "spawn"}

    @pytest.mark.parametrize("backend", ["serial", "threads"])
    def test_is_refused_where_nothing_can_be_stopped(self, backend):
        with pmap.config(memory_limit="2 GB"), pytest.raises(errors.ArgumentError, match=backend):
            pmap.map_partitions(DF, lambda part: part, backend=backend)

    def test_is_no_matter_without_rows(self):
        with pmap.config(memory_limit="2 GB"):
            assert pmap.map_partitions(pl.DataFrame({"x": []}), lambda part: part).height == 0

    @pytest.mark.parametrize("limit", ["much", "2 XB", -1, 0, 1.5, True])
    def test_that_is_none_is_refused(self, limit):
        with pytest.raises(errors.ArgumentError), pmap.config(memory_limit=limit):
            pass

    @pytest.mark.parametrize(
        ("text", "number"), [("2 GB", 2 * 10**9), ("1.5kb", 1500), ("1 MiB", 1 << 20), ("7", 7)]
    )
    def test_can_be_said_in_words(self, monkeypatch, text, number):
        with pmap.config(memory_limit=text):
            assert f"memory_limit={number}" in repr(pmap.config)
        monkeypatch.setenv("PMAP_MEMORY_LIMIT", text)
        assert f"memory_limit={number}" in repr(pmap.config)


def test_no_more_is_in_flight_than_the_budget_allows():
    """Frames of 60 MB, three copies each, in a budget of twice 200 MB: two at once, not five."""
    done, ahead = [0], []

    def frames():
        for number in range(8):
            ahead.append(number + 1 - done[-1])
            yield pl.DataFrame({"x": pl.repeat(number, 60 * MB // 8, dtype=pl.Int64, eager=True)})

    with pmap.config(memory_limit="200 MB"):
        values = pmap.iter_partitions(
            frames(),
            lambda part: part["x"][0],
            backend="forkserver",
            n_jobs=2,
            maintain_order=False,
            progress=lambda counts: done.append(counts.partitions),
        )
        assert sorted(values) == list(range(8))
    # two in flight, one that waits for room, and one that is over but not yet counted
    assert max(ahead) <= 4


class TestATimeLimit:
    @pytest.mark.slow_elsewhere
    def test_is_kept_to_within_a_fifth_of_a_second(self, process_backend):
        """From the start of the partition to the error, beside what a map takes anyway."""

        def hang(part):
            if part["x"][0] == 16:
                time.sleep(60)
            return part

        pmap.map_partitions(DF, lambda part: part, backend=process_backend, n_jobs=2)
        late = []
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(errors.PartitionTimeoutError):
                pmap.map_partitions(
                    DF, hang, n_partitions=4, backend=process_backend, n_jobs=2, timeout=1
                )
            late.append(time.monotonic() - started - 1)
        assert 0 <= min(late) < 0.2, late

    @pytest.mark.slow_elsewhere
    def test_costs_the_neighbours_nothing(self, process_backend, tmp_path):
        """Each of the others runs once, also the one that was at work beside the hung one."""

        def run(part):
            with open(tmp_path / str(part["x"][0]), "a") as file:
                file.write("x")
            time.sleep(60 if part["x"][0] == 16 else 0.3)
            return part

        out = pmap.map_partitions(
            DF, run, n_partitions=8, backend=process_backend, n_jobs=2, timeout=1, on_error="return"
        )
        assert out["x"].to_list() == [*range(16), *range(24, 64)]
        assert {file.read_text() for file in tmp_path.iterdir()} == {"x"}

    @pytest.mark.parametrize("backend", ["serial", "threads"])
    def test_is_refused_where_nothing_can_be_stopped(self, backend):
        with pytest.raises(errors.ArgumentError, match=f"{backend}.*can not stop"):
            pmap.map_partitions(DF, lambda part: part, backend=backend, timeout=1)
