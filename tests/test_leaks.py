"""Nothing grows: after many maps and after every fault there is as much as before."""

from __future__ import annotations

from pathlib import Path

import programs
import pytest
from installed import need

#: Seconds on the busiest machine; 15 where nothing else runs.
PATIENCE = 290
pytestmark = [
    pytest.mark.once,  # costly, and the same on every Python
    pytest.mark.timeout(PATIENCE + 10),
]

PROGRAM = Path(__file__).parent / "leaky.py"


def look(*words):
    """Run the program; its own bounds are in it."""
    done = programs.run(PROGRAM, *map(str, words), patience=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "the same as before\n"), done.stderr


def test_after_a_thousand_maps():
    look(need("forkserver"), "maps", 1000)


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("backend", ["forkserver", "loky"])
def test_after_each_kind_of_fault(backend):
    look(need(backend), "faults", 0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["threads", "spawn", "loky"])
def test_after_a_thousand_maps_elsewhere(backend):
    look(need(backend), "maps", 1000)


@pytest.mark.slow
def test_after_each_kind_of_fault_in_fresh_interpreters():
    look(need("spawn"), "faults", 0)
