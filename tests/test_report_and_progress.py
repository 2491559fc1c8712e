"""What a call tells: the plan, a row a partition, a bar, and what workers print."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import polars as pl
import programs
import pytest

import pmap
from pmap._progress import ProgressCounts

DF = pl.DataFrame({"x": range(100)})
BACKENDS = ["serial", "threads", "spawn", "forkserver", "loky"]
PROCESSES = BACKENDS[2:]


def same(part: pl.DataFrame) -> pl.DataFrame:
    return part


@pytest.mark.parametrize("backend", BACKENDS)
def test_timings_have_a_row_a_partition(backend):
    pmap.map_partitions(DF, same, backend=backend, n_partitions=4)
    report = pmap.last_report()
    timings = report.timings
    assert timings.schema == {
        "index": pl.Int64,
        "rows": pl.Int64,
        "worker": pl.Int64,
        "started": pl.Datetime("us", "UTC"),
        "finished": pl.Datetime("us", "UTC"),
        "function_seconds": pl.Float64,
        "transport_seconds": pl.Float64,
        "bytes_in": pl.Int64,
        "bytes_out": pl.Int64,
        "attempt": pl.Int64,
        "loading_seconds": pl.Float64,
        "cpu_seconds": pl.Float64,
        "pool_seconds": pl.Float64,
        "blocked_seconds": pl.Float64,
    }
    assert timings["index"].to_list() == [0, 1, 2, 3]
    assert timings["rows"].to_list() == [25] * 4
    assert timings["attempt"].to_list() == [0] * 4
    assert (timings["finished"] >= timings["started"]).all()
    elsewhere = backend in PROCESSES
    assert (timings["worker"] != os.getpid()).all() == elsewhere
    assert (timings["bytes_in"] > 0).all() == elsewhere
    assert (timings["bytes_out"] > 0).all() == elsewhere
    assert report.plan.backend == backend
    assert report.seconds > 0


def test_the_summary_says_the_plan_and_the_sums():
    pmap.map_partitions(DF, same, backend="forkserver", n_partitions=3, n_jobs=2)
    text = str(pmap.last_report())
    assert "3 partitions on backend 'forkserver', 2 workers with" in text
    assert "n_jobs=2" in text
    assert "3 partitions, 100 rows in" in text


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_a_callable_gets_the_counts_as_they_change(backend):
    seen = []
    pmap.map_partitions(DF, same, backend=backend, n_partitions=4, progress=seen.append)
    assert seen == [ProgressCounts(i, 25 * i, 0, 4, 100) for i in range(5)]


def test_failures_are_counted():
    seen = []
    pmap.map_partitions(
        DF,
        lambda part: 1 / 0,
        backend="serial",
        n_partitions=2,
        on_error="return",
        progress=seen.append,
    )
    assert [counts.failed for counts in seen] == [0, 1, 2]


def test_a_bar_shows_rows_and_partitions(capsys):
    pmap.map_partitions(DF, same, backend="serial", n_partitions=4, progress=True)
    shown = capsys.readouterr().err
    assert "100/100" in shown
    assert "4/4 partitions" in shown


def test_a_stream_has_no_total(capsys):
    pmap.map_partitions(iter([DF, DF]), same, backend="serial", progress=True)
    assert "2 partitions" in capsys.readouterr().err


@pytest.mark.parametrize("backend", PROCESSES)
def test_what_workers_write_comes_out_here(backend, capsys, caplog):
    def talk(part):
        print("printed", pmap.current_partition().index)
        print("to stderr", file=sys.stderr)
        logging.getLogger("some.library").warning("logged %s", "text")
        warnings.warn("careful", stacklevel=1)
        return part

    pmap.map_partitions(DF, talk, backend=backend, n_partitions=2)
    captured = capsys.readouterr()
    assert sorted(captured.out.splitlines()) == ["printed 0", "printed 1"]
    assert captured.err.count("to stderr") == 2
    assert "UserWarning: careful" in captured.err
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("some.library", "logged text")
    ] * 2


@pytest.mark.parametrize("backend", PROCESSES)
def test_what_a_function_does_to_its_streams_and_handlers_ends_with_it(backend, capsys, caplog):
    def mute(part):
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.CRITICAL)
            handler.addFilter(lambda _: False)
        sys.stdout.close()
        return part

    def talk(part):
        logging.getLogger("some.library").warning("logged")
        print("printed")
        return part

    for function in (talk, mute, talk):
        pmap.map_partitions(DF, function, backend=backend, n_partitions=1, n_jobs=1)
    assert capsys.readouterr().out == "printed\n" * 2
    assert [record.getMessage() for record in caplog.records] == ["logged"] * 2


@pytest.mark.parametrize("backend", PROCESSES)
def test_a_flood_of_prints_is_no_hang(backend, capsys):
    def flood(part):
        for _ in range(200):
            print("x" * 50_000)
        return part

    assert pmap.map_partitions(DF, flood, backend=backend, n_partitions=1).equals(DF)
    assert len(capsys.readouterr().out) == 200 * 50_001


def test_a_report_of_each_thread():
    from concurrent.futures import ThreadPoolExecutor

    pmap.map_partitions(DF, same, backend="serial", n_partitions=1)
    with ThreadPoolExecutor(1) as other:
        other.submit(pmap.map_partitions, DF, same, backend="serial", n_partitions=7).result()
        assert other.submit(lambda: pmap.last_report().timings.height).result() == 7
    assert pmap.last_report().timings.height == 1


class TestCurrentPartition:
    def test_outside_there_is_none(self):
        assert pmap.current_partition() is None

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_inside_it_tells(self, backend):
        def tell(part):
            info = pmap.current_partition()
            return info.index, info.count, info.attempt, info.rows

        assert list(pmap.iter_partitions(DF, tell, backend=backend, n_partitions=3)) == [
            (0, 3, 0, 33),
            (1, 3, 0, 33),
            (2, 3, 0, 34),
        ]

    def test_a_seed_gives_the_same_numbers_everywhere(self):
        def draw(part):
            return pmap.current_partition().rng.random()

        with pmap.config(seed=7):
            drawn = [
                tuple(pmap.iter_partitions(DF, draw, backend=backend, n_partitions=4))
                for backend in BACKENDS
            ]
        assert len(set(drawn)) == 1
        assert len(set(drawn[0])) == 4
        assert tuple(pmap.iter_partitions(DF, draw, backend="serial", n_partitions=4)) != drawn[0]


class TestAuto:
    def test_a_small_job_stays_in_the_caller(self):
        pmap.shutdown()  # with a warm pool, milliseconds that the caller is held up would tip it
        pmap.map_partitions(DF, same)
        report = pmap.last_report()
        assert report.plan.backend == "serial"
        assert "stayed in the caller" in str(report.plan)
        assert set(report.timings["worker"]) == {os.getpid()}

    def test_a_long_one_goes_on_in_workers_and_calls_no_partition_twice(self, tmp_path):
        def slow(part):
            (tmp_path / f"{pmap.current_partition().index}-{os.getpid()}").touch()
            end = __import__("time").perf_counter() + 0.4
            while __import__("time").perf_counter() < end:
                pass
            return part

        out = pmap.map_partitions(DF, slow, n_partitions=12, n_jobs=2)
        assert out.equals(DF)
        calls = sorted(int(file.name.split("-")[0]) for file in tmp_path.iterdir())
        assert calls == list(range(12))
        workers = {file.name.split("-")[1] for file in tmp_path.iterdir()}
        assert str(os.getpid()) in workers
        assert len(workers) > 1
        assert "what was left: " in str(pmap.last_report().plan)


def test_importing_pmap_loads_nothing_heavy():
    heavy = [
        "pyarrow",
        "numpy",
        "pandas",
        "loky",
        "joblib",
        "tqdm",
        "cloudpickle",
        "distributed",
        "multiprocessing",
        "importlib.metadata",
    ]
    program = f"import sys, polars; before = set(sys.modules); import pmap; print(sorted((set(sys.modules) - before) & set({heavy!r})))"
    done = programs.run("-c", program)
    assert done.stdout.strip() == "[]"
