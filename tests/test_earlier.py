"""What is remembered of calls with `backend="auto"`, for each function and size of partitions."""

from __future__ import annotations

import pytest

from pmap import _earlier
from pmap._earlier import Earlier, Seen
from pmap._gauge import Usage


@pytest.fixture(autouse=True)
def nothing_known():
    _earlier.forget_all()
    yield
    _earlier.forget_all()


def call(largest):
    return Earlier(Seen(Usage()), 1e-6, largest, {}, None)


def function():
    pass


@pytest.mark.parametrize(("rows", "is_told"), [(100, True), (25, True), (24, False), (401, False)])
def test_a_call_tells_of_partitions_up_to_four_times_as_large_or_small(rows, is_told):
    _earlier.remember(function, call(100))
    assert (_earlier.recall(function, rows) is not None) == is_told


def test_the_latest_of_a_size_counts():
    for largest in (100, 10_000, 110):
        _earlier.remember(function, call(largest))
    assert _earlier.recall(function, 100).largest == 110
    assert _earlier.recall(function, 10_000).largest == 10_000


def test_sizes_that_were_not_called_for_long_are_forgotten():
    sizes = [10**power for power in range(6)]
    for largest in sizes:
        _earlier.remember(function, call(largest))
    known = [size for size in sizes if _earlier.recall(function, size)]
    assert known == sizes[-4:]


def test_one_size_is_forgotten_alone():
    for largest in (100, 10_000):
        _earlier.remember(function, call(largest))
    _earlier.forget(function, 100)
    assert _earlier.recall(function, 100) is None
    assert _earlier.recall(function, 10_000) is not None


def test_who_is_forgotten_takes_no_place():
    made = [eval(f"lambda: {number}") for number in range(64)]
    for each in made:
        _earlier.remember(each, call(100))
    _earlier.forget(made[-1], 100)
    _earlier.forget(function, 100)
    _earlier.remember(function, call(100))
    assert all(_earlier.recall(each, 100) for each in [*made[:-1], function])
