"""Benchmarks still run, and find all contenders' results right; their times are for people."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.once
def test_latency():
    command = [
        sys.executable,
        str(BENCHMARKS / "latency.py"),
        "--rounds",
        "2",
        "--cold-rounds",
        "0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("pmap forkserver", "pmap spawn", "ProcessPoolExecutor(spawn)", "loky", "joblib"):
        assert f"  {name} " in done.stdout
