"""Ctrl-C at any moment: the call ends, its workers stop, nothing is left, the pool goes on."""

from __future__ import annotations

from pathlib import Path

import programs
import pytest
from installed import need

pytestmark = pytest.mark.once  # costly, and the same on every Python

PROGRAM = Path(__file__).parent / "interrupted.py"


def interrupt(*words):
    """Run the program with its backend, manner, seed and count; how many interrupts came."""
    done = programs.run(PROGRAM, *map(str, words))
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[0])


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("backend", ["spawn", "forkserver", "loky"])
def test_at_any_line_of_the_caller(backend):
    assert interrupt(need(backend), "line", 1, 16) > 8


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("backend", ["auto", "spawn", "forkserver", "loky"])
def test_at_any_time_while_workers_start_and_work(backend):
    assert interrupt(backend if backend == "auto" else need(backend), "time", 1, 4) == 4


@pytest.mark.slow
@pytest.mark.parametrize("how", ["line", "time"])
@pytest.mark.parametrize("backend", ["auto", "spawn", "forkserver", "loky"])
def test_again_and_again(backend, how):
    for seed in range(2, 10):
        assert interrupt(backend if backend == "auto" else need(backend), how, seed, 25) > 10
