"""Benchmarks still run, and find all contenders' results right; their times are for people."""

from __future__ import annotations

from pathlib import Path

import programs
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.once
def test_protection():
    done = programs.run(BENCHMARKS / "protection.py", "--partitions", "200", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" of the time without ") == 3


@pytest.mark.once
@pytest.mark.timeout(300)  # on a busy machine; the same is done each time, however long it takes
def test_soak():
    """A short one; `--minutes 10` is for people."""
    options = ["--deeds", "8", "--seed", "37"]
    done = programs.run(BENCHMARKS / "soak.py", *options, patience=290)
    assert done.returncode == 0, done.stderr
    assert "nothing is left" in done.stdout


@pytest.mark.once
@pytest.mark.parametrize("options", [["--rounds", "1"], ["--memory"]], ids=["time", "memory"])
def test_transport(options):
    names = ["pmap", "ProcessPoolExecutor(spawn)"]
    done = programs.run(BENCHMARKS / "transport.py", "--rows", "50000", *options, "--only", *names)
    assert done.returncode == 0, done.stderr
    for name in names:
        assert done.stdout.count(f"\n  {name} ") == 3 + 2 * (
            name == "pmap" and "--rounds" in options
        )


@pytest.mark.once
def test_joblib_backend():
    options = ["--mb", "2", "--tasks", "10", "--tiny", "200", "--rounds", "1"]
    only = ["frame", "tiny"]
    done = programs.run(BENCHMARKS / "joblib_backend.py", *options, "--only", *only)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" of loky's time") == len(only)
