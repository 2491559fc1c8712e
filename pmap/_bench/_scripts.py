"""Whole programs, as their contender's documentation would have them written.

Timed from the start of the process to its first line of output, which is the result.
"""

from __future__ import annotations

import random
import select
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pmap._bench._bar import Bar
from pmap._bench._contenders import LOCAL_BACKENDS
from pmap._bench._hosts import surroundings
from pmap._bench._processes import Family
from pmap._bench._table import CONTENDERS, LOOP

if TYPE_CHECKING:
    from pmap._bench._compare import Course

__all__ = ["COLD_START", "COLD_START_IS", "SCRIPTS", "scripts"]

COLD_START = "cold start"
COLD_START_IS = "Cold start: a whole program, from the start of its process to its first result"

_PROGRAM = """\
import polars as pl
{imports}

def initials(part):
    return part.with_columns(
        initial=pl.Series([name[:1].upper() for name in part["name"]], dtype=pl.String)
    )


def main():
    frame = pl.DataFrame({{"name": [f"{{'abcdefgh'[i % 8]}}{{i}}" for i in range({rows})]}})
    parts = [frame.slice(i, {size}) for i in range(0, {rows}, {size})]
{body}
    print(out.height, out["initial"].n_unique(), flush=True)


if __name__ == "__main__":
    main()
"""


@dataclass(frozen=True)
class _Script:
    imports: str
    body: str

    def text(self, rows: int, workers: int) -> str:
        size = max(1, rows // (4 * workers))
        body = "\n".join(f"    {line}" for line in self.body.splitlines())
        filled = body.replace("WORKERS", str(workers))
        return _PROGRAM.format(imports=self.imports, body=filled, rows=rows, size=size)


def _pmap(backend: str) -> _Script:
    words = "n_jobs=WORKERS" if backend == "auto" else f'backend="{backend}", n_jobs=WORKERS'
    return _Script("import pmap", f"out = pmap.map_partitions(frame, initials, {words})")


_EXECUTOR = """\
with {} as pool:
    out = pl.concat(pool.map(initials, parts))"""

SCRIPTS: dict[str, _Script] = {
    LOOP: _Script("", "out = pl.concat([initials(part) for part in parts])"),
    "ThreadPoolExecutor": _Script(
        "from concurrent.futures import ThreadPoolExecutor",
        _EXECUTOR.format("ThreadPoolExecutor(WORKERS)"),
    ),
    "multiprocessing.Pool(spawn)": _Script(
        "import multiprocessing",
        _EXECUTOR.format('multiprocessing.get_context("spawn").Pool(WORKERS)'),
    ),
    "ProcessPoolExecutor(spawn)": _Script(
        "import multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor",
        _EXECUTOR.format(
            'ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn"))'
        ),
    ),
    "loky": _Script(
        "from loky import get_reusable_executor",
        "out = pl.concat(get_reusable_executor(WORKERS).map(initials, parts))",
    ),
    "joblib": _Script(
        "from joblib import Parallel, delayed",
        "out = pl.concat(Parallel(n_jobs=WORKERS)(delayed(initials)(part) for part in parts))",
    ),
    "joblib on pmap": _Script(
        "import pmap\nfrom joblib import Parallel, delayed, parallel_config",
        "pmap.register_joblib_backend()\n"
        'with parallel_config(backend="pmap", n_jobs=WORKERS):\n'
        "    out = pl.concat(Parallel()(delayed(initials)(part) for part in parts))",
    ),
    "mpire": _Script(
        "from mpire import WorkerPool",
        'with WorkerPool(WORKERS, start_method="spawn") as pool:\n'
        "    out = pl.concat(pool.map(initials, [(part,) for part in parts]))",
    ),
    "dask.distributed": _Script(
        "from distributed import Client",
        "client = Client(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)\n"
        "out = pl.concat(client.gather(client.map(initials, parts)))",
    ),
    "ray": _Script(
        "import ray",
        "ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)\n"
        "task = ray.remote(initials)\n"
        "out = pl.concat(ray.get([task.remote(part) for part in parts]))",
    ),
    **{f"pmap {backend}": _pmap(backend) for backend in ("auto", *LOCAL_BACKENDS)},
}


@dataclass
class _Times:
    cold: list[float] = field(default_factory=list[float])
    error: str | None = None


def scripts(rows: int, names: list[str], course: Course) -> dict[str, Any]:
    """Time the programs of those named that have one; as `_compare.compare`."""
    known = [name for name in names if name in SCRIPTS]
    there = [name for name in known if not CONTENDERS[name].missing]
    shuffled = random.Random(course.seed)  # noqa: S311  an order, no secret
    times = {name: _Times() for name in there}
    with Bar(COLD_START, len(there) * course.cold_rounds) as bar:
        for _ in range(course.cold_rounds):
            for name in shuffled.sample(there, len(there)):
                bar.step(name)
                path = Path(course.folder, f"program{there.index(name)}.py")
                path.write_text(SCRIPTS[name].text(rows, course.workers), encoding="utf-8")
                if times[name].error is None:
                    _time(path, times[name], f"{rows} {min(rows, 8)}", course)
    return {
        "name": COLD_START,
        "what": COLD_START_IS,
        "parallel_helps": False,
        "workers": course.workers,
        "rows": rows,
        "bytes": None,
        "contenders": [_told(name, found) for name, found in times.items()],
        "left_out": {
            name: f"not there: {', '.join(CONTENDERS[name].missing)}"
            for name in known
            if name not in there
        },
    }


def _told(name: str, times: _Times) -> dict[str, Any]:
    return {
        "contender": name,
        "cold_seconds": times.cold,
        "settling_seconds": [],
        "warm_seconds": [],
        "cpu_seconds": None,
        "peak_bytes": None,
        "error": times.error,
    }


def _time(path: Path, times: _Times, expected: str, course: Course) -> None:
    """Its first line ends the clock; how it ends is not timed, but it must."""
    with tempfile.TemporaryFile(dir=course.folder) as errors:
        started = perf_counter()
        program = subprocess.Popen(  # noqa: S603  the program that we wrote
            [sys.executable, path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=surroundings(course.folder),
        )
        try:
            line = _first_line(program, course.timeout)
            seconds, family = perf_counter() - started, Family(program.pid)
            program.wait(course.timeout)
            family.end()
        except subprocess.TimeoutExpired:
            times.error = f"it did not end in {course.timeout:g} s"
            return
        finally:
            if program.poll() is None:
                family = Family(program.pid)
                family.kill()
                family.end()
            program.communicate()
        errors.seek(0)
        words = errors.read().decode(errors="replace").strip().splitlines()
    if line == expected:
        times.cold.append(seconds)
    else:
        times.error = f"printed {line!r}: {words[-1] if words else 'no error'}"


def _first_line(program: subprocess.Popen[bytes], timeout: float) -> str:
    if program.stdout is None:
        raise RuntimeError("a program without output")
    if not select.select([program.stdout], [], [], timeout)[0]:
        raise subprocess.TimeoutExpired(program.args, timeout)
    return program.stdout.readline().decode(errors="replace").strip()
