"""A map at the top level of a program needs no ``if __name__ == "__main__":``, wherever it stands.

The same program is run as a file, as a notebook in a real kernel, by ``-c``, from stdin and by
``-m``, once each, and maps on every process backend in turn; the tests look at what it left.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import programs
import pytest
from installed import is_installed, need

if TYPE_CHECKING:
    from pathlib import Path

BACKENDS = ["spawn", "forkserver", "loky", "dask"]

#: A cell of the notebook each, between the marks; one text everywhere else.
PROGRAM = """
import functools, json, multiprocessing, os, traceback
import polars as pl
import pmap
IMPORT_NEIGHBOUR

with open(os.environ["RAN"], "a") as ran:
    ran.write(f"{os.getpid()}\\n")
df = pl.DataFrame({"x": range(8)})
df.lazy().filter(pl.col("x") > 2).collect()  # Polars' engine runs
here = os.getpid()
found = {}
# %%
FACTOR = 3

def triple(part):
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{backend} {part['x'][0]}\\n")
    return part.select(pl.col("x") * FACTOR)

def beside(part):
    return neighbour.halve(part)

class Shifter:
    def __init__(self):
        self.by = FACTOR

    def __call__(self, part):
        return part.select(pl.col("x") + self.by)

@functools.cache
def doubled(x):
    return 2 * x

def from_cache(part):
    return part.select(x=pl.Series([doubled(x) for x in part["x"].to_list()]))

class Point:
    def __init__(self, x):
        self.x = x
# %%
def mapped(function):
    return pmap.map_partitions(df, function, backend=backend, n_jobs=2, n_partitions=4)["x"].to_list()

def attempt():
    return {
        "method before": multiprocessing.get_start_method(allow_none=True),
        "function": mapped(triple),
        "lambda": mapped(lambda part: part.select(pl.col("x") - FACTOR)),
        "class": mapped(Shifter),
        "method": mapped(Shifter().__call__),
        "neighbour": mapped(neighbour.halve),
        "calls neighbour": mapped(beside),
        "has a cached helper": mapped(from_cache),
        "own class back": [
            point.x
            for point in pmap.iter_partitions(df, lambda part: Point(part["x"].sum()), backend=backend, n_partitions=4)
            if type(point) is Point
        ],
        "elsewhere": here not in pmap.last_report().timings["worker"],
        "method after": multiprocessing.get_start_method(allow_none=True),
    }

for backend in os.environ["BACKENDS"].split():
    try:
        found[backend] = attempt()
    except BaseException:
        found[backend] = {"error": traceback.format_exc()}
# %%
FACTOR = 5  # a later cell, or a later line, is heard

def triple(part):
    return part.select(pl.col("x") * FACTOR + 1)

for backend in os.environ["BACKENDS"].split():
    if "error" not in found[backend]:
        found[backend]["redefined"] = mapped(triple)
# %%
multiprocessing.set_start_method("spawn")
found["method set"] = multiprocessing.get_start_method()
with open(os.environ["FOUND"], "w") as file:
    json.dump(found, file)
"""

NEIGHBOUR = """
def halve(part):
    return part.select(part["x"] // 2)
"""

NOTEBOOK = """
import sys, nbclient, nbformat
cells = open(sys.argv[1]).read().split("# %%")
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
quiet = ["--IPKernelApp.log_level=ERROR"]  # it warns of its own sockets
nbclient.NotebookClient(notebook, timeout=50, kernel_name="python3", extra_arguments=quiet).execute()
"""

#: Lies in the working folder under names that workers import: none is to be taken from there.
TRAP = """
import os, sys
with open(os.environ["TRAPPED"], "a") as file:
    file.write(f"{__name__} in {sys.orig_argv}\\n")
raise ImportError(f"{__file__} was imported")
"""
TRAPS = ["polars", "pyarrow", "numpy", "distributed", "pmap", "pmap_backends"]
#: loky imports these before it has the caller's path: the test at the end.
EARLY_TRAPS = ["cloudpickle", "json", "random", "logging", "socket", "queue", "select", "signal"]


@dataclass
class Run:
    """What a program left."""

    backends: list[str]
    status: int
    stderr: str
    found: dict
    folder: Path
    alive: list[str]

    def lines(self, name):
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


STRICT = ["-W", "error"]
#: The arguments of Python, and on which backends. loky's resource tracker, deaf to signals, keeps
#: ipykernel from ending by itself (as with joblib alone), so that kernel is killed: no atexit.
SITUATIONS = {
    "script": ([*STRICT, "program.py"], BACKENDS),
    "script, elsewhere": ([*STRICT, "../project/program.py"], BACKENDS),
    "script, far away": ([*STRICT, "../project/program.py"], ["spawn", "forkserver", "dask"]),
    "notebook": (["-c", NOTEBOOK, "program.py"], ["spawn", "forkserver", "dask"]),
    "notebook, loky": (["-c", NOTEBOOK, "program.py"], ["loky"]),
    "-c": ([*STRICT, "-c", ...], BACKENDS),
    "stdin": (STRICT, BACKENDS),
    "dash": ([*STRICT, "-"], BACKENDS),
    "-m module": ([*STRICT, "-m", "program"], BACKENDS),
    "-m package": ([*STRICT, "-m", "package"], BACKENDS),
}
#: Folders that are not the program's, and the traps in them.
FOLDERS = {"script, elsewhere": TRAPS, "script, far away": [*TRAPS, *EARLY_TRAPS]}


def lay_out(folder, traps):
    """The program in all its shapes; the folders in which it runs."""
    for name in ("project/package", "elsewhere", "temporary", "home"):
        (folder / name).mkdir(parents=True)
    absolute = PROGRAM.replace("IMPORT_NEIGHBOUR", "import neighbour")
    relative = PROGRAM.replace("IMPORT_NEIGHBOUR", "from . import neighbour")
    (folder / "project/program.py").write_text(absolute)
    (folder / "project/neighbour.py").write_text(NEIGHBOUR)
    (folder / "project/package/__init__.py").touch()
    (folder / "project/package/__main__.py").write_text(relative)
    (folder / "project/package/neighbour.py").write_text(NEIGHBOUR)
    for name in traps:
        (folder / "elsewhere" / f"{name}.py").write_text(TRAP)
    return absolute


def execute(situation, backends, folder, traps=()):
    """Run the program, and see what it leaves."""
    program = lay_out(folder, traps)
    family = programs.Family()
    variables = {
        "BACKENDS": " ".join(filter(is_installed, backends)),
        "TMPDIR": str(folder / "temporary"),
        "HOME": str(folder / "home"),
        "IPYTHONDIR": str(folder / "home"),
        "JUPYTER_RUNTIME_DIR": str(folder / "home"),
        "PYTHONDONTWRITEBYTECODE": "1",
        **{name: str(folder / name.lower()) for name in ("RAN", "CALLS", "FOUND", "TRAPPED")},
    }
    with open(folder / "project/program.py") as stdin, open(folder / "stderr", "w") as stderr:
        done = programs.run(
            *(program if part is ... else part for part in SITUATIONS[situation][0]),
            stdin=stdin if situation in {"stdin", "dash"} else "",
            output=stderr,
            cwd=folder / ("elsewhere" if traps else "project"),
            family=family,
            **variables,
        )
    alive = family.left()
    family.kill()
    found = json.loads((folder / "found").read_text()) if (folder / "found").exists() else {}
    return Run(backends, done.returncode, (folder / "stderr").read_text(), found, folder, alive)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The program in each situation, run when first asked for."""
    done = {}

    def get(situation):
        if situation not in done:
            traps = FOLDERS.get(situation, ())
            folder = tmp_path_factory.mktemp("run")
            done[situation] = execute(situation, SITUATIONS[situation][1], folder, traps)
        return done[situation]

    return get


@pytest.fixture
def run(request, runs):
    """The program, having run."""
    return runs(request.param)


def found_on(run, backend):
    """What the program found on one backend."""
    assert need(backend) in run.found, run.stderr
    assert "error" not in run.found[backend], run.found[backend]["error"]
    return run.found[backend]


EXPECTED = {
    "function": [3 * x for x in range(8)],
    "lambda": [x - 3 for x in range(8)],
    "class": [x + 3 for x in range(8)],
    "method": [x + 3 for x in range(8)],
    "neighbour": [x // 2 for x in range(8)],
    "calls neighbour": [x // 2 for x in range(8)],
    "has a cached helper": [2 * x for x in range(8)],
    "own class back": [1, 5, 9, 13],
    "redefined": [5 * x + 1 for x in range(8)],
}


@pytest.mark.parametrize(
    ("run", "backend"),
    [(name, backend) for name, (_, backends) in SITUATIONS.items() for backend in backends],
    indirect=["run"],
)
class TestOnEachBackend:
    def test_gives_what_the_loop_gives(self, run, backend):
        found = found_on(run, backend)
        assert {what: found[what] for what in EXPECTED} == EXPECTED

    def test_runs_in_workers(self, run, backend):
        assert found_on(run, backend)["elsewhere"]

    def test_calls_the_function_once_for_each_partition(self, run, backend):
        found_on(run, backend)
        calls = [line for line in run.lines("calls") if line.startswith(f"{backend} ")]
        assert sorted(calls) == [f"{backend} {start}" for start in (0, 2, 4, 6)]

    def test_leaves_the_start_method_unset(self, run, backend):
        found = found_on(run, backend)
        assert (found["method before"], found["method after"]) == (None, None)


@pytest.mark.parametrize("run", SITUATIONS, indirect=True)
class TestTheProgram:
    def test_runs_once(self, run):
        assert len(run.lines("ran")) == 1

    def test_ends_well_and_says_nothing(self, run):
        if run.backends == ["loky"]:
            pytest.skip("ipykernel is killed, and loky's resource tracker says so")
        assert (run.status, run.stderr) == (0, "")

    def test_can_set_the_start_method_afterwards(self, run):
        assert run.found["method set"] == "spawn"

    def test_leaves_no_process(self, run):
        assert run.alive == []

    def test_leaves_no_file(self, run):
        left = [path for path in (run.folder / "temporary").rglob("*") if path.is_file()]
        assert left == []
        project = sorted(path.name for path in (run.folder / "project").iterdir())
        assert project == ["neighbour.py", "package", "program.py"]
        assert all(path.read_text() == TRAP for path in (run.folder / "elsewhere").iterdir())

    def test_imports_nothing_from_the_folder_it_is_started_in(self, run):
        assert run.lines("trapped") == []


@pytest.mark.xfail(
    strict=False,
    reason="loky starts its workers with -m, and its trackers with -c: the working folder comes first",
)
def test_loky_imports_nothing_from_the_folder_it_is_started_in(tmp_path):
    run = execute("script, far away", ["loky"], tmp_path, EARLY_TRAPS)
    assert run.lines("trapped") == []
