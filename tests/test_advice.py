"""What a run has measured is said once for each function, with the remedy; and nothing else is."""

from __future__ import annotations

import re
import threading
import time
import warnings

import polars as pl
import pytest
import workers

import pmap
from pmap.errors import ArgumentError, PmapAdvice

SMALL = pl.DataFrame({"x": range(1000)})
LARGE = pl.DataFrame({"x": range(2_000_000)})
WIDE = pl.DataFrame({name: range(1_000_000) for name in "abcdefgh"})

LOCAL = ["forkserver", "spawn", "loky"]


@pytest.fixture(autouse=True)
def advising(cpus):
    """Two CPUs, new workers, and advice that is raised."""
    cpus(2)
    pmap.shutdown()
    with pmap.config(advise="error", n_jobs=2):
        yield
    pmap.shutdown()


def advice_of(function, frame=SMALL, *, warm=True, **arguments):
    """What is said, after workers were started for something else if they are to be `warm`."""
    if warm and "backend" in arguments:
        with pmap.config(advise="off"):
            pmap.map_partitions(SMALL, workers.double, **arguments)
    with pytest.raises(PmapAdvice) as caught:
        pmap.map_partitions(frame, function, **arguments)
    return str(caught.value)


class TestOnWhereItRuns:
    @pytest.mark.parametrize("backend", LOCAL)
    def test_polars_in_processes(self, backend):
        text = advice_of(workers.polish, LARGE, backend=backend, warm=False)
        assert "call polish(df) directly" in text
        assert "of its CPU time is Polars' pool" in text
        assert " s in all, of which the function" in text

    @pytest.mark.parametrize("backend", LOCAL)
    def test_workers_started_for_nothing(self, backend):
        text = advice_of(workers.double, backend=backend, warm=False)
        assert text.startswith("double: ")
        assert "starting workers" in text
        assert "leave backend= out" in text

    def test_who_waits_in_processes(self):
        text = advice_of(workers.nap, backend="spawn", n_partitions=4, warm=False)
        assert "waits (" in text
        assert "backend='threads' is as fast" in text

    def test_few_partitions(self):
        def long(part):
            for _ in range(4):
                workers.spin(part)
            return part

        assert "1 partition can not keep 2 workers busy" in advice_of(long, n_partitions=1)

    def test_small_partitions(self):
        frame = pl.DataFrame({"x": range(20_000)})
        text = advice_of(workers.double, frame, backend="forkserver", chunk_size=10)
        assert "leave backend= out" in text or "cost more to hand over" in text

    def test_one_partition_with_most_of_the_time(self):
        def uneven(part):
            for _ in range(5 if pmap.current_partition().index == 3 else 0):
                workers.spin(part)
            return part

        text = advice_of(uneven, backend="threads", n_partitions=8)
        assert re.search(r"One partition took \d\.\d+ s of it", text)
        assert "shuffle the rows" in text

    def test_threads_of_the_functions_own(self, cpus):
        """More of them than there are CPUs, as a library has that nobody told."""

        def crowded(part):
            helpers = [threading.Thread(target=workers.digest, args=(part,)) for _ in range(2)]
            for helper in helpers:
                helper.start()
            workers.spin(part)
            for helper in helpers:
                helper.join()
            return part

        cpus(1)
        for _ in range(8):  # on a machine that others keep busy, they may not get so much
            try:
                pmap.map_partitions(SMALL, crowded, backend="spawn", n_partitions=4)
            except PmapAdvice as advice:
                assert re.search(r"Each of 2 workers kept \d\.\d of 1 CPUs busy", str(advice))  # noqa: PT017
                return
            pmap.shutdown()  # new workers look at it again
        pytest.fail("nothing was said")


class TestOnData:
    def test_columns_that_nobody_looked_at(self):
        frame = pl.DataFrame({f"c{i:02}": range(1_000_000) for i in range(50)})

        def sums(part):
            end = time.thread_time() + 0.1
            while time.thread_time() < end:
                sum(range(1000))
            return part.select(pl.col("c07").sum())

        with pmap.config(transport="file"):  # slow enough to be worth a word
            text = advice_of(sums, frame, backend="forkserver", n_partitions=8)
        assert "never looked at 'c00', 'c01', 'c02', 'c03', 'c04' and 44 more, 98% of" in text
        assert "pass df.drop(['c00', 'c01', 'c02', 'c03', 'c04'], ...), or df.select(...)" in text

    def test_the_report_knows_them(self):
        with pmap.config(advise="off"):
            pmap.map_partitions(
                WIDE, lambda part: part.select(pl.col("c").sum()), backend="forkserver"
            )
        unused = [stats.unused for stats in pmap.last_report().stats if stats.unused]
        assert unused
        assert unused[0].columns == tuple("abdefgh")
        assert unused[0].n_bytes * 8 == unused[0].of_bytes * 7

    def test_columns_that_come_back_were_of_use(self):
        with pmap.config(advise="off"):
            pmap.map_partitions(
                WIDE, lambda part: part.with_columns(c=pl.col("c") + 1), backend="forkserver"
            )
        assert not any(stats.unused for stats in pmap.last_report().stats)


@pytest.fixture(scope="module")
def query(tmp_path_factory):
    """Over a file; 120 MB in memory."""
    path = tmp_path_factory.mktemp("query") / "x.parquet"
    pl.DataFrame({"x": range(15_000_000)}).write_parquet(path)
    return pl.scan_parquet(path)


def least(part):
    """Much is sent, and little comes back."""
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        sum(range(1000))
    return part.select(pl.col("x").min())


@pytest.mark.skipif(
    int(pl.__version__.partition(".")[0]) < 2, reason="batches of this Polars may end too soon"
)
class TestOnQueries:
    """One that is collected only to be split need not be whole in memory."""

    def test_in_the_call(self, query):
        with pytest.raises(PmapAdvice) as caught:
            pmap.map_partitions(query.head(15_000_000).collect(), least, backend="forkserver")
        assert "All 120 MB of its frame were collected only to be split" in str(caught.value)
        assert "pass query.head(15000000).collect_batches(), which is never" in str(caught.value)

    def test_before_the_call(self, query):
        frame = query.collect()
        with pytest.raises(PmapAdvice, match=r"pass query.collect_batches\(\)"):
            list(pmap.iter_partitions(frame, least, backend="forkserver"))

    def test_by_the_function_that_reads(self, query, tmp_path):
        path = tmp_path / "y.parquet"
        query.sink_parquet(path)
        with pytest.raises(PmapAdvice, match=r"pass pl.scan_parquet\(path\).collect_batches\(\)"):
            pmap.map_partitions(
                pl.scan_parquet(path).collect(),
                least,
                backend="forkserver",
            )

    def test_what_it_says_to_do_does_the_same(self, query):
        whole = query.select(pl.col("x").min()).collect()
        parts = pmap.map_partitions(
            query.collect_batches(), lambda part: part.select(pl.col("x").min())
        )
        assert parts.height > 1
        assert parts.min().equals(whole)

    def test_what_it_says_to_do_fails_where_the_query_does(self, tmp_path):
        path = tmp_path / "x.csv"
        path.write_text("x\n" + "1\n" * 1_000_000 + "no number\n")
        batches = pl.scan_csv(path).collect_batches()
        with pytest.raises(pl.exceptions.ComputeError):
            pmap.map_partitions(batches, lambda part: part)

    def test_not_where_the_frame_is_kept(self, query):
        kept = {}
        frame = kept["x"] = query.collect()
        pmap.map_partitions(frame, least, backend="forkserver")
        del kept

    def test_not_where_a_text_may_mean_it(self, query):
        frame = query.collect()
        pmap.map_partitions(frame, least, backend="forkserver")
        assert pl.sql("select count(*) from frame", eager=True).item() == 15_000_000

    def test_not_where_the_query_needs_all_rows_at_once(self, query):
        pmap.map_partitions(query.sort("x").collect(), least, backend="forkserver")
        ordered = query.sort("x")
        pmap.map_partitions(ordered.collect(), least, backend="forkserver")

    def test_not_where_the_user_has_said_how_to_split(self, query):
        pmap.map_partitions(query.collect(), least, backend="forkserver", n_partitions=8)

    @pytest.mark.parametrize("error", [RecursionError, pl.exceptions.PanicException])
    def test_a_fault_in_it_is_none_of_the_call(self, query, monkeypatch, error):
        def fail(*_, **__):
            raise error("of a source of the user's own")

        monkeypatch.setattr(pl.LazyFrame, "explain", fail)
        pmap.map_partitions(query.collect(), least, backend="forkserver")

    def test_not_where_the_frame_is_used_again(self, query):
        frame = query.collect()
        pmap.map_partitions(frame, least, backend="forkserver")
        assert frame.height == 15_000_000

    def test_not_where_it_is_split_again_and_again(self, query):
        frame = query.collect()
        for _ in range(2):
            pmap.map_partitions(frame, least, backend="forkserver")

    def test_not_where_it_was_in_memory_before(self, query):
        frame = query.collect()
        pmap.map_partitions(frame.lazy().collect(), least, backend="forkserver")

    def test_not_where_as_much_comes_back(self, query):
        pmap.map_partitions(query.collect(), workers.spin, backend="forkserver")


class TestNoFalseAlarm:
    @pytest.mark.parametrize("backend", ["auto", "threads", "serial", *LOCAL])
    def test_where_python_works(self, backend):
        """Long enough that even spawn's start is worth it."""

        def long(part):
            workers.spin(part)
            return workers.spin(part)

        with pmap.config(advise="off"):
            pmap.map_partitions(SMALL, workers.double, backend=backend)
        assert pmap.map_partitions(SMALL, long, backend=backend, n_partitions=4).equals(SMALL)

    def test_where_python_has_more_workers_than_cpus_on_purpose(self, cpus):
        cpus(1)
        with pmap.config(advise="off"):
            pmap.map_partitions(SMALL, workers.double, backend="spawn")
        assert pmap.map_partitions(SMALL, workers.spin, backend="spawn").equals(SMALL)

    @pytest.mark.parametrize("function", [workers.nap, workers.digest, workers.polish])
    def test_by_auto(self, function):
        pmap.map_partitions(LARGE, function)

    def test_where_the_consumer_takes_its_time(self):
        with pmap.config(advise="off"):
            pmap.map_partitions(SMALL, workers.double, backend="forkserver", n_jobs=2)
        for _ in pmap.iter_partitions(
            SMALL, workers.double, backend="forkserver", n_jobs=2, n_partitions=3
        ):
            time.sleep(0.2)

    def test_of_polars_pool_that_runs_python(self):
        def both(part):
            def slow(x):
                return sum(range(3000)) + x

            mapped = [pl.col("x").map_elements(slow, pl.Int64).alias(name) for name in "ab"]
            return part.select(mapped)

        with pmap.config(advise="off"):
            pmap.map_partitions(SMALL, workers.double, backend="forkserver")
        pmap.map_partitions(pl.DataFrame({"x": range(20_000)}), both, backend="forkserver")


class TestHowItIsSaid:
    def test_once_for_each_function(self):
        def first(part):
            return part

        def second(part):
            return part

        def said(function):
            pmap.shutdown()
            with pmap.config(advise="warn"), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                pmap.map_partitions(SMALL, function, backend="spawn")
            return [warning for warning in caught if warning.category is PmapAdvice]

        (warning,) = said(first)
        assert warning.filename == __file__
        assert not said(first)
        assert said(second)

    def test_not_at_all(self):
        with pmap.config(advise="off"):
            pmap.map_partitions(SMALL, workers.double, backend="spawn")

    def test_in_a_word_that_is_known(self):
        with pytest.raises(ArgumentError, match="advise='loud': give 'warn', 'error' or 'off'"):
            pmap.config.set(advise="loud")

    def test_not_where_something_failed(self):
        with (
            pmap.config(on_error="skip"),
            pytest.warns(pmap.errors.PmapWarning, match="8 of 8"),
        ):
            pmap.map_partitions(SMALL, lambda part: 1 / 0, backend="spawn")
