"""Bad input: a clear error, before any worker starts, that says what to write instead."""

from __future__ import annotations

import threading
from functools import partial
from types import FunctionType

import polars as pl
import pytest

import pmap
from pmap import errors

DF = pl.DataFrame({"x": [1, 2, 3]})


def same(part: pl.DataFrame) -> pl.DataFrame:
    return part


@pytest.fixture(autouse=True)
def no_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    from pmap_backends import _launch

    def refuse(*_: object) -> None:
        pytest.fail("a worker was started")

    monkeypatch.setattr(_launch, "_start_interpreter", refuse)


@pytest.mark.parametrize("mapper", [pmap.map_partitions, pmap.iter_partitions])
class TestWhatIsSaid:
    @pytest.mark.parametrize(
        ("frame", "says"),
        [
            (DF.lazy(), r"frame\.collect\(\)"),
            (DF["x"], r"series\.to_frame\(\)"),
            ({"x": [1]}, r"pl\.DataFrame\(frame\)"),
            (DF.to_pandas(), r"pl\.from_pandas"),
            (DF.to_arrow(), r"pl\.from_arrow"),
            (DF["x"].to_numpy(), r"pl\.from_numpy"),
            (None, "NoneType, not a polars DataFrame"),
            (7, "int, not a polars DataFrame"),
            ("flights.parquet", "str, not a polars DataFrame"),
        ],
    )
    def test_not_a_frame(self, mapper, frame, says):
        with pytest.raises(errors.ArgumentError, match=says):
            mapper(frame, same)

    @pytest.mark.parametrize("function", [None, 3, "same"])
    def test_not_callable(self, mapper, function):
        with pytest.raises(errors.ArgumentError, match="can not be called"):
            mapper(DF, function)

    def test_by_comes_later(self, mapper):
        with pytest.raises(errors.ArgumentError, match=r"frame\.partition_by\('x'\)"):
            mapper(DF, same, by="x")

    def test_count_and_size(self, mapper):
        with pytest.raises(errors.ArgumentError, match="not both"):
            mapper(DF, same, n_partitions=2, chunk_size=2)

    @pytest.mark.parametrize(
        ("name", "value", "says"),
        [
            ("n_partitions", 0, "must be 1 or more"),
            ("n_partitions", -1, "must be 1 or more"),
            ("n_partitions", 2.5, "a whole number"),
            ("n_partitions", "2", "a number"),
            ("n_partitions", True, "a number"),
            ("chunk_size", 0, "must be 1 or more"),
            ("chunk_size", -5, "must be 1 or more"),
            ("n_jobs", 0, "-1 is all CPUs"),
            ("n_jobs", 1.5, "a whole number"),
            ("retries", -1, "must be 0 or more"),
            ("timeout", 0, "must be greater than 0"),
            ("timeout", -2.0, "must be greater than 0"),
            ("on_error", "ignore", "'raise', 'skip' or 'return'"),
        ],
    )
    def test_senseless_values(self, mapper, name, value, says):
        with pytest.raises(errors.ArgumentError, match=says):
            mapper(DF, same, **{name: value})

    @pytest.mark.parametrize(
        ("foreign", "meant"),
        [
            ("workers", "n_jobs"),
            ("num_proc", "n_jobs"),
            ("nthreads", "n_jobs"),
            ("max_workers", "n_jobs"),
            ("chunksize", "chunk_size"),
            ("npartitions", "n_partitions"),
            ("meta", "schema"),
            ("engine", "backend"),
            ("ordered", "maintain_order"),
            ("verbose", "progress"),
            ("time_out", "timeout"),
        ],
    )
    def test_foreign_names(self, mapper, foreign, meant):
        if mapper is pmap.iter_partitions and meant == "schema":
            pytest.skip("iter_partitions has no schema: its function may return anything")
        with pytest.raises(TypeError, match=rf"{foreign}.*did you mean {meant}=\?"):
            mapper(DF, same, **{foreign: 2})

    def test_positional_names(self, mapper):
        with pytest.raises(TypeError, match=r"'func'.*by position"):
            mapper(DF, same, func=same)

    def test_an_option_of_config(self, mapper):
        with pytest.raises(TypeError, match=r"pmap\.config\(seed=\.\.\.\)"):
            mapper(DF, same, seed=1)

    def test_a_name_nobody_knows(self, mapper):
        with pytest.raises(TypeError, match=r"unexpected keyword argument 'colour'$"):
            mapper(DF, same, colour=1)

    def test_unknown_backend(self, mapper):
        with pytest.raises(
            errors.UnknownBackendError, match=r"did you mean spawn\?; there are auto.*threads"
        ):
            list(mapper(DF, same, backend="spwan"))

    def test_a_backend_that_is_none(self, mapper):
        with pytest.raises(errors.ArgumentError, match="can not carry tasks"):
            list(mapper(DF, same, backend=3.5))

    @pytest.mark.parametrize("backend", ["serial", "threads"])
    def test_what_can_not_be_stopped_has_no_timeout(self, mapper, backend):
        with pytest.raises(errors.ArgumentError, match=f"'{backend}' can not stop.*spawn"):
            list(mapper(DF, same, backend=backend, timeout=1))


class Holder:
    def __init__(self) -> None:
        self.guard = threading.Lock()

    def method(self, part):
        return part

    def __call__(self, part):
        return part


GUARD = threading.Lock()


def _closure():
    guard = threading.Lock()

    def with_guard(part):
        return part if guard else None

    return with_guard


@pytest.mark.parametrize("backend", ["auto", "spawn", "forkserver", "loky"])
@pytest.mark.parametrize(
    ("function", "says"),
    [
        (_closure(), r"closure variable 'guard' of .*with_guard \(a _thread\.lock\)"),
        (Holder().method, r"attribute 'guard' of the instance of .*method \(a _thread\.lock\)"),
        (Holder(), r"attribute 'guard' of Holder \(a _thread\.lock\)"),
        (partial(same, guard=threading.Lock()), r"argument 'guard' of partial\(same\)"),
        (lambda part, guard=GUARD: part if guard else None, r"default of parameter 'guard'"),
        (lambda part: part if LOCKS["one"] else None, r"item 'one' of global 'LOCKS'"),
    ],
    ids=["closure", "method", "instance", "partial", "default", "global"],
)
def test_unpicklable_functions_name_the_object(backend, function, says):
    with pytest.raises(errors.UnpicklableFunctionError, match=says):
        pmap.map_partitions(DF, _by_value(function), backend=backend)


@pytest.mark.parametrize("backend", ["spawn", "forkserver", "loky"])
def test_unpicklable_initializers_name_the_object(backend):
    with (
        pmap.config(initializer=partial(print, threading.Lock())),
        pytest.raises(errors.UnpicklableFunctionError, match=r"partial\(print\).*_thread\.lock"),
    ):
        pmap.map_partitions(DF, same, backend=backend)


@pytest.mark.parametrize("backend", ["spawn", "forkserver", "loky"])
def test_a_memory_limit_that_nobody_could_see_to(backend, monkeypatch):
    from pmap import _access

    monkeypatch.setattr(_access, "memory_of", lambda _: None)
    with pmap.config(memory_limit="2 GB"), pytest.raises(errors.ArgumentError, match="needs /proc"):
        pmap.map_partitions(DF, same, backend=backend)


LOCKS = {"one": threading.Lock()}


def _by_value(function):
    """As if it were defined in a script: functions of importable modules go by name."""
    if isinstance(function, FunctionType):
        function.__module__ = "__main__"
    return function


@pytest.mark.parametrize("backend", ["auto", "spawn", "forkserver", "loky"])
@pytest.mark.parametrize(
    "column",
    [
        pl.Series([object()], dtype=pl.Object),
        pl.Series([[]], dtype=pl.Array(pl.Int8, 0)),
        pl.Series([[[]]], dtype=pl.List(pl.Array(pl.Int8, 0))),
    ],
    ids=["object", "array of width 0", "list of array of width 0"],
)
def test_columns_that_can_not_travel(backend, column):
    frame = pl.DataFrame({"fine": [1], "strange": column})
    with pytest.raises(errors.UnsupportedDtypeError, match=r"'strange'.*df\.drop\('strange'\)"):
        pmap.map_partitions(frame, same, backend=backend)


def test_objects_may_stay_in_this_process():
    frame = pl.DataFrame({"strange": pl.Series([{1}, {2}], dtype=pl.Object)})
    out = pmap.map_partitions(frame, same, backend="threads", n_partitions=2)
    assert out["strange"].to_list() == [{1}, {2}]


def test_a_stream_of_something_else():
    with pytest.raises(
        errors.ArgumentError, match=r"item 1 of the iterable is a LazyFrame.*collect"
    ):
        pmap.map_partitions([DF, DF.lazy()], same, backend="serial")


class TestConfig:
    def test_unknown_option(self):
        with pytest.raises(errors.ConfigError, match=r"n_job'.*did you mean n_jobs\?"):
            pmap.config.set(n_job=2)

    def test_unknown_variable(self, monkeypatch):
        monkeypatch.setenv("PMAP_NJOBS", "2")
        with pytest.raises(errors.ConfigError, match=r"PMAP_NJOBS.*did you mean PMAP_N_JOBS\?"):
            pmap.map_partitions(DF, same)

    def test_unreadable_variable(self, monkeypatch):
        monkeypatch.setenv("PMAP_N_JOBS", "many")
        with pytest.raises(errors.ConfigError, match="PMAP_N_JOBS='many'"):
            pmap.map_partitions(DF, same)

    def test_the_nearest_wins(self, monkeypatch):
        def parts(**arguments):
            pmap.map_partitions(DF, same, backend="serial", **arguments)
            return pmap.last_report().timings.height

        monkeypatch.setenv("PMAP_N_PARTITIONS", "1")
        assert parts() == 1
        pmap.config.set(n_partitions=2)
        try:
            assert parts() == 2
            with pmap.config(n_partitions=3):
                assert parts() == 3
                assert parts(n_partitions=2) == 2
                assert parts(chunk_size=2) == 2
            assert parts() == 2
        finally:
            pmap.config.reset()
        assert parts() == 1


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": float("nan")},
        {"retries": None},
        {"idle_timeout": None},
        {"retry_on": ("KeyError",)},
        {"retry_on": KeyError("x")},
        {"retry_on": None},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_at_once(options):
    (name,) = options
    with pytest.raises(errors.ArgumentError, match=f"{name}="), pmap.config(**options):
        pass


@pytest.mark.parametrize("kinds", [LookupError, [OSError, KeyError], (KeyError,)], ids=str)
def test_retry_on_takes_one_class_or_several(kinds):
    def fail_once(part):
        if pmap.current_partition().attempt == 0:
            raise KeyError("x")
        return part

    frame = pl.DataFrame({"x": [1]})
    with pmap.config(retry_on=kinds):
        assert pmap.map_partitions(frame, fail_once, backend="serial", retries=1).equals(frame)
