"""Plugin of the copies' run: joblib's own marks, and which of its tests are left out."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

#: Backends that a test may be about, in its parameters.
OTHERS = ("multiprocessing", "threading", "sequential", "dask", "spawn")
#: Parameters whose tests say nothing new after those with other values.
AGAIN = {"n_jobs": (-1, -2, 3, 4), "verbose": (11, 100)}


def pytest_configure(config):
    for mark in ("thread_unsafe", "no_cover", "parallel_threads"):
        config.addinivalue_line("markers", f"{mark}: joblib's")


def pytest_collection_modifyitems(config, items):
    left_out = tomllib.loads(Path(os.environ["NOT_APPLICABLE"]).read_text())
    chosen = [item for item in items if is_about_us(item) and not is_left_out(item, left_out)]
    if os.environ.get("SHORT"):
        chosen = [item for item in chosen if not is_again(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def is_about_us(item):
    """Whether it is about the backend, or about none in particular."""
    return "pmap" in item.name or not any(other in item.name for other in OTHERS)


def is_again(item):
    """Whether it is the same as another, with other numbers."""
    given = getattr(item, "callspec", None)
    params = {} if given is None else given.params
    return (
        any(params.get(name) in values for name, values in AGAIN.items())
        or getattr(params.get("context"), "__name__", "") == "parallel_backend"
        or not isinstance(params.get("backend"), str | None)
    )


def is_left_out(item, left_out):
    names = left_out.get(item.module.__name__, {})
    return any(item.name.startswith(name) for name in names)
