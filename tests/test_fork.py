"""Fork is refused by every road it can come in; what was forked in time just works.

Forking happens in programs of their own, each with a time limit: a road that is not refused
hangs. Most programs print one JSON object, which the tests look into.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import polars as pl
import programs
import psutil
import pytest

import pmap
from pmap.errors import ForkRefusedError

pytestmark = pytest.mark.once  # costly, and the same on every Python

DF = pl.DataFrame({"x": range(8)})

WHY = r"Polars' engine runs threads.*inherits the locks"
INSTEAD = r"backend='forkserver' or backend='spawn'"


def printed(done):
    """What a program printed, read as JSON."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def program(text, *arguments, flags=("-W", "error")):
    """Run a program: the JSON that it printed, and what it wrote to stderr."""
    done = programs.run(*flags, "-c", text, *arguments)
    return printed(done), done.stderr


class TestBackendsThatFork:
    @pytest.mark.parametrize("name", ["fork", "multiprocessing"])
    def test_by_name(self, name):
        with pytest.raises(ForkRefusedError, match=rf"backend='{name}' .*{WHY}.*{INSTEAD}"):
            pmap.map_partitions(DF, lambda part: part, backend=name)

    @pytest.mark.parametrize("name", ["fork", "multiprocessing"])
    def test_by_name_of_the_registry(self, name):
        with pytest.raises(ForkRefusedError, match=rf"backend='{name}' .*{WHY}.*{INSTEAD}"):
            pmap.get_backend(name)

    @pytest.mark.parametrize("name", ["fork", "multiprocessing"])
    def test_by_configuration(self, name, monkeypatch):
        with pmap.config(backend=name), pytest.raises(ForkRefusedError, match=INSTEAD):
            pmap.map_partitions(DF, lambda part: part)
        monkeypatch.setenv("PMAP_BACKEND", name)
        with pytest.raises(ForkRefusedError, match=INSTEAD):
            pmap.map_partitions(DF, lambda part: part)

    def test_as_a_context(self):
        context = multiprocessing.get_context("fork")
        with pytest.raises(ForkRefusedError, match=rf"fork context.*{WHY}.*{INSTEAD}"):
            pmap.map_partitions(DF, lambda part: part, backend=context)

    def test_as_an_executor(self):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            with pytest.raises(ForkRefusedError, match=rf"ProcessPoolExecutor.*{WHY}.*{INSTEAD}"):
                pmap.map_partitions(DF, lambda part: part, backend=pool)
            assert not pool._processes

    def test_as_joblibs_backend_object(self):
        from joblib.parallel import MultiprocessingBackend

        with pytest.raises(ForkRefusedError, match=rf"joblib's.*{WHY}.*{INSTEAD}"):
            pmap.map_partitions(DF, lambda part: part, backend=MultiprocessingBackend())

    def test_before_the_function_is_pickled(self):
        lock = threading.Lock()
        with pytest.raises(ForkRefusedError):
            pmap.iter_partitions(DF, lambda part: part if lock else None, backend="fork")

    def test_as_a_pool(self):
        found, _ = program("""
import json, multiprocessing
import polars as pl, pmap
with multiprocessing.get_context("fork").Pool(1) as pool:
    try:
        pmap.map_partitions(pl.DataFrame({"x": [1, 2]}), lambda part: part, backend=pool)
    except pmap.errors.ForkRefusedError as exc:
        print(json.dumps(str(exc)))
""")
        assert re.search(rf"this Pool.*{WHY}.*{INSTEAD}", found)


DEFAULTS = """
import json, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import polars as pl, pmap
found = {}
makers = {
    "executor": ProcessPoolExecutor,
    "default context": multiprocessing.get_context,
    "module": lambda: multiprocessing,
}
if __name__ == "__main__":
    for name, make in makers.items():
        try:
            out = pmap.map_partitions(pl.DataFrame({"x": [1, 2]}), lambda part: part * 2, backend=make())
            found[name] = out["x"].to_list()
        except pmap.errors.PmapError as exc:
            found[name] = f"{type(exc).__name__}: {exc}"
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What a program on Linux gets that names no start method; a file, so that spawn finds it."""
    path = tmp_path_factory.mktemp("defaults") / "program.py"
    path.write_text(DEFAULTS)
    return printed(programs.run(path))


class TestThePlatformsDefault:
    @pytest.mark.skipif(
        sys.version_info >= (3, 14), reason="fork is no default from Python 3.14 on"
    )
    @pytest.mark.skipif(sys.platform != "linux", reason="fork is the default on Linux alone")
    @pytest.mark.parametrize("what", ["executor", "default context"])
    def test_is_refused_where_it_is_fork(self, found, what):
        assert re.search(rf"ForkRefusedError.*{WHY}.*{INSTEAD}", found[what])

    @pytest.mark.skipif(sys.version_info < (3, 14), reason="fork is the default up to Python 3.13")
    @pytest.mark.parametrize("what", ["executor", "default context"])
    def test_works_where_it_is_not(self, found, what):
        assert found[what] == [2, 4]

    def test_of_the_module_itself_is_explained(self, found):
        assert re.match(r"(ArgumentError|ForkRefusedError): ", found["module"])


class TestSafeOnes:
    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_a_context_is_a_name_of_its_method(self, method):
        context = multiprocessing.get_context(method)
        assert pmap.map_partitions(DF, lambda part: part * 2, backend=context, n_jobs=1).equals(
            DF * 2
        )
        assert pmap.last_report().plan.backend == method
        assert multiprocessing.get_start_method(allow_none=True) in {None, "fork", "spawn"}

    def test_an_executor_that_spawns(self, tmp_path):
        """In a program: a process of any context pins the start method for good."""
        path = tmp_path / "program.py"
        path.write_text("""
import json, multiprocessing
from concurrent.futures import ProcessPoolExecutor
import polars as pl, pmap
df = pl.DataFrame({"x": range(8)})
if __name__ == "__main__":
    df.lazy().filter(pl.col("x") > 1).collect()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        out = pmap.map_partitions(df, lambda part: part * 2, backend=pool)
    print(json.dumps(out["x"].to_list()))
""")
        assert printed(programs.run(path)) == (DF * 2)["x"].to_list()


class TestTheProcessWideStartMethod:
    def test_of_fork_is_left_and_noted_once(self):
        found, _ = program(
            """
import json, multiprocessing, os, time, warnings
multiprocessing.set_start_method("fork")
import polars as pl, pmap
df = pl.DataFrame({"x": range(8)})

def slow(part):  # so slow that workers pay, and with the GIL, so that threads do not
    end = time.thread_time() + 0.3
    while time.thread_time() < end:
        sum(range(1000))
    return part.with_columns(pid=pl.lit(os.getpid()))

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    out = pmap.map_partitions(df, slow, n_jobs=2, n_partitions=8)
    backend = pmap.last_report().plan.backend
    pmap.map_partitions(df, lambda part: part)
    list(pmap.iter_partitions(df, lambda part: part.height))
print(json.dumps({
    "right": out.drop("pid").equals(df),
    "backend": backend,
    "elsewhere": sorted(set(out["pid"])) != [os.getpid()],
    "warnings": [[w.category.__name__, str(w.message), w.filename] for w in caught],
    "method": multiprocessing.get_start_method(allow_none=True),
}))
""",
            flags=(),
        )
        assert found["right"]
        assert found["backend"] in pmap.available_backends()
        assert found["elsewhere"]
        assert found["method"] == "fork"
        ((category, message, filename),) = found["warnings"]
        assert (category, filename) == ("PmapWarning", "<string>")
        assert re.search(r"start method is fork.*pmap does not use it.*locks", message)

    @pytest.mark.parametrize("method", [None, "spawn", "forkserver"])
    def test_of_another_kind_is_left_and_not_spoken_of(self, method):
        found, stderr = program(f"""
import json, multiprocessing
if {method!r}: multiprocessing.set_start_method({method!r})
import polars as pl, pmap
df = pl.DataFrame({{"x": range(8)}})
for backend in ("auto", "spawn", "forkserver", "loky"):
    pmap.map_partitions(df, lambda part: part, backend=backend, n_jobs=1)
print(json.dumps(multiprocessing.get_start_method(allow_none=True)))
""")
        assert (found, stderr) == (method, "")

    def test_of_fork_does_not_touch_named_backends(self):
        found, stderr = program("""
import json, multiprocessing
multiprocessing.set_start_method("fork")
import polars as pl, pmap
df = pl.DataFrame({"x": range(8)})
for backend in ("serial", "threads", "spawn", "forkserver", "loky"):
    assert pmap.map_partitions(df, lambda part: part, backend=backend, n_jobs=2).equals(df)
print(json.dumps(multiprocessing.get_start_method(allow_none=True)))
""")
        assert (found, stderr) == ("fork", "")


#: What a forked child does, and how its parent learns of it in time.
FORKING = """
import json, os, select, signal, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12's own, of fork and threads

def child_says(work):
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = work()
        except BaseException as exc:
            said = f"{type(exc).__name__}: {exc}"
        os.write(theirs, json.dumps(said).encode())
        if "pmap" in sys.modules:
            sys.modules["pmap"].shutdown()  # what os._exit leaves out
        os._exit(0)
    os.close(theirs)
    begun = time.monotonic()
    if not select.select([ours], [], [], float(sys.argv[1]))[0]:
        os.kill(pid, signal.SIGKILL)
    said = os.read(ours, 65536).decode()
    os.waitpid(pid, 0)
    return json.loads(said) if said else "the child hung"

def attempt(backend="auto"):
    import polars as pl, pmap
    try:
        return pmap.map_partitions(pl.DataFrame({"x": [1, 2]}), lambda part: part * 2, backend=backend, n_jobs=1)["x"].to_list()
    except pmap.errors.ForkRefusedError as exc:
        return f"{type(exc).__name__}: {exc}"
"""
ALL = ["auto", "serial", "threads", "forkserver", "spawn", "loky"]
USE = "pl.DataFrame({'x': range(1000)}).lazy().filter(pl.col('x') > 1).collect()"
REFUSED = rf"ForkRefusedError.*forked after Polars had been used.*{WHY}.*'spawn' or 'forkserver'"


def forked(before, expression, then="said"):
    """Run a program that does something, forks, and prints what the child finds."""
    text = f"""
{FORKING}
{before}
said = child_says(lambda: {expression})
print(json.dumps({then}))
"""
    return program(text, str(programs.SOON), flags=())


class TestAForkedChild:
    @pytest.mark.parametrize("known", ["import polars as pl, pmap", "import polars as pl"])
    def test_of_a_used_polars_is_refused(self, known):
        said, stderr = forked(f"{known}; {USE}", f"[attempt(backend) for backend in {ALL}]")
        assert [bool(re.match(REFUSED, one)) for one in said] == [True] * len(ALL), said
        assert stderr == ""

    @pytest.mark.parametrize(
        "use",
        [
            "pl.DataFrame({'x': [3, 1]}).sort('x')",
            "pl.thread_pool_size()",
            "attempt()",
            "attempt('forkserver')",
        ],
        ids=["eager", "pool size", "mapped", "mapped by workers"],
    )
    def test_of_a_used_polars_is_refused_however_it_was_used(self, use):
        said, _ = forked(f"import polars as pl; {use}", "attempt()")
        assert re.match(REFUSED, said)

    @pytest.mark.parametrize("backend", ["spawn", "forkserver", "loky"])
    def test_closes_its_copy_of_an_iterator_and_nothing_of_its_parents(self, backend):
        iterator = f"""
import polars as pl, pmap

def nap(part):
    time.sleep(0.003)
    return part

parts = pmap.iter_partitions(
    pl.DataFrame({{'x': range(100)}}), nap, backend={backend!r}, n_jobs=2, n_partitions=100
)
first = next(parts)
"""
        said, _ = forked(iterator, "parts.close()", "[said, sum(1 for _ in parts)]")
        assert said == [None, 99]

    def test_is_refused_though_its_parent_goes_on(self):
        (said, *here), _ = forked(
            f"import polars as pl, pmap; {USE}",
            "attempt()",
            f"[said, {USE}.height, attempt(), attempt('spawn')]",
        )
        assert re.match(REFUSED, said)
        assert here == [998, [2, 4], [2, 4]]

    @pytest.mark.parametrize(
        "known",
        ["pass", "import polars", "import polars, pmap"],
        ids=["nothing imported", "polars imported", "both imported"],
    )
    def test_of_an_unused_polars_works(self, known):
        """On each backend in a fork of its own; the parent, who only forks, stays unused."""
        backends = f"for backend in {ALL}"
        said, _ = forked(
            known, "None", f"{{backend: child_says(lambda: attempt(backend)) {backends}}}"
        )
        assert said == {backend: [2, 4] for backend in ALL}

    def test_of_a_child_that_used_polars_is_refused(self):
        (child, grandchild), _ = forked(
            "import polars, pmap", "[attempt('serial'), child_says(attempt)]"
        )
        assert child == [2, 4]
        assert re.match(REFUSED, grandchild)

    def test_made_by_multiprocessing_is_refused(self):
        said, _ = program(
            f"""
import json, multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import polars as pl
{USE}
def work(pipe):
    import pmap
    try:
        pmap.map_partitions(pl.DataFrame({{"x": [1]}}), lambda part: part)
    except BaseException as exc:
        pipe.send(f"{{type(exc).__name__}}: {{exc}}")
context = multiprocessing.get_context("fork")
ours, theirs = context.Pipe()
process = context.Process(target=work, args=(theirs,), daemon=True)
process.start()
print(json.dumps(ours.recv() if ours.poll({programs.SOON}) else "the child hung"))
process.kill()
""",
            flags=(),
        )
        assert re.match(REFUSED, said)

    @pytest.mark.parametrize(
        "pool",
        [
            "joblib.Parallel(n_jobs=2, backend='multiprocessing')(joblib.delayed(work)(i) for i in range(2))",
            "list(ProcessPoolExecutor(2, mp_context=context).map(work, range(2)))",
            "context.Pool(2).map(work, range(2))",
        ],
        ids=["joblib", "ProcessPoolExecutor", "Pool"],
    )
    def test_of_a_pool_is_refused_and_the_caller_hears_of_it(self, pool):
        said, _ = program(
            f"""
import json, multiprocessing, warnings
from concurrent.futures import ProcessPoolExecutor
warnings.simplefilter("ignore", DeprecationWarning)
import joblib, polars as pl, pmap
df = pl.DataFrame({{"x": range(1000)}})
{USE}
def work(number):
    return pmap.map_partitions(df, lambda part: part.filter(pl.col("x") > number)).height
context = multiprocessing.get_context("fork")
try:
    said = {pool}
except pmap.errors.ForkRefusedError as exc:
    said = f"{{type(exc).__name__}}: {{exc}}"
print(json.dumps(said))
""",
            flags=(),
        )
        assert re.match(REFUSED, said)


WARM = """
import json, os, signal, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import polars as pl, pmap
df = pl.DataFrame({"x": range(8)})
backends = sys.argv[1].split()

def pids(backend):
    return list(pmap.iter_partitions(df, lambda part: os.getpid(), backend=backend, n_jobs=1, n_partitions=2))

workers = {backend: pids(backend) for backend in backends}
child = os.fork()
if child == 0:
    os.close(1)
    os.close(2)
    os.read(0, 1)  # until the test closes its end
    os._exit(0)
again = {backend: pids(backend) for backend in backends}
print(json.dumps({"child": child, "workers": workers, "again": again}), flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module", params=["ends", "killed"])
def family(request):
    processes = programs.Family()
    parent = subprocess.Popen(
        [sys.executable, "-c", WARM, "spawn forkserver loky", request.param],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **processes.variables},
    )
    try:
        found = json.loads(parent.stdout.readline())
        found["status"] = parent.wait(programs.SOON)
        child = psutil.Process(found["child"])
        # The trackers of loky and the standard library wait for the end of the last that has
        # their pipe, and so for the child's.
        others = [
            process
            for process in processes
            if process != child and "resource_tracker" not in programs.command(process)
        ]
        found["alive"] = programs.alive(others)
        found["child lives"] = child.is_running()
        found["how"] = request.param
        yield found
    finally:
        parent.kill()
        parent.stdin.close()
        parent.stdout.close()
        parent.wait()
        processes.kill()


class TestWarmPoolsOfTheParent:
    """A fork that lives on holds copies of all that its parent had open."""

    @pytest.mark.parametrize("backend", ["spawn", "forkserver", "loky"])
    def test_serve_the_parent_as_before(self, family, backend):
        assert len(set(family["workers"][backend])) == 1
        assert family["again"][backend] == family["workers"][backend]

    def test_end_with_the_parent(self, family):
        assert family["status"] == (0 if family["how"] == "ends" else -signal.SIGKILL)
        assert family["child lives"]
        assert [process.cmdline() for process in family["alive"]] == []
