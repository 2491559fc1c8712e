"""`pmap.explain`: verdicts, partition safety, and that it leaves no trace."""

from __future__ import annotations

import cProfile
import hashlib
import itertools
import json
import math
import random
import re
import sys
import threading
import time
import warnings

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import pmap
from pmap import errors

ROWS = 6000
TABLE = pl.DataFrame({"g": ["a", "b", "c", "d"], "t": [1, 2, 3, 4]})
LABELS = {"a": 1, "b": 2}
SEEN: list[int] = []
COUNT = 0
TICKET = itertools.count()

pytestmark = pytest.mark.filterwarnings(
    "ignore::polars.exceptions.PolarsInefficientMapWarning",
    "ignore::polars.exceptions.MapWithoutReturnDtypeWarning",
)


@pytest.fixture(scope="module")
def df() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "x": rng.integers(-500, 500, ROWS),
            "y": rng.normal(size=ROWS),
            "g": rng.choice(list("abcd"), ROWS),
            "s": [f"{i % 97} Wort-{i % 13}" for i in range(ROWS)],
            "id": np.arange(ROWS),
            "day": [f"2021-{i % 12 + 1:02d}-{i % 28 + 1:02d}" for i in range(ROWS)],
            "list": [[i, i + 1] for i in range(ROWS)],
            "letter": [*"ab" * 1500, *"cd" * 1500],
        }
    ).with_columns(pl.when(pl.col("x") % 50 != 0).then(pl.col("y")).alias("holes"))


# What is proven to go row by row


def arithmetic(d):
    return d.with_columns(z=pl.col("x") * 2 + pl.col("y"))


def filtered(d):
    return d.filter(pl.col("x") > 3, pl.col("g").is_in(["a", "b"]))


def chain(d):
    return d.lazy().select("x", up=pl.col("s").str.to_uppercase()).drop_nulls().collect()


def lazy(d):
    return d.lazy().with_columns(pl.col("y").abs().round(2))


def conditional(d):
    return d.with_columns(z=pl.when(pl.col("x") > 0).then(pl.lit("up")).otherwise(pl.col("s")))


def left_join(d):
    return d.join(TABLE, on="g", how="left")


def sorted_table_join(d):
    return d.join(TABLE.unique().sort("g").head(3), on="g", how="left")


def semi_join(d):
    return d.join(TABLE.head(2), on="g", how="semi")


def helper_calls(d):
    return _helper(d).pipe(_helper)


def _helper(d):
    return d.with_columns(pl.col("x").clip(0, 100))


def per_list(d):
    return d.with_columns(z=pl.col("list").list.eval(pl.element().rank()).list.sum())


def exploded(d):
    return d.explode("list").rename({"list": "item"})


def series_mask(d):
    return d.filter(d["x"] > 3)


def parsed_with_format(d):
    return d.with_columns(pl.col("day").str.to_date("%Y-%m-%d"))


def selectors(d):
    return d.select(pl.selectors.numeric() + 1)


def many_expressions(d):
    expressions = []
    for name in ("x", "y"):
        expression = pl.col(name).alias(f"{name}_copy")
        expressions.append(expression)
    return d.with_columns(expressions)


def from_a_generator(d):
    return d.with_columns(pl.col(name) * 2 for name in ("x", "y"))


def from_a_dictionary(d):
    return d.with_columns({name: pl.col(name) * 2 for name in ("x", "y")}.values())


def mapped_dictionary(d):
    return d.with_columns(pl.col("g").replace_strict(LABELS, default=0))


def pure_udf(d):
    return d.with_columns(z=pl.col("x").map_elements(_collatz, return_dtype=pl.Int64))


def _collatz(value):
    steps = 0
    while value > 1:
        value = value // 2 if value % 2 == 0 else 3 * value + 1
        steps += 1
    return steps


SAFE = [
    arithmetic, filtered, chain, lazy, conditional, left_join, sorted_table_join, semi_join, helper_calls, per_list,
    exploded, series_mask, parsed_with_format, selectors, many_expressions, mapped_dictionary, pure_udf,
    from_a_generator, from_a_dictionary,
]  # fmt: skip


# What parts give another result


def centred(d):
    return d.with_columns(z=pl.col("y") - pl.col("y").mean())


def share_of_sum(d):
    return d.with_columns(z=pl.col("y") / pl.col("y").sum())


def over_group(d):
    return d.with_columns(z=pl.col("x").sum().over("g"))


def grouped(d):
    return d.group_by("g").agg(pl.col("x").sum()).sort("g")


def shifted(d):
    return d.with_columns(z=pl.col("x").shift(1))


def differences(d):
    return d.with_columns(z=pl.col("x").diff())


def rolled(d):
    return d.with_columns(z=pl.col("y").rolling_mean(3))


def first_rows(d):
    return d.head(5)


def first_many_rows(d):
    return d.head(4000)


def distinct(d):
    return d.select("g").unique(maintain_order=True)


def in_order(d):
    return d.sort("x", "id")


def ranked(d):
    return d.with_columns(z=pl.col("y").rank())


def numbered(d):
    return d.with_row_index()


def running(d):
    return d.with_columns(z=pl.col("x").cum_sum() + 1)


def filled_with_mean(d):
    return d.with_columns(pl.col("holes").fill_null(pl.col("holes").mean()))


def filled_forward(d):
    return d.with_columns(pl.col("holes").forward_fill())


def one_row(d):
    return d.select(pl.col("x").sum())


def constant_row(d):
    return d.select(pl.lit(1))


def numpy_running(d):
    return d.with_columns(z=np.cumsum(d["x"].to_numpy()))


def numpy_zscore(d):
    values = d["y"].to_numpy()
    return d.with_columns(z=(values - values.mean()) / values.std())


def numpy_argsort(d):
    return d.with_columns(z=np.argsort(d["y"].to_numpy(), kind="stable"))


def python_running(d):
    total, out = 0, []
    for value in d["x"]:
        total += value
        out.append(total)
    return d.with_columns(z=pl.Series(out))


def pandas_rank(d):
    return pl.from_pandas(d.select("id", "x").to_pandas().assign(z=lambda p: p["x"].rank()))


def depends_on_height(d):
    return d.with_columns(n=pl.lit(d.height))


def by_chunks_of_seven(d):
    return d.with_columns(z=pl.int_range(pl.len()) % 7)


def reversed_rows(d):
    return d.reverse()


def self_join(d):
    return d.join(d.group_by("g").agg(n=pl.len()), on="g", how="left")


def duplicates(d):
    return d.filter(pl.col("s").is_duplicated())


def long_to_wide(d):
    return d.select("id", "x", "y").unpivot(index="id")


def first_of_the_part(d):
    return d.with_columns(z=pl.lit(d["id"].min() // 2000))


def one_column_a_value(d):
    return d.select("g").to_dummies() if d.height > 10**6 else d.select("letter").to_dummies()


def empties_above_a_height(d):
    return d.clear() if d.height > 500 else d


def smoothed(d):
    return d.with_columns(z=pl.col("y").ewm_mean(com=1))


UNSAFE = [
    centred, share_of_sum, over_group, grouped, shifted, differences, rolled, first_rows, first_many_rows, distinct,
    in_order, ranked, numbered, running, filled_with_mean, filled_forward, one_row, constant_row, numpy_running,
    numpy_zscore, numpy_argsort, python_running, pandas_rank, depends_on_height, by_chunks_of_seven, reversed_rows,
    self_join, duplicates, long_to_wide, smoothed, first_of_the_part, one_column_a_value, empties_above_a_height,
]  # fmt: skip


# What can not be known: never "yes", and no alarm either


def numpy_elementwise(d):
    return d.with_columns(z=np.log(np.abs(d["y"].to_numpy()) + 1))


def regex_loop(d):
    return d.with_columns(z=pl.Series([re.sub(r"\W", "_", s) for s in d["s"]]))


def json_rows(d):
    return pl.DataFrame(
        [{"j": json.dumps(row, default=str)} for row in d.select("x", "s").to_dicts()]
    )


def pandas_apply(d):
    return pl.from_pandas(
        d.select("x").to_pandas().assign(z=lambda p: p["x"].apply(lambda v: v + 1))
    )


def dates_without_format(d):
    return d.with_columns(pl.col("day").str.to_date())


def catches_errors(d):
    try:
        return d.with_columns(pl.col("g").cast(pl.Int64))
    except pl.exceptions.PolarsError:
        return d.with_columns(pl.col("g").cast(pl.Int64, strict=False))


def inner_join(d):
    return d.join(TABLE, on="g")


def udf_with_state(d):
    def first_time(value):
        SEEN.append(value)
        return value

    return d.with_columns(pl.col("x").map_elements(first_time, return_dtype=pl.Int64))


def udf_without_dtype(d):
    return d.with_columns(pl.col("x").map_elements(lambda v: v if v > 10**6 else 0.5))


def threshold_on_height(d):
    return d.with_columns(z=pl.lit("big" if d.height > 10**6 else "small"))


def head_beyond_the_frame(d):
    return d.head(10**6)


def over_unique_key(d):
    return d.with_columns(z=pl.col("x").max().over("id"))


def random_numbers(d):
    return d.with_columns(z=np.random.random(d.height))  # noqa: NPY002  the global state is the test's matter


def polars_shuffle(d):
    return d.sample(fraction=1.0, shuffle=True)


def counts_calls(d):
    global COUNT  # noqa: PLW0603
    COUNT += 1
    return d.with_columns(z=pl.lit(1 if COUNT < 10**6 else 2))


def keeps_an_iterator(d):
    return d.with_columns(z=pl.lit(1 if next(TICKET) < 10**6 else 2))


def by_partition(d):
    return d.with_columns(z=pmap.current_partition().index)


def noisy_by_partition(d):
    return d.with_columns(z=pmap.current_partition().rng.random(d.height))


def batches(d):
    return pl.concat([part.with_columns(z=pl.col("x") + 1) for part in d.iter_slices(100)])


def python_batches_udf(d):
    return d.with_columns(pl.col("x").map_batches(lambda s: s + 1, return_dtype=pl.Int64))


def a_number(d):
    return d["x"].sum()


def nothing(d):
    return None


def raises_on_small(d):
    if d.height < 10**6:
        raise ValueError("too few rows <b>&</b>")
    return d


def panics(d):
    raise pl.exceptions.PanicException("made up")


def accumulates_in_a_default(d, seen=[]):  # noqa: B006  the very matter
    seen += [1]
    return d.with_columns(z=pl.lit(1 if len(seen) < 10**6 else 2))


def looks_for_values_of_a_column(d):
    return d.filter(pl.col("x").is_in(pl.col("id")) | True)


def numbers_of_categories(d):
    return d.with_columns(z=pl.col("g").cast(pl.Categorical).to_physical())


def by_sorted_flag(d):
    return d.with_columns(z=pl.lit(d["id"].flags["SORTED_ASC"] and False))


def sql_on_what_was_made(d):
    made = d.with_columns(q=pl.col("x") + 1)  # noqa: F841  Polars finds it by its name
    return pl.sql("select * from made limit 10000000", eager=True)


def length_in_a_generator(d):
    return d.with_columns(pl.col(name) * (pl.len() > 0) for name in ("x", "id"))


def length_in_a_map(d):
    return d.with_columns(map(lambda name: pl.col(name) * (pl.len() > 0), ("x", "id")))  # noqa: C417


def length_in_a_dictionary(d):
    return d.with_columns({name: pl.col(name) * (pl.len() > 0) for name in ("x", "id")}.values())


def expressions_of_an_iterator(d):
    return d.with_columns(zip(*[[pl.col("x") * (pl.len() > 0)]], strict=True).__next__())


def table_of_its_own(d):
    return TABLE.clear() if d.columns else d


def checks_keys(d):
    return d.join(pl.DataFrame({"id": [1, 2]}), on="id", how="left", validate="1:1")


def nearest_price(d):
    prices = pl.DataFrame({"id": range(0, ROWS, 7), "g": "a", "p": range(0, ROWS, 7)})
    return d.join_asof(prices, on="id", by="g")


def stamped(d):
    return d.with_columns(at=pl.lit(int(time.perf_counter() * 500)))


def refuses_duplicates(d):
    if d["id"].is_duplicated().any():
        raise ValueError("ids come twice")
    return d.with_columns(pl.col("x") * 2)


def needs_sorted_rows(d):
    if not d["id"].is_sorted():
        raise ValueError("sort first")
    return d.with_columns(pl.col("x") * 2)


def two_columns_from_numpy(d):
    values = d.select("y", "id").to_numpy()
    return pl.DataFrame(values - values.max(axis=1, keepdims=True), schema=["a", "b"])


def prints_head(d, out=SEEN):
    d.head()
    return d.with_columns(pl.col("x") + 1)


OPEN = [
    numpy_elementwise, regex_loop, json_rows, pandas_apply, dates_without_format, catches_errors, inner_join,
    udf_with_state, udf_without_dtype, threshold_on_height, head_beyond_the_frame, over_unique_key, random_numbers,
    polars_shuffle, counts_calls, keeps_an_iterator, by_partition, noisy_by_partition, batches, python_batches_udf,
    a_number, nothing, raises_on_small, panics, prints_head, accumulates_in_a_default, looks_for_values_of_a_column,
    numbers_of_categories, by_sorted_flag, sql_on_what_was_made, table_of_its_own, length_in_a_generator, length_in_a_map, length_in_a_dictionary,
    expressions_of_an_iterator, checks_keys, nearest_price, stamped,
    refuses_duplicates, needs_sorted_rows, two_columns_from_numpy,
]  # fmt: skip


def _name(function):
    return function.__name__


@pytest.mark.parametrize("function", SAFE, ids=_name)
def test_what_is_proven_is_safe(df, function):
    found = pmap.explain(df, function)
    if (
        function is chain and int(pl.__version__.partition(".")[0]) < 2
    ):  # it collects in a way unknown
        assert found.partition_safe != "no", str(found)
        return
    assert found.partition_safe == "yes", str(found)


@pytest.mark.parametrize("function", UNSAFE, ids=_name)
def test_what_looks_at_other_rows_is_not_safe(df, function):
    found = pmap.explain(df, function)
    assert found.partition_safe == "no", str(found)
    assert "Instead:" in found.safety
    assert found.verdict in {"native", "serial"}


@pytest.mark.parametrize("function", OPEN, ids=_name)
def test_what_is_not_known_is_said_to_be_so(df, function):
    found = pmap.explain(df, function)
    assert found.partition_safe == "unknown", str(found)
    assert found.replacement is None


def test_keys_that_are_unique_in_a_sample_are_found_in_the_frame():
    frame = pl.DataFrame({"k": [i % 25_000 for i in range(50_000)], "x": range(50_000)})
    found = pmap.explain(frame, lambda d: d.with_columns(z=pl.col("x").sum().over("k")))
    assert found.partition_safe == "no"
    assert "partition_by('k')" in found.safety


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (centred, "mean in"),
        (over_group, "partition_by('g')"),
        (grouped, "group_by('g')"),
        (in_order, "sort()"),
        (numbered, "with_row_index()"),
        (self_join, "group_by('g')"),
        (running, "cum_sum in"),
    ],
)
def test_the_call_to_blame_is_named(df, function, named):
    assert named in pmap.explain(df, function).safety


@pytest.mark.parametrize("function", [arithmetic, filtered, chain, lazy, left_join])
def test_native_functions_are_to_be_called_directly(df, function):
    found = pmap.explain(df, function)
    assert found.verdict == "native"
    assert f"call {function.__name__}(df) directly" in found.summary


def test_what_sleeps_goes_to_threads(df):
    def asks_a_server(d):
        time.sleep(0.001 * d.height / 20)
        return d

    found = pmap.explain(df, asks_a_server, budget=2)
    assert found.verdict == "threads", str(found)
    assert "wait" in found.summary


@pytest.mark.skipif(pmap.cpu_count() < 2, reason="one CPU: no process would be faster")
def test_what_computes_in_python_goes_to_processes():
    frame = pl.DataFrame({"x": range(2_000_000)})

    def slow(d):
        return d.with_columns(
            z=pl.Series([math.sin(v) * math.cos(v) ** 3 for v in d["x"] for _ in range(9)][::9])
        )

    found = pmap.explain(frame, slow, budget=2)
    assert found.verdict == "processes", str(found)
    assert found.partition_safe == "unknown"
    costs = dict(found.costs.iter_rows())
    assert costs["processes"] < costs["direct"]


def test_a_short_function_stays_where_it_is(df):
    found = pmap.explain(
        df, lambda d: d.with_columns(z=pl.Series([v.bit_length() for v in d["x"]]))
    )
    assert found.verdict == "serial"


def test_an_exception_is_a_finding(df):
    found = pmap.explain(df, raises_on_small)
    assert "ValueError" in found.summary
    assert "too few rows" in found.summary
    assert found.verdict == "serial"
    assert found.confidence == "low"


def test_a_class_is_instantiated_once(df):
    made = []

    class Model:
        def __init__(self):
            made.append(1)

        def __call__(self, d):
            return d.with_columns(pl.col("x") * 2)

    assert pmap.explain(df, Model).partition_safe == "yes"
    assert made == [1]


def test_what_the_function_changes_in_place_is_its_own(df):
    def spoils(d):
        d.drop_in_place("x")
        return d

    before = df.clone()
    pmap.explain(df, spoils)
    assert_frame_equal(df, before)


# No trace


def test_it_says_first_that_it_calls(df, capsys):
    def speaks(d):
        print("called", file=sys.stderr)
        return d

    pmap.explain(df, speaks)
    lines = capsys.readouterr().err.splitlines()
    assert re.match(
        r"pmap\.explain calls speaks on samples of the frame, about \d+ times", lines[0]
    )
    assert set(lines[1:]) == {"called"}


def _nothing(*_):
    """A profiler."""


@pytest.mark.parametrize("ending", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_a_profiler_that_is_there_is_put_back(df, ending):
    def ends(d):
        if ending is not None:
            raise ending
        return d

    sys.setprofile(_nothing)
    try:
        if ending is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                pmap.explain(df, ends)
        else:
            pmap.explain(df, ends)
        assert sys.getprofile() is _nothing
    finally:
        sys.setprofile(None)


def test_a_program_that_is_profiled_is_still_so(df):
    with cProfile.Profile() as profile:
        assert pmap.explain(df, arithmetic).partition_safe == "yes"
        _collatz(7)
        assert pmap.explain(df, arithmetic).partition_safe == "yes"
    assert "_collatz" in {
        entry.code.co_name for entry in profile.getstats() if entry.code.__class__ is not str
    }
    assert sys.getprofile() is None


@pytest.mark.parametrize("calls", range(1, 40, 3))
def test_ctrl_c_at_any_call_undoes_the_patch(df, calls):
    before = (pl.Expr.map_elements, pl.Series.map_elements)
    left = [calls]

    def interrupted(d):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return d.with_columns(pl.col("x").map_elements(lambda v: v + 1, return_dtype=pl.Int64))

    try:
        pmap.explain(df, interrupted)
    except KeyboardInterrupt:
        assert left == [0]
    assert (pl.Expr.map_elements, pl.Series.map_elements) == before
    assert sys.getprofile() is None
    assert pmap.current_partition() is None


def test_other_threads_are_not_touched():
    frame = pl.DataFrame({"x": range(3000)})
    kinds: set[bool] = set()
    here, there = threading.Event(), threading.Event()

    def elsewhere():
        while not there.wait(0.001):
            expression = pl.col("x").map_elements(lambda v: v + 1, return_dtype=pl.Int64)
            kinds.add("python_udf" in str(expression))
            here.set()

    def function(part):
        return part.with_columns(pl.col("x").map_elements(lambda v: v + 1, return_dtype=pl.Int64))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    try:
        here.wait(5)
        found = pmap.explain(frame, function)
    finally:
        there.set()
        thread.join()
    assert "pl.col('x') + 1" in found.replacement
    assert kinds == {True}


def test_random_numbers_go_on_as_if_nothing_was_called(df):
    def draws(d):
        random.random()
        np.random.random()  # noqa: NPY002  the global state is the test's matter
        return d

    random.seed(1)
    np.random.seed(1)  # noqa: NPY002  the global state is the test's matter
    expected = (random.random(), np.random.random())  # noqa: NPY002  the global state is the test's matter
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002  the global state is the test's matter
    pmap.explain(df, draws)
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002  the global state is the test's matter


def test_filters_of_warnings_stay(df):
    before = list(warnings.filters)
    pmap.explain(df, arithmetic)
    assert warnings.filters == before


def test_no_thread_stays(df):
    pmap.explain(df, regex_loop)
    assert not [thread for thread in threading.enumerate() if thread.name == "pmap-ticker"]


# The budget, the page, bad calls


@pytest.mark.parametrize("seconds", [0.0, 0.002, 0.05, 0.3])
def test_the_budget_is_kept_about(df, seconds):
    def steady(d):
        time.sleep(seconds)
        return d

    start = time.perf_counter()
    found = pmap.explain(df, steady, budget=0.5)
    assert time.perf_counter() - start < 3
    assert found.budget == 0.5


def test_the_page_escapes_what_is_the_users(df):
    found = pmap.explain(df, raises_on_small)
    page = found._repr_html_()
    assert "<b>&</b>" not in page
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in page


def test_the_page_fits_a_terminal(df):
    for function in (centred, pure_udf, regex_loop, raises_on_small):
        text = str(pmap.explain(df, function))
        assert max(map(len, text.splitlines())) <= 100
        assert len(text.splitlines()) < 45


def test_fields(df):
    found = pmap.explain(df, pure_udf)
    assert found.costs.columns == ["way", "seconds"]
    assert set(found.costs["way"]) >= {"direct", "serial", "threads", "processes"}
    assert found.confidence in {"high", "medium", "low"}
    assert all(isinstance(fact, str) for fact in found.evidence)
    with pytest.raises(errors.ArgumentError, match="no verified native code"):
        found.native(df)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((pl.LazyFrame({"x": [1]}), arithmetic), "collect"),
        (([1], arithmetic), "a list, not a polars DataFrame"),
        ((pl.DataFrame({"x": [1]}), 3), "can not be called"),
        ((pl.DataFrame({"x": []}), arithmetic), "no rows"),
    ],
)
def test_bad_calls(arguments, says):
    with pytest.raises(errors.ArgumentError, match=says):
        pmap.explain(*arguments)


@pytest.mark.parametrize("budget", [0, -1, True, "1"])
def test_bad_budgets(df, budget):
    with pytest.raises(errors.ArgumentError, match="greater than 0"):
        pmap.explain(df, arithmetic, budget=budget)


def test_a_wrong_name_is_an_error(df):
    with pytest.raises(TypeError, match="unexpected keyword argument 'budgets'"):
        pmap.explain(df, arithmetic, budgets=1)


def test_oddities_of_single_rows_are_no_alarm():
    for rows in (1, 2, 10):
        frame = pl.DataFrame({"y": [0.5] * rows, "id": range(rows)})
        assert pmap.explain(frame, two_columns_from_numpy).partition_safe == "unknown"


def test_time_for_imports_is_not_the_functions(tmp_path, monkeypatch):
    for index in range(30):
        (tmp_path / f"pmap_test_import_{index}.py").write_text("import time; time.sleep(0.01)")
    monkeypatch.syspath_prepend(tmp_path)

    def imports(part):
        for index in range(30):
            __import__(f"pmap_test_import_{index}")
        return part.with_columns(pl.col("x") + 1)

    found = pmap.explain(pl.DataFrame({"x": range(3000)}), imports, budget=0.2)
    assert found.n_calls > 10, str(found)
    assert any("imported modules" in fact for fact in found.evidence)


def test_python_inside_polars_is_not_taken_for_polars():
    def digests(part):
        return part.with_columns(
            pl.col("s").map_elements(_digest, return_dtype=pl.String).alias(name) for name in "ab"
        )

    found = pmap.explain(pl.DataFrame({"s": ["text"] * 200_000}), digests, budget=0.6)
    assert found.verdict != "native", str(found)


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_one_row():
    found = pmap.explain(pl.DataFrame({"x": [1]}), lambda d: d.with_columns(pl.col("x") + 1))
    assert found.partition_safe == "yes"
    assert found.verdict == "native"


# The guard


@pytest.mark.parametrize(
    "function", [centred, grouped, numpy_zscore, in_order, empties_above_a_height], ids=_name
)
def test_the_guard_refuses(df, function):
    with (
        pmap.config(check="sample"),
        pytest.raises(errors.PartitionDependentError, match="Instead:"),
    ):
        pmap.map_partitions(df, function, backend="serial")


@pytest.mark.parametrize(
    "function",
    [
        arithmetic,
        regex_loop,
        by_partition,
        nearest_price,
        stamped,
        refuses_duplicates,
        needs_sorted_rows,
    ],
    ids=_name,
)
def test_the_guard_lets_through(df, function):
    with pmap.config(check="sample"):
        assert (
            pmap.map_partitions(df, function, backend="serial", n_partitions=3).height == df.height
        )


def test_the_guard_is_not_for_streams(df):
    with pmap.config(check="sample"):
        out = pmap.map_partitions(df.partition_by("g"), grouped, backend="serial")
    assert out.height == 4


def test_the_guard_has_one_value():
    with (
        pytest.raises(errors.ArgumentError, match="give 'sample' or None"),
        pmap.config(check="all"),
    ):
        pass


def test_the_guard_by_environment(df, monkeypatch):
    monkeypatch.setenv("PMAP_CHECK", "sample")
    with pytest.raises(errors.PartitionDependentError):
        pmap.map_partitions(df, centred, backend="serial")
