"""Every backend, and every kind of executor, passes the suite that is shipped for authors."""

from __future__ import annotations

import doctest
import inspect
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import loky
import polars as pl
import pytest
import workers

import pmap
import pmap.testing
from pmap._conformance import gate, loop
from pmap.backend import Capabilities, ExecutorBackend, Locality
from pmap.testing import BackendConformance, assert_equal_to_loop


class TestSerial(BackendConformance):
    backend = "serial"


class TestThreads(BackendConformance):
    backend = "threads"


class TestSpawn(BackendConformance):
    backend = "spawn"


class TestForkserver(BackendConformance):
    backend = "forkserver"


class TestLoky(BackendConformance):
    backend = "loky"


@pytest.mark.once
class TestDask(BackendConformance):
    backend = "dask"


# A task that is cancelled in the moment in which loky sends it: its thread ends with a KeyError.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.once
class TestJoblib(BackendConformance):
    backend = "joblib"


class TestThreadPoolExecutor(BackendConformance):
    backend = staticmethod(lambda spec: ThreadPoolExecutor(spec.n_workers))


@pytest.mark.once
class TestProcessPoolExecutor(BackendConformance):
    backend = staticmethod(
        lambda spec: ProcessPoolExecutor(
            spec.n_workers, mp_context=multiprocessing.get_context("spawn")
        )
    )


@pytest.mark.once
class TestLokyExecutor(BackendConformance):
    backend = staticmethod(lambda spec: loky.ProcessPoolExecutor(spec.n_workers))


# Beside the suite: functions by reference, on every registered backend.


@pytest.mark.parametrize("function", [workers.double, workers.Model])
def test_functions_of_a_module_that_workers_import(backend, function):
    frame = pl.DataFrame({"x": range(40)})
    assert_equal_to_loop(frame, function, backend=backend, n_jobs=2, n_partitions=4)


def test_workers_are_other_processes(process_backend):
    frame = pl.DataFrame({"x": range(40)})
    pids = set(pmap.iter_partitions(frame, workers.pid, backend=process_backend, n_jobs=2))
    assert os.getpid() not in pids


# The suite itself: what a faulty backend does is found.


class Faulty(ExecutorBackend):
    """A sound backend on two threads, to be made worse."""

    def __init__(self, spec):
        self.pool = ThreadPoolExecutor(spec.n_workers)
        super().__init__(
            self.pool,
            Capabilities(locality=Locality.PROCESS, n_workers=spec.n_workers),
            self.pool.shutdown,
        )


class WaitsForTheTask(Faulty):
    def submit(self, task):
        future = super().submit(task)
        future.exception()
        return future


class HasOneWorker(Faulty):
    def __init__(self, spec):
        super().__init__(replace(spec, n_workers=1))
        self.capabilities = self.capabilities._replace(n_workers=2)


class ChangesItsMind(Faulty):
    def submit(self, task):
        self.capabilities = self.capabilities._replace(n_workers=3)
        return super().submit(task)


class ReturnsAValue(Faulty):
    def submit(self, task):
        return super().submit(task).result()


class NeverCloses(Faulty):
    def close(self):
        pass


class ClosesOnce(Faulty):
    def close(self):
        super().close()
        del self.pool, self._close


@pytest.mark.parametrize(
    ("faulty", "test"),
    [
        (WaitsForTheTask, "test_submit_returns_at_once"),
        (HasOneWorker, "test_workers_work_at_the_same_time"),
        (ChangesItsMind, "test_capabilities_stay"),
        (ReturnsAValue, "test_futures_have_what_tasks_return"),
        (NeverCloses, "test_submit_after_close_raises"),
        (ClosesOnce, "test_close_is_idempotent"),
    ],
)
def test_the_suite_finds_faults(faulty, test, monkeypatch):
    monkeypatch.setattr(gate, "PATIENCE", 0.2)
    suite = type("Suite", (BackendConformance,), {"backend": faulty})
    asked = inspect.signature(getattr(suite, test)).parameters
    door = gate.Gate("127.0.0.1")
    suite.setup_class()
    try:
        with pytest.raises((AssertionError, AttributeError, pytest.fail.Exception)):
            getattr(suite(), test)(**({"gate": door} if "gate" in asked else {}))
    finally:
        door.open()


def test_the_suite_asks_for_a_backend():
    suite = type("Suite", (BackendConformance,), {})
    with pytest.raises(TypeError, match=r"Suite\.backend is missing"):
        suite.setup_class()


@pytest.mark.parametrize("module", [pmap.testing, loop])
def test_examples_run(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert not results.failed
