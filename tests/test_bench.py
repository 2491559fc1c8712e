"""`python -m pmap bench`: its contenders agree, its page stands alone, its fits find what is there."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import programs
import pytest

from pmap.__main__ import _parser
from pmap._bench import _compare, _figures, _memory, _plots, _processes, _text
from pmap._bench._choice import Choice
from pmap._bench._compare import Course, compare
from pmap._bench._contenders import Loop, Setting, slices
from pmap._bench._curves import Point, beside_limits, fit
from pmap._bench._page import page
from pmap._bench._scripts import SCRIPTS, scripts
from pmap._bench._table import CONTENDERS, IDEAL, LOOP, Entry
from pmap._bench._workloads import WORKLOADS, job_of

ROWS = 400
SMALL = (
    "--rows",
    str(ROWS),
    "--rounds",
    "1",
    "--cold-rounds",
    "1",
    "--scale",
    "0.001",
    "--jobs",
    "2",
)


def bench(*words, **variables):
    return programs.run("-m", "pmap", "bench", *words, **variables)


def those(wanted):
    """The workloads that can run here and of which that is true."""
    there = [each for each in WORKLOADS.values() if not each.missing and wanted(each)]
    return pytest.mark.parametrize("workload", there, ids=[each.name for each in there])


@those(lambda workload: workload.native is not None)
def test_a_workload_gives_the_same_in_parts_as_its_native_form(workload):
    job = job_of(workload, ROWS, seed=1)
    out = Loop(workload.setting(2))(job.frame, job.functions[0])
    assert workload.native(job.frame).equals(out)


@those(lambda workload: workload.name != "argument")  # whose rows are its argument's
def test_a_workload_has_as_many_rows_as_asked_and_the_same_each_time(workload):
    job = job_of(workload, ROWS, seed=1)
    assert job.frame.height == ROWS
    assert job.frame.equals(job_of(workload, ROWS, seed=1).frame)


@those(lambda workload: workload.value is not None)
def test_a_function_of_a_value_is_the_function_of_a_part(workload):
    column, function = workload.value
    job = job_of(workload, ROWS, seed=1)
    assert job.functions[0](job.frame)["value"].to_list() == [
        function(value) for value in job.frame[column]
    ]


def test_slices_are_all_of_the_frame():
    frame = pl.DataFrame({"x": range(10)})
    assert [part.height for part in slices(frame, 4)] == [2, 3, 2, 3]
    assert pl.concat(slices(frame, 100)).equals(frame)


@pytest.mark.once
def test_the_command_measures_prints_and_writes(tmp_path):
    there = tmp_path / "out.json", tmp_path / "out.html"
    names = ["ideal", "native Polars", "ThreadPoolExecutor", "loky", "pmap auto", "pmap forkserver"]
    done = bench(
        *SMALL,
        *("--workloads", "native", "chained", "cold start"),
        *("--contenders", *names),
        *("--json", str(there[0]), "--html", str(there[1])),
    )
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads(there[0].read_text())
    assert [told["name"] for told in result["workloads"]] == ["native", "chained", "cold start"]
    for told in result["workloads"]:
        assert all(row["error"] is None for row in told["contenders"]), told
    measured = {row["contender"]: row for row in result["workloads"][0]["contenders"]}
    assert set(measured) == {LOOP, *names}
    for row in measured.values():
        assert row["peak_bytes"] > 10_000_000
        assert row["warm_seconds"]
        assert row["settling_seconds"]
    assert "polars-pmap" in result["versions"]
    assert_stands_alone(there[1].read_text())
    assert "  pmap forkserver " in done.stdout


@pytest.mark.once
def test_curves_are_measured_and_fitted(tmp_path):
    there = tmp_path / "out.json"
    done = bench(*SMALL, "--workloads", "curves", "--json", str(there))
    assert done.returncode == 0, done.stderr
    result = json.loads(there.read_text())
    measured = {point["curve"] for point in result["curves"]}
    assert measured == {"rows, out", "rows, both ways", "partitions", "columns", "workers"}
    assert result["fits"]["pmap forkserver"]["median_error"] < 1
    assert result["beside_limits"]["pmap forkserver"]["fixed_in_pipe_round_trips"] >= 0


@pytest.mark.once
def test_the_profile_tells_of_six_paths():
    done = bench("--profile", "--scale", "0.002", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" a call (") == 5
    assert "imports of a first small call, after Polars: " in done.stdout


def test_names_are_listed():
    done = bench("--list")
    assert done.returncode == 0
    assert all(name in done.stdout for name in (*WORKLOADS, *CONTENDERS))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workloads", "parze"], "there is no workload 'parze': did you mean parse?"),
        (["--contenders", "?"], "there is no contender '?'; there are: plain loop, "),
        (
            ["--curves-on", "spwan"],
            "there is no backend for --curves-on 'spwan': did you mean spawn?",
        ),
        (["--rows", "few"], "--rows: must be a whole number, at least 1, not 'few'"),
        (["--scale", "-1"], "--scale: must be a number above 0, not '-1'"),
        (["--timeout", "nan"], "--timeout: must be a number above 0, not 'nan'"),
        (["--html", "-"], "only JSON goes to stdout"),
    ],
)
def test_what_cannot_be_had_is_told_before_anything_is_measured(words, said):
    done = bench(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["README.md", "docs/performance.md"])
def test_commands_that_are_written_down_are_understood(name):
    text = (Path(__file__).parent.parent / name).read_text()
    commands = re.findall(r"python -m pmap (bench[^`\n#]*)", text)
    assert commands
    for words in commands:
        options = _parser().parse_args(shlex.split(words))
        chosen = Choice(workloads=options.workloads, contenders=options.contenders)
        assert chosen.refusal() is None


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path):
    there, nowhere = tmp_path / "out.html", tmp_path / "no" / "out.json"
    assert Choice(html=str(there)).refusal() is None
    assert not there.exists()
    refusal = Choice(json=str(nowhere), html=str(tmp_path)).refusal()
    assert refusal == (
        f"cannot write {nowhere}: No such file or directory\n"
        f"cannot write {tmp_path}: Is a directory"
    )


def test_json_goes_to_stdout_alone():
    done = bench(*SMALL, "--workloads", "tiny", "--contenders", "native Polars", "--json", "-")
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)["workloads"]
    assert [row["contender"] for row in told["contenders"]] == [LOOP, "native Polars"]
    assert "Latency: a frame of 1,000 rows" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing_behind(how, tmp_path):
    family = programs.Family()
    words = ["--workloads", "parse", "--contenders", "ideal", "loky", "pmap forkserver"]
    with subprocess.Popen(
        [sys.executable, "-m", "pmap", "bench", *words, "--rows", "3000", "--rounds", "100000"],
        env={**os.environ, **family.variables, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        while len([each for each in family if "_share" in programs.command(each)]) < 2:
            assert program.poll() is None
            select.select([], [], [], 0.05)  # the ideal's copies are there once it is called
        program.send_signal(how)
        _, said = program.communicate(timeout=programs.SOON)
    assert program.returncode == (130 if how == signal.SIGINT else 143)
    assert "Traceback" not in said
    assert family.left() == []
    assert list(tmp_path.iterdir()) == []


class _Wrong:
    """Gives another result than the loop."""

    def __init__(self, made):
        self._setting = made.setting

    def __call__(self, frame, function):
        return function(frame).reverse()

    def close(self):
        pass


def course_of(folder, timeout=60.0):
    return Course(
        2, rounds=1, settling_rounds=1, cold_rounds=1, seed=0, timeout=timeout, folder=str(folder)
    )


def compared(monkeypatch, folder, **entries):
    """A comparison in which these take part; hosts are processes, and so know only real names."""
    for name, entry in entries.items():
        monkeypatch.setitem(CONTENDERS, name, entry)
    return compare(WORKLOADS["tiny"], ROWS, [LOOP, *entries], course_of(folder))


def test_a_contender_that_is_not_installed_is_named_with_what_it_lacks(monkeypatch, tmp_path):
    entry = Entry("missing", _Wrong, needs=("no_such_module",))
    told = compared(monkeypatch, tmp_path, missing=entry)
    assert told["left_out"] == {"missing": "not there: no_such_module"}
    assert "left out: missing (not there: no_such_module)" in _text.table(told)


def test_a_contender_that_fails_does_not_end_the_others(monkeypatch, tmp_path):
    told = compared(monkeypatch, tmp_path, unknown=Entry("unknown", _Wrong))
    errors = {row["contender"]: row["error"] for row in told["contenders"]}
    assert errors == {LOOP: None, "unknown": "KeyError: 'unknown'"}


def test_a_contender_that_does_not_answer_is_ended(tmp_path):
    names = [LOOP, "pmap forkserver"]
    told = compare(WORKLOADS["tiny"], ROWS, names, course_of(tmp_path, timeout=0.001))
    assert {row["error"] for row in told["contenders"]} == {"no answer in 0.001 s"}
    told = scripts(ROWS, names, course_of(tmp_path, timeout=0.001))
    assert {row["error"] for row in told["contenders"]} == {"it did not end in 0.001 s"}


def test_a_result_that_differs_from_the_loops_is_told(tmp_path):
    match = _compare._Match(WORKLOADS["tiny"], ROWS, [LOOP, "loky", "joblib"], course_of(tmp_path))
    match._prints.update({LOOP: "a", "loky": "b", "joblib": "a"})
    match._check()
    errors = {name: row.error for name, row in match.rows.items()}
    assert errors == {
        LOOP: None,
        "loky": "its result differs from the plain loop's",
        "joblib": None,
    }


@pytest.mark.parametrize("free", [None, 2 * 10**9, 10**8])
def test_rows_are_as_many_as_there_is_memory_for(monkeypatch, free):
    monkeypatch.setattr(_memory, "available_memory", lambda: free)
    names, asked = ["plain loop", "loky", "pmap spawn"], 10**8
    rows = _memory.affordable_rows(WORKLOADS["both ways"], asked, names, workers=2)
    assert rows == asked if free is None else rows < asked
    assert (rows == 0) == (free == 10**8)


def row(name, seconds, error=None):
    nothing = {"cpu_seconds": None, "peak_bytes": None}
    return {
        "contender": name,
        "cold_seconds": [1.0],
        "settling_seconds": [8.0, 9.0],
        "warm_seconds": seconds,
        "error": error,
        **nothing,
    }


def workload_of(*rows):
    return {
        "name": "made up",
        "what": "None <b>",
        "rows": 1,
        "bytes": 8,
        "workers": 2,
        "contenders": list(rows),
        "left_out": {},
        "parallel_helps": True,
    }


MADE_UP = workload_of(
    row(LOOP, [4.0, 4.0, 5.0]),
    row(IDEAL, [2.0]),
    row("joblib", [3.0, 3.0, 30.0]),
    row("pmap auto", [2.5]),
    row("pmap spawn", [1.0], error="its result differs from the plain loop's"),
)


def test_ratios_are_of_medians():
    lines = {line.name: line for line in _figures.lines_of(MADE_UP)}
    assert lines["joblib"].seconds == 3.0
    assert lines["pmap auto"].of_loop == 4.0 / 2.5
    assert lines["pmap auto"].of_ideal == 2.0 / 2.5


def test_calls_that_settle_are_told_and_do_not_count():
    loop = _figures.lines_of(MADE_UP)[-1]
    assert (loop.name, loop.seconds, loop.second, loop.cold) == (LOOP, 4.0, 8.0, 1.0)
    assert "8.00 s" in _text.table(MADE_UP)


@pytest.mark.parametrize("short", [True, False])
def test_the_short_form_says_that_its_frames_are_small(short):
    assert ("frames are so small" in _text.summary([MADE_UP] * 2, short=short)) == short


def test_who_gave_a_wrong_result_is_not_first():
    found = _figures.verdict(MADE_UP)
    assert found["first"] == "pmap auto"
    assert found["best_other_pool"] == "joblib"
    assert found["pmap_to_best_other_pool"] == 2.5 / 3.0


class _Page(HTMLParser):
    """Opens and closes its elements, and names nothing outside."""

    VOID = ("meta", "br", "line", "rect", "circle", "polyline")

    def __init__(self):
        super().__init__()
        self.open = []
        self.outside = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.outside += [value for name, value in attrs if name in {"src", "href"}]

    def handle_startendtag(self, tag, attrs):
        self.outside += [value for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def assert_stands_alone(html):
    parser = _Page()
    parser.feed(html)
    assert parser.open == []
    assert parser.outside == []
    assert "<svg" in html


def test_a_page_stands_alone_and_escapes_what_it_is_given():
    point = Point("rows, out", "pmap spawn", 1000, 8, 4, 2, 32_000, 0.01)
    machine = {
        "processor": "<none>",
        "usable_cpus": 2,
        "load": 0.0,
        "system": "",
        "python": "3",
        "bytecode": True,
    }
    html = page(
        {
            "machine": machine,
            "versions": {},
            "limits": {},
            "workloads": [MADE_UP],
            "curves": [point.told()],
        }
    )
    assert_stands_alone(html)
    assert "<none>" not in html
    assert "None <b>" not in html


def test_a_plot_of_one_point_has_an_axis():
    assert "circle" in _plots.lines("One", "rows", {"pmap": [(1.0, 1.0)]})


def made_up_points(fixed, partition, column, out, back):
    for rows in (1_000, 100_000, 10_000_000):
        for n in (1, 10, 1_000):
            for columns in (1, 4, 100):
                for curve in ("rows, out", "rows, both ways"):
                    size = rows * 8 * columns
                    seconds = fixed + partition * n + column * n * columns + out * size
                    seconds += back * size * (curve == "rows, both ways")
                    yield Point(curve, "made up", rows, n, columns, 2, size, seconds)


def test_a_fit_finds_the_overheads_that_points_were_made_of():
    made_of = {
        "fixed": 1e-3,
        "per_partition": 2e-4,
        "per_column_of_partition": 3e-6,
        "per_byte_out": 4e-10,
        "per_byte_back": 5e-10,
    }
    points = list(made_up_points(*made_of.values()))
    found = fit(points, "made up")
    assert found == pytest.approx({**made_of, "median_error": 0.0}, rel=1e-6, abs=1e-9)
    limits = {"pipe_round_trip_seconds": 1e-5, "memcpy_bytes_per_second": 1e10}
    assert beside_limits(found, limits) == pytest.approx(
        {
            "fixed_in_pipe_round_trips": 100.0,
            "partition_in_pipe_round_trips": 20.0,
            "byte_out_in_copies": 4.0,
            "byte_back_in_copies": 5.0,
        }
    )


def test_what_the_function_itself_takes_is_no_overhead():
    points = list(made_up_points(1e-3, 2e-4, 0.0, 4e-10, 0.0))
    slower = [replace(point, seconds=point.seconds + 3.0 / 2) for point in points]
    loop = [replace(point, contender=LOOP, seconds=3.0) for point in points]
    assert fit(slower + loop, "made up") == pytest.approx(fit(points, "made up"), abs=1e-6)


def test_a_fit_has_no_overhead_below_nothing():
    points = [
        Point("partitions", "made up", 10, n, 1, 2, 80, seconds)
        for n, seconds in ((1, 1.0), (2, 0.9), (3, 0.8))
    ]
    assert min(fit(points, "made up").values()) >= 0


def test_memory_and_time_of_processes_below_are_counted():
    program = (
        "import subprocess, sys\n"
        "inner = 'x = bytearray(100_000_000); x[::4096] = bytes(len(x[::4096])); input()'\n"
        "from pmap._bench import _processes as p\nimport os\n"
        "before = p.pss(os.getpid())\n"
        "child = subprocess.Popen([sys.executable, '-c', inner], stdin=subprocess.PIPE)\n"
        "peak = p.Peak(os.getpid()); peak.start()\n"
        "while peak.bytes - before < 100_000_000: pass\n"
        "assert p.cpu_seconds(os.getpid()) > 0\n"
        "assert p.descendants(os.getpid()) == [child.pid]\n"
        "p.Family(child.pid).kill(); child.wait(); print(peak.stop() - before)"
    )
    done = programs.run("-c", program)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100_000_000


def test_a_process_that_is_gone_holds_nothing():
    assert _processes.pss(2**22 + 1) == 0
    assert _processes.cpu_seconds(2**22 + 1) == 0


@pytest.mark.parametrize("name", SCRIPTS)
def test_programs_are_python(name):
    compile(SCRIPTS[name].text(rows=100, workers=2), name, "exec")


def test_settings_of_one_worker_have_its_share_of_the_parts():
    assert Setting(4, 16).alone() == Setting(1, 4)
