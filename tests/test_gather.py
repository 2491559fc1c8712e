"""Results of partitions back into one frame."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import polars as pl
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pmap._gather import gather
from pmap.errors import PmapError, SchemaMismatchError

AB, BA, ABC, AX = (pl.Enum(list(words)) for words in ("ab", "ba", "abc", "ax"))
CAT = pl.Categorical()
FRUIT, TREES = (pl.Categorical(pl.Categories(name)) for name in ("fruit", "trees"))
US, MS, UTC = pl.Datetime("us"), pl.Datetime("ms"), pl.Datetime("us", "UTC")


def one(dtype, *values):
    return pl.DataFrame({"x": pl.Series(values, dtype=dtype)})


def gathered(*frames, schema=None):
    declared = None if schema is None else pl.Schema(schema)
    return gather(list(enumerate(frames)), declared)


def nested(dtype):
    """Every way to wrap a dtype, with what wraps a value likewise."""
    return [
        (dtype, lambda value: value),
        (pl.List(dtype), lambda value: [value, None]),
        (pl.Array(dtype, 2), lambda value: [value, None]),
        (pl.Struct({"f": dtype}), lambda value: {"f": value}),
        (pl.List(pl.Struct({"f": pl.List(dtype)})), lambda value: [{"f": [value]}]),
    ]


# Alike ----------------------------------------------------------------------------


def test_nothing_gives_an_empty_frame():
    assert gather([], None).shape == (0, 0)
    assert gather([(0, None), (1, None)], None).shape == (0, 0)


def test_nothing_gives_the_declared_columns():
    schema = pl.Schema({"x": pl.Int8, "y": pl.List(pl.String)})
    assert gather([(0, None)], schema).schema == schema


@pytest.mark.parametrize("schema", [None, {"x": pl.Int64}])
def test_the_only_frame_comes_back_itself(schema):
    frame = one(pl.Int64, 1)
    assert gathered(None, frame, None, schema=schema) is frame
    assert gathered(one(pl.String), frame, pl.DataFrame(), schema=schema) is frame


def test_an_empty_frame_alone_comes_back_itself():
    frame = one(pl.Int64)
    assert gathered(frame) is frame
    assert gathered(frame, schema=frame.schema) is frame


def test_rows_keep_the_order_of_the_results_and_are_not_copied():
    results = [(2, one(pl.Int64, 5)), (0, one(pl.Int64, 1, 2)), (1, None), (3, one(pl.Int64, 4))]
    frame = gather(results, None)
    assert frame["x"].to_list() == [5, 1, 2, 4]
    assert frame.n_chunks() == 3


def test_sorted_flags_are_those_of_concat():
    low, high = one(pl.Int64, 1, 2).sort("x"), one(pl.Int64, 3, 4).sort("x")
    for frames in ((low, high), (high, low)):
        assert gathered(*frames)["x"].flags == pl.concat(frames, rechunk=False)["x"].flags


def test_frames_without_columns_add_their_heights():
    bare = one(pl.Int64, 1, 2).drop("x")
    assert gathered(bare, bare, bare).shape == (3 * bare.height, 0)


def test_many_frames():
    frame = pl.DataFrame({"a": [1], "b": ["x"]})
    assert gather([(i, frame) for i in range(2_000)], frame.schema).height == 2_000


FLAT = [pl.Null(), pl.Int8(), pl.Int64(), pl.UInt64(), pl.Float32(), pl.Boolean(), pl.String()]
FLAT += [pl.Binary(), pl.Date(), US, MS, UTC, pl.Duration("us"), AB, BA, ABC, CAT, FRUIT]
NESTED = [wrapped for dtype in FLAT for wrapped, _ in nested(dtype)[1:4]]


@pytest.mark.parametrize("left", FLAT + NESTED, ids=str)
def test_concat_is_as_strict_as_the_fast_path_needs(left):
    for right in FLAT + NESTED:
        if left == right or "Null" in str(right):
            continue
        with pytest.raises((pl.exceptions.SchemaError, pl.exceptions.ShapeError)):
            pl.concat([one(left, None), one(right, None)], rechunk=False)


# Reconciled -----------------------------------------------------------------------

COMMON = [
    (pl.Null, pl.Null, pl.Null),
    (pl.Null, pl.Int8, pl.Int8),
    (pl.Null, pl.String, pl.String),
    (pl.Null, UTC, UTC),
    (pl.Null, AB, AB),
    (pl.Null, FRUIT, FRUIT),
    (pl.Null, pl.Struct({"a": pl.List(pl.Int8)}), pl.Struct({"a": pl.List(pl.Int8)})),
    (pl.Int8, pl.Int64, pl.Int64),
    (pl.Int8, pl.Int16, pl.Int16),
    (pl.UInt8, pl.UInt32, pl.UInt32),
    (pl.UInt8, pl.Int8, pl.Int16),
    (pl.UInt8, pl.Int32, pl.Int32),
    (pl.UInt16, pl.Int8, pl.Int32),
    (pl.UInt32, pl.Int32, pl.Int64),
    (pl.UInt64, pl.Int8, pl.Int64),
    (pl.UInt64, pl.Int64, pl.Int64),
    (pl.UInt64, pl.Int128, pl.Int128),
    (pl.Int64, pl.Int128, pl.Int128),
    (pl.Float32, pl.Float64, pl.Float64),
    (pl.Float32, pl.Int8, pl.Float64),
    (pl.Float64, pl.Int64, pl.Float64),
    (pl.Float64, pl.UInt64, pl.Float64),
    (pl.Decimal(10, 2), pl.Decimal(20, 2), pl.Decimal(20, 2)),
    (AB, ABC, ABC),
    (AB, CAT, CAT),
    (AB, FRUIT, FRUIT),
    (CAT, FRUIT, FRUIT),
]


def skip_categories_in_arrays(*dtypes):
    """No Polars casts all of these inside an Array, old ones none: refused as Polars does."""
    inside = {dtype.inner.base_type() for dtype in dtypes if isinstance(dtype, pl.Array)}
    if inside & {pl.Enum, pl.Categorical}:
        pytest.skip("categories inside an Array")


VALUES = {pl.Decimal: Decimal(1), pl.Enum: "a", pl.Categorical: "a", pl.String: "a"}


def values_of(dtype):
    """A value and a null of the dtype; nulls only where a value needs more thought."""
    base = dtype.base_type()
    plain = dtype.is_integer() or dtype.is_float()
    return [1.0 if plain and dtype.is_float() else 1 if plain else VALUES.get(base), None]


@pytest.mark.parametrize(("left", "right", "common"), COMMON, ids=str)
@pytest.mark.parametrize("depth", range(len(nested(pl.Null))))
def test_dtypes_are_reconciled_at_any_depth(left, right, common, depth):
    (inner, wrap), (other, _), (wanted, _) = (nested(d)[depth] for d in (left, right, common))
    skip_categories_in_arrays(inner, other)
    here = [None, *map(wrap, values_of(left))]
    there = [None, *map(wrap, values_of(right))]
    expected = one(wanted, *here, *there)
    assert_frame_equal(gathered(one(inner, *here), one(other, *there)), expected)
    assert_frame_equal(gathered(one(other, *there), one(inner, *here)), one(wanted, *there, *here))


@pytest.mark.parametrize("name", ["Float16", "UInt128"])
def test_numbers_that_not_every_polars_has(name):
    if not hasattr(pl, name):
        pytest.skip(f"no {name} in this Polars")
    dtype, wide = getattr(pl, name), {"Float16": pl.Float32, "UInt128": pl.Int128}[name]
    assert gathered(one(dtype, 1), one(wide, 2)).equals(one(wide, 1, 2))
    assert gathered(one(dtype, 1), one(pl.Null, None)).schema["x"] == dtype


def test_more_than_two_dtypes():
    frames = [one(pl.Null, None), one(pl.UInt8, 1), one(pl.Int8, 2), one(pl.UInt16, 3)]
    assert_frame_equal(gathered(*frames), one(pl.Int32, None, 1, 2, 3))
    enums = [one(pl.Enum(["a"]), "a"), one(pl.Enum(["b"]), "b"), one(AB, "a")]
    assert_frame_equal(gathered(*enums), one(AB, "a", "b", "a"))


def test_equal_categories_in_another_order_take_the_lowest_partitions():
    results = [(1, one(BA, "b")), (0, one(AB, "a"))]
    assert_frame_equal(gather(results, None), one(AB, "b", "a"))


def test_columns_in_another_order_take_the_lowest_partitions():
    results = [(1, pl.DataFrame({"b": [1], "a": ["x"]})), (0, pl.DataFrame({"a": ["y"], "b": [2]}))]
    assert_frame_equal(gather(results, None), pl.DataFrame({"a": ["x", "y"], "b": [1, 2]}))


def test_fields_of_structs_in_another_order():
    ours, theirs = {"a": pl.Int8, "b": pl.String}, {"b": pl.String, "a": pl.Int64}
    left = one(pl.List(pl.Struct(ours)), [{"a": 1, "b": "x"}], None)
    right = one(pl.List(pl.Struct(theirs)), [{"b": "y", "a": 2}, None], [])
    result = gathered(left, right)
    assert result.schema["x"] == pl.List(pl.Struct({"a": pl.Int64, "b": pl.String}))
    assert result["x"].to_list() == [[{"a": 1, "b": "x"}], None, [{"a": 2, "b": "y"}, None], []]


def test_null_beside_typed_in_the_same_column_of_wide_frames():
    left = pl.DataFrame({"a": [1], "b": [None], "c": [None]})
    right = pl.DataFrame({"a": [None], "b": ["x"], "c": [[1.5]]})
    result = gathered(left, right)
    assert result.schema == {"a": pl.Int64, "b": pl.String, "c": pl.List(pl.Float64)}
    assert result.rows() == [(1, None, None), (None, "x", [1.5])]


# Without rows ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "empty",
    [pl.DataFrame(), one(pl.String), pl.DataFrame(schema={"y": pl.Int8}), one(pl.Null)],
    ids=str,
)
@pytest.mark.parametrize("schema", [None, {"x": pl.Int64}])
def test_frames_without_rows_do_not_count(empty, schema):
    full = one(pl.Int64, 1)
    assert_frame_equal(gathered(empty, full, empty, full, schema=schema), one(pl.Int64, 1, 1))


def test_where_none_has_rows_their_dtypes_count():
    frames = [pl.DataFrame(), one(pl.Null), one(pl.Int8), one(pl.Int16)]
    assert gathered(*frames).schema == {"x": pl.Int16}
    wide = pl.DataFrame(schema={"y": pl.String, "x": pl.Int64})
    assert gathered(*frames, wide).schema == wide.schema
    with pytest.raises(SchemaMismatchError, match=r"partition 1 .* as String, but partition 0"):
        gathered(one(pl.Int8), one(pl.String))


def test_where_none_has_rows_the_declared_schema_stands():
    schema = pl.Schema({"x": pl.Int8})
    assert gathered(pl.DataFrame(), one(pl.String), schema=schema).schema == schema


# Refused --------------------------------------------------------------------------

UNLIKE = [
    (pl.Int64, pl.String),
    (pl.Int64, pl.Boolean),
    (pl.Int64, pl.Decimal(10, 2)),
    (pl.Float64, pl.Decimal(10, 2)),
    (pl.Decimal(10, 2), pl.Decimal(10, 3)),
    (US, MS),
    (US, UTC),
    (US, pl.Date),
    (pl.Duration("us"), pl.Duration("ms")),
    (AB, AX),
    (AB, pl.String),
    (CAT, pl.String),
    (FRUIT, TREES),
    (pl.String, pl.Binary),
    (pl.Int64, pl.List(pl.Int64)),
    (pl.List(pl.Int64), pl.Array(pl.Int64, 2)),
    (pl.Array(pl.Int64, 2), pl.Array(pl.Int64, 3)),
    (pl.Struct({"a": pl.Int64}), pl.Struct({"b": pl.Int64})),
    (pl.Struct({"a": pl.Int64}), pl.Struct({"a": pl.Int64, "b": pl.Int64})),
]


@pytest.mark.parametrize(("left", "right"), UNLIKE, ids=str)
@pytest.mark.parametrize("depth", range(len(nested(pl.Null))))
def test_unlike_dtypes_are_refused_at_any_depth(left, right, depth):
    frames = [one(nested(dtype)[depth][0], None) for dtype in (left, right)]
    for pair in (frames, frames[::-1]):
        with pytest.raises(SchemaMismatchError, match="partition 1 returned column 'x' as "):
            gathered(*pair)


def test_the_error_says_who_what_and_what_to_do():
    results = [(0, one(pl.Int64, 1)), (3, one(pl.Int64, 1)), (7, one(pl.String, "a"))]
    with pytest.raises(SchemaMismatchError) as caught:
        gather(results, None)
    assert str(caught.value) == (
        "partition 7 returned column 'x' as String, but partition 0 returned Int64: "
        "cast it inside the function, or declare schema={'x': ...}"
    )
    assert isinstance(caught.value, PmapError)
    assert isinstance(caught.value, ValueError)


def test_the_error_names_the_pair_that_disagrees():
    frames = [one(pl.Null, None), one(pl.Int8, 1), one(pl.Int64, 2), one(pl.String, "a")]
    with pytest.raises(
        SchemaMismatchError, match=r"partition 3 .* String, but partition 1 .* Int8"
    ):
        gathered(*frames)


def test_decimals_are_never_rounded():
    coarse, fine = one(pl.Decimal(10, 2), Decimal("1.25")), one(pl.Decimal(10, 3), Decimal("1.255"))
    with pytest.raises(SchemaMismatchError, match=r"partition 1 .* column 'x'"):
        gathered(coarse, fine)
    long = one(pl.Decimal(20, 2), Decimal("123456789012345.25"))
    assert gathered(coarse, long)["x"].to_list() == [Decimal("1.25"), Decimal("123456789012345.25")]


@pytest.mark.skipif(not hasattr(pl, "Map"), reason="no Map in this Polars")
def test_decimals_in_maps_are_never_rounded():
    coarse, fine = (
        one(pl.Map(pl.String, pl.Decimal(10, scale)), {"a": Decimal(value)})
        for scale, value in ((2, "1.25"), (3, "1.255"))
    )
    assert gathered(coarse, coarse).height == 2
    with pytest.raises(SchemaMismatchError, match=r"partition 1 .* column 'x'"):
        gathered(coarse, fine)


UNFIT = [
    (pl.UInt64, 2**63, pl.Int64, pl.Int64),
    (pl.Int64, 2**53 + 1, pl.Float64, pl.Float64),
    (pl.Int64, -(2**53) - 2, pl.Float64, pl.Float64),
    (pl.Int64, 2**63 - 1, pl.Float32, pl.Float64),
]


@pytest.mark.parametrize(("dtype", "value", "other", "common"), UNFIT)
@pytest.mark.parametrize("depth", range(len(nested(pl.Null))))
def test_values_that_do_not_fit_are_refused(dtype, value, other, common, depth):
    (bad, wrap), (good, _), (wanted, _) = (nested(d)[depth] for d in (dtype, other, common))
    frames = [one(good, wrap(1)), one(good, wrap(1)), one(bad, wrap(1), wrap(value))]
    with pytest.raises(SchemaMismatchError) as caught:
        gathered(*frames)
    assert str(caught.value).startswith(f"partition 2 returned column 'x' as {bad}, but the ")
    assert f"the common dtype is {wanted} (" in str(caught.value)


def test_the_largest_exact_integers_fit():
    result = gathered(one(pl.Float64, 0.5), one(pl.Int64, 2**53, -(2**53), None))
    assert result["x"].to_list() == [0.5, 2.0**53, -(2.0**53), None]


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (
            pl.DataFrame({"id": [1]}),
            r"partition 1 lacks the columns \['price'\], unlike partition 0:",
        ),
        (
            pl.DataFrame({"id": [1], "price": [2], "z": [3]}),
            r"partition 1 adds the columns \['z'\]",
        ),
        (pl.DataFrame({"id": [1], "pirce": [2]}), r"\(did you mean 'price' by 'pirce'\?\)"),
        (pl.DataFrame({"id": [1], "PRICE": [2]}), r"\(did you mean 'price' by 'PRICE'\?\)"),
        (pl.DataFrame({"id": [1]}).drop("id"), None),
    ],
)
def test_missing_and_extra_columns_are_named(frame, says):
    full = pl.DataFrame({"id": [1], "price": [2]})
    if not frame.height:
        pytest.skip("this Polars keeps no height without columns")
    with pytest.raises(SchemaMismatchError, match=says):
        gathered(full, frame)
    with pytest.raises(SchemaMismatchError, match=r"partition 0 .* the declared schema"):
        gathered(frame, schema=full.schema)


def test_messages_stay_short():
    wide = pl.DataFrame({f"c{i}": [1] for i in range(1_000)})
    categories = pl.Enum([f"category {i}" for i in range(1_000)])
    for frames in ((wide, one(pl.Int8, 1)), (one(AX, "a"), one(categories, "category 1"))):
        with pytest.raises(SchemaMismatchError) as caught:
            gathered(*frames)
        assert len(str(caught.value)) < 800


# Declared -------------------------------------------------------------------------

DECLARED = [
    (pl.Null, [None], pl.Int8),
    (pl.Null, [None], AB),
    (pl.Int8, [1], pl.Int64),
    (pl.Int64, [127, None], pl.Int8),
    (pl.Int64, [1], pl.UInt64),
    (pl.Int64, [2**53], pl.Float64),
    (pl.Float64, [2, None], pl.Int64),
    (pl.Float64, [0.5, float("nan")], pl.Float32),
    (pl.Decimal(10, 1), [Decimal("1.5")], pl.Decimal(10, 2)),
    (pl.Decimal(38, 2), [Decimal("1.50")], pl.Decimal(4, 1)),
    (pl.String, ["a", None], AB),
    (pl.String, ["new"], CAT),
    (pl.String, ["new"], FRUIT),
    (CAT, ["a"], AB),
    (FRUIT, ["a"], CAT),
    (ABC, ["b"], BA),
    (AB, ["a"], pl.String),
]

REFUSED = [
    (pl.String, ["1"], pl.Int64),
    (pl.Int64, [1], pl.String),
    (pl.Int64, [1], pl.Boolean),
    (pl.Int64, [128], pl.Int8),
    (pl.Int64, [-1], pl.UInt64),
    (pl.Int64, [2**53 + 1], pl.Float64),
    (pl.Int64, [2**24 + 1], pl.Float32),
    (pl.Float64, [1.5], pl.Int64),
    (pl.Float64, [float("nan")], pl.Int64),
    (pl.Float64, [0.1], pl.Float32),
    (pl.Float64, [1e300], pl.Float32),
    (pl.Decimal(10, 2), [Decimal("1.25")], pl.Decimal(10, 1)),
    (pl.Decimal(10, 2), [Decimal("123.25")], pl.Decimal(4, 2)),
    (pl.String, ["c"], AB),
    (ABC, ["c"], AB),
    (CAT, ["c"], AB),
    (MS, [None], US),
    (US, [None], UTC),
    (pl.Date, [None], US),
]


@pytest.mark.parametrize(("dtype", "values", "declared"), DECLARED, ids=str)
@pytest.mark.parametrize("depth", range(len(nested(pl.Null))))
def test_columns_become_the_declared_dtype(dtype, values, declared, depth):
    (inner, wrap), (target, _) = nested(dtype)[depth], nested(declared)[depth]
    skip_categories_in_arrays(inner, target)
    wrapped = [None, *map(wrap, values)]
    schema = pl.Schema({"x": target})
    result = gathered(one(inner, *wrapped), one(target, None), schema=schema)
    assert result.schema == schema
    assert_frame_equal(result, one(target, *wrapped, None), check_exact=True)


@pytest.mark.parametrize(("dtype", "values", "declared"), REFUSED, ids=str)
@pytest.mark.parametrize("depth", range(len(nested(pl.Null))))
def test_columns_never_lose_a_value_to_the_declared_dtype(dtype, values, declared, depth):
    (inner, wrap), (target, _) = nested(dtype)[depth], nested(declared)[depth]
    skip_categories_in_arrays(inner, target)
    bad = one(inner, *map(wrap, values))
    says = "partition 1 returned column 'x' as .* but the declared dtype is .* change schema="
    with pytest.raises(SchemaMismatchError, match=says):
        gathered(one(target, None), bad, schema={"x": target})


def test_more_categories_than_fit_are_refused():
    tiny = pl.Categorical(pl.Categories("tiny", physical=pl.UInt8))
    with pytest.raises(SchemaMismatchError, match="partition 0 returned column 'x'"):
        gathered(one(pl.String, *map(str, range(300))), schema={"x": tiny})


def test_columns_take_the_declared_order():
    schema = pl.Schema({"b": pl.Int8, "a": pl.String})
    result = gathered(pl.DataFrame({"a": ["x"], "b": [1]}), schema=schema)
    assert result.schema == schema
    assert result.rows() == [(1, "x")]


# Properties -----------------------------------------------------------------------

INNER = [pl.Int8, pl.Float64, pl.String, pl.Null, pl.Decimal, pl.Enum, pl.Categorical, pl.Datetime]
NUMBERS = [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32]
LIMITS = {
    dtype: pl.select(low=dtype.min().cast(pl.Int64), high=dtype.max().cast(pl.Int64)).row(0)
    for dtype in NUMBERS
}


@strategies.many
@given(
    frame=strategies.frames()
    | strategies.frames(allowed_dtypes=[pl.List, pl.Array, pl.Struct, *INNER]),
    data=st.data(),
)
def test_a_frame_split_anywhere_comes_back_exactly(frame, data):
    cuts = data.draw(st.lists(st.integers(0, frame.height), max_size=5).map(sorted))
    slices = [frame[start:end] for start, end in pairwise([0, *cuts, frame.height])]
    for schema in (None, frame.schema):
        result = gathered(*slices, schema=schema)
        assert result.schema == frame.schema
        assert_frame_equal(result, frame, check_exact=True, categorical_as_str=True)


@st.composite
def integers(draw):
    dtype = draw(st.sampled_from(NUMBERS))
    low, high = LIMITS[dtype]
    return one(dtype, *draw(st.lists(st.none() | st.integers(low, high), max_size=3)))


@strategies.many
@given(st.lists(integers(), min_size=1, max_size=4))
def test_integers_of_any_width_keep_their_values(frames):
    result = gathered(*frames)
    assert result["x"].to_list() == [value for frame in frames for value in frame["x"]]
    assert result.schema["x"].is_integer()
    assert gathered(*frames[::-1]).schema == result.schema


@strategies.many
@given(frames=st.lists(integers(), max_size=4), declared=st.sampled_from([*NUMBERS, pl.Float64]))
def test_a_declared_schema_holds_or_the_partition_that_does_not_fit_is_named(frames, declared):
    schema = pl.Schema({"x": declared})
    unfit = [
        at for at, frame in enumerate(frames) if not all(fits(v, declared) for v in frame["x"])
    ]
    if unfit:
        with pytest.raises(SchemaMismatchError, match=f"partition {unfit[0]} returned column 'x'"):
            gathered(*frames, schema=schema)
        return
    result = gathered(*frames, schema=schema)
    assert result.schema == schema
    assert result["x"].to_list() == [value for frame in frames for value in frame["x"]]


def fits(value, dtype):
    low, high = LIMITS.get(dtype, (-(2**53), 2**53))
    return value is None or low <= value <= high


@strategies.many
@given(frame=strategies.frames(min_cols=1, min_size=1), null=st.sets(st.integers(0, 4)))
def test_columns_of_nulls_take_the_dtype_of_the_others(frame, null):
    names = [name for at, name in enumerate(frame.columns) if at in null]
    nulls = frame.with_columns(pl.lit(None, pl.Null).alias(name) for name in names)
    for frames in ((frame, nulls), (nulls, frame)):
        assert gathered(*frames).schema == frame.schema
