"""Pools are kept warm and shared, and end: when they rest, when told to, and with the caller,
however that one ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import polars as pl
import programs
import psutil
import pytest
from installed import need

import pmap
from pmap.errors import ArgumentError

pytestmark = pytest.mark.once  # costly, and the same on every Python

DF = pl.DataFrame({"x": range(16)})
BACKENDS = ["spawn", "forkserver", "loky", "dask"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend of processes in turn, with no pool before or after."""
    need(request.param)
    pmap.shutdown()
    yield request.param
    pmap.shutdown()


@pytest.fixture
def meet(tmp_path):
    """A function for two partitions on two workers, which wait for each other; their pids."""
    path = tmp_path / "meeting"
    os.mkfifo(path)

    def meet(part):
        # Each end of a pipe is opened only when the other is.
        with open(path, "rb" if pmap.current_partition().index == 0 else "wb"):
            return os.getpid()

    def pids(backend, **arguments):
        call = {"n_jobs": 2, "n_partitions": 2, **arguments}
        return set(pmap.iter_partitions(DF, meet, backend=backend, **call))

    return pids


def handles(pids):
    """Of processes, but those that have ended already."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield psutil.Process(pid)


IMPORTING = """
import atexit, threading, pmap
pmap.shutdown()

def register(function):
    half_way.set()
    too_late.wait(0.5)
    return real(function)

half_way, too_late, real = threading.Event(), threading.Event(), atexit.register
atexit.register = register
thread = threading.Thread(target=__import__, args=["pmap._pages"])
thread.start()
half_way.wait()
pmap.shutdown()
too_late.set()
thread.join()
"""


def pid(part):
    return os.getpid()


def pids_of(backend, **arguments):
    """Who ran each partition, by one worker."""
    call = {"n_jobs": 1, "n_partitions": 4, **arguments}
    return list(pmap.iter_partitions(DF, pid, backend=backend, **call))


#: Where only the core has a part in it, one backend of pmap's own pool and one executor will do.
two = pytest.mark.parametrize("backend", ["forkserver", "loky"], indirect=True)
one = pytest.mark.parametrize("backend", ["forkserver"], indirect=True)


class TestWarmPools:
    def test_serve_the_next_call(self, backend, meet):
        first = meet(backend)
        assert len(first) == 2
        assert os.getpid() not in first
        assert meet(backend) == first

    def test_serve_other_functions_and_go_on_after_an_error(self, backend):
        def fail(part):
            raise ValueError("no")

        (worker,) = set(pids_of(backend))
        with pytest.raises(ValueError, match="no"):
            pmap.map_partitions(DF, fail, backend=backend, n_jobs=1, n_partitions=1)
        out = pmap.map_partitions(
            DF * 2, lambda part: part.select(pid=os.getpid()), backend=backend, n_jobs=1
        )
        assert set(out["pid"]) == {worker}

    @one
    def test_are_not_shared_by_other_numbers_of_workers(self, backend, meet):
        two, one = meet(backend), set(pids_of(backend))
        assert not two & one
        assert meet(backend) == two

    @pytest.mark.slow_elsewhere
    @two
    def test_stop_after_a_rest(self, backend, meet):
        with pmap.config(idle_timeout=0.2):
            workers = list(handles(meet(backend)))
        assert programs.alive(workers) == []
        assert len(meet(backend)) == 2

    @pytest.mark.slow_elsewhere
    @two
    def test_do_not_stop_at_work(self, backend):
        def work(part):
            time.sleep(0.4)  # work, longer than a pool may rest
            return os.getpid()

        with pmap.config(idle_timeout=0.1):
            pids = list(pmap.iter_partitions(DF, work, backend=backend, n_jobs=1, n_partitions=3))
        assert len(set(pids)) == 1

    def test_stop_when_told(self, backend, meet):
        pids = meet(backend)
        workers = list(handles(pids))
        pmap.shutdown()
        pmap.shutdown()
        assert programs.alive(workers) == []
        assert not meet(backend) & pids

    def test_stop_when_told_while_a_first_call_imports(self):
        done = programs.run("-c", IMPORTING)
        assert (done.returncode, done.stderr) == (0, "")

    def test_end_quietly_when_a_worker_dies_at_that_moment(self, monkeypatch):
        """The pool is closed between the news of a death and what is done about it."""
        from pmap_backends._processes import _ProcessPool

        heard, closing, errors = threading.Event(), threading.Event(), []
        bury, close = _ProcessPool._bury, _ProcessPool._end

        def wait_and_bury(pool, *arguments):
            heard.set()
            closing.wait(1)  # or until it is too late to wait
            bury(pool, *arguments)

        def tell_and_end(pool, *arguments):
            closing.set()
            close(pool, *arguments)

        (worker,) = set(pids_of("spawn"))
        monkeypatch.setattr(_ProcessPool, "_bury", wait_and_bury)
        monkeypatch.setattr(_ProcessPool, "_end", tell_and_end)
        monkeypatch.setattr(threading, "excepthook", lambda hook: errors.append(hook.exc_value))
        os.kill(worker, signal.SIGKILL)
        assert heard.wait(programs.SOON)
        pmap.shutdown()
        assert errors == []

    @pytest.mark.parametrize(
        "backend",
        [
            "forkserver",
            "loky",
        ],
        indirect=True,
    )
    def test_serve_a_call_on_while_another_fails(self, backend):
        """Which stops what it still had running."""

        def fail(part):
            if pmap.current_partition().index == 0:
                raise ValueError("mine")
            time.sleep(60)  # stopped long before

        def frames():
            yield DF
            with pytest.raises(ValueError, match="mine"):
                pmap.map_partitions(DF, fail, backend=backend, n_jobs=2, n_partitions=2)
            yield DF

        found = pmap.iter_partitions(frames(), len, backend=backend, n_jobs=2)
        assert list(found) == [16, 16]


class TestShortLives:
    @pytest.mark.parametrize(
        ("backend", "most", "lives"),
        [
            ("spawn", 1, [1] * 6),
            ("forkserver", 1, [1] * 6),
            ("dask", 1, [1] * 6),
            ("forkserver", 2, [2] * 3),
            ("forkserver", 4, [2, 4]),
        ],
    )
    def test_have_so_many_partitions(self, backend, most, lives):
        with pmap.config(max_tasks_per_child=most):
            pids = pids_of(need(backend), n_partitions=6)
        assert sorted(Counter(pids).values()) == lives

    def test_end_in_time_too_when_two_work(self):
        with pmap.config(max_tasks_per_child=1):
            pids = pids_of("forkserver", n_partitions=6, n_jobs=2)
        assert len(set(pids)) == 6

    def test_are_refused_where_they_can_not_be(self):
        with (
            pmap.config(max_tasks_per_child=1),
            pytest.raises(ArgumentError, match=r"max_tasks_per_child.*forkserver"),
        ):
            pids_of("loky")

    def test_make_auto_take_processes(self):
        with pmap.config(max_tasks_per_child=1):
            assert len(set(pids_of("auto"))) == 4


class TestOnceInEachWorker:
    @two
    def test_the_initializer(self, backend, meet, tmp_path):
        """And not again for another function or another call."""

        def note():
            with open(tmp_path / "notes", "a") as notes:
                notes.write(f"{os.getpid()}\n")

        with pmap.config(initializer=note):
            pids = meet(backend)
            assert set(pids_of(backend, n_jobs=2, n_partitions=8)) <= pids
            meet(backend)
        notes = map(int, (tmp_path / "notes").read_text().split())
        assert Counter(notes) == dict.fromkeys(pids, 1)

    @two
    def test_the_initializer_comes_before_the_function_is_opened(self, backend):
        def prepare():
            sys.prepared_by_test = True

        class Function:
            def __setstate__(self, state):
                self.in_time = hasattr(sys, "prepared_by_test")

            def __getstate__(self):
                return {"some": "state"}

            def __call__(self, part):
                return self.in_time

        with pmap.config(initializer=prepare):
            found = pmap.iter_partitions(DF, Function(), backend=backend, n_partitions=1)
            assert list(found) == [True]

    @two
    def test_an_initializer_that_fails(self, backend):
        def fail():
            raise LookupError("no model here")

        with pmap.config(initializer=fail), pytest.raises(LookupError, match="no model here"):
            pids_of(backend)
        assert len(pids_of(backend)) == 4

    @two
    def test_a_class(self, backend):
        class Model:
            def __init__(self):
                self.calls = 0

            def __call__(self, part):
                self.calls += 1
                return os.getpid(), self.calls

        found = list(pmap.iter_partitions(DF, Model, backend=backend, n_jobs=2, n_partitions=8))
        for worker in {worker for worker, _ in found}:  # one instance saw them all
            calls = [call for found_by, call in found if found_by == worker]
            assert sorted(calls) == list(range(1, len(calls) + 1))

    def test_in_each_thread_too(self):
        made, prepared = [], []

        class Model:
            def __init__(self):
                made.append(threading.get_ident())

            def __call__(self, part):
                return threading.get_ident()

        with pmap.config(initializer=lambda: prepared.append(threading.get_ident())):
            found = pmap.iter_partitions(DF, Model, backend="threads", n_jobs=2, n_partitions=8)
            assert sorted(set(found)) == sorted(made) == sorted(prepared)


def together(*works):
    """Run each in a thread, beginning at the same moment; what they return or raise."""
    barrier = threading.Barrier(len(works))
    results = [None] * len(works)

    def run(number, work):
        barrier.wait(programs.SOON)
        try:
            results[number] = work()
        except Exception as exc:  # noqa: BLE001  looked at by the test
            results[number] = exc

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(programs.SOON)
    assert not any(thread.is_alive() for thread in threads)
    return results


@pytest.mark.parametrize("backend", ["spawn", "forkserver", "loky"], indirect=True)
class TestSeveralThreads:
    def test_share_a_pool(self, backend):
        """That is made while all four ask for it; each gets its own results, in order."""

        def work(factor):
            def double(part):
                return part.with_columns(pl.col("x") * 2, pid=os.getpid())

            call = {"backend": backend, "n_jobs": 2, "n_partitions": 4}
            return [pmap.map_partitions(DF * factor, double, **call) for _ in range(3)]

        found = together(*(lambda factor=factor: work(factor) for factor in range(4)))
        for factor, outs in enumerate(found):
            assert isinstance(outs, list), outs
            assert all(out.select("x").equals(DF * factor * 2) for out in outs)
        assert len({worker for outs in found for out in outs for worker in out["pid"]}) <= 2

    def test_keep_their_errors_to_themselves(self, backend):
        """All partitions of the call that fails have failed, so that it stops nobody's work."""

        def good():
            call = {"backend": backend, "n_jobs": 2, "n_partitions": 4}
            return [pmap.map_partitions(DF, lambda part: part * 2, **call) for _ in range(4)]

        def fail(part):
            raise ValueError("mine")

        def bad():
            call = {"backend": backend, "n_jobs": 2, "n_partitions": 4, "on_error": "return"}
            for _ in range(4):
                errors = list(pmap.iter_partitions(DF, fail, **call))
                assert errors == pmap.last_report().failures
            return errors

        *goods, failures = together(good, good, bad)
        assert [str(failure) for failure in failures] == ["mine"] * 4
        for outs in goods:
            assert isinstance(outs, list), outs
            assert all(out.equals(DF * 2) for out in outs)


SAME_FRAME = """
import sys, threading
import polars as pl, pmap
df = pl.DataFrame({"x": range(1000)})
sys.setswitchinterval(1e-6)

def work():
    for _ in range(50):
        pmap.map_partitions(df, len, backend="forkserver", n_jobs=2, n_partitions=1, on_error="return")

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    assert df.height == 1000
"""


def test_threads_may_use_the_very_same_frame():
    """In a program of its own: if two of them waited for each other, nothing would go on in it."""
    assert programs.run("-c", SAME_FRAME).returncode == 0


class TestAMapInsideAMap:
    @pytest.mark.parametrize("outer", ["threads", "spawn", "forkserver", "loky"])
    def test_runs_in_its_worker(self, outer):
        def nest(part):
            inner = set(pmap.iter_partitions(part, pid, n_partitions=4, n_jobs=2))
            return inner == {os.getpid()}, pmap.last_report().plan.n_workers

        found = list(pmap.iter_partitions(DF, nest, backend=outer, n_jobs=2, n_partitions=2))
        assert found == [(True, 1)] * 2
        assert set(pids_of("forkserver")) != {os.getpid()}  # here, a map is not inside one

    @pytest.mark.parametrize(
        ("outer", "inner"),
        [
            ("spawn", "forkserver"),
            ("forkserver", "spawn"),
            ("forkserver", "loky"),
            ("forkserver", "threads"),
            ("loky", "forkserver"),
            ("dask", "forkserver"),
            ("threads", "forkserver"),
        ],
    )
    def test_runs_where_it_asks_to(self, outer, inner):
        def nest(part):
            found = pmap.iter_partitions(part, pid, backend=inner, n_jobs=1, n_partitions=2)
            return os.getpid(), sorted(set(found))

        pmap.shutdown()
        call = {"backend": need(outer), "n_jobs": 1, "n_partitions": 1}
        ((worker, pids),) = pmap.iter_partitions(DF, nest, **call)
        assert len(pids) == 1
        assert (pids[0] == worker) == (inner == "threads")
        left = [process for process in handles([worker, *pids]) if process.pid != os.getpid()]
        pmap.shutdown()
        assert programs.alive(left) == []

    @one
    def test_stays_in_its_worker_even_if_workers_would_pay(self, backend):
        def slow(part):
            time.sleep(0.3)  # work, so slow that workers pay
            return os.getpid()

        def nest(part):
            return set(pmap.iter_partitions(part, slow, n_partitions=4)) == {os.getpid()}

        assert list(pmap.iter_partitions(DF, nest, backend=backend, n_partitions=1)) == [True]


PRELUDE = """
import os, signal, sys, threading, time
import polars as pl, pmap
backend = sys.argv[1]
df = pl.DataFrame({"x": range(16)})

def say(*words):
    with open(os.environ["SAID"], "w") as said:
        said.write(" ".join(map(str, words)) + "\\n")

def long(part):
    say("working", os.getpid())
    time.sleep(60)  # work; each test ends it long before
    return part

def mapped(function):
    return pmap.map_partitions(df, function, backend=backend, n_jobs=2, n_partitions=4)
"""


class Program:
    """A Python program in a session of its own, as in a terminal; it speaks through a pipe."""

    def __init__(self, folder, text, *arguments):
        self.family = programs.Family()
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self._stderr = folder / "stderr"
        os.mkfifo(folder / "said")
        self._said = os.open(folder / "said", os.O_RDWR)  # both ends: opening waits for nobody
        self._heard = b""
        self._begun, self._start_seconds = time.monotonic(), 0.0
        environment = {
            **os.environ,
            **self.family.variables,
            "SAID": str(folder / "said"),
            "TMPDIR": str(self.temporary),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with open(self._stderr, "w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PRELUDE + text, *arguments],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def stderr(self):
        return self._stderr.read_text()

    def hear(self, n_lines=1, within=programs.SOON):
        """The next lines that it, or a worker of it, says."""
        deadline = time.monotonic() + within
        while self._heard.count(b"\n") < n_lines:
            left = max(0, deadline - time.monotonic())
            assert select.select([self._said], [], [], left)[0], self.stderr
            self._heard += os.read(self._said, 4096)
        self._start_seconds = self._start_seconds or time.monotonic() - self._begun
        *lines, self._heard = self._heard.split(b"\n", n_lines)
        return [line.decode() for line in lines]

    def tell(self):
        """It may go on."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def allow(self, seconds):
        """So many, or as many as it took to speak first: on a busy machine, nothing is quick."""
        return max(seconds, self._start_seconds)

    def end(self, within=programs.SOON):
        """Its status, when it ends."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it still runs after {within} seconds; {self.stderr}")

    def files(self):
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def close(self):
        self.family.kill()
        self.process.stdin.close()
        self.process.wait()
        os.close(self._said)


@pytest.fixture
def start(tmp_path):
    """Starts programs, and ends all that is left of them."""
    started = []

    def start(text, *arguments):
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Program(folder, text, *arguments))
        return started[-1]

    yield start
    for program in started:
        program.close()


HALF = "half = pmap.iter_partitions(df, len, backend=backend, n_partitions=16); next(half)"


class TestTheEndOfTheInterpreter:
    @pytest.mark.parametrize(
        ("backend", "ending", "status"),
        [
            *((backend, "", 0) for backend in ["auto", "serial", "threads", *BACKENDS]),
            *((backend, HALF, 0) for backend in ["threads", "spawn", "forkserver", "dask"]),
            ("loky", HALF, 0),
            ("forkserver", "sys.exit(3)", 3),
            ("forkserver", "pmap.shutdown()", 0),
        ],
    )
    def test_is_clean_and_quick(self, start, backend, ending, status):
        if backend != "auto":
            need(backend)
        program = start(f"mapped(lambda part: part)\nsay('done')\n{ending}", backend)
        program.hear()
        begun = time.monotonic()
        assert program.end() == status
        assert time.monotonic() - begun < program.allow(4)
        assert program.stderr == ""
        assert program.family.left() == []
        assert program.files() == []

    def test_by_an_exception_shows_that_one_alone(self, start):
        program = start("mapped(lambda part: part)\n1 / 0", "forkserver")
        assert program.end() == 1
        assert program.stderr.count("Traceback") == 1
        assert program.stderr.endswith("ZeroDivisionError: division by zero\n")

    @pytest.mark.parametrize(
        "backend",
        [
            "spawn",
            "forkserver",
            "loky",
            "dask",
        ],
    )
    def test_does_not_wait_for_a_map_in_a_daemon_thread(self, start, backend):
        text = """
threading.Thread(target=mapped, args=(long,), daemon=True).start()
sys.stdin.readline()
"""
        program = start(text, need(backend))
        program.hear(2)
        program.tell()
        assert program.end(within=program.allow(3)) == 0
        assert program.family.left() == []
        assert program.files() == []
        assert "Fatal" not in program.stderr

    @pytest.mark.parametrize("backend", ["spawn", "forkserver"])
    def test_waits_for_a_map_in_another_thread(self, start, backend):
        """Begun when the main thread is through already, which loky and dask can not."""
        text = """
def late():
    threading.main_thread().join(10)
    say(mapped(lambda part: part * 2)["x"].sum())

threading.Thread(target=late).start()
"""
        program = start(text, backend)
        assert program.hear() == ["240"]
        assert program.end() == 0
        assert program.stderr == ""
        assert program.family.left() == []

    def test_comes_in_spite_of_a_map_that_begins_too_late(self, start):
        """As loky starts nothing any more when the main thread is through."""
        text = """
def late():
    threading.main_thread().join(10)
    mapped(lambda part: part)

pmap.get_backend(backend)
threading.Thread(target=late).start()
"""
        program = start(text, need("loky"))
        assert program.end() == 0
        assert "WorkerStartError: loky's workers can not be started" in program.stderr
        assert program.family.left() == []

    @pytest.mark.slow_elsewhere
    @pytest.mark.parametrize(
        "backend",
        [
            "spawn",
            "forkserver",
            "loky",
            "dask",
        ],
    )
    def test_shutdown_stops_a_map_of_another_thread(self, start, backend):
        text = """
def attempt():
    try:
        mapped(long)
    except BaseException as exc:
        say(type(exc).__name__, isinstance(exc, pmap.errors.PmapError))

threading.Thread(target=attempt).start()
sys.stdin.readline()
pmap.shutdown()
sys.stdin.readline()
say(mapped(lambda part: part)["x"].sum())
"""
        program = start(text, need(backend))
        program.hear(2)
        program.tell()
        (said,) = program.hear()
        program.tell()
        assert program.hear() == ["120"]
        assert program.end() == 0
        assert program.family.left() == []
        assert said.endswith(" True"), said


def semaphores(pid):
    """Named ones that a process has made."""
    folder = "/dev/shm"
    return [name for name in os.listdir(folder) if name.startswith("sem.") and f"-{pid}-" in name]


class TestTheCallersDeath:
    @pytest.mark.parametrize(
        ("backend", "how"),
        [
            *((backend, how) for backend in BACKENDS for how in (signal.SIGKILL, signal.SIGTERM)),
            ("forkserver", signal.SIGHUP),
        ],
    )
    def test_ends_workers_at_work(self, start, backend, how):
        program = start("mapped(long)", need(backend))
        program.hear(2)
        program.process.send_signal(how)
        assert program.end() == -how
        assert program.family.left() == []
        assert program.files() == []

    @pytest.mark.parametrize("backend", ["spawn", "forkserver", "loky"])
    def test_ends_workers_that_are_just_starting(self, start, backend):
        """At moments of their start that nobody can hear of, and so after so many seconds."""
        for how, delay in [(signal.SIGTERM, 0.02), (signal.SIGKILL, 0.2)]:
            program = start("say('begun')\nmapped(long)", backend)
            program.hear()
            time.sleep(delay)
            program.process.send_signal(how)
            assert program.end() == -how
            assert program.family.left(within=program.allow(2)) == []
            assert program.files() == []
            assert semaphores(program.process.pid) == []

    @pytest.mark.parametrize("backend", ["spawn", "forkserver", "loky"])
    def test_is_seen_though_a_fork_of_it_lives(self, start, backend):
        text = """
mapped(lambda part: part)
if os.fork() == 0:
    time.sleep(60)  # ended by the test
    os._exit(0)
mapped(long)
"""
        program = start(text, backend)
        workers = list(handles(int(line.split()[1]) for line in program.hear(2)))
        program.process.kill()
        program.end()
        assert len(workers) == 2
        assert programs.alive(workers, within=program.allow(2)) == []

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_ends_workers_at_rest(self, start, backend):
        text = "mapped(lambda part: part)\nsay('done')\nsys.stdin.readline()"
        program = start(text, need(backend))
        program.hear()
        program.process.kill()
        program.end()
        assert program.family.left() == []
        assert program.files() == []

    @pytest.mark.parametrize("backend", ["spawn", "forkserver", "loky"])
    def test_ends_workers_that_never_let_go_of_the_gil(self, start, backend):
        """A regular expression that goes astray, say."""
        text = """
import re
def astray(part):
    say("working", os.getpid())
    re.match("(a+)+$", "a" * 64 + "b")
mapped(astray)
"""
        program = start(text, backend)
        program.hear(2)
        program.process.kill()
        program.end()
        assert program.family.left(within=2) == []

    @pytest.mark.slow_elsewhere
    @pytest.mark.parametrize("backend", ["forkserver", "loky"])
    def test_ends_the_workers_of_workers(self, start, backend):
        text = """
def nest(part):
    pmap.map_partitions(part, long, backend="spawn", n_jobs=1, n_partitions=1)
mapped(nest)
"""
        program = start(text, backend)
        program.hear(2)
        program.process.kill()
        program.end()
        assert program.family.left() == []


THREADS_GO_ON = "threads at work can't be stopped, and keep the interpreter and the warm pool"


@pytest.mark.parametrize(
    "backend",
    [
        "serial",
        pytest.param(
            "threads",
            marks=[pytest.mark.xfail(strict=False, reason=THREADS_GO_ON), pytest.mark.slow],
        ),
        *BACKENDS,
    ],
)
class TestCtrlC:
    def test_ends_the_program(self, start, backend):
        program = start("mapped(long)", need(backend))
        program.hear(1 if backend == "serial" else 2)
        begun = time.monotonic()
        os.killpg(program.process.pid, signal.SIGINT)  # as a terminal does
        assert program.end(within=program.allow(4)) == -signal.SIGINT
        assert time.monotonic() - begun < program.allow(4)
        assert program.stderr.rstrip().endswith("KeyboardInterrupt")
        assert program.family.left() == []
        assert program.files() == []

    def test_leaves_a_prompt_that_can_map_again(self, start, backend):
        text = """
for _ in range(2):
    try:
        mapped(long)
    except KeyboardInterrupt:
        say("interrupted")
    say(mapped(lambda part: part * 2)["x"].sum())
"""
        program = start(text, need(backend))
        for _ in range(2):
            program.hear(1 if backend == "serial" else 2)
            os.kill(program.process.pid, signal.SIGINT)  # as a notebook does
            assert program.hear(within=program.allow(5)) == ["interrupted"]
            assert program.hear(within=program.allow(5)) == ["240"]
        assert program.end() == 0
        assert program.stderr == ""
        assert program.family.left() == []
