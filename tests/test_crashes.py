"""Every way for a worker to end, at every moment of its life, on every process backend.

A job of four partitions, of which one meets its end: which error, and what of the others.
"""

from __future__ import annotations

import collections
import ctypes
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import groups
import polars as pl
import programs
import psutil
import pytest

import pmap
from pmap import errors

pytestmark = pytest.mark.once  # costly, and the same on every Python

DF = pl.DataFrame({"x": range(100)})
LARGE = pl.DataFrame({"x": range(200_000)})  # results of a quarter of it travel in a segment


class Boom(RuntimeError):
    pass


def boom():
    raise Boom("raised")


ENDS = {
    "exit": (lambda: os._exit(3), "with exit code 3"),
    "quiet exit": (lambda: os._exit(0), "with exit code 0"),
    "segfault": (lambda: ctypes.string_at(0), "by signal SIGSEGV"),
    "abort": (os.abort, "by signal SIGABRT"),
    "kill": (lambda: os.kill(os.getpid(), signal.SIGKILL), "by signal SIGKILL.*memory"),
    "raise": (boom, None),
}


#: Of the others, what the kernel tells is another number, no more: on forkserver they are tried
#: always, on backends whose workers start slowly by `make test-slow`.
TRIED_EVERYWHERE = {"exit", "kill", "raise"}


def is_quick(backend, end):
    return backend == "forkserver" or end in TRIED_EVERYWHERE


#: Each end on each backend.
all_ends = pytest.mark.parametrize(
    ("process_backend", "end"),
    [
        pytest.param(backend, end, marks=[] if is_quick(backend, end) else pytest.mark.slow)
        for backend, end in itertools.product(["spawn", "forkserver", "loky"], ENDS)
    ],
    indirect=True,
)


@pytest.fixture
def end(request):
    return ENDS[request.param][0]


@pytest.fixture
def how(request):
    return ENDS[request.node.callspec.params["end"]][1]


class EndsWhileOpened:
    """Its own unpickling is its end."""

    def __init__(self, end):
        self.end = end

    def __setstate__(self, state):
        state["end"]()

    def __call__(self, part):
        return part


class EndsWhilePickled:
    """As a result: its pickling is its worker's end."""

    def __init__(self, end):
        self.end = end

    def __reduce__(self):
        self.end()


class EndsOnSecond:
    """Runs `end` on partition 1, where `moment` says."""

    def __init__(self, moment, end):
        self.moment = moment
        self.end = end

    def __call__(self, part):
        if pmap.current_partition().index == 1:
            return self.moment(part, self.end)
        return part


def while_running(part, end):
    end()


def while_pickling(part, end):
    return EndsWhilePickled(end)


def while_writing(part, end):
    """The next file that this process opens is the segment for its result."""
    left = [end]

    def hook(event, arguments):
        if event == "open" and "/fd/" in str(arguments[0]) and left:
            left.pop()()

    sys.addaudithook(hook)
    return part.with_columns(y=pl.col("x") + 1)


def charged(error, how):
    """Whether an error is the right one for an end, and charged to partition 1 of 4."""
    if how is None:
        assert isinstance(error, Boom)
    else:
        assert isinstance(error, errors.WorkerDiedError)
        assert error.index == 1
        with pytest.raises(errors.WorkerDiedError, match=rf"partition 1 of 4 .*{how}"):
            raise error
    assert errors.failed_partition(error).index == 1


class TestAPartition:
    """That ends its worker, or raises."""

    @all_ends
    def test_stops_the_job(self, process_backend, end, how):
        function = EndsOnSecond(while_running, end)
        with pytest.raises((Boom, errors.WorkerDiedError)) as caught:
            list(pmap.iter_partitions(LARGE, function, n_partitions=4, backend=process_backend))
        charged(caught.value, how)

    @all_ends
    @pytest.mark.parametrize("moment", [while_running, while_pickling, while_writing])
    def test_leaves_the_others_alone(self, process_backend, moment, end, how):
        out = list(
            pmap.iter_partitions(
                LARGE,
                EndsOnSecond(moment, end),
                n_partitions=4,
                backend=process_backend,
                on_error="return",
            )
        )
        failed = out.pop(1)
        charged(failed, how)
        assert failed.partition().equals(LARGE[50_000:100_000])
        assert pl.concat(out).equals(pl.concat([LARGE[:50_000], LARGE[100_000:]]))


@pytest.mark.slow_elsewhere
@all_ends
def test_a_function_that_ends_who_opens_it(process_backend, end, how):
    """Every worker that opens it ends; each death is charged to one partition, once."""
    out = pmap.map_partitions(
        DF, EndsWhileOpened(end), backend=process_backend, n_partitions=4, on_error="return"
    )
    assert out.is_empty()
    failures = pmap.last_report().failures
    assert sorted(errors.failed_partition(failure).index for failure in failures) == [0, 1, 2, 3]
    kind = Boom if how is None else errors.WorkerDiedError
    assert all(isinstance(failure, kind) for failure in failures)


@all_ends
def test_an_initializer_that_ends_its_worker(process_backend, end, how):
    kind = Boom if how is None else errors.WorkerDiedError
    with pmap.config(initializer=end), pytest.raises(kind):
        pmap.map_partitions(DF, lambda part: part, backend=process_backend, n_partitions=4)


def test_a_program_that_the_function_has_started_does_not_hide_the_death(process_backend):
    def start_and_die(part):
        subprocess.Popen(["sleep", "50"], close_fds=False)
        os._exit(3)

    started = time.monotonic()
    with pytest.raises(errors.WorkerDiedError):
        pmap.map_partitions(DF, start_and_die, backend=process_backend, n_partitions=1)
    assert time.monotonic() - started < programs.SOON


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM])
def test_workers_that_end_at_rest_are_replaced_and_nobody_is_charged(process_backend, signal_):
    def pid(part):
        return os.getpid()

    for _ in range(2):
        resting = set(pmap.iter_partitions(DF, pid, backend=process_backend, n_jobs=2))
        processes = [psutil.Process(pid) for pid in resting]
        for process in processes:
            process.send_signal(signal_)
        assert not programs.alive(processes)
        assert pmap.map_partitions(DF, lambda p: p, backend=process_backend, n_jobs=2).equals(DF)
        attempts = pmap.last_report().timings["attempt"]
        assert attempts.to_list() == [0] * len(attempts)


@pytest.mark.slow_elsewhere
def test_workers_that_end_just_when_a_task_comes_are_replaced(process_backend):
    """Nobody looks whether they are dead already when the next map begins."""
    for _ in range(3):
        resting = set(
            pmap.iter_partitions(DF, lambda part: os.getpid(), backend=process_backend, n_jobs=2)
        )
        for pid in resting:
            os.kill(pid, signal.SIGKILL)
        assert pmap.map_partitions(DF, lambda p: p, backend=process_backend, n_jobs=2).equals(DF)


class TestTheStartOfWorkers:
    """In which a module of the user's environment ends them, before their first task."""

    @pytest.fixture
    def starts(self, tmp_path, monkeypatch):
        """Ends the workers' interpreters while there are files to take away."""
        (tmp_path / "sitecustomize.py").write_text(
            "import os\n"
            f"folder = {str(tmp_path)!r}\n"
            f"if os.getpid() != {os.getpid()}:\n"
            "    for name in os.listdir(folder):\n"
            "        if name.startswith('end'):\n"
            "            os.remove(os.path.join(folder, name)) if name != 'endless' else None\n"
            "            os._exit(7)\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        pmap.shutdown()
        yield tmp_path
        pmap.shutdown()

    def test_that_fails_once_is_tried_again(self, process_backend, starts):
        (starts / "end").touch()
        assert pmap.map_partitions(DF, lambda part: part, backend=process_backend).equals(DF)
        assert not (starts / "end").exists()

    def test_that_fails_always_is_an_error(self, process_backend, starts):
        (starts / "endless").touch()
        with pytest.raises(errors.WorkerStartError):
            pmap.map_partitions(DF, lambda part: part, backend=process_backend)
        (starts / "endless").unlink()
        assert pmap.map_partitions(DF, lambda part: part, backend=process_backend).equals(DF)


@pytest.mark.parametrize(
    "exception", [KeyboardInterrupt, GeneratorExit, SystemExit, pl.exceptions.PanicException]
)
def test_base_exceptions_of_the_function_are_its_failure_alone(process_backend, exception):
    def fail(part):
        if pmap.current_partition().index == 1:
            raise exception("from the function")
        return part

    out = pmap.map_partitions(DF, fail, backend=process_backend, n_partitions=4, on_error="return")
    assert out.equals(pl.concat([DF[:25], DF[50:]]))
    (failure,) = pmap.last_report().failures
    assert "from the function" in str(failure)


@pytest.mark.slow  # of 100 MB it is tried on every backend
def test_a_message_of_a_gigabyte_is_cut():
    def fail(part):
        raise ValueError("x" * 1_000_000_000)

    with pytest.raises(errors.RemoteError, match="characters left out") as caught:
        pmap.map_partitions(DF, fail, backend="forkserver", n_partitions=1)
    assert len(str(caught.value)) < 100_000


def test_of_64_partitions_one_kills_its_worker_three_times(process_backend, tmp_path):
    """The other 63 run exactly once each, and it is right at its fourth attempt."""

    def run(part):
        info = pmap.current_partition()
        with open(tmp_path / str(info.index), "a") as file:
            file.write("x")
        if info.index == 20 and info.attempt < 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return part

    out = pmap.map_partitions(
        DF, run, backend=process_backend, n_partitions=64, retries=3, n_jobs=2
    )
    assert out.equals(DF)
    counts = collections.Counter({int(f.name): len(f.read_text()) for f in tmp_path.iterdir()})
    assert counts.pop(20) == 4
    assert counts == dict.fromkeys(set(range(64)) - {20}, 1)


class TestTheMemory:
    """That a worker took, and who took it from it."""

    def test_of_a_dead_worker_is_known(self, process_backend):
        def grow_and_die(part):
            data = bytearray(300_000_000)
            watched = threading.Event()
            watched.wait(0.5)  # the caller looks every tenth of a second
            os._exit(len(data) % 7)

        with pytest.raises(errors.WorkerDiedError, match=r"having held .*[MG]B at most") as caught:
            pmap.map_partitions(DF, grow_and_die, backend=process_backend, n_partitions=2)
        assert 300_000_000 < caught.value.peak_memory < 3_000_000_000
        assert not caught.value.out_of_memory

    @pytest.mark.slow_elsewhere
    def test_that_the_kernel_had_not_is_said(self, process_backend):
        with groups.memory(600 << 20) as group:
            done = programs.run(
                "-c",
                groups.enter(group) + "import polars as pl, pmap\n"
                "def hog(part):\n"
                "    if pmap.current_partition().index == 1:\n"
                "        data = [bytearray(b'x') * 50_000_000 for _ in range(40)]\n"
                "    return part\n"
                "df = pl.DataFrame({'x': range(100)})\n"
                f"out = pmap.map_partitions(df, hog, backend={process_backend!r}, n_partitions=4,\n"
                "    on_error='return', n_jobs=2)\n"
                "(error,) = pmap.last_report().failures\n"
                "print(out.height, error.index, error.exitcode, error.out_of_memory)\n"
                "print(error)\n",
            )
        assert done.stdout.startswith("75 1 -9 True\n"), done.stderr
        assert "the kernel ended it, or another, because memory ran out" in done.stdout
