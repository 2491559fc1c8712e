"""joblib and scikit-learn on pmap's pools, as `register_joblib_backend` promises."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import polars as pl
import programs
import psutil
import pyarrow as pa
import pytest
from installed import need
from joblib import Parallel, delayed
from polars.testing import assert_frame_equal

import pmap
from pmap import errors

pmap.register_joblib_backend()

ROWS = 200_000


#: Options of Parallel itself; before joblib 1.5 it takes no others.
JOBLIBS = {
    *("return_as", "timeout", "pre_dispatch", "batch_size"),
    *("temp_folder", "max_nbytes", "mmap_mode"),
}


def on_pmap(tasks, n_jobs=2, **options):
    own = {name: value for name, value in options.items() if name not in JOBLIBS}
    with joblib.parallel_config(backend="pmap", n_jobs=n_jobs, **own):
        return Parallel(**{name: options[name] for name in options if name in JOBLIBS})(tasks)


def strings(rows=ROWS):
    return pl.select(i=pl.int_range(rows)).with_columns(
        s=pl.lit("a string that is too long for its view ") + pl.col("i").cast(pl.String)
    )


def mapped_segments():
    """The segments of pmap's that this process maps, by address: from, to, which."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    found = [(*line[0].split("-"), line[4]) for line in lines if "/memfd:pmap" in " ".join(line)]
    return [(int(start, 16), int(end, 16), inode) for start, end, inode in found]


def address_of(data):
    if isinstance(data, np.ndarray):
        return data.ctypes.data
    if isinstance(data, pl.LazyFrame):
        data = data.collect()
    if isinstance(data, pl.DataFrame):
        data = data.to_arrow(compat_level=pl.CompatLevel.newest())
    if isinstance(data, pa.Table):
        data = data.column(0)
    column = data.to_arrow() if isinstance(data, pl.Series) else data.chunk(0)
    return column.buffers()[1].address


def segment_of(data):
    """The segment that the data lie in, or nothing."""
    at = address_of(data)
    return next((inode for start, end, inode in mapped_segments() if start <= at < end), None)


def parents():
    """The command of the process that started this one."""
    return " ".join(psutil.Process().parent().cmdline())


class TestHowItIsAskedFor:
    def test_by_a_block(self):
        with joblib.parallel_config(backend="pmap", n_jobs=2):
            pids = Parallel()(delayed(os.getpid)() for _ in range(8))
        assert os.getpid() not in pids

    def test_by_a_parallel(self):
        assert on_pmap(delayed(abs)(-i) for i in range(50)) == list(range(50))

    def test_by_the_older_block(self):
        with joblib.parallel_backend("pmap", n_jobs=2):
            assert Parallel()(delayed(abs)(-i) for i in range(5)) == list(range(5))

    @pytest.mark.parametrize("start", ["spawn", "forkserver", "loky"])
    def test_how_workers_start(self, start):
        need(start)
        with joblib.parallel_config(backend="pmap", n_jobs=2, start=start):
            (found, _) = Parallel()(delayed(parents)() for _ in range(2))
        assert (start == "forkserver") == ("main('server'" in found)

    def test_registering_twice_changes_nothing(self):
        before = joblib.parallel.BACKENDS["pmap"]
        pmap.register_joblib_backend()
        assert joblib.parallel.BACKENDS["pmap"] is before

    def test_pmap_does_not_import_joblib(self):
        done = programs.run("-c", "import sys, pmap; print('joblib' in sys.modules)")
        assert done.stdout == "False\n"

    @pytest.mark.parametrize(
        ("option", "error", "words"),
        [
            ({"strat": "spawn"}, TypeError, "no option 'strat': did you mean start?"),
            ({"initialiser": print}, TypeError, "did you mean initializer?"),
            ({"start": "forkservr"}, errors.ArgumentError, "did you mean forkserver?"),
            ({"start": "fork"}, errors.ArgumentError, "forkserver, loky, spawn"),
            ({"idle_timeout": -1}, errors.ArgumentError, "idle_timeout=-1"),
            ({"initializer": print, "initargs": 5}, errors.ArgumentError, "initargs=5"),
            ({"max_tasks_per_child": 0}, errors.ArgumentError, "max_tasks_per_child=0"),
        ],
    )
    def test_wrong_options_are_named(self, option, error, words):
        with pytest.raises(error, match=words.replace("?", r"\?")):
            on_pmap((delayed(abs)(i) for i in range(3)), **option)

    def test_options_of_a_parallel(self):
        pytest.importorskip("joblib", "1.5", reason="before, Parallel has none for backends")
        parallel = Parallel(n_jobs=2, backend="pmap", start="spawn")
        assert "main('server'" not in parallel(delayed(parents)() for _ in range(2))[0]
        threads = Parallel(n_jobs=2, backend="pmap", inner_max_num_threads=3)
        assert threads(delayed(pl.thread_pool_size)() for _ in range(2)) == [3, 3]
        with pytest.raises(TypeError, match="did you mean start"):
            Parallel(n_jobs=2, backend="pmap", strat="spawn")([delayed(abs)(1)])

    @pytest.mark.parametrize(("n_jobs", "workers"), [(1, 1), (2, 2), (-1, None), (None, 1)])
    def test_n_jobs_is_joblibs(self, n_jobs, workers):
        parallel = Parallel(n_jobs=n_jobs, backend="pmap")
        assert parallel._effective_n_jobs() == (workers or pmap.cpu_count())

    def test_n_jobs_zero(self):
        with pytest.raises(ValueError, match="n_jobs == 0"):
            on_pmap([delayed(abs)(1)], n_jobs=0)


class TestDataThatManyTasksShare:
    @pytest.mark.parametrize(
        "make",
        [
            strings,
            lambda: strings()["i"],
            lambda: strings().lazy(),
            lambda: pa.table({"x": np.arange(500_000)}),
            lambda: pa.chunked_array([np.arange(500_000)]),
            lambda: np.arange(500_000),
        ],
        ids=["DataFrame", "Series", "LazyFrame", "Table", "ChunkedArray", "ndarray"],
    )
    @pytest.mark.parametrize("where", ["argument", "container", "closure"])
    def test_are_written_once(self, make, where):
        data = make()
        call = {
            "argument": lambda: delayed(segment_of)(data),
            "container": lambda: delayed(lambda box: segment_of(box["deep"][0]))({"deep": [data]}),
            "closure": lambda: delayed(lambda: segment_of(data))(),  # noqa: PLW0108  it is what is tested
        }[where]
        found = on_pmap((call() for _ in range(12)), batch_size=1)
        assert found[0] is not None
        assert found == [found[0]] * 12

    @pytest.mark.parametrize(
        "make",
        [pl.DataFrame.lazy, pl.DataFrame.clone, lambda frame: frame["i"], lambda f: f.select("s")],
        ids=["lazy", "clone", "column", "select"],
    )
    def test_as_another_object_in_each_task_too(self, make):
        frame = strings()
        found = on_pmap((delayed(segment_of)(make(frame)) for _ in range(12)), batch_size=1)
        assert found[0] is not None
        assert found == [found[0]] * 12

    def test_a_plan_on_a_frame_is_written_once(self):
        lazy = strings().lazy().filter(pl.col("i") > 5)
        calls = (delayed(lambda lazy: lazy.collect().height)(lazy) for _ in range(6))
        assert on_pmap(calls, batch_size=1) == [ROWS - 6] * 6

    def test_are_the_same_there(self):
        frame = strings()
        other = frame.with_columns(pl.col("i").cast(pl.String).cast(pl.Categorical).alias("c"))
        back = on_pmap(delayed(lambda *all_: all_)(frame, other, frame["s"], i) for i in range(3))
        for one, two, three, _ in back:
            assert_frame_equal(one, frame)
            assert_frame_equal(two, other)
            assert three.equals(frame["s"])

    def test_a_frame_that_is_changed_in_its_place_is_sent_anew(self):
        frame = strings()

        def tasks():
            for i in range(6):
                if i % 2 == 1:  # after the first, joblib takes one for each worker at a time
                    frame[0, "i"] = i
                yield delayed(lambda f: f["i"][0])(frame)

        assert on_pmap(tasks(), batch_size=1, pre_dispatch=1) == [0, 1, 1, 3, 3, 5]

    @pytest.mark.parametrize(
        "column",
        [
            pl.Series([True, False]),
            pl.Series(["u", "v"], dtype=pl.Categorical),
            pl.Series(["u", "v"], dtype=pl.Enum(["u", "v"])),
            pl.Series([[1], [2, 3]]),
            pl.Series([{"u": 1}, {"u": 2}]),
            pl.Series([1, 2], dtype=pl.Int128),
        ],
        ids=lambda column: str(column.dtype),
    )
    def test_of_any_dtype(self, column):
        def rows_of(which):
            return column.gather([which, *[0] * (2 * ROWS - 1)]).alias("x")

        frame = rows_of(0).to_frame().with_columns(other=pl.int_range(2 * ROWS))

        def tasks():
            for i in range(5):
                if i % 2 == 1:  # after the first, joblib takes one for each worker at a time
                    frame.replace_column(0, rows_of(i // 2))
                    frame.replace_column(0, rows_of(1 - i // 2))
                yield delayed(lambda f: f["x"].head(1).to_list()[0])(frame)

        first, second = column.to_list()
        assert on_pmap(tasks(), batch_size=1, pre_dispatch=1) == [
            *(first, second, second, first, first)
        ]

    def test_a_worker_that_changes_its_frame_changes_it_for_nobody(self):
        frame = strings()

        def change(frame):
            before = frame.width
            frame.insert_column(0, pl.lit(1).alias("new"))
            return before

        assert set(on_pmap((delayed(change)(frame) for _ in range(8)), batch_size=1)) == {2}
        assert frame.width == 2

    def test_results_are_mapped(self):
        frame = strings()
        (back, _) = on_pmap(
            delayed(lambda f, i: f.with_columns(k=pl.lit(i)))(frame, i) for i in (7, 8)
        )
        assert_frame_equal(back, frame.with_columns(k=pl.lit(7)))
        assert segment_of(back) is not None

    def test_a_stream_of_frames_does_not_pile_up(self):
        n_open = []

        def tasks():
            for i in range(40):
                n_open.append(len(os.listdir("/proc/self/fd")))
                yield delayed(pl.DataFrame.head)(strings(20_000 + i), 1)

        assert len(on_pmap(tasks(), batch_size=1)) == 40
        assert max(n_open) - min(n_open) < 30

    def test_nothing_is_left_after_the_call(self):
        gc.collect()
        before = {inode for *_, inode in mapped_segments()}
        frame = strings()
        on_pmap(delayed(len)(frame) for _ in range(4))
        pmap.shutdown()
        assert {inode for *_, inode in mapped_segments()} <= before

    def test_objects_that_no_road_carries_are_pickled(self):
        frame = pl.DataFrame({"o": [object()] * 3}, schema={"o": pl.Object})
        with pytest.raises(pickle.PicklingError):
            on_pmap(delayed(len)(frame) for _ in range(2))


class TestArrays:
    """What joblib's memmapping gives, without a file."""

    def test_are_read_only_and_memmaps(self):
        array = np.arange(300_000.0)
        found = on_pmap(
            delayed(lambda a: (type(a), a.flags.writeable, a.sum()))(array) for _ in range(2)
        )
        assert found == [(np.memmap, False, array.sum())] * 2

    def test_small_ones_are_the_workers_own(self):
        array = np.arange(10.0)

        def change(array):
            array += 1
            return array

        assert [a.tolist() for a in on_pmap(delayed(change)(array) for _ in range(2))] == [
            list(range(1, 11))
        ] * 2

    @pytest.mark.parametrize(("mode", "last"), [("c", 1), ("r+", 6), ("w+", 6)])
    def test_mmap_mode(self, mode, last):
        array = np.zeros(300_000)

        def add(array):
            array[0] += 1
            return int(array[0])

        found = on_pmap((delayed(add)(array) for _ in range(6)), mmap_mode=mode, batch_size=1)
        assert max(found) == last if mode == "c" else max(found) > 1
        assert array[0] == 0

    @pytest.mark.parametrize("options", [{"max_nbytes": None}, {"mmap_mode": None}])
    def test_no_sharing_if_it_is_not_wanted(self, options):
        array = np.zeros(300_000)
        found = on_pmap(
            (delayed(lambda a: (type(a), a.flags.writeable))(array) for _ in range(2)), **options
        )
        assert found == [(np.ndarray, True)] * 2

    @pytest.mark.parametrize(
        "array",
        [
            np.asfortranarray(np.arange(400_000.0).reshape(200, 2000)),
            np.arange(800_000.0)[::2],
            np.arange(400_000.0).reshape(100, 4000).T[3:],
            np.zeros(200_000, dtype=[("a", "i4"), ("b", "f8")]),
            np.arange(400_000).astype("datetime64[s]"),
            np.arange(400_000, dtype=">i4"),
            np.array(["text", "more"] * 100_000),
        ],
        ids=["fortran", "strided", "transposed", "structured", "dates", "big-endian", "text"],
    )
    def test_all_kinds(self, array):
        (back, same) = on_pmap(
            delayed(lambda a, i: a if i else a.copy())(array, i) for i in range(2)
        )
        np.testing.assert_array_equal(back, array)
        np.testing.assert_array_equal(same, array)
        assert back.dtype == array.dtype

    def test_of_objects(self):
        array = np.array([{"a": 1}, None] * 100_000, dtype=object)
        assert on_pmap(delayed(lambda a: a[0])(array) for _ in range(2)) == [{"a": 1}] * 2

    def test_a_memmap_of_the_users_is_mapped_from_its_file(self, tmp_path):
        array = np.memmap(tmp_path / "array", "f8", "w+", shape=(1000,))
        on_pmap(delayed(lambda a, i: a.__setitem__(i, i))(array, i) for i in range(5))
        assert array[:5].tolist() == [0, 1, 2, 3, 4]

    def test_inside_pandas(self):
        frame = pd.DataFrame({"a": np.arange(300_000.0), "b": np.arange(300_000.0)})
        assert (
            on_pmap(delayed(lambda f: float(f.a.sum()))(frame) for _ in range(2))
            == [float(frame.a.sum())] * 2
        )

    def test_no_file_is_written(self, tmp_path):
        array = np.arange(300_000.0)
        on_pmap((delayed(np.sum)(array) for _ in range(3)), temp_folder=str(tmp_path))
        assert not list(tmp_path.iterdir())


class TestThreads:
    def test_of_native_libraries_are_capped(self):
        def sizes():
            return pl.thread_pool_size(), os.environ["OMP_NUM_THREADS"]

        share = max(1, pmap.cpu_count() // 2)
        assert set(on_pmap(delayed(sizes)() for _ in range(4))) == {(share, str(share))}

    def test_as_many_as_are_asked_for(self):
        with joblib.parallel_config(backend="pmap", n_jobs=2, inner_max_num_threads=3):
            assert set(Parallel()(delayed(pl.thread_pool_size)() for _ in range(4))) == {3}

    def test_nested_calls_run_in_threads_and_then_in_none(self):
        def level(depth):
            backend, _ = joblib.parallel.get_active_backend()
            if depth == 0:
                return [type(backend).__name__]
            return [
                type(backend).__name__,
                *Parallel(n_jobs=2)(delayed(level)(depth - 1) for _ in range(2))[0],
            ]

        assert on_pmap(delayed(level)(2) for _ in range(2))[0] == [
            "ThreadingBackend",
            "SequentialBackend",
            "SequentialBackend",
        ]

    def test_a_worker_that_asks_for_pmap_gets_threads(self):
        def inner():
            return set(
                Parallel(n_jobs=2, backend="pmap")(delayed(os.getpid)() for _ in range(4))
            ) == {os.getpid()}

        assert on_pmap(delayed(inner)() for _ in range(2)) == [True, True]

    def test_a_worker_is_not_forked(self):
        def inner():
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                pids = Parallel(n_jobs=2, backend="multiprocessing")(
                    delayed(os.getpid)() for _ in range(4)
                )
            return set(pids) == {os.getpid()}, len(said)

        assert on_pmap(delayed(inner)() for _ in range(2)) == [(True, 1)] * 2

    def test_a_map_inside_a_task_runs_there(self):
        def inner():
            out = pmap.iter_partitions(
                pl.DataFrame({"x": range(8)}), lambda _: os.getpid(), n_partitions=4
            )
            return set(out) == {os.getpid()}

        assert on_pmap(delayed(inner)() for _ in range(2)) == [True, True]

    def test_shared_memory_is_asked_for(self):
        with joblib.parallel_config(backend="pmap", n_jobs=2):
            assert set(Parallel(require="sharedmem")(delayed(os.getpid)() for _ in range(4))) == {
                os.getpid()
            }


def fail(i):
    if i == 3:
        raise LookupError("this one")
    return i


class TestWhenThingsGoWrong:
    def test_exceptions_come_with_the_workers_traceback(self):
        with pytest.raises(LookupError, match="this one") as caught:
            on_pmap(delayed(fail)(i) for i in range(10))
        assert isinstance(caught.value.__cause__, errors.RemoteTraceback)
        assert "in fail" in str(caught.value.__cause__)

    def test_lines_of_a_function_that_no_module_has_are_shown(self):
        def fail_here():
            raise LookupError("here")  # as a traceback shows it

        with pytest.raises(LookupError) as caught:
            on_pmap(delayed(fail_here)() for _ in range(2))
        assert "# as a traceback shows it" in str(caught.value.__cause__)

    @pytest.mark.parametrize("return_as", ["list", "generator_unordered"])
    @pytest.mark.parametrize("where", ["task", "result", "generator of tasks"])
    def test_a_panic_in_the_caller_is_no_hang(self, where, return_as):
        def tasks():
            yield from (delayed(abs)(i) for i in range(20))
            if where == "generator of tasks":
                panic()
            yield delayed(Panicking)() if where == "result" else delayed(id)(Panicking(os.getpid()))
            yield from (delayed(abs)(i) for i in range(20))

        with pytest.raises(pl.exceptions.PanicException, match="oh"):
            list(on_pmap(tasks(), return_as=return_as, batch_size=1))
        assert on_pmap(delayed(abs)(i) for i in range(5)) == list(range(5))

    def test_many_tasks_that_can_not_be_pickled(self):
        tasks = [delayed(abs)(i) for i in range(8)]
        tasks += [delayed(abs)(threading.Lock()) for _ in range(2000)]
        with pytest.raises(pickle.PicklingError):
            on_pmap(tasks, pre_dispatch="all", batch_size=1)

    def test_the_same_object_is_used_again(self):
        with Parallel(n_jobs=2, backend="pmap") as parallel:
            for _ in range(2):
                with pytest.raises(LookupError):
                    parallel(delayed(fail)(i) for i in range(10))
                assert parallel(delayed(abs)(i) for i in range(10)) == list(range(10))

    @pytest.mark.parametrize("start", ["spawn", "forkserver", "loky"])
    def test_a_dead_worker_is_named(self, start):
        need(start)
        options = {"start": start, "batch_size": 1}
        with pytest.raises(
            errors.WorkerDiedError, match=r"_exit\(\): its worker process \d+ died"
        ) as caught:
            on_pmap((delayed(os._exit)(3) for _ in range(3)), **options)
        assert caught.value.exitcode == 3
        assert on_pmap((delayed(abs)(i) for i in range(5)), **options) == list(range(5))

    def test_a_killed_worker_is_named(self):
        def kill():
            os.kill(os.getpid(), signal.SIGKILL)

        with pytest.raises(errors.WorkerDiedError, match="by signal SIGKILL"):
            on_pmap(delayed(kill)() for _ in range(2))

    def test_timeout(self):
        with pytest.raises(multiprocessing.TimeoutError):
            on_pmap(
                (delayed(threading.Event().wait if i < 0 else wait_long)() for i in range(2)),
                timeout=0.3,
            )
        assert on_pmap((delayed(abs)(i) for i in range(5)), timeout=30) == list(range(5))

    def test_what_was_running_is_stopped(self, tmp_path):
        def run(i):
            if i == 0:
                (tmp_path / "new").write_text(str(os.getpid()))
                (tmp_path / "new").rename(tmp_path / "pid")
                wait_long()
            while not (tmp_path / "pid").exists():
                threading.Event().wait(0.01)
            raise LookupError

        with pytest.raises(LookupError):
            on_pmap((delayed(run)(i) for i in range(2)), batch_size=1)
        pid = int((tmp_path / "pid").read_text())
        processes = [psutil.Process(pid)] if psutil.pid_exists(pid) else []
        assert not programs.alive(processes, programs.SOON)

    def test_what_can_not_be_pickled_is_named(self):
        with pytest.raises(pickle.PicklingError, match=r"could not pickle the task.* abs\(\): "):
            on_pmap(delayed(abs)(threading.Lock()) for _ in range(2))

    def test_exits_come_back_as_themselves(self):
        with pytest.raises(SystemExit):
            on_pmap(delayed(exit_with)(2) for _ in range(2))

    def test_an_exception_that_does_not_pickle_is_told_as_text(self):
        with pytest.raises(errors.RemoteError, match="Odd: one and two"):
            on_pmap(delayed(raise_odd)() for _ in range(2))

    def test_a_panic_of_polars(self):
        with pytest.raises(pl.exceptions.PanicException, match="oh"):
            on_pmap(delayed(panic)() for _ in range(2))

    def test_output_is_the_callers(self, capsys):
        on_pmap(delayed(print)("hello") for _ in range(2))
        assert capsys.readouterr().out == "hello\nhello\n"


def panic():
    raise pl.exceptions.PanicException("oh")


class Panicking:
    """Can not be opened, and not be sent by the process that it says."""

    def __init__(self, pid=0):
        self.pid = pid

    def __reduce__(self):
        if self.pid == os.getpid():
            panic()
        return panic, ()


def wait_long():
    threading.Event().wait(60)


def exit_with(code):
    raise SystemExit(code)


class OddError(Exception):
    def __init__(self, one, two):
        super().__init__(f"Odd: {one} and {two}")

    def __reduce__(self):
        raise TypeError("not me")


def raise_odd():
    raise OddError("one", "two")


class TestHowResultsComeBack:
    def test_as_a_generator(self):
        found = on_pmap((delayed(abs)(-i) for i in range(20)), return_as="generator")
        assert list(found) == list(range(20))

    def test_as_completed(self, tmp_path):
        def wait_until_the_other_is_there(i):
            while i == 0 and not (tmp_path / "there").exists():
                threading.Event().wait(0.01)
            return i

        found = on_pmap(
            (delayed(wait_until_the_other_is_there)(i) for i in range(2)),
            return_as="generator_unordered",
            batch_size=1,
        )
        assert next(found) == 1
        (tmp_path / "there").touch()
        assert list(found) == [0]

    def test_two_generators_of_one_block(self):
        with joblib.parallel_config(backend="pmap", n_jobs=2):
            one = Parallel(return_as="generator")(delayed(abs)(i) for i in range(10))
            two = Parallel(return_as="generator")(delayed(abs)(-i) for i in range(10))
            assert list(zip(one, two, strict=True)) == [(i, i) for i in range(10)]

    def test_a_generator_that_is_dropped_leaves_the_others_alone(self):
        tasks = (delayed(wait_long)() for _ in range(4))
        dropped = on_pmap(tasks, return_as="generator", pre_dispatch="all", batch_size=1)
        with pytest.warns(UserWarning, match="cancelled"):
            dropped.close()
        assert on_pmap(delayed(abs)(i) for i in range(10)) == list(range(10))

    @pytest.mark.parametrize("pre_dispatch", ["all", "2*n_jobs", 1])
    @pytest.mark.parametrize("batch_size", ["auto", 1, 7])
    def test_order(self, pre_dispatch, batch_size):
        found = on_pmap(
            (delayed(abs)(-i) for i in range(100)), pre_dispatch=pre_dispatch, batch_size=batch_size
        )
        assert found == list(range(100))

    def test_several_threads_at_once(self):
        found = {}

        def run(number):
            found[number] = on_pmap(delayed(pow)(i, number) for i in range(50))

        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {n: [i**n for i in range(50)] for n in range(4)}

    def test_an_error_in_one_thread_is_not_anothers(self):
        found, go = [], threading.Event()

        def steady():
            go.set()
            found.extend(on_pmap(delayed(abs)(-i) for i in range(200)) for _ in range(5))

        thread = threading.Thread(target=steady)
        thread.start()
        go.wait()
        for _ in range(3):
            with pytest.raises(LookupError):
                on_pmap(delayed(fail)(i) for i in range(10))
        thread.join()
        assert found == [list(range(200))] * 5

    @pytest.mark.parametrize("size", [10, 100_000, 5_000_000])
    def test_of_any_size(self, size):
        found = on_pmap(delayed(lambda n, i: bytes([i]) * n)(size, i) for i in range(3))
        assert found == [bytes([i]) * size for i in range(3)]

    def test_of_a_cached_function_that_no_module_has(self):
        @functools.cache
        def twice(i):
            return 2 * i

        assert on_pmap(delayed(twice)(i) for i in range(3)) == [0, 2, 4]

    def test_the_initializer_runs_once_in_each_worker(self):
        def count():
            return os.environ["PMAP_TEST_COUNT"], os.getpid()

        found = on_pmap(
            (delayed(count)() for _ in range(8)),
            initializer=add_to_count,
            initargs=("x",),
            batch_size=1,
        )
        assert {value for value, _ in found} == {"x"}

    def test_large_arguments_of_an_initializer(self):
        data = b"x" * 3_000_000
        options = {"initializer": keep, "initargs": (data,), "batch_size": 1}
        assert on_pmap((delayed(kept_bytes)() for _ in range(4)), **options) == [len(data)] * 4

    def test_an_initializer_that_raises(self):
        with pytest.raises(ZeroDivisionError) as caught:
            on_pmap((delayed(abs)(i) for i in range(4)), initializer=divmod, initargs=(1, 0))
        assert "preparing the worker" in caught.value.__notes__[0]


def keep(data):
    os.environ["PMAP_TEST_KEPT"] = str(len(data))


def kept_bytes():
    return int(os.environ["PMAP_TEST_KEPT"])


def add_to_count(what):
    os.environ["PMAP_TEST_COUNT"] = os.environ.get("PMAP_TEST_COUNT", "") + what


class TestTheOtherDirection:
    def test_n_jobs_is_inherited(self):
        def pids(**options):
            frame = pl.DataFrame({"x": range(8)})
            list(
                pmap.iter_partitions(
                    frame, lambda _: 1, backend="threads", n_partitions=8, **options
                )
            )
            return pmap.last_report().plan.n_workers

        with joblib.parallel_config(n_jobs=3):
            assert pids() == 3
            assert pids(n_jobs=2) == 2
            with pmap.config(n_jobs=4):
                assert pids() == 4
        assert pids() == pmap.cpu_count()

    @pytest.mark.parametrize("name", ["loky", "threading", "pmap"])
    def test_joblibs_backend_carries_a_map(self, name):
        frame = pl.DataFrame({"x": range(100)})
        with joblib.parallel_config(backend=name, n_jobs=2):
            out = pmap.map_partitions(frame, lambda p: p * 2, backend="joblib", n_partitions=8)
        assert_frame_equal(out, frame * 2)
        assert pmap.last_report().plan.backend == "joblib"

    def test_fork_is_refused(self):
        with (
            joblib.parallel_config(backend="multiprocessing", n_jobs=2),
            pytest.raises(errors.ForkRefusedError),
        ):
            pmap.map_partitions(pl.DataFrame({"x": [1]}), lambda p: p, backend="joblib")

    @pytest.mark.once
    def test_a_cluster_of_dask_by_way_of_joblib(self):
        distributed = pytest.importorskip("distributed")
        frame = pl.DataFrame({"x": range(100)})
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster),
            joblib.parallel_config(backend="dask"),
        ):
            out = pmap.map_partitions(
                frame,
                lambda p: p.with_columns(pid=pl.lit(os.getpid())),
                backend="joblib",
                n_partitions=8,
            )
        assert out["x"].to_list() == list(range(100))
        assert os.getpid() not in out["pid"]


#: Its first call is in every process that `multiprocessing` starts, while it imports the script.
SCRIPT = """
import multiprocessing
import joblib, pmap

pmap.register_joblib_backend()

def twice(i):
    return 2 * i

def call():
    tasks = (joblib.delayed(twice)(i) for i in range(3))
    print(joblib.Parallel(n_jobs=2, backend="pmap")(tasks), flush=True)

call()
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=call)
    child.start()
    child.join()
"""


def test_a_script_that_starts_processes_itself(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = programs.run(tmp_path / "script.py")
    assert done.stdout == "[0, 2, 4]\n" * 3, done.stderr


class TestTasksFromAGenerator:
    def test_that_uses_the_same_pool_itself(self):
        def tasks():
            for i in range(12):
                (inner, *_) = on_pmap(delayed(abs)(-i) for _ in range(2))
                yield delayed(abs)(inner)

        assert on_pmap(tasks(), batch_size=1) == list(range(12))

    def test_that_maps_itself(self):
        def tasks():
            for i in range(4):
                frame = pl.DataFrame({"x": [i, i]})
                out = pmap.map_partitions(frame, lambda p: p, backend="forkserver", n_jobs=2)
                yield delayed(abs)(out["x"][0])

        assert on_pmap(tasks(), batch_size=1) == list(range(4))
