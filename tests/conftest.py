"""Fixtures of the whole suite: the backends, and an end without workers."""

from __future__ import annotations

import pytest

import pmap
from pmap.errors import MissingDependencyError


def _need(name):
    try:
        pmap.get_backend(name)
    except MissingDependencyError as exc:
        pytest.skip(str(exc))
    return name


@pytest.fixture(params=pmap.available_backends())
def backend(request):
    """The name of each registered backend in turn."""
    return _need(request.param)


@pytest.fixture(params=["spawn", "forkserver", "loky"])
def process_backend(request):
    """The name of each backend of worker processes on this machine in turn."""
    return _need(request.param)


@pytest.fixture(scope="session", autouse=True)
def _no_workers_are_left():
    yield
    pmap.shutdown()


def pytest_collection_modifyitems(items):
    """A cluster of dask's takes seconds to start and to end: its lives are for `make test-slow`."""
    for item in items:
        if item.path.name == "test_pools.py" and "dask" in item.name:
            item.add_marker(pytest.mark.slow)
