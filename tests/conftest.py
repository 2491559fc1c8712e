"""Fixtures of the whole suite: the backends, and an end without workers. What hypothesis does."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from installed import need

import pmap

# Tests run toys on workers, of which a user would rightly be told; test_advice.py has it said.
os.environ.setdefault("PMAP_ADVISE", "off")

# A result must be reproducible, so examples are the same each time; "random" is for the hunt.
settings.register_profile(
    "same",
    settings.get_profile("default"),
    derandomize=True,
    deadline=None,  # a worker's first task waits for its start
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.register_profile(
    "random", settings.get_profile("same"), derandomize=False, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(params=pmap.available_backends())
def backend(request):
    """The name of each registered backend in turn."""
    return need(request.param)


@pytest.fixture(params=["spawn", "forkserver", "loky"])
def process_backend(request):
    """The name of each backend of worker processes on this machine in turn."""
    return need(request.param)


@pytest.fixture(scope="session", autouse=True)
def _no_workers_are_left():
    yield
    pmap.shutdown()


@pytest.hookimpl(tryfirst=True)  # before the slow ones are left out
def pytest_collection_modifyitems(items):
    """A cluster of dask's takes seconds to start and to end: its lives are for `make test-slow`.

    So are some costly tests, on all backends but one: it is the same core that they are about.
    """
    for item in items:
        of_dask = item.path.name == "test_pools.py" and "dask" in item.name
        elsewhere = item.get_closest_marker("slow_elsewhere") and "forkserver" not in item.name
        if of_dask or elsewhere:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def cpus(monkeypatch):
    """A function that makes this machine have so many CPUs, and memory without end."""
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    monkeypatch.setattr("pmap._plan.available_memory", lambda: None)

    def set_cpus(number):
        monkeypatch.setattr("pmap._resources._affinity", lambda: number)
        monkeypatch.setattr("pmap._resources._quotas", list)
        assert pmap.cpu_count() == number

    return set_cpus
