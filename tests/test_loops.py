# ruff: noqa: PERF401, C400, C417, SIM108, SIM401, PLW0108, F841, B905
# What users write is what is tested.
"""Native code for loops over a column: the whole function gives the identical frame, or it is not shown."""

from __future__ import annotations

import random
from datetime import date, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import pmap

GRADES = {1: "one", 2: "two", 30: "thirty"}
RATES = {"a": 1.5, "bb": 2.5}
INTEGERS = (pl.Int8, pl.Int32, pl.Int64, pl.UInt8, pl.UInt32)


def named(value):
    if value is None:
        return "none"
    if value > 2.5:
        return "high"
    return "low"


def twice(value):
    return value * 2 + 1


def handed_on(value):
    kept = 0 if value is None else value
    return named(kept)


def by_statements(part):
    out = []
    for value in part["v"]:
        out.append("big" if value > 10 else "small")
    return part.with_columns(pl.Series("y", out))


def by_branches(part):
    out = []
    lengths = []
    for value in part["v"].to_list():
        if value is None:
            out.append("?")
            lengths.append(0)
            continue
        if value.startswith("a"):
            text = "A"
        else:
            text = value
        out.append(text)
        lengths.append(len(value))
    return part.with_columns(pl.Series("y", out), pl.Series("n", lengths))


def by_a_name(part):
    column = part["v"]
    values = [value * 3 for value in column]
    return pl.DataFrame({"y": values, "v": column})


def as_a_list(part):
    values = [value * 3 for value in part["v"]]
    return part.with_columns(pl.Series("y", values), pl.lit(len(values)).alias("n"))


def with_helpers(part):
    by = 3

    def scaled(value):
        return value * by

    return part.with_columns(y=pl.Series([scaled(value) for value in part["v"]]))


def with_a_table(part):
    table = {1: "one", 2: "two"}
    return part.select(y=pl.Series([table.get(value, "many") for value in part["v"]]))


OF_INTEGERS = [
    lambda part: part.with_columns(pl.Series("y", [twice(v) for v in part["v"]])),
    lambda part: part.with_columns(pl.Series("y", [v % 7 for v in part["v"].to_list()])),
    lambda part: pl.DataFrame({"y": list(map(named, part["v"]))}),
    lambda part: pl.DataFrame({"y": list(map(lambda v: handed_on(v), part.get_column("v")))}),
    lambda part: pl.DataFrame({"y": [r["v"] > 2.5 for r in part.iter_rows(named=True)]}),
    lambda part: part.select(pl.Series("y", [r["v"] * r["v"] for r in part.to_dicts()])),
    lambda part: part.select(y=pl.Series(list(None if v is None else -v for v in part["v"]))),
    lambda part: part.select(y=pl.Series([GRADES[v] if v in GRADES else "?" for v in part["v"]])),
    lambda part: part.select(y=pl.Series(["?" if v not in GRADES else GRADES[v] for v in part["v"]])),
    lambda part: part.select(y=pl.Series([str(v) for v in part["v"]], dtype=pl.String)),
    lambda part: part.select(y=pl.Series([v or -1 for v in part["v"]])),
    lambda part: part.select(y=pl.Series([v & 6 | 1 for v in part["v"]])),
    lambda part: part.select(y=pl.Series([v is not None and v <= -2.5 for v in part["v"]])),
    by_statements, by_a_name, as_a_list, with_helpers, with_a_table,
]  # fmt: skip
OF_FLOATS = [
    lambda part: part.with_columns(pl.Series("y", [v * 1.1 - 3 for v in part["v"]])),
    lambda part: part.with_columns(pl.Series("y", [named(v) for v in part["v"]])),
    lambda part: part.with_columns(pl.Series("y", [v if v > 0 else 0.0 for v in part["v"]])),
    lambda part: part.with_columns(pl.Series("y", [0.0 if v is None else abs(v) for v in part["v"]])),
    by_statements,
]  # fmt: skip
OF_TEXTS = [
    lambda part: part.with_columns(pl.Series("y", list(map(str.upper, part["v"])))),
    lambda part: part.with_columns(pl.Series("y", [len(r["v"].strip()) for r in part.rows(named=True)])),
    lambda part: part.with_columns(pl.Series("y", [(v or "none").lower() for v in part["v"]])),
    lambda part: part.with_columns(pl.Series("y", [RATES[v] if v in RATES else 0.0 for v in part["v"]])),
    lambda part: part.with_columns(pl.Series("y", [f"<{v}>" for v in part["v"]])),
    by_branches,
]  # fmt: skip
OF_DATES = [
    lambda part: part.with_columns(pl.Series("y", [v.year * 100 + v.month for v in part["v"]])),
    lambda part: part.with_columns(pl.Series("y", [None if v is None else v.weekday() for v in part["v"]])),
]  # fmt: skip
SAMPLES = {
    "integers": [1, 2, 3, 30, 5, 0] * 500,
    "floats": [0.5, 2.5, 40.0, 3.0, 0.0, 7.5] * 500,
    "texts": ["a", "bb", " c ", "", "apple", "x,y"] * 500,
    "dates": [date(2020, 2, 27) + timedelta(days=day) for day in range(3000)],
}


def _wild(dtype, chance):
    """A few values from anywhere in a dtype, nulls among them."""
    count = chance.choice([0, 1, 1, 1, 3])
    return [None if chance.random() < 0.15 else _one(dtype, chance) for _ in range(count)]


def _one(dtype, chance):
    if dtype.is_integer():
        low, high = (pl.select(getattr(dtype, end)()).item() for end in ("min", "max"))
        near = [
            0,
            1,
            2,
            3,
            10,
            -3,
            low,
            high,
            low + 1,
            high - 1,
            high // 2,
            high // 2 + 1,
            2**53 + 1,
        ]
        kept = [value for value in near if low <= value <= high]
        return chance.choice(kept) if chance.random() < 0.6 else chance.randint(low, high)
    if dtype.is_float():
        edges = [0.0, -0.0, 2.5, 10.0, float("nan"), float("inf"), float("-inf"), 1e308, 5e-324]
        return chance.choice(edges) if chance.random() < 0.7 else chance.uniform(-50, 50)
    if dtype == pl.Date:
        return date.fromordinal(chance.randint(1, date.max.toordinal()))
    letters = ["a", "b", " ", "é", "ß", "Σ", "e\u0301", "👩‍👩‍👧", "\x1c", "\xa0", "\x00", ","]
    return "".join(chance.choices(letters, k=chance.randint(0, 5)))


def _found(function, values, dtype):
    return pmap.explain(pl.DataFrame({"v": pl.Series(values, dtype=dtype)}), function, budget=0.4)


def _replaced(function, values, dtype):
    """Within some tries: a busy machine may hide that the code is quicker, which is not always by much."""
    for _ in range(20):
        found = _found(function, values, dtype)
        if found.replacement is not None:
            return found
    pytest.fail(str(found.evidence))


def _cases():
    for number, dtype in enumerate(INTEGERS):
        chosen = OF_INTEGERS if dtype == pl.Int64 else OF_INTEGERS[number :: len(INTEGERS)]
        yield from ((function, "integers", dtype) for function in chosen)
    yield from ((function, "floats", pl.Float64) for function in OF_FLOATS)
    yield (OF_FLOATS[0], "floats", pl.Float32)
    yield from ((function, "texts", pl.String) for function in OF_TEXTS)
    yield from ((function, "dates", pl.Date) for function in OF_DATES)


def _name(value):
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("function", "sample", "dtype"), list(_cases()), ids=_name)
def test_a_loop_is_replaced_and_gives_the_same_on_all_that_its_dtype_can_hold(
    function, sample, dtype
):
    found = _replaced(function, SAMPLES[sample], dtype)
    assert found.verdict == "native"
    assert "the Python loop" in str(found)
    chance = random.Random(1)
    for _ in range(60):
        frame = pl.DataFrame({"v": pl.Series(_wild(dtype, chance), dtype=dtype)})
        try:
            expected = function(frame)
        except (TypeError, AttributeError, OverflowError):
            continue  # nulls, or numbers that no column can hold, are not for this function
        assert_frame_equal(found.native(frame), expected, check_exact=True)


def test_the_loop_is_shown_with_its_line_and_both_times():
    found = _found(by_statements, SAMPLES["integers"], pl.Int64)
    line = by_statements.__code__.co_firstlineno + 2
    assert (
        f"# instead of out, filled by: for value in part['v']: ... (line {line})"
        in found.replacement
    )
    assert ".when(pl.col('v') > 10).then(pl.lit('big'))" in found.replacement
    assert any("ms with Python" in fact and "identical frame" in fact for fact in found.evidence)


def test_where_a_list_is_wanted_code_that_gives_one_is_written():
    found = _replaced(as_a_list, SAMPLES["integers"], pl.Int64)
    code = found.replacement.splitlines()[-1]
    assert code == "part['v'].to_frame().select(pl.col('v') * 3).to_series().to_list()"
    assert eval(code, {"pl": pl, "part": pl.DataFrame({"v": [1, None]})}) == [3, None]


def test_a_column_of_another_frame_is_named_as_such():
    other = pl.DataFrame({"v": SAMPLES["integers"]})

    def function(part):
        return part.head(0).vstack(pl.DataFrame({"v": [v * 3 for v in other["v"]]}))

    found = pmap.explain(other, function)
    assert found.replacement is None or "other['v'].to_frame().select(" in found.replacement


def test_numbers_beyond_64_bits_are_left_to_python_and_that_is_said():
    found = _found(OF_INTEGERS[0], SAMPLES["integers"], pl.Int64)
    assert any("more than 64 bits wrap around" in fact for fact in found.evidence)
    large = pl.DataFrame({"v": [2**62, 2**62 + 1]})
    assert found.native(large)["y"].to_list() == [2**63 + 1, 2**63 + 3]


def running_sum(part):
    total, out = 0, []
    for value in part["v"]:
        total += value
        out.append(total)
    return part.with_columns(pl.Series("y", out))


def one_before(part):
    out, before = [], 0
    for value in part["v"]:
        out.append(before)
        before = value
    return part.with_columns(pl.Series("y", out))


def kept_from_before(part):
    out = []
    for value in part["v"]:
        if value > 2:
            GRADE = value  # noqa: N806
        out.append(GRADE)
    return part.with_columns(pl.Series("y", out))


GRADE = 3


def filtered(part):
    out = []
    for value in part["v"]:
        if value > 2:
            out.append(value)
    return pl.DataFrame({"y": out})


def last_one_used(part):
    out = []
    for value in part["v"]:
        out.append(value + 1)
    return part.with_columns(pl.Series("y", out), pl.lit(value).alias("last"))


def compared_with_the_largest(part):
    largest = part["v"].max() // 31
    return part.with_columns(pl.Series("y", [value > largest for value in part["v"]]))


def looked_up_in_what_was_filled(part):
    table = {1: "one"}
    for value in part["v"].unique():
        table[value] = "x" * value
    return part.with_columns(pl.Series("y", [table[value] for value in part["v"]]))


def of_another_column(part):
    return part.with_columns(pl.Series("y", [value + 1 for value in part["v"].fill_null(0)]))


def counted(part):
    seen = []
    for value in part["v"]:
        seen.append(value in seen)
    return part.with_columns(pl.Series("y", seen))


def in_rounds(part):
    out = []
    for _ in range(2):
        for value in part["v"]:
            out.append(value + 1)
    return pl.DataFrame({"y": out[: part.height]})


REFUSED = [
    running_sum, one_before, filtered, last_one_used, compared_with_the_largest, looked_up_in_what_was_filled, of_another_column, counted,
    lambda part: part.with_columns(pl.Series("y", [v + 1 for v in part["v"] if v > 2] + [0] * 1000)[: part.height]),
    lambda part: part.with_columns(pl.Series("y", [hash(v) for v in part["v"]])),
    lambda part: part.with_columns(pl.Series("y", [(kept := v) + 1 for v in part["v"]])),
    lambda part: part.with_columns(pl.Series("y", [v + w for v, w in zip(part["v"], part["v"].reverse())])),
    lambda part: part.with_columns(pl.Series("y", [v + i for i, v in enumerate(part["v"])])),
]  # fmt: skip


@pytest.mark.parametrize("function", REFUSED, ids=_name)
def test_a_loop_that_no_expression_gives_is_left(function):
    values = sorted(
        SAMPLES["integers"]
    )  # a running sum, or the value before, is not easily the same
    found = _found(function, values, pl.Int64)
    assert found.replacement is None


def test_a_name_that_a_loop_keeps_from_value_to_value_is_no_name_of_the_module():
    assert _found(kept_from_before, [3, 1, 3, 2] * 500, pl.Int64).replacement is None


def test_a_list_that_is_filled_in_rounds_holds_them_all():
    found = _found(in_rounds, SAMPLES["integers"], pl.Int64)
    frame = pl.DataFrame({"v": [1, 2, 3]})
    if found.replacement is not None:
        assert_frame_equal(found.native(frame), in_rounds(frame))


def test_the_value_on_which_a_translation_differs_is_named():
    found = _found(
        lambda part: part.with_columns(pl.Series("y", [v * 2 > 10 for v in part["v"]])),
        SAMPLES["integers"],
        pl.Int64,
    )
    assert found.replacement is None
    assert any("differs on v=" in fact for fact in found.evidence), found.evidence


def test_what_was_computed_in_the_function_is_said_to_be_in_the_way():
    found = _found(compared_with_the_largest, SAMPLES["integers"], pl.Int64)
    assert any("'largest' is computed in the function" in fact for fact in found.evidence)


def test_the_function_stays_as_it_was():
    code, names = by_statements.__code__, {*by_statements.__globals__}
    _found(by_statements, SAMPLES["integers"], pl.Int64)
    assert by_statements.__code__ is code
    assert {*by_statements.__globals__} == names


def test_a_closure_and_defaults_stay():
    def made(by):
        def function(part, more=2, *, most=100):
            return part.with_columns(pl.Series("y", [v * by + more - most for v in part["v"]]))

        return function

    function = made(5)
    frame = pl.DataFrame({"v": SAMPLES["integers"]})
    found = pmap.explain(frame, function)
    assert "((pl.col('v') * 5) + 2) - 100" in found.replacement
    assert_frame_equal(found.native(frame), function(frame))
