"""For any frame and any split, a parallel map gives what the plain loop gives."""

from __future__ import annotations

from itertools import pairwise

import polars as pl
import pytest
import strategies
from hypothesis import assume, given
from hypothesis import strategies as st

from pmap.testing import assert_equal_to_loop

BACKENDS = ["threads", "forkserver"]

# Bytes from which a partition travels in shared memory.
LARGE = 32 * 1024

splits = st.fixed_dictionaries({"n_partitions": st.integers(1, 15)}) | st.fixed_dictionaries(
    {"chunk_size": st.integers(1, 15)}
)


def identity(part):
    return part


def backwards(part):
    return part[[*range(part.height - 1, -1, -1)]]  # reverse() panics on some arrays in Polars 1.34


def shifted(part):
    """Has a null in front, whatever the dtypes."""
    return part.select(pl.all().shift(1))


def numbered(part):
    return part.with_row_index("number of the row")


def lazily(part):
    return part.lazy()


def shorter(part):
    return part.head(part.height // 2)


functions = st.sampled_from([identity, backwards, shifted, numbered, lazily, shorter])


def inside(dtype):
    if isinstance(dtype, pl.Struct):
        return [field.dtype for field in dtype.fields]
    return [dtype.inner] if isinstance(dtype, pl.List | pl.Array) else []


def has_width(dtype):
    """Arrays of width 0, which Polars' strategy draws at times, can not travel."""
    is_empty = isinstance(dtype, pl.Array) and dtype.size == 0
    return not is_empty and all(map(has_width, inside(dtype)))


frames = strategies.frames(max_cols=5, max_size=12, excluded_dtypes=[pl.Object]).filter(
    lambda frame: all(map(has_width, frame.dtypes))
)


def enlarged(frame):
    """The same rows, again and again, and a column that makes each partition of two large."""
    times = 3 * LARGE // (8 * max(1, frame.height)) + 1
    repeated = pl.concat([frame] * times, rechunk=False)
    return repeated.with_columns(pl.int_range(repeated.height).alias("a column that is large"))


@pytest.mark.parametrize("backend", BACKENDS)
@strategies.few
@given(frame=frames, split=splits, function=functions)
def test_small_frames(backend, frame, split, function):
    assert_equal_to_loop(frame, function, backend=backend, n_jobs=2, **split)


@pytest.mark.parametrize("backend", BACKENDS)
@strategies.few
@given(frame=frames, n_partitions=st.integers(1, 2), function=functions)
def test_large_frames(backend, frame, n_partitions, function):
    assume(frame.height > 0)
    options = {"backend": backend, "n_jobs": 2, "n_partitions": n_partitions}
    assert_equal_to_loop(enlarged(frame), function, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@strategies.few
@given(frame=frames)
def test_large_results_of_small_frames(backend, frame):
    assert_equal_to_loop(frame, enlarged, backend=backend, n_jobs=2, n_partitions=2)


@pytest.mark.parametrize("backend", BACKENDS)
@strategies.few
@given(heights=st.lists(st.integers(0, 5), max_size=12), split=splits)
def test_frames_without_columns(backend, heights, split):
    stream = [without_columns(height) for height in heights]
    assert_equal_to_loop(stream, identity, backend=backend, n_jobs=2)
    bare = without_columns(sum(heights))
    assert_equal_to_loop(bare, identity, backend=backend, n_jobs=2, **split)


def without_columns(height):
    """It has a height all the same, since Polars 2."""
    return pl.DataFrame({"x": [0] * height}).drop("x")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [20, 20_000])
@strategies.few
@given(descending=st.booleans(), nulls=st.integers(0, 3), split=st.integers(1, 3))
def test_what_is_known_to_be_sorted(backend, rows, descending, nulls, split):
    frame = pl.DataFrame({"x": [None] * nulls + [*range(rows)], "y": [1] * (rows + nulls)})
    frame = frame.sort("x", descending=descending, nulls_last=False)
    result = assert_equal_to_loop(frame, identity, backend=backend, n_jobs=2, n_partitions=split)
    assert split > 1 or result["x"].flags == frame["x"].flags


@pytest.mark.parametrize("backend", BACKENDS)
@strategies.few
@given(frame=frames, cuts=st.lists(st.integers(0, 12), max_size=6).map(sorted))
def test_streams(backend, frame, cuts):
    bounds = [0, *cuts, None]
    stream = [frame[start:stop] for start, stop in pairwise(bounds)]
    assert_equal_to_loop(stream, numbered, backend=backend, n_jobs=2)
