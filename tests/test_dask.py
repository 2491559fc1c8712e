"""The backend "dask": a cluster of pmap's own, and clusters of the user's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import polars as pl
import programs
import psutil
import pytest

pytest.importorskip("distributed", reason='needs pip install "polars-pmap[dask]"')

import dask
from distributed import Client, Future, LocalCluster
from polars.testing import assert_frame_equal

import pmap
from pmap.backend import Locality, Task, WorkerSpec
from pmap.errors import ArgumentError, BackendError, WorkerDiedError, WorkerStartError
from pmap_backends import _dask_cluster
from pmap_backends._dask import DaskBackend

pytestmark = pytest.mark.once  # costly, and the same on every Python

FRAME = pl.DataFrame({"x": range(12)})
SPEC = WorkerSpec(n_workers=2, threads=1)
SECONDS = 25


@pytest.fixture(scope="module")
def own():
    backend = DaskBackend(SPEC)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def cluster():
    """The user's: nothing of pmap's making, but that dask reports the first death."""
    with (
        # By default it drops a worker that died 15 s ago and again just now.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"allowed_failures": 0, "dashboard": False},
        ) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    with Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(params=["own", "client", "address", "cluster"])
def target(request):
    """All that `backend=` takes of dask's."""
    if request.param == "address":
        return request.getfixturevalue("cluster").scheduler_address
    return request.getfixturevalue(request.param)


@pytest.fixture
def meeting():
    """Where functions of workers connect to, and wait."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS)
        yield server


def waiting(server):
    """A function that says its process's number, and then waits until the test hangs up."""
    port = server.getsockname()[1]

    def wait(part):
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(str(os.getpid()).encode())
            peer.recv(1)
        return part

    return wait


def met(server):
    """The next worker that waits: its connection and its process's number."""
    peer, _ = server.accept()
    peer.settimeout(SECONDS)
    return peer, int(peer.recv(100))


def double(part):
    return part * 2


def pids(backend):
    return set(pmap.iter_partitions(FRAME, lambda _: os.getpid(), backend=backend, n_partitions=4))


def test_maps(target):
    result = pmap.map_partitions(FRAME, double, backend=target, n_partitions=4)
    assert_frame_equal(result, FRAME * 2)


def test_an_exception_comes_back_as_itself(target):
    with pytest.raises(ZeroDivisionError, match="division"):
        pmap.map_partitions(FRAME, lambda _: 1 / 0, backend=target, n_partitions=4)


def test_a_failed_call_leaves_the_others_alone(target, caplog):
    def fail_at(row, part):
        if part["x"][0] == row:
            raise KeyError(row)
        return part

    def call(n):
        function = partial(fail_at, 0 if n % 2 else -1)
        return pmap.map_partitions(FRAME, function, backend=target, n_partitions=6)

    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(call, n) for n in range(8)]
        for n, each in enumerate(calls):
            if n % 2:
                with pytest.raises(KeyError):
                    each.result(SECONDS)
            else:
                assert_frame_equal(each.result(SECONDS), FRAME)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    # Dask says so of results that a call which has failed does not want any more.
    assert not [w for w in warnings if not w.getMessage().startswith("Couldn't gather")]


def test_large_partitions_warn_of_nothing(target):
    large = pl.DataFrame({"x": pl.arange(3_000_000, eager=True)})  # dask warns from 10 MB on
    result = pmap.map_partitions(large, double, backend=target, n_partitions=2)
    assert_frame_equal(result, large * 2)


def test_in_a_running_loop(target):
    async def cell_of_a_notebook():
        return pmap.map_partitions(FRAME, double, backend=target, n_partitions=4)

    assert_frame_equal(asyncio.run(cell_of_a_notebook()), FRAME * 2)


def test_from_several_threads(target):
    def call(n):
        return pmap.map_partitions(FRAME + n, double, backend=target, n_partitions=4)

    with ThreadPoolExecutor(4) as threads:
        for n, result in enumerate(threads.map(call, range(8))):
            assert_frame_equal(result, (FRAME + n) * 2)


@pytest.mark.parametrize("megabytes", [0, 20])
def test_a_killed_worker_is_an_error_and_no_hang(target, megabytes):
    def die(part):
        if part["x"][0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return part

    part = pl.DataFrame({"x": pl.arange(max(1, megabytes << 17), eager=True)})
    with pytest.raises(WorkerDiedError) as caught:
        pmap.map_partitions(part, die, backend=target, n_partitions=1)
    assert caught.value.index == 0
    assert_frame_equal(pmap.map_partitions(FRAME, double, backend=target), FRAME * 2)


# A cluster of pmap's own.


def test_workers_are_processes_with_capped_threads(own):
    capabilities = own.capabilities
    assert (capabilities.locality, capabilities.n_workers) == (Locality.CLUSTER, 2)
    assert capabilities.owns_workers
    sizes = pmap.iter_partitions(
        FRAME, lambda _: (pl.thread_pool_size(), os.environ["OMP_NUM_THREADS"]), backend=own
    )
    assert set(sizes) == {(1, "1")}
    assert os.getpid() not in pids(own)


@pytest.mark.parametrize(
    ("end", "code"), [(lambda: os.kill(os.getpid(), signal.SIGKILL), -9), (lambda: os._exit(3), 3)]
)
def test_only_the_dead_workers_partition_is_blamed(own, end, code):
    def die_at_zero(part):
        if part["x"][0] == 0:
            end()
        return part["x"][0]

    results = list(
        pmap.iter_partitions(FRAME, die_at_zero, backend=own, n_partitions=6, on_error="return")
    )
    assert [result for result in results if isinstance(result, int)] == [2, 4, 6, 8, 10]
    (failure,) = pmap.last_report().failures
    assert isinstance(failure, WorkerDiedError)
    assert (failure.index, failure.exitcode) == (0, code)
    assert failure.pid not in {None, os.getpid()}


def test_cancelling_stops_the_function(own, meeting):
    frames = pmap.iter_partitions(
        FRAME, waiting(meeting), backend=own, n_partitions=2, maintain_order=False
    )
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(next, frames)
        peers = [met(meeting)[0] for _ in range(2)]
        peers[0].close()
        first.result(SECONDS)
        frames.close()
        assert peers[1].recv(1) == b""  # its process has ended
        peers[1].close()
    assert_frame_equal(pmap.map_partitions(FRAME, double, backend=own), FRAME * 2)


def test_close_ends_what_runs_and_what_waits(meeting):
    backend = DaskBackend(WorkerSpec(n_workers=1))
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(
            pmap.map_partitions, FRAME, waiting(meeting), backend=backend, n_partitions=3
        )
        peer, pid = met(meeting)
        backend.close()
        with pytest.raises(BackendError, match="closed"):
            call.result(SECONDS)
    assert peer.recv(1) == b""
    peer.close()
    assert not psutil.pid_exists(pid)
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.submit(Task(len, b""))


def test_workers_are_replaced_after_max_tasks():
    with contextlib.closing(
        DaskBackend(WorkerSpec(n_workers=1, threads=1, max_tasks_per_child=2))
    ) as backend:
        assert len(pids(backend)) == 2


def test_workers_that_do_not_start_are_an_error(monkeypatch):
    monkeypatch.setattr(_dask_cluster, "command", lambda *_: [sys.executable, "-c", "exit(3)"])
    with contextlib.closing(DaskBackend(SPEC)) as backend:
        for _ in range(2):  # it tries again, and says so again
            with pytest.raises(WorkerStartError, match="3 workers in a row"):
                pmap.map_partitions(FRAME, double, backend=backend)


def test_no_interpreter_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr(_dask_cluster, "command", lambda *_: ["/nowhere/python"])
    with (
        contextlib.closing(DaskBackend(SPEC)) as backend,
        pytest.raises(WorkerStartError, match="/nowhere/python"),
    ):
        pmap.map_partitions(FRAME, double, backend=backend)


SCRIPT = """
import atexit, multiprocessing, sys

import beside, dask, pmap, polars as pl

paths = list(sys.path)
frame = pl.DataFrame({"x": range(12)})
total = pmap.map_partitions(frame, beside.double, backend="dask", n_jobs=2)["x"].sum()
print("total", total, pmap.map_partitions(frame, lambda p: p + 1, backend="dask")["x"].sum())
assert multiprocessing.get_start_method(allow_none=True) is None
multiprocessing.set_start_method("spawn")
assert sys.path == paths
assert dask.config.get("scheduler", None) is None
"""


@pytest.mark.parametrize("way", ["script", "command", "stdin"])
def test_without_a_main_guard(tmp_path, way):
    folder, scratch, elsewhere = (tmp_path / name for name in ("code", "scratch", "elsewhere"))
    for each in (folder, scratch, elsewhere):
        each.mkdir()
    (folder / "beside.py").write_text("def double(part):\n    return part * 2\n")
    (folder / "script.py").write_text(SCRIPT)
    arguments = {"script": [folder / "script.py"], "command": ["-c", SCRIPT], "stdin": ["-"]}[way]
    done = programs.run(
        *arguments,
        stdin=SCRIPT if way == "stdin" else "",
        cwd=elsewhere,
        TMPDIR=str(scratch),
        PYTHONPATH=str(folder),
    )
    assert (done.stdout, done.stderr, done.returncode) == ("total 132 78\n", "", 0)
    assert not list(scratch.iterdir())
    assert not list(elsewhere.iterdir())
    assert not running_with(scratch)


def running_with(folder):
    """Processes whose command line names the folder, as those of workers do."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found += [process] * (str(folder) in " ".join(process.cmdline()))
    return found


def test_workers_end_with_a_killed_caller(tmp_path, meeting):
    script = (
        "import os, socket, polars as pl, pmap\n"
        "def wait(part):\n"
        f"    with socket.create_connection(('127.0.0.1', {meeting.getsockname()[1]})) as peer:\n"
        "        peer.sendall(str(os.getpid()).encode())\n"
        "        peer.recv(1)\n"
        "pmap.map_partitions(pl.DataFrame({'x': [1]}), wait, backend='dask')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    ) as caller:
        peer, pid = met(meeting)
        worker = psutil.Process(pid)
        caller.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.wait(SECONDS)
    peer.close()
    assert not list(tmp_path.iterdir())


# Clusters of the user's.


def test_capabilities_are_the_clusters(cluster, client):
    for target in (cluster, client, cluster.scheduler_address):
        with contextlib.closing(DaskBackend.adopt(target, SPEC)) as backend:
            capabilities = backend.capabilities
            assert (capabilities.locality, capabilities.n_workers) == (Locality.CLUSTER, 2)
            assert not capabilities.owns_workers


def test_close_closes_no_more_than_was_made(cluster, client):
    for target in (cluster, client, cluster.scheduler_address):
        backend = DaskBackend.adopt(target, SPEC)
        backend.close()
        backend.close()
        assert client.submit(len, "ab").result() == 2
    with pytest.raises(BackendError, match="closed"):
        backend.submit(Task(len, b""))


@pytest.mark.parametrize("target", [object(), 3, "ray://127.0.0.1:1", "tcp", None])
def test_what_is_not_dasks_is_left_to_others(target):
    assert DaskBackend.adopt(target, SPEC) is None


def test_what_is_asynchronous_is_refused(cluster):
    async def call():
        async with Client(cluster.scheduler_address, asynchronous=True) as client:
            with pytest.raises(ArgumentError, match="asynchronous"):
                pmap.map_partitions(FRAME, double, backend=client)

    asyncio.run(call())


def test_no_answer_is_an_error():
    with (
        socket.socket() as deaf,  # it keeps the port, and does not listen
        dask.config.set({"distributed.comm.timeouts.connect": "100ms"}),
    ):
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        with pytest.raises(BackendError, match=f"no dask cluster answers at .*{port}"):
            pmap.map_partitions(FRAME, double, backend=f"tcp://127.0.0.1:{port}")


def test_a_task_that_dask_cancels_is_an_error(client, meeting):
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(
            pmap.map_partitions, FRAME, waiting(meeting), backend=client, n_partitions=1
        )
        peer, _ = met(meeting)
        key = next(key for key in client.futures if key.startswith("execute"))
        client.cancel(Future(key, client))
        with pytest.raises(BackendError, match="ancel"):
            call.result(SECONDS)
        peer.close()
