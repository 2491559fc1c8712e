"""backend="auto" begins in the caller and goes where what is left is done fastest.

What it takes beside the best choice is measured by benchmarks/regret.py.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import subprocess
import sys
import threading
import time

import numpy as np
import polars as pl
import pytest
import workers

import pmap
from pmap import _earlier, _judge, _plan, _ways
from pmap._figures import Figures
from pmap._imported import n_imported, own_imports
from pmap._pace import Pace
from pmap._weight import import_seconds, pickling_seconds

SMALL = pl.DataFrame({"x": range(1000)})
PARTS = 8  # that it is cut into for two workers
LARGE = pl.DataFrame({"x": range(2_000_000)})

two_workers = pytest.mark.usefixtures("two_cpus")


@pytest.fixture
def two_cpus(cpus):
    """And nothing that earlier tests have shown."""
    cpus(2)
    pmap.shutdown()
    _earlier.forget_all()


def backend_of(function, frame=SMALL, **arguments):
    pmap.map_partitions(frame, function, **arguments)
    return pmap.last_report().plan.backend


def measured(tests):
    """Each has three tries: what is measured on a machine that others keep busy may mislead once."""
    for name, test in list(vars(tests).items()):
        if name.startswith("test_"):
            setattr(tests, name, with_three_tries(test))
    return tests


def with_three_tries(test):
    @functools.wraps(test)
    def tried(*args, **kwargs):
        for _ in range(2):
            with contextlib.suppress(AssertionError):
                return test(*args, **kwargs)
            pmap.shutdown()
            _earlier.forget_all()
        return test(*args, **kwargs)

    return tried


def new_figures(monkeypatch):
    """Of a process in which nothing was measured yet."""
    figures = Figures()
    for module in (_judge, _ways):
        monkeypatch.setattr(module, "figures", figures)
    return figures


def recalled(function):
    """What was shown of it with partitions of `SMALL`."""
    return _earlier.recall(function, SMALL.height / PARTS)


def shown_by_calls_of(function):
    """As many as it takes: one may tell too little."""
    while (shown := recalled(function)) is None:
        pmap.map_partitions(SMALL, function)
    return shown


def decorated(function):
    column = pl.col  # which takes any question for the name of a column

    def inner(part):
        return function(part.with_columns(column("x")))

    return inner


@two_workers
@measured
class TestWhereItGoes:
    def test_python_goes_to_processes(self):
        assert backend_of(workers.spin) == _plan.default_process_backend()[0]

    def test_who_waits_goes_to_threads(self):
        assert backend_of(workers.nap) == "threads"

    def test_who_computes_without_the_gil_goes_to_threads(self):
        assert backend_of(workers.digest) == "threads"

    def test_many_short_system_calls_do_not_go_to_threads(self):
        """Each gives the GIL away and takes it back: threads wait for one another."""

        def read(part):
            for _ in range(8000):
                with open("/proc/self/stat", "rb") as file:
                    file.read()
            return part

        pmap.map_partitions(SMALL, workers.double, backend=_plan.default_process_backend()[0])
        assert backend_of(read) != "threads"
        assert "in the kernel" in str(pmap.last_report().plan)

    def test_temporary_arrays_go_to_threads(self):
        """The kernel finds the pages for them, but nobody waits for another."""
        table = np.random.default_rng(0).random(1_000_000)

        def near(part):
            counts = [int((np.abs(table - x) < 1e-3).sum()) for x in part["x"]]
            return part.with_columns(n=pl.Series(counts))

        pmap.map_partitions(SMALL, workers.double, backend=_plan.default_process_backend()[0])
        assert backend_of(near, pl.DataFrame({"x": np.linspace(0, 1, 120)})) == "threads"

    def test_small_partitions_tell_of_larger_ones(self, monkeypatch):
        """Which may take longer, as they are larger: none of them need be done before it leaves."""
        new_figures(monkeypatch)

        def by_rows(part):
            end = time.thread_time() + 0.0018 * part.height
            while time.thread_time() < end:
                sum(range(1000))
            return part

        assert backend_of(by_rows) == _plan.default_process_backend()[0]
        took = re.search(r"partitions? took (\S+) s in the caller", str(pmap.last_report().plan))[1]
        assert float(took) < 0.0018 * SMALL.height * (2.5 / 16)

    def test_large_partitions_tell_more_than_small_ones(self):
        """Of a function that takes as long for few rows as for many."""
        pace = Pace(16, 8)
        for rows in (1, 1):
            pace.note(rows, 1.0)
        assert pace.seconds_left() == 6 * 2.0
        pace.note(3, 1.0)
        assert pace.seconds_left() == 5 * 1.0

    def test_what_a_checkpoint_has_is_not_left(self, tmp_path):
        """One partition, after that in the caller, is no work for two workers."""

        def fails(part):
            if pmap.current_partition().index >= 6 and not (tmp_path / "mended").exists():
                raise ZeroDivisionError
            return workers.spin(part) if pmap.current_partition().index >= 6 else part

        assert backend_of(workers.spin) == _plan.default_process_backend()[0]  # they are there
        with pmap.config(checkpoint=tmp_path / "kept", n_partitions=8):
            with pytest.raises(ZeroDivisionError):
                pmap.map_partitions(SMALL, fails, backend="serial")
            (tmp_path / "mended").touch()
            assert backend_of(fails) == "serial"

    def test_what_pmap_imports_meanwhile_is_not_the_functions(self):
        """Who imports much is not judged by that; here every partition counts, from the first call on."""
        program = """
import re, time, polars as pl, pmap
def spin(part):
    end = time.thread_time() + (0.06 if pmap.current_partition().index == 2 else 0.002)
    while time.thread_time() < end:
        sum(range(1000))
    return part
pmap.map_partitions(pl.DataFrame({"x": range(1000)}), spin, n_jobs=2)
report = pmap.last_report()
seconds = re.search(r"8 partitions took (\\S+) s", str(report.plan))[1]
print(float(seconds) / report.timings["function_seconds"].sum())
"""
        done = subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
        )
        assert float(done.stdout) > 0.95

    def test_polars_needs_no_processes(self):
        """Threads only where its pool leaves a CPU idle, as with work that one thread of it does."""
        assert backend_of(workers.polish, LARGE) in {"serial", "threads"}
        assert re.search(r"\d% of the CPU time in Polars' own pool", str(pmap.last_report().plan))

    @pytest.mark.parametrize("n_jobs", [2, 4])
    def test_the_first_large_partition_is_looked_at_closely(self, n_jobs):
        """However quick the small ones before it were, of which there is one for each worker."""
        small = LARGE.height // (6 * n_jobs)

        def by_size(part):
            if part.height > small:
                return workers.polish(part).select(x=pl.lit(0))
            sum(range(100_000))  # who is on the CPU all the time is not suspected of waiting
            return part.select("x").head(3)

        pmap.map_partitions(LARGE, by_size, n_jobs=n_jobs)
        first_large = pmap.last_report().timings.row(n_jobs, named=True)
        assert first_large["pool_seconds"] > 0
        assert first_large["blocked_seconds"] is not None

    def test_polars_that_leaves_a_cpu_idle_goes_to_threads(self):
        """Each operation of a long expression waits for the one before it."""

        def waves(part):
            x = pl.col("x").cast(pl.Float64)
            return part.select(y=(x.sin() * x.cos()).exp().log1p() + x.sqrt()).head(3)

        assert backend_of(waves, pl.concat([LARGE, LARGE])) == "threads"

    def test_python_on_polars_pool_is_no_polars(self):
        """Two functions in one query run on the pool, and hold the GIL there."""

        def both(part):
            mapped = [pl.col("x").map_elements(slow, pl.Int64).alias(name) for name in "ab"]
            return part.select(mapped)

        def slow(x):
            return sum(range(3000)) + x

        assert backend_of(both, pl.DataFrame({"x": range(20_000)})) != "serial"

    def test_little_work_stays(self):
        assert backend_of(workers.double) == "serial"
        assert "nothing else would have been faster" in str(pmap.last_report().plan)

    def test_one_worker_is_the_caller(self):
        assert backend_of(workers.nap, n_jobs=1) == "serial"

    @pytest.mark.parametrize(
        "option", [{"timeout": 50.0}, {"memory_limit": "2 GB"}, {"max_tasks_per_child": 9}]
    )
    def test_what_only_processes_can_goes_there(self, option):
        with pmap.config(**option):
            assert backend_of(workers.double) == _plan.default_process_backend()[0]


@two_workers
@measured
class TestWhatEarlierCallsHaveShown:
    """A function that was judged before goes where it belongs at once, if that can begin at once."""

    def test_the_next_call_begins_elsewhere(self):
        def pids(work):
            return set(pmap.iter_partitions(SMALL, lambda part: (work(part), os.getpid())[1]))

        assert os.getpid() in pids(workers.spin)
        assert os.getpid() not in pids(workers.spin)
        assert "1,000 rows" not in str(pmap.last_report().plan)
        assert "rows of an earlier call of the function" in str(pmap.last_report().plan)

    def test_the_first_partitions_may_be_the_quick_ones(self):
        def slow_at_the_end(part):
            end = time.thread_time() + (0.6 if pmap.current_partition().index >= 6 else 0.01)
            while time.thread_time() < end:
                sum(range(1000))
            return part

        pmap.map_partitions(SMALL, slow_at_the_end)
        assert "nothing else would have been faster" in str(pmap.last_report().plan)
        pmap.map_partitions(SMALL, slow_at_the_end)
        assert "what was left" in str(pmap.last_report().plan)

    def test_it_is_measured_again_now_and_then(self):
        def nap(part):
            time.sleep(0.02)
            return part

        def goes_by_an_earlier_call():
            pmap.map_partitions(SMALL, nap)
            return "earlier call" in str(pmap.last_report().plan)

        wanted = [False, *8 * [True], False, *16 * [True], False, True]
        assert [goes_by_an_earlier_call() for _ in wanted] == wanted

    def test_a_way_that_had_a_bad_day_is_tried_again(self, monkeypatch):
        """When the function is measured again, if not before."""
        new_figures(monkeypatch)  # workers that other tests have missed would be started

        def nap(part):
            time.sleep(0.0004 * part.height)
            return part

        shown = shown_by_calls_of(nap)
        bad_day = {("threads", 2): _earlier.Tried(1.0)}
        _earlier.remember(nap, shown._replace(took=bad_day, choice=None, trusted=(1, 8)))
        assert [backend_of(nap) for _ in range(3)] == ["serial", "serial", "threads"]

    @pytest.mark.parametrize("times", [1, 9])
    def test_a_way_that_was_tried_once_may_have_had_bad_luck(self, times):
        """Another, tried often, has the best of many times, which is a little less than the only one."""

        def nap(part):
            time.sleep(0.0004 * part.height)
            return part

        processes = _plan.default_process_backend()[0]
        pmap.map_partitions(SMALL, nap, backend=processes)
        shown = shown_by_calls_of(nap)
        usual = shown.seconds_a_row / 2
        took = {
            ("threads", 2): _earlier.Tried(1.05 * usual, times),
            (processes, 2): _earlier.Tried(usual, 9),
        }
        _earlier.remember(nap, shown._replace(took=took, trusted=(1, 8)))
        assert backend_of(nap) == ("threads" if times == 1 else processes)

    def test_not_without_workers(self):
        assert backend_of(workers.spin) != "serial"
        pmap.shutdown()
        pmap.map_partitions(SMALL, workers.spin)
        assert "earlier call" not in str(pmap.last_report().plan)

    def test_what_is_slower_or_quicker_than_it_was_is_measured_anew(self):
        seconds = 0.05

        def nap(part):
            time.sleep(seconds)
            return part

        assert backend_of(nap) == "threads"
        seconds = 0.005
        assert backend_of(nap) == "threads"
        assert "earlier call" in str(pmap.last_report().plan)
        pmap.map_partitions(SMALL, nap)
        assert "earlier call" not in str(pmap.last_report().plan)

    def test_what_is_over_at_once_is_not_looked_at_again_however_its_time_varies(self):
        seconds = 0.0

        def look_up(part):
            time.sleep(seconds)
            return part

        pmap.map_partitions(SMALL, look_up)
        for seconds in (0.0003, 0.0, 0.0003, 0.0, 0.0003):  # noqa: B007  the function's own
            pmap.map_partitions(SMALL, look_up)
            assert "earlier call" in str(pmap.last_report().plan)

    def test_who_imports_much_at_first_is_looked_at_again(self, tmp_path, monkeypatch):
        """What was seen of the first partition does not count; that of the next ones has to."""
        names = [f"came_in_{number}" for number in range(4)]
        for name in names:
            (tmp_path / f"{name}.py").touch()
        monkeypatch.syspath_prepend(tmp_path)

        def nap(part):
            for name in names:
                importlib.import_module(name)
            time.sleep(0.05)
            return part

        assert backend_of(nap, LARGE) == "threads"

    def test_of_small_partitions_nothing_about_large_ones(self):
        def nap(part):
            time.sleep(0.05)
            return part

        assert backend_of(nap) == "threads"
        pmap.map_partitions(LARGE, nap)
        assert "earlier call" not in str(pmap.last_report().plan)

    @pytest.mark.parametrize(
        "short",
        [
            lambda nap: pmap.map_partitions(iter([SMALL.head(10)] * 2), nap),
            lambda nap: pmap.map_partitions(SMALL.head(20), nap, chunk_size=10, n_jobs=1),
            lambda nap: pmap.map_partitions(SMALL.head(20), nap, chunk_size=10),
        ],
        ids=["stream", "one worker", "few"],
    )
    @pytest.mark.parametrize("is_first", [True, False])
    def test_a_short_call_does_not_keep_a_long_one_in_the_caller(self, short, is_first):
        def nap(part):
            time.sleep(0.003)
            return part

        for _ in range(2 * (not is_first)):
            pmap.map_partitions(SMALL, nap, chunk_size=10)
        for _ in range(2):
            short(nap)
        assert backend_of(nap, chunk_size=10) == "threads"

    def test_each_size_has_its_own(self):
        def nap(part):
            time.sleep(0.05)
            return part

        for frame in (SMALL, LARGE):
            pmap.map_partitions(frame, nap)
        for frame in (SMALL, LARGE, SMALL):
            assert backend_of(nap, frame) == "threads"
            assert "earlier call" in str(pmap.last_report().plan)

    @pytest.mark.parametrize(
        "made_with",
        [
            decorated,
            lambda function: lambda part, inner=function: inner(part),
            lambda function: lambda part, *, inner=function: inner(part),
            lambda function: functools.partial(workers.call, inner=function),
            lambda function: functools.partial(decorated(function)),
            workers.Calls,
            lambda function: workers.Calls(function).once,
        ],
        ids=["closure", "default", "keyword", "partial", "nested", "object", "method"],
    )
    def test_of_a_function_made_with_one_nothing_about_that_made_with_another(self, made_with):
        def rest(part):
            time.sleep(0.03)
            return part

        assert backend_of(made_with(rest)) == "threads"
        assert backend_of(made_with(workers.double)) == "serial"
        assert recalled(made_with(rest)) is not None

    def test_who_was_over_soon_is_not_looked_at_again(self):
        assert backend_of(workers.double) == "serial"
        assert "earlier call" not in str(pmap.last_report().plan)
        assert backend_of(workers.double) == "serial"
        assert "rows of an earlier call of the function" in str(pmap.last_report().plan)

    def test_who_was_over_soon_and_is_not_any_more_goes_where_it_belongs(self):
        seconds = 0.0

        def nap(part):
            time.sleep(seconds)
            return part

        assert [backend_of(nap) for _ in range(2)] == ["serial", "serial"]
        seconds = 0.05
        assert backend_of(nap) == "threads"
        assert "earlier call" not in str(pmap.last_report().plan)

    def test_what_was_done_while_the_caller_was_at_work_took_its_time_too(self):
        def long_first(part):
            time.sleep(0.5 if pmap.current_partition().index == 0 else 0.05)
            return part

        assert backend_of(long_first) == "threads"
        took = recalled(long_first).took["threads", 2]
        assert took.seconds_a_row * SMALL.height > 0.1

    def test_frames_without_rows_tell_nothing(self):
        for work in (workers.nap, workers.spin):
            for n in (1, 1, 3, 3):
                assert pmap.map_partitions(iter([SMALL.clear()] * n), work).height == 0

    def test_who_misses_workers_again_and_again_gets_them(self, monkeypatch):
        """Before they are there, no call waits for them."""
        new_figures(monkeypatch)
        processes = _plan.default_process_backend()[0]

        def short(part):
            end = time.thread_time() + 0.005
            while time.thread_time() < end:
                sum(range(100))
            return part

        backends = [backend_of(short)]
        while backends[-1] != processes and len(backends) < 100:
            backends.append(backend_of(short))
        assert backends[0] != processes
        assert backends[-1] == processes

    def test_who_has_workers_does_not_miss_them(self, monkeypatch):
        processes = _plan.default_process_backend()[0]

        def short(part):  # when enough of it was seen, too little is left
            end = time.thread_time() + 0.0016
            while time.thread_time() < end:
                sum(range(100))
            return part

        assert backend_of(workers.spin) == processes
        figures = new_figures(monkeypatch)
        for _ in range(5):
            pmap.map_partitions(SMALL, short)
            _earlier.forget_all()
        assert figures.missed(processes) == 0


def test_imports_of_pmaps_own_may_overlap(monkeypatch):
    before = n_imported()
    one, two = own_imports(), own_imports()
    with one:
        two.__enter__()
    monkeypatch.setitem(sys.modules, "pmap_test_of_its_own", pl)
    assert n_imported() == before
    two.__exit__(None, None, None)
    assert n_imported() == before
    monkeypatch.setitem(sys.modules, "pmap_test_of_the_function", pl)
    assert n_imported() == before + 1


@two_workers
class TestItsResults:
    @pytest.mark.parametrize("function", [workers.spin, workers.nap, workers.digest])
    def test_are_those_of_the_loop_in_order(self, function):
        assert pmap.map_partitions(SMALL, function).equals(SMALL)
        parts = list(pmap.iter_partitions(SMALL, function))
        assert pl.concat(parts).equals(SMALL)
        assert len(parts) == PARTS

    def test_take_one_call_for_each_partition(self, tmp_path):
        def noting(part):
            with open(tmp_path / "calls", "a") as file:
                file.write(f"{pmap.current_partition().index}\n")
            return workers.spin(part)

        pmap.map_partitions(SMALL, noting)
        assert pmap.last_report().plan.backend != "serial"
        assert sorted(map(int, (tmp_path / "calls").read_text().split())) == list(range(PARTS))

    def test_of_a_stream_are_read_in_the_callers_thread(self):
        readers = set()

        def frames():
            for start in range(0, 1000, 100):
                readers.add(threading.get_ident())
                yield SMALL.slice(start, 100)

        assert pmap.map_partitions(frames(), workers.nap).equals(SMALL)
        assert readers == {threading.get_ident()}
        assert pmap.last_report().plan.backend == "threads"

    def test_begin_in_the_caller(self):
        pids = list(pmap.iter_partitions(SMALL, lambda part: (workers.spin(part), os.getpid())[1]))
        assert pids[0] == os.getpid()
        assert len(set(pids)) > 1

    @with_three_tries
    def test_workers_that_start_get_their_turns_while_python_computes(self):
        usual, seen = sys.getswitchinterval(), set()

        def spin(part):
            end = time.thread_time() + 0.2
            while time.thread_time() < end:
                seen.add(sys.getswitchinterval())
            return part

        assert backend_of(spin) == _plan.default_process_backend()[0]
        assert min(seen) < usual
        assert sys.getswitchinterval() == usual

    @with_three_tries
    def test_do_not_wait_for_a_long_first_partition(self):
        """The others run meanwhile; who waits is no load."""

        def long_first(part):
            time.sleep(1.5 if pmap.current_partition().index == 0 else 0.2)
            return part

        started = time.perf_counter()
        pmap.map_partitions(SMALL, long_first)
        assert time.perf_counter() - started < 2.6  # the loop: 2.9, one after another: 1.5 + 0.7


@two_workers
class TestItsErrors:
    @pytest.mark.parametrize("bad", [0, 1, 7])
    @pytest.mark.parametrize("work", [workers.spin, workers.nap])
    def test_come_from_wherever_it_ran(self, bad, work):
        def failing(part):
            work(part)
            if pmap.current_partition().index == bad:
                raise ZeroDivisionError(f"in {bad}")
            return part

        with pmap.config(advise="off"):
            sizes = list(pmap.iter_partitions(SMALL, lambda part: part.height, backend="serial"))
        with pytest.raises(ZeroDivisionError, match=f"in {bad}"):
            pmap.map_partitions(SMALL, failing)
        with (
            pmap.config(on_error="skip"),
            pytest.warns(pmap.errors.PmapWarning, match=f"1 of {PARTS}"),
        ):
            assert pmap.map_partitions(SMALL, failing).height == 1000 - sizes[bad]

    def test_leave_nothing_behind(self):
        def failing(part):
            workers.nap(part)
            if pmap.current_partition().index == 0:
                raise ZeroDivisionError
            return part

        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                pmap.map_partitions(SMALL, failing)
        pmap.shutdown()
        names = {"pmap-look", "pmap-ahead"}
        for thread in threading.enumerate():
            if thread.name in names:
                thread.join(10)
        assert not names & {thread.name for thread in threading.enumerate()}

    def test_of_starting_workers_are_raised(self, monkeypatch):
        from pmap import _access

        def refuse(*_):
            raise OSError("no more processes")

        real = _access._pools.prepare
        monkeypatch.setattr(
            _access._pools,
            "prepare",
            lambda factory, *rest: real(factory, *rest) if "Serial" in repr(factory) else refuse(),
        )
        with pytest.raises(OSError, match="no more processes"):
            pmap.map_partitions(SMALL, workers.spin)


@two_workers
class TestTheReport:
    def test_says_how_the_function_spent_its_time(self):
        pmap.map_partitions(SMALL, workers.nap, backend="forkserver", n_jobs=2)
        timings = pmap.last_report().timings
        assert (timings["blocked_seconds"].drop_nulls() > 0.05).any()
        assert (timings["cpu_seconds"] < 0.1).all()

    def test_says_how_long_new_workers_took(self):
        pmap.map_partitions(SMALL, workers.double, backend="spawn")
        assert pmap.last_report().start_seconds > 0.05
        pmap.map_partitions(SMALL, workers.double, backend="spawn")
        assert pmap.last_report().start_seconds == 0

    def test_counts_polars_own_pool(self):
        pmap.map_partitions(LARGE, workers.polish, backend="forkserver", n_jobs=2)
        timings = pmap.last_report().timings.drop_nulls("pool_seconds")
        assert timings["pool_seconds"].sum() > 0.5 * timings["cpu_seconds"].sum()


class TestWhatAFunctionWeighs:
    """A large dictionary in the closure is pickled; what else is large is copied, or sent by name."""

    def test_large_containers(self):
        table = {number: str(number) for number in range(200_000)}
        assert 0.001 < pickling_seconds(lambda part: table) < 10
        assert pickling_seconds(functools.partial(workers.double, {"deep": [table]})) > 0.001

    def test_nothing_else(self):
        frame, small = pl.DataFrame({"x": range(200_000)}), dict.fromkeys(range(100))
        assert pickling_seconds(lambda part: (frame, small, np.random)) == 0
        assert pickling_seconds(workers.double) == 0

    def test_what_new_workers_import(self):
        import pandas as pd

        assert import_seconds(lambda part: pl.from_pandas(part.to_pandas())) > 0.1
        assert import_seconds(lambda part: pd.DataFrame(part.to_dict())) > 0.1
        assert import_seconds(lambda part: part.with_columns(y=np.sqrt(part["x"]))) < 0.01
        assert import_seconds(workers.double) < 0.01

    def test_keeps_little_work_here(self, two_cpus):
        table = {number: str(number) for number in range(2_000_000)}
        pmap.map_partitions(SMALL, workers.double, backend=_plan.default_process_backend()[0])

        def look_up(part):
            end = time.thread_time() + 0.02
            while time.thread_time() < end:
                table.get(part.height)
            return part

        assert backend_of(look_up) == "serial"


def test_slow_workers_are_remembered_for_a_while(monkeypatch):
    figures, now = Figures(), time.monotonic()
    usual = figures.slowdown
    assert 1.1 < usual < 1.4
    figures.note_slowdown(1.8)
    assert usual + 0.2 < figures.slowdown < 1.8
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
    assert abs(figures.slowdown - usual) < 0.01
