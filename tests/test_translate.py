# ruff: noqa: FURB110, SIM212, SIM300, SIM401, PLW0108, PLR0124, PLR1714, F821, FURB136, DTZ001, RET503, PT012
# What users write is what is tested.
"""Native code for Python functions of one value: identical on every value, or not given at all."""

from __future__ import annotations

import functools
import math
import re
from datetime import date, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import pmap
from pmap._advice._patch import replaced
from pmap._advice._translate import Untranslatable, namespace_of, translate

pytestmark = pytest.mark.filterwarnings(
    "ignore::polars.exceptions.PolarsInefficientMapWarning",
    "ignore::polars.exceptions.MapWithoutReturnDtypeWarning",
)

GRADES = {1: "one", 2: "two", -3: "minus three"}
RATES = {"a": 1.5, "b": 2.5}
MIXED = {"a": 1, "b": "two"}
MANY = dict.fromkeys(range(-1000, 1000), "x")
OFFSET = 7


def stepped(value):
    """With statements."""
    if value < 0:
        return "below"
    if value < 10:
        return "low"
    if value == 10:
        return "ten"
    half = value // 2
    return "high" if half > 100 else "middle"


def falls_through(value):
    if value > 0:
        return value


def local_names(value):
    text = value.strip()
    first = text[:3]
    return first.upper() + "!" + text


def looked_up(value):
    key = value - 1
    if key in GRADES:
        return GRADES[key]
    return "none"


def looked_up_after_a_change(value):
    if value in GRADES:
        value = value + 1
        return GRADES[value]
    return "none"


def calls_itself(value):
    return 0 if value < 1 else calls_itself(value - 1)


def nothing_then_compared(value):
    kept = None if value == 777 else value
    return kept == 5


class Dtypes:
    integers = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
    floats = (pl.Float32, pl.Float64)


INTEGER_UDFS = [
    lambda v: v + 1, lambda v: v * 2 - OFFSET, lambda v: -v, lambda v: abs(v), lambda v: v // 3, lambda v: v % 5,
    lambda v: v // -3, lambda v: v % -5, lambda v: v / 4, lambda v: v > 3, lambda v: 0 <= v < 10, lambda v: v != 5,
    lambda v: v == 5 or v == -5, lambda v: not v > 3, lambda v: v in (1, 2, 3), lambda v: v not in {1, -2},
    lambda v: "even" if v % 2 == 0 else "odd", lambda v: v if v > 0 else 0, lambda v: None if v < 0 else v,
    lambda v: GRADES.get(v), lambda v: GRADES.get(v, "other"), lambda v: str(v), lambda v: f"n{v}!", lambda v: float(v),
    lambda v: bool(v), lambda v: v * 0.5, lambda v: v * 1.1 + 3, lambda v: 100 - v, stepped, falls_through,
    lambda v: 1 if v > 5 else -1, lambda v: f"{v}" if v > 3 else "small", lambda v: -(v if v > 3 else 3), lambda v: not (v > 3 if v < 10 else v < 20),
    lambda v: "odd" if v % 2 else "even", lambda v: not v, lambda v: v if v else -1, lambda v: 1 if v and v % 3 else 0,
    lambda v: max(v, 0), lambda v: min(10, max(v, -3)), lambda v: v in GRADES,
    lambda v: (1 if v > 3 else 2) + (v if v > 5 else 0), lambda v: len("x" if v > 3 else "yy" if v > 0 else f"{v}"),
    lambda v: v > 2.5, lambda v: v <= -2.5, lambda v: 2.5 > v, lambda v: -0.5 < v < 7.25, lambda v: v == 2.0, lambda v: v or 1, lambda v: v and 5,
    lambda v: v & 6, lambda v: v | -3, lambda v: v ^ 5, lambda v: GRADES[v] if v in GRADES else "?", lambda v: "?" if v not in GRADES else GRADES[v],
    looked_up, lambda v: stepped(v), lambda v: 1 if v is None else v, lambda v: 1 if v is not None and v > 3 else 0,
    lambda v: v << 2, lambda v: (v >> 3) & 255, abs, str, float, bool,
]  # fmt: skip
FLOAT_UDFS = [
    lambda v: v + 0.5, lambda v: v * 2, lambda v: v * 1.1 - 3.0, lambda v: -v, lambda v: abs(v), lambda v: v / 8, lambda v: v > 1.5,
    lambda v: v >= 0, lambda v: v < 0.1, lambda v: v > 1.5, lambda v: v == 0.5, lambda v: v != 0.5, lambda v: 0.0 <= v <= 1.0,
    lambda v: "hot" if v > 30 else "cold", lambda v: v if v > 0 else 0.0, lambda v: int(v), lambda v: math.sqrt(v),
    lambda v: math.fabs(v), lambda v: None if v < 0 else v, lambda v: not v > 0.0, lambda v: v > 0 and v < 1,
    abs, int,
]  # fmt: skip
STRING_UDFS = [
    lambda v: v.upper(), lambda v: v.lower(), lambda v: v.strip(), lambda v: v.lstrip(), lambda v: v.rstrip(),
    lambda v: v.strip("a "), lambda v: len(v), lambda v: v[:2], lambda v: v[1:], lambda v: v[1:3], lambda v: v[-2:],
    lambda v: v[:-1], lambda v: v[0:0], lambda v: v.replace("a", "bc"), lambda v: v.startswith("a"), lambda v: v.endswith("b"),
    lambda v: v.removeprefix("a"), lambda v: v.removesuffix("b"), lambda v: "a" in v, lambda v: "a" not in v,
    lambda v: v.count("a"), lambda v: v == "a", lambda v: v < "b", lambda v: v in ["a", "b"], lambda v: v + "!",
    lambda v: "<" + v + ">", lambda v: f"[{v}]", lambda v: f"{v}{v}", lambda v: v.split(",")[0], lambda v: v.split(",")[-1],
    lambda v: RATES.get(v, 0.0), lambda v: RATES.get(v), lambda v: re.sub("[0-9]+", "#", v), lambda v: re.sub("a+", "", v),
    lambda v: v.upper() if len(v) > 2 else v, lambda v: "" if v == "a" else v, lambda v: ("b" if v == "a" else v).upper(), local_names, lambda v: str(v),
    lambda v: len(v.strip()) > 3, lambda v: v.split(".")[1], lambda v: v.replace("a", ""), lambda v: "none" if not v else v,
    lambda v: v in RATES, lambda v: 1 if v or len(v) > 2 else 0, lambda v: v.replace(".", "$1"),
    len, str.upper, str.strip, lambda v: v.startswith(("a", "é", "b ")), lambda v: not v.endswith(("b", ".")),
]  # fmt: skip
DATE_UDFS = [
    lambda v: v.year,
    lambda v: v.month,
    lambda v: v.day,
    lambda v: v.weekday(),
    lambda v: v.isoweekday(),
]
REFUSED = [
    (lambda v: v**2, pl.Int64), (lambda v: round(v, 1), pl.Float64), (lambda v: v / 100, pl.Int64), (lambda v: v % 2.5, pl.Float64),
    (lambda v: v // 2, pl.Float64), (lambda v: str(v), pl.Float64), (lambda v: str(v), pl.Boolean), (lambda v: f"{v:.2f}", pl.Float64),
    (lambda v: f"{v:03d}", pl.Int64), (lambda v: f"{v!r}", pl.String), (lambda v: v.title(), pl.String),
    (lambda v: v.capitalize(), pl.String), (lambda v: v.isdigit(), pl.String), (lambda v: v.find("a"), pl.String),
    (lambda v: int(v), pl.String), (lambda v: float(v), pl.String), (lambda v: v[::-1], pl.String), (lambda v: v[0], pl.String),
    (lambda v: v.split(), pl.String), (lambda v: v.split()[0], pl.String), (lambda v: MIXED[v], pl.String),
    (lambda v: re.sub(r"\bfoo", "x", v), pl.String), (lambda v: re.sub(r"a(?=b)", "x", v), pl.String),
    (lambda v: re.sub("(a)", r"\1", v), pl.String), (lambda v: re.sub("a$", "x", v), pl.String),
    (lambda v: math.log(v), pl.Float64), (lambda v: math.sin(v), pl.Float64), (lambda v: 1 if v > 0 else "x", pl.Int64),
    (lambda v: 1 if v > 0 else 0.5, pl.Int64), (lambda v: v or "x", pl.Int64), (lambda v: v * 3, pl.String),
    (lambda v: [v], pl.Int64), (lambda v: v // 0, pl.Int64), (lambda v: v + 1, pl.UInt64),
    (lambda v: v.year, pl.Datetime("ns")), (lambda v, w=1: v + w, pl.Int64), (str.title, pl.String), (hex, pl.Int64),
    (lambda v: v << 63, pl.Int64), (lambda v: v >> -1, pl.Int64), (lambda v: 1 << v, pl.Int64), (lambda v: v.isoformat(), pl.Datetime("us")),
    (lambda v: v.startswith(("", "a")), pl.String), (str.upper, pl.Int64), (lambda v: v.startswith(("a", "b"), 1), pl.String),
    (lambda v: v.startswith(), pl.String),
    (lambda v: undefined_name + v, pl.Int64), (lambda v: sum(range(v)), pl.Int64), (lambda v: v.zfill(3), pl.String),
    (lambda v: re.sub("a?", "-", v), pl.String), (lambda v: re.sub("a++b", "-", v), pl.String), (nothing_then_compared, pl.Int64), (calls_itself, pl.Int64),
    (lambda v: f"<{GRADES.get(v)}>", pl.Int64), (lambda v: GRADES.get(v) == "one", pl.Int64), (lambda v: max(v, 0.0), pl.Float64),
    (lambda v: v == math.inf, pl.Float64), (lambda v: v and v > 3, pl.Int64), (lambda v: re.sub("[+--]", "", v), pl.String),
    (lambda v: "a" < v < v, pl.String), (lambda v: v is None, pl.Int64), (lambda v: v == 2.5, pl.Int64), (lambda v: v == v, pl.Float64),
]  # fmt: skip


@functools.cache
def _translated(udf, dtype):
    return translate(udf, "v", dtype() if isinstance(dtype, type) else dtype)


def _check(udf, values, dtype):
    """Where the Python function gives a result that Polars can hold, the expression gives the same."""
    try:
        text = _translated(udf, dtype)
    except Untranslatable:
        return False
    kept = [value for value in pl.Series(values, dtype=dtype).to_list() if _works(udf, value)]
    frame = pl.DataFrame({"v": pl.Series(kept, dtype=dtype)})
    expected = [None if value is None else udf(value) for value in kept]
    native = frame.select(eval(text, namespace_of(udf)).alias("v"))
    python = pl.DataFrame({"v": pl.Series(expected, dtype=native["v"].dtype, strict=True)})
    for one, other, value in zip(python["v"], native["v"], kept, strict=True):
        same = one == other or (one != one and other != other) or (one is None and other is None)
        assert same, f"{text} gives {other!r} for {value!r}, Python {one!r}"
    return True


def _works(udf, value):
    if value is None:
        return True
    try:
        result = udf(value)
    except (ValueError, IndexError, KeyError, OverflowError, ZeroDivisionError):
        return False
    return not isinstance(result, int) or -(2**63) <= result < 2**63


def _ids(udfs):
    return [f"{udf.__name__}-{index}" for index, udf in enumerate(udfs)]


@pytest.mark.parametrize("udf", INTEGER_UDFS, ids=_ids(INTEGER_UDFS))
@settings(max_examples=40)
@given(data=st.data())
def test_integers(udf, data):
    dtype = data.draw(st.sampled_from([d for d in Dtypes.integers if d != pl.Int64]))
    low, high = (pl.select(getattr(dtype, end)()).item() for end in ("min", "max"))
    values = data.draw(
        st.lists(st.none() | st.integers(low, high) | st.sampled_from([low, high]), max_size=20)
    )
    assert _check(udf, values, dtype)
    small = st.integers(-(2**52) // 3, 2**52 // 3)  # farther out, wrapping is found by the edges
    assert _check(udf, data.draw(st.lists(st.none() | small, max_size=20)), pl.Int64)


@pytest.mark.parametrize("udf", FLOAT_UDFS, ids=_ids(FLOAT_UDFS))
@settings(max_examples=40)
@given(
    values=st.lists(
        st.none() | st.floats(-1e15, 1e15) | st.sampled_from([math.nan, math.inf, 0.0, 0.5]),
        max_size=20,
    )
)
def test_floats(udf, values):
    assert _check(udf, values, pl.Float64)


@pytest.mark.parametrize("udf", STRING_UDFS, ids=_ids(STRING_UDFS))
@settings(max_examples=80)
@given(
    values=st.lists(
        st.none() | st.text("ab ,.\t\n\x1c\xa0é1ßΣ٣👩‍", max_size=8) | st.text(max_size=8),
        max_size=20,
    )
)
def test_strings(udf, values):
    assert _check(udf, values, pl.String)


@pytest.mark.parametrize("udf", DATE_UDFS, ids=_ids(DATE_UDFS))
@settings(max_examples=15)
@given(
    values=st.lists(st.none() | st.dates(), max_size=20),
    moments=st.lists(st.datetimes(), max_size=20),
)
def test_dates(udf, values, moments):
    assert _check(udf, values, pl.Date)
    assert _check(udf, moments, pl.Datetime("us"))


@given(values=st.lists(st.none() | st.dates(), max_size=20))
def test_dates_as_text(values):
    assert _check(lambda v: v.isoformat(), values, pl.Date)


@pytest.mark.parametrize(("udf", "dtype"), REFUSED)
def test_what_means_something_else_in_polars_is_refused(udf, dtype):
    with pytest.raises(Untranslatable):
        translate(udf, "v", dtype() if isinstance(dtype, type) else dtype)


def _explained(udf, values, **options):
    frame = pl.DataFrame({"v": values})

    def function(part):
        return part.with_columns(pl.col("v").map_elements(udf, **options))

    return frame, function, pmap.explain(frame, function)


def test_a_replacement_is_verified_and_runs():
    frame, function, found = _explained(
        lambda v: v * 2 + 1, list(range(-500, 5000)), return_dtype=pl.Int64
    )
    assert found.verdict == "native"
    assert "(pl.col('v') * 2) + 1" in found.replacement
    assert found.partition_safe == "yes"
    assert_frame_equal(found.native(frame), function(frame))
    assert any("ms with Python" in fact and "identical frame" in fact for fact in found.evidence)


def test_a_replacement_that_wraps_is_not_shown_and_the_value_is_named():
    _, _, found = _explained(lambda v: v * 2 > 10, list(range(-500, 5000)), return_dtype=pl.Boolean)
    assert found.replacement is None
    assert any("differs on v=" in fact for fact in found.evidence), found.evidence


@pytest.mark.parametrize(
    ("udf", "dtype", "has_nulls"),
    [
        (lambda v: 0.0 if v is None else v, pl.Float64, True),
        (lambda v: "none" if v is None else "low" if v < 3 else "high", pl.String, True),
        (lambda v: None if v is None else v > 3, pl.Boolean, True),
        (lambda v: v * 2, pl.Float64, False),  # it raises on nulls
    ],
)
def test_a_function_that_is_handed_nulls_is_asked_what_it_makes_of_one(udf, dtype, has_nulls):
    values = [None if has_nulls and i % 7 == 0 else float(i % 50 - 20) for i in range(5000)]
    frame, function, found = _explained(udf, values, return_dtype=dtype, skip_nulls=False)
    assert found.replacement is not None, found.evidence
    assert_frame_equal(found.native(frame), function(frame))


def test_a_builtin_function_is_shown_as_it_is_written():
    frame, function, found = _explained(str.upper, ["a b", "c"] * 3000, return_dtype=pl.String)
    assert "map_elements(str.upper)" in found.replacement
    assert found.partition_safe == "yes"
    assert_frame_equal(found.native(frame), function(frame))


def test_the_name_of_the_column_and_all_else_stay():
    frame = pl.DataFrame({"v": ["a b", "c"] * 2000, "w": range(4000)})

    def function(part):
        return part.filter(pl.col("w") > 5).with_columns(
            pl.col("v").map_elements(lambda text: f"<{text}>", return_dtype=pl.String).alias("out")
        )

    found = pmap.explain(frame, function)
    assert found.replacement is not None
    assert_frame_equal(found.native(frame), function(frame))


def test_a_series_is_mapped_natively_too():
    frame = pl.DataFrame({"v": ["a b", "c"] * 2000})

    def function(part):
        return part.with_columns(
            part["v"].map_elements(lambda text: text.upper(), return_dtype=pl.String).alias("u")
        )

    found = pmap.explain(frame, function)
    assert "\nseries.to_frame().select(pl.col('v').str.to_uppercase())" in found.replacement
    assert_frame_equal(found.native(frame), function(frame))


def test_a_series_that_is_no_column_stays():
    frame = pl.DataFrame({"v": ["a b", "c"] * 2000})

    def function(part):
        made = pl.Series("made", part["v"].to_list())
        return part.with_columns(made.map_elements(lambda text: text.upper(), pl.String))

    found = pmap.explain(frame, function)
    assert found.replacement is None
    assert any("'made' is not a column" in fact for fact in found.evidence), found.evidence


def test_a_value_of_the_partition_in_the_function_has_no_single_expression():
    def centred(part):
        middle = part["v"].max() // 2
        return part.with_columns(
            pl.col("v").map_elements(lambda value: value > middle, return_dtype=pl.Boolean)
        )

    found = pmap.explain(pl.DataFrame({"v": range(3000)}), centred)
    assert found.replacement is None
    assert any("changes with the rows" in fact for fact in found.evidence)


def test_a_column_that_was_changed_before_is_not_taken_for_what_it_was():
    def function(part):
        return part.with_columns(pl.col("v") / pl.col("w")).with_columns(
            pl.col("v").map_elements(lambda value: value > 3, return_dtype=pl.Boolean)
        )

    found = pmap.explain(pl.DataFrame({"v": range(3000), "w": [1, 2, 3] * 1000}), function)
    assert found.replacement is None


def test_the_sign_of_zero_counts():
    found = _explained(lambda v: 0 - v, [0.5, 1.5, 2.5] * 1000, return_dtype=pl.Float64)[2]
    assert found.replacement is None
    assert any("sign of zero" in fact for fact in found.evidence)


def test_native_code_is_for_the_dtype_that_it_was_verified_on():
    found = _explained(lambda v: v * 2, list(range(3000)), return_dtype=pl.Int64)[2]
    with pytest.raises(pmap.errors.ArgumentError, match="verified for 'v' as Int64"):
        found.native(pl.DataFrame({"v": [1.5]}))


def test_time_zones_at_the_ends_of_time():
    zoned = pl.Series([datetime(2020, 1, 1, 5)] * 3000).dt.replace_time_zone("Asia/Kolkata")
    frame = pl.DataFrame({"v": zoned})

    def function(part):
        return part.with_columns(pl.col("v").map_elements(lambda v: v.hour, return_dtype=pl.Int64))

    assert "dt.hour()" in pmap.explain(frame, function).replacement


def test_state_is_never_replaced():
    calls = []

    def counting(value):
        calls.append(value)
        return len(calls)

    assert _explained(counting, list(range(3000)), return_dtype=pl.Int64)[2].replacement is None


def test_one_line_that_makes_different_functions_has_no_single_replacement():
    frame = pl.DataFrame({"v": range(3000)})

    def function(part):
        columns = [
            pl.col("v")
            .map_elements(lambda value, k=k: value + k, return_dtype=pl.Int64)
            .alias(f"v{k}")
            for k in range(2)
        ]
        return part.with_columns(columns)

    def closures(part):
        def adding(k):
            return lambda value: value + k

        columns = [
            pl.col("v").map_elements(adding(k), return_dtype=pl.Int64).alias(f"v{k}")
            for k in range(2)
        ]
        return part.with_columns(columns)

    assert pmap.explain(frame, function).replacement is None
    assert pmap.explain(frame, closures).replacement is None


def test_a_name_of_the_users_own_hides_a_builtin():
    len = lambda text: 3  # noqa: A001, E731
    assert "pl.lit(3," in translate(lambda v: len(v), "v", pl.String())


def test_source_that_changed_is_not_trusted(tmp_path):
    import linecache

    path = tmp_path / "changed.py"
    path.write_text("def function(v):\n    return v + 1\n")
    namespace: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    path.write_text("def function(v):\n    return v + 2222222\n")
    linecache.checkcache(str(path))
    assert translate(namespace["function"], "v", pl.Int64()) == "pl.col('v') + 1"  # as it runs


def test_lambdas_of_one_line_are_told_apart():
    pair = (lambda v: v + 1, lambda v: v + 2)
    assert translate(pair[0], "v", pl.Int64()) == "pl.col('v') + 1"
    assert translate(pair[1], "v", pl.Int64()) == "pl.col('v') + 2"


def test_the_patch_ends_with_its_block():
    before = pl.Expr.map_elements
    with pytest.raises(KeyboardInterrupt), replaced({}):
        assert pl.Expr.map_elements is not before
        raise KeyboardInterrupt
    assert pl.Expr.map_elements is before


def test_what_dates_are_read_as():
    assert _check(
        lambda v: v.year * 100 + v.month, [date(2020, 2, 29), date(1, 1, 1), None], pl.Date
    )
    assert _check(
        lambda v: v.hour if v.minute > 30 else 0,
        [datetime(2020, 2, 29, 5, 45), None],
        pl.Datetime("ms"),
    )


def test_a_key_that_is_no_longer_the_one_that_was_asked_for_is_looked_up_strictly():
    text = translate(looked_up_after_a_change, "v", pl.Int64())
    frame = pl.DataFrame({"v": [2, 5]})
    with pytest.raises(pl.exceptions.InvalidOperationError):
        frame.select(eval(text, namespace_of(looked_up_after_a_change)))


def test_a_table_of_a_function_that_is_called_is_written_out_where_its_name_means_something_else():
    grades = {5: "five"}
    text = translate(lambda v: grades.get(v) if v == 5 else looked_up(v), "v", pl.Int64())
    assert "replace_strict(grades," in text
    named = translate(lambda v: looked_up(v) if v in grades else "", "v", pl.Int64())
    assert "replace_strict(GRADES," in named
    namespace = {"GRADES": {7: "seven"}}
    exec("def outer(look): return lambda v: look(v)", namespace)
    with pytest.raises(Untranslatable):
        translate(namespace["outer"](looked_up), "v", pl.Int64())  # there is no source of it
