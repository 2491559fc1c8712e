"""What a function is, told apart from another and recognized again in another process."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import threading

import numpy as np
import pandas as pd
import polars as pl
import programs
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing.parametric import dataframes
from strategies import frames, many

from pmap._checkpoint._content import digest_of_frame
from pmap._checkpoint._digest import digest_of_function
from pmap.errors import CheckpointError

HELPERS = """
LIMITS = {"low": 1}

def trim(text, *, width=3):
    return text[:width] if LIMITS["low"] else text
"""

PROGRAM = """
import dataclasses, enum, functools, json, re, sys
sys.path.insert(0, {helpers!r})
import helpers
import numpy as np
import polars as pl
from helpers import trim as cut
from pmap._checkpoint._digest import digest_of_function

WORDS = frozenset(["anna", "bert", "otto", "zoe"])
TABLE = pl.DataFrame({{"k": ["a", "b"], "v": [1.5, None]}}, schema_overrides={{"k": pl.Categorical}})
WEIGHTS = np.arange(12.0).reshape(3, 4).T
MIXED = {{"set": {{("x", 1), ("y", 2)}}, "pattern": re.compile("a+"), "nested": [{{1: {{"q"}}}}]}}

class Color(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Settings:
    rate: float = 0.5
    tags: set = dataclasses.field(default_factory=lambda: {{"u", "v", "w"}})

class Base:
    factor = 3

class Model(Base):
    def __init__(self, words):
        self.words = words
        self.myself = self

    @property
    def size(self):
        return len(self.words)

    def __call__(self, part):
        return deep(part, self.size * self.factor)

@functools.lru_cache
def cached(word):
    return word in {{"anna", "bert"}}

def deep(part, n=2):
    if n in {{"one", "two", "three"}}:
        return even(part)
    return helpers.trim(cut("abc")), helpers.LIMITS, MIXED, Color.RED, cached

def even(part):
    return deep(part) if TABLE.height else WEIGHTS

def outer(rate, settings):
    def clean(part, /, scale=2.0, *, words=WORDS):
        inner = lambda word: word in {{"p", "q", "r", "s"}}
        return rate, settings, inner, even(part)
    return clean

clean = outer(0.1, Settings())
for function in (clean, Model({{"k", "l", "m"}}), Model, Model({{"z"}}).__call__, functools.partial(clean, scale={{"e", "f"}})):
    print(json.dumps(digest_of_function(function)))
"""


DRIVER = """
import runpy, sys
for script in sys.argv[1:]:
    runpy.run_path(script, run_name="__main__")
"""


def parts_of(place, *texts, helpers=HELPERS, **variables):
    """What the functions of each program consist of, as another process has it."""
    place.mkdir(exist_ok=True)
    (place / "helpers.py").write_text(helpers)
    scripts = [place / f"job{n}.py" for n in range(len(texts))]
    for script, text in zip(scripts, texts, strict=True):
        script.write_text(text.format(helpers=str(place)))
    done = programs.run("-c", DRIVER, *scripts, **variables)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_is_the_same_in_every_process_at_every_place(tmp_path):
    first = parts_of(tmp_path / "one", PROGRAM, PYTHONHASHSEED="1")
    again = parts_of(tmp_path / "one", "# moved\n\n" + PROGRAM, PYTHONHASHSEED="2")
    moved = parts_of(tmp_path / "two", PROGRAM, PYTHONHASHSEED="3")
    assert first == again == moved
    assert len(first) == 5
    for name in (
        "the code of outer.<locals>.clean",
        "the default of words in outer.<locals>.clean",
        "the closure variable rate of outer.<locals>.clean",
        "the global TABLE of even",
        "the global helpers.LIMITS of deep",
        "the default of width in trim",
        "the global LIMITS of trim",
    ):
        assert name in first[0]


CHANGES = {
    ('"abc"', '"abd"'): "the code of deep",
    ("outer(0.1", "outer(0.2"): "the closure variable rate of outer.<locals>.clean",
    ("scale=2.0", "scale=2.5"): "the default of scale in outer.<locals>.clean",
    ('"zoe"', '"zora"'): "the default of words in outer.<locals>.clean",
    ("[1.5, None]", "[1.5, 0.0]"): "the global TABLE of even",
    ("arange(12.0)", "arange(1, 13.0)"): "the global WEIGHTS of even",
    ('re.compile("a+")', 're.compile("a*")'): "the global MIXED of deep",
    ('"w"}})', '"x"}})'): "the closure variable settings of outer.<locals>.clean",
    ('"r", "s"', '"r", "t"'): "the code of outer.<locals>.clean",
    ('in {{"anna"', 'in {{"otto"'): "the code of cached",
    ("RED = 1", "RED = 2"): "RED of Color",
}


def test_what_changes_in_the_program_is_named(tmp_path):
    for old, _ in CHANGES:
        assert PROGRAM.count(old) == 1
    changed = [PROGRAM.replace(*change) for change in CHANGES]
    before, *after = parts_of(tmp_path, PROGRAM, *changed)[::5]
    for parts, wanted in zip(after, CHANGES.values(), strict=True):
        differ = {name for name in before | parts if before.get(name) != parts.get(name)}
        assert wanted in differ
        assert len(differ) <= 3, differ


def test_what_changes_in_a_module_of_the_users_is_named(tmp_path):
    before = parts_of(tmp_path, PROGRAM)[0]
    after = parts_of(tmp_path, PROGRAM, helpers=HELPERS.replace("width=3", "width=4"))[0]
    assert {name for name in before if before[name] != after[name]} == {
        "the default of width in trim"
    }


def test_what_is_imported_inside_is_named(tmp_path):
    text = """
import json, sys
sys.path.insert(0, {helpers!r})
from pmap._checkpoint._digest import digest_of_function

def clean(part):
    import os
    import pmap
    def inner():
        from helpers import trim
        return trim
    return part

print(json.dumps(digest_of_function(clean)))
"""
    (before,) = parts_of(tmp_path, text)
    (after,) = parts_of(tmp_path, text, helpers=HELPERS.replace("width=3", "width=4"))
    (used,) = parts_of(tmp_path, text.replace("print", "clean(1); print"))
    assert before == used
    name = "the module helpers, imported in clean,"
    assert {*before} == {"the code of clean", name}
    assert {key for key in before if before[key] != after[key]} == {name}


def clean(part):
    """A docstring."""
    return part


def test_docstrings_do_not_count_but_what_is_used_does():
    def digest(doc, value):
        namespace = {}
        exec(f"def clean(part):\n    {doc!r}\n    return part, {value!r}", namespace)
        return digest_of_function(namespace["clean"])

    assert digest("one", "x") == digest("another", "x")
    assert digest("one", "one") != digest("another", "another")
    assert digest_of_function(clean) == digest_of_function(clean)


def of_value(value):
    return digest_of_function(functools.partial(clean, value))


@dataclasses.dataclass
class Point:
    x: object
    y: object = None


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


ARRAY = np.arange(6)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ("1", b"1"),
        ([1], (1,)),
        ([1, [2]], [1, [3]]),
        ({"a": 1}, {"a": 2}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1, 2}, frozenset({1, 2})),
        (Point(1), Point(2)),
        (Slotted(1), Slotted(2)),
        (Point([Point(1)]), Point([Point(2)])),
        (re.compile("a"), re.compile("a", re.IGNORECASE)),
        (pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [1]}, schema={"a": pl.Int32})),
        (pl.Series("a", [1, None]), pl.Series("a", [1, 0])),
        (pl.DataFrame({"a": [1]}).lazy(), pl.DataFrame({"a": [2]}).lazy()),
        (pl.col("a") + 1, pl.col("a") + 2),
        (ARRAY, ARRAY.astype("int32")),
        (ARRAY, ARRAY.reshape(2, 3)),
        (ARRAY, ARRAY[::-1]),
        (np.array(["a", None], dtype=object), np.array(["b", None], dtype=object)),
        (pa.table({"a": [1]}), pa.table({"a": [2]})),
        (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[0, 0])),
        (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 3]})),
        (bytearray(b"a"), bytearray(b"b")),
        (lambda part: 1, lambda part: 2),
        (len, max),
        (np.sin, np.cos),
    ],
)
def test_values_that_differ_have_other_digests(one, other):
    assert of_value(one) != of_value(other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: [0.1, "word", None, b"x"],
        lambda: {"a": [1, {"b": {"c", "d"}}]},
        lambda: Point(Slotted(Point(3))),
        lambda: pl.DataFrame({"a": ["x", None]}),
        lambda: np.arange(10)[::2],
        lambda: pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
        lambda: np.array(["a", {"b": 1}], dtype=object),
        lambda: pa.table({"a": ["x", "y"]}).slice(1),
        threading.Lock,
        lambda: (n for n in [1]),
    ],
)
def test_equal_values_that_are_other_objects_have_one_digest(make):
    assert of_value(make()) == of_value(make())


def test_what_is_one_object_does_not_count():
    word, table = str(b"abc", "ascii"), {1: {2}}
    assert of_value([(word, table), (word, table)]) == of_value(
        [(word, table), (str(b"abc", "ascii"), {1: {2}})]
    )


def test_what_is_nested_too_deeply_is_told():
    chain = None
    for _ in range(100_000):
        chain = [chain]
    with pytest.raises(CheckpointError, match=r"partial\(clean\) refers to data .* too deeply"):
        of_value(chain)


def test_what_refers_to_itself_ends():
    ring, other = [1], [2]
    ring.append(ring)
    other.append(other)
    assert of_value(ring) != of_value(other)


@many
@given(frame=frames(max_size=8), cut=st.integers(0, 8))
def test_equal_frames_have_one_digest_however_they_lie(frame, cut):
    digest = digest_of_frame(frame)
    pieces = pl.concat([frame.slice(0, cut), frame.slice(cut)], rechunk=False)
    middle = pl.concat([frame, frame, frame], rechunk=True).slice(frame.height, frame.height)
    for same in (
        frame.rechunk(),
        pieces,
        middle,
        frame.select(pl.all().gather(pl.int_range(pl.len()))),
    ):
        if frame.width:
            assert same.schema == frame.schema
            assert digest_of_frame(same) == digest


@many
@given(one=dataframes(cols=1, max_size=4), other=dataframes(cols=1, max_size=4))
def test_frames_that_differ_have_other_digests(one, other):
    if one.schema != other.schema or not one.equals(other):
        assert digest_of_frame(one) != digest_of_frame(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([[1], [2, 3]], [[1, 2], [3]]),
        ([[], [1]], [[1], []]),
        ([None, [1]], [[], [1]]),
        ([[None], [1]], [[], [1]]),
        (["ab", "c"], ["a", "bc"]),
        (["", None], [None, ""]),
        ([{"a": None}, None], [None, {"a": None}]),
        ([0.0], [-0.0]),
    ],
)
def test_frames_that_nearly_agree_have_other_digests(one, other):
    both = [pl.DataFrame({"x": values}) for values in (one, other)]
    assert both[0].schema == both[1].schema
    assert digest_of_frame(both[0]) != digest_of_frame(both[1])


def test_the_codes_of_categories_do_not_count():
    words = pl.Series("x", ["b", "a", "b"])
    other = pl.Series("x", ["a", "b", "a", "b"]).cast(pl.Categorical).slice(1)
    assert digest_of_frame(words.cast(pl.Categorical).to_frame()) == digest_of_frame(
        other.to_frame()
    )
    one, two = (pl.Series("x", ["b"], dtype=pl.Enum(list(text))) for text in ("ab", "bb"[:1]))
    assert digest_of_frame(one.to_frame()) != digest_of_frame(two.to_frame())
