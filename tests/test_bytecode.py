"""Functions without a source, as a shell has them: read from bytecode, or no native code at all."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from datetime import date, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars._utils import udfs

from pmap._advice._translate import Untranslatable, namespace_of, translate

GRADES = {1: "one", 2: "two"}
LISTED = [1, 2]
OFFSET = 7


def _made(expression):
    """A function that no file holds."""
    return eval(f"lambda v: {expression}", globals())


OF_INTEGERS = [
    "v + OFFSET", "v * 2 - 1", "(v * 2 + 1) / 4", "3 - v", "-v", "abs(v)", "v // 3 % 2", "v % -5", "v - (v + 1)", "v > 2.5",
    "v > 1 and v < 5", "v == 1 or v == 2", "not v > 3", "v in (1, 2)", "v not in LISTED", "v & 6", "v | 1", "not v", "str(v)", "float(v)",
    "v * 0.5",
]  # fmt: skip
OF_FLOATS = ["v * 1.1 - 3.0", "v > 1.5", "v >= 0 and v != 0.5", "not v > 0", "abs(v)", "-v"]
OF_TEXTS = [
    "v.upper()", "v.lower()", "v.strip()", "v.strip('a ')", "v.lstrip()", "v.rstrip()", "v.replace('a', 'bc')", "v.startswith('a')",
    "v.startswith('a') and v.endswith('b')", "v.removeprefix('a')", "'a' in v", "v.strip().lower() + '!'", "v == 'a'",
]  # fmt: skip
OF_DATES = ["v.year", "v.month", "v.isoweekday()", "v.year * 100 + v.month"]
REFUSED = [
    ("v ** 2", pl.Int64()), ("(v > 1) & (v < 3)", pl.Int64()), ("v > 1 and v", pl.Int64()), ("not (v > 1 or v < -1)", pl.Int64()), ("v / 3", pl.Int64()),
    ("~v", pl.Int64()), ("v << 2", pl.Int64()), ("v.zfill(3)", pl.String()), ("v.title()", pl.String()),
    ("str(v)", pl.Boolean()), ("str(v)", pl.Float64()), ("int(v)", pl.String()), ("v == v", pl.Float64()), ("v + 1", pl.UInt64()),
    ("5", pl.Int64()), ("unknown(v)", pl.Int64()), ("v.year", pl.Datetime("ns")), ("f'{v:.2f}'", pl.Float64()),
]  # fmt: skip


def _check(expression, values, dtype):
    function = _made(expression)
    text = translate(function, "v", dtype)
    native = pl.DataFrame({"v": pl.Series(values, dtype=dtype)}).select(
        eval(text, namespace_of(function)).alias("v")
    )
    expected = [None if value is None else function(value) for value in values]
    for one, other, value in zip(expected, native["v"], values, strict=True):
        same = one == other or (one != one and other != other)  # noqa: PLR0124  NaN
        assert same, f"{text} gives {other!r} for {value!r}, Python {one!r}"


@pytest.mark.parametrize("expression", OF_INTEGERS)
@settings(max_examples=40)
@given(values=st.lists(st.none() | st.integers(-128, 127), max_size=20))
def test_integers(expression, values):
    for dtype in (pl.Int8(), pl.Int32(), pl.Int64()):
        _check(expression, values, dtype)


@pytest.mark.parametrize("expression", OF_FLOATS)
@settings(max_examples=40)
@given(values=st.lists(st.none() | st.floats(), max_size=20))
def test_floats(expression, values):
    _check(expression, values, pl.Float64())


@pytest.mark.parametrize("expression", OF_TEXTS)
@settings(max_examples=60)
@given(values=st.lists(st.none() | st.text("ab ,.\t\n\x1c\xa0é1ßΣ٣", max_size=8), max_size=20))
def test_texts(expression, values):
    _check(expression, values, pl.String())


@pytest.mark.parametrize("expression", OF_DATES)
def test_dates(expression):
    _check(expression, [date(1, 1, 1), date(2024, 2, 29), None, date(9999, 12, 31)], pl.Date())
    _check(expression, [datetime(1969, 12, 31, 23, 59), None], pl.Datetime("us"))  # noqa: DTZ001


@pytest.mark.skipif(
    not hasattr(udfs, "_get_function_variable"),
    reason="this Polars looks for tables in its caller, not in the function",
)
def test_a_table_is_looked_up_by_its_name():
    text = translate(_made("GRADES[v]"), "v", pl.Int64())
    assert text == "pl.col('v').replace_strict(GRADES, return_dtype=pl.String)"


@pytest.mark.parametrize(("expression", "dtype"), REFUSED)
def test_what_is_misread_or_means_something_else_is_refused(expression, dtype):
    with pytest.raises(Untranslatable):
        translate(_made(expression), "v", dtype)


def test_the_refusal_names_what_the_user_wrote():
    with pytest.raises(Untranslatable, match=r"'v \*\* 2'"):
        translate(_made("v ** 2"), "v", pl.Int64())


@pytest.mark.parametrize("instead", [None, object()], ids=["missing", "another"])
def test_without_the_private_module_there_is_no_suggestion(monkeypatch, instead):
    monkeypatch.setitem(sys.modules, "polars._utils.udfs", instead)
    with pytest.raises(Untranslatable, match="source was not found"):
        translate(_made("v + 1"), "v", pl.Int64())


def test_a_program_on_the_command_line_is_given_verified_native_code():
    program = """
        import polars as pl, pmap

        def grown(part):
            return part.with_columns(pl.col("v").map_elements(lambda v: v * 2 + 1, return_dtype=pl.Int64))

        def wrapping(part):
            return part.with_columns(pl.col("v").map_elements(lambda v: v * 2 > 10, return_dtype=pl.Boolean))

        frame = pl.DataFrame({"v": range(3000)})
        found = pmap.explain(frame, grown)
        print(found.replacement.splitlines()[-1])
        print(found.native(frame).equals(grown(frame)))
        print(pmap.explain(frame, wrapping).replacement)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == ["(pl.col('v') * 2) + 1", "True", "None"]
