"""Whether an expression gives each row its value from that row alone.

The whole tree is walked, as Polars writes it out itself: the root alone misjudges
``x - x.mean()``. What is not known to go row by row is not taken to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from pmap._advice._names import words

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

__all__ = ["Tree", "read"]

#: Bytes of an expression, literals included, beyond which it is not read.
_LARGEST = 1_000_000

#: Groups whose functions are named inside them.
_GROUPS = words(
    "StringExpr TemporalExpr ListExpr ArrayExpr BinaryExpr Boolean StructExpr Bitwise Trigonometry Pow "
    "Business Range"
)

_PLAIN = (
    "Abs Sqrt Cbrt Exp Log Log1p Floor Ceil Round RoundSF Sign Clip Negate FillNull Replace ReplaceStrict Hash Cut "
    "Reinterpret RepeatBy Atan2 Coalesce MaxHorizontal MinHorizontal SumHorizontal MeanHorizontal AsStruct"
)
_GROUPED = {
    "Pow": "Sqrt Cbrt Generic",
    "Trigonometry": "Sin Cos Cot Tan ArcSin ArcCos ArcTan Sinh Cosh Tanh ArcSinh ArcCosh ArcTanh Degrees Radians",
    "Boolean": "Not IsNull IsNotNull IsNan IsNotNan IsFinite IsInfinite IsIn IsBetween IsClose AnyHorizontal AllHorizontal",
    "Bitwise": "CountOnes CountZeros LeadingOnes LeadingZeros TrailingOnes TrailingZeros",
    "StringExpr": "Uppercase Lowercase Titlecase LenChars LenBytes StripChars StripCharsStart StripCharsEnd StripPrefix "
    "StripSuffix StartsWith EndsWith Contains Replace Slice Head Tail Split SplitExact SplitN Extract ExtractAll "
    "ExtractGroups CountMatches Find ZFill PadStart PadEnd Reverse ToInteger JsonPathMatch HexDecode HexEncode "
    "Base64Decode Base64Encode ContainsAny ReplaceMany ExtractMany Normalize EscapeRegex ConcatHorizontal Format",
    "TemporalExpr": "Year IsoYear Quarter Month Week WeekDay Day OrdinalDay Hour Minute Second Millisecond Microsecond "
    "Nanosecond Date Time TimeStamp ToString Truncate Round OffsetBy ReplaceTimeZone ConvertTimeZone CastTimeUnit "
    "WithTimeUnit MonthStart MonthEnd TotalDays TotalHours TotalMinutes TotalSeconds TotalMilliseconds TotalMicroseconds "
    "TotalNanoseconds IsLeapYear DaysInMonth Century Millennium BaseUtcOffset DSTOffset Combine Replace Duration "
    "DatetimeFunction",
    "Business": "AddBusinessDay IsBusinessDay BusinessDayCount",
    "ListExpr": "Length Sum Mean Median Std Var Max Min Get Join Contains Sort Reverse Unique NUnique Slice Concat "
    "DropNulls Any All CountMatches ArgMax ArgMin",
    "ArrayExpr": "Length Sum Mean Median Std Var Max Min Get Join Contains Sort Reverse ToList Concat Any All ArgMax ArgMin",
    "BinaryExpr": "Size Contains StartsWith EndsWith HexDecode HexEncode Base64Decode Base64Encode",
    "StructExpr": "FieldByName RenameFields JsonEncode WithFields PrefixFields SuffixFields",
}
_ROW_BY_ROW = frozenset(_PLAIN.split()) | {
    f"{group}.{name}" for group, names in _GROUPED.items() for name in names.split()
}
#: Look their values up in inputs after the first; so many.
_TABLES = {
    "Boolean.IsIn": 1,
    "Replace": 2,
    "ReplaceStrict": 2,
    "StringExpr.ContainsAny": 1,
    "StringExpr.ReplaceMany": 2,
    "StringExpr.ExtractMany": 1,
}
_WRAPPERS = frozenset({"Alias", "RenameAlias", "KeepName", "Cast", "Ternary", "BinaryExpr"})
#: Of a list in its row, whatever is done inside.
_PER_LIST = frozenset({"List", "ListAgg", "Array", "ArrayAgg"})

#: What looks at other rows, and the name that users know it by.
_OTHER_ROWS = {
    "Over": "over",
    "Window": "over",
    "Rolling": "rolling",
    "Len": "len",
    "Sort": "sort",
    "SortBy": "sort_by",
    "Gather": "gather",
    "Slice": "slice",
    "CumSum": "cum_sum",
    "CumProd": "cum_prod",
    "CumMin": "cum_min",
    "CumMax": "cum_max",
    "CumCount": "cum_count",
    "Shift": "shift",
    "ShiftAndFill": "shift",
    "Rank": "rank",
    "Diff": "diff",
    "RollingExpr": "rolling",
    "RollingExprBy": "rolling",
    "Unique": "unique",
    "UniqueCounts": "unique_counts",
    "FillNullWithStrategy": "fill_null(strategy=...)",
    "Reverse": "reverse",
    "ArgSort": "arg_sort",
    "Quantile": "quantile",
    "TopK": "top_k",
    "TopKBy": "top_k_by",
    "ValueCounts": "value_counts",
    "Interpolate": "interpolate",
    "InterpolateBy": "interpolate_by",
    "EwmMean": "ewm_mean",
    "EwmStd": "ewm_std",
    "EwmVar": "ewm_var",
    "QCut": "qcut",
    "RLE": "rle",
    "RLEID": "rle_id",
    "GatherEvery": "gather_every",
    "SearchSorted": "search_sorted",
    "Mode": "mode",
    "Product": "product",
    "Skew": "skew",
    "Kurtosis": "kurtosis",
    "ArgMax": "arg_max",
    "ArgMin": "arg_min",
    "NullCount": "null_count",
    "PctChange": "pct_change",
    "PeakMax": "peak_max",
    "PeakMin": "peak_min",
    "Entropy": "entropy",
    "Hist": "hist",
    "Correlation": "corr",
    "IndexOf": "index_of",
    "Append": "append",
    "ExtendConstant": "extend_constant",
    "ApproxNUnique": "approx_n_unique",
    "Boolean.IsDuplicated": "is_duplicated",
    "Boolean.IsUnique": "is_unique",
    "Boolean.IsFirstDistinct": "is_first_distinct",
    "Boolean.IsLastDistinct": "is_last_distinct",
    "Boolean.Any": "any",
    "Boolean.All": "all",
    "Boolean.HasNulls": "has_nulls",
    "StringExpr.ConcatVertical": "str.join",
    "Range.IntRange": "int_range",
}


@dataclass(slots=True)
class Tree:
    """What was found in an expression.

    Attributes
    ----------
    other_rows
        Names of calls that look at other rows.
    unknown
        What is not known to go row by row.
    udfs
        Python functions inside, as Polars keeps them.
    keys
        Columns that rows are grouped by.
    has_column
        Whether it reads a column at all; without one it has one value, not one a row.
    has_categories, has_integers
        Whether values become categories, or whole numbers.
    """

    other_rows: list[str] = field(default_factory=list[str])
    unknown: list[str] = field(default_factory=list[str])
    udfs: set[str] = field(default_factory=set[str])
    keys: list[str] = field(default_factory=list[str])
    has_column: bool = False
    has_categories: bool = False
    has_integers: bool = False


def read(expression: pl.Expr) -> Tree:
    """Walk an expression."""
    tree = Tree()
    try:
        if len(expression.meta.serialize(format="binary")) > _LARGEST:
            tree.unknown.append("a literal too large to look into")
            return tree
        node = json.loads(expression.meta.serialize(format="json"))
    except Exception as error:  # noqa: BLE001  a Python function that can not be pickled, say
        tree.unknown.append(f"an expression that can not be read ({type(error).__name__})")
        return tree
    _walk(node, tree)
    return tree


def _walk(node: Any, tree: Tree) -> None:  # noqa: C901  a case a kind of node
    kind, body = _opened(node)
    if kind in {"Column", "Selector", "Field", "Element"}:
        tree.has_column = True
    elif kind == "Literal":
        if isinstance(body, dict) and "Series" in body:
            tree.unknown.append("a Series as a literal")
    elif kind == "AnonymousFunction":
        tree.udfs.add(json.dumps(body.get("function")))
        _walk_all(body["input"], tree)
    elif kind == "Function":
        _walk_function(body, tree)
    elif kind in _WRAPPERS:
        if kind == "Cast":
            _note_cast(json.dumps(body.get("dtype")), tree)
        _walk_all(_children(body), tree)
    elif kind == "Eval" and _opened(body.get("variant"))[0] in _PER_LIST:
        _walk(body["expr"], tree)
        if {"AnonymousFunction", "Random", "Sample"} & _kinds(body["evaluation"]):
            tree.unknown.append("list.eval with a Python function or random numbers")
    elif kind == "Agg":
        tree.other_rows.append(_snake(_opened(body)[0]))
        _walk_all(_nested(body), tree)
    else:
        _note(kind, tree)
        if kind in {"Over", "Window"}:
            tree.keys += [
                key["Column"] for key in body.get("partition_by") or () if "Column" in key
            ]
        _walk_all(_nested(body), tree)


def _note_cast(dtype: str, tree: Tree) -> None:
    tree.has_categories |= "Categorical" in dtype
    tree.has_integers |= "Int" in dtype


def _walk_function(body: Any, tree: Tree) -> None:
    name = _name(body["function"])
    inputs = body["input"]
    if name == "StringExpr.Strptime":
        _walk_strptime(body["function"], tree)
    elif name in {"StringExpr.ToDecimal", "StringExpr.JsonDecode"}:
        if _infers(body["function"]):
            tree.unknown.append(f"{name.rpartition('.')[2]} without a dtype")
    elif name not in _ROW_BY_ROW:
        _note(name, tree)
    if name in _TABLES:
        # What to look for is a table of its own, not a value for each row.
        tables = inputs[1 : 1 + _TABLES[name]]
        if any(_opened(node)[0] != "Literal" for node in tables):
            tree.unknown.append(f"{_snake(name.rpartition('.')[2])} with values of a column")
        inputs = [node for node in inputs if not _is_series(node)]
    _walk_all(inputs, tree)


def _walk_strptime(function: Any, tree: Tree) -> None:
    """Without a format, the first value of a partition decides on it."""
    options = function["StringExpr"]["Strptime"][-1]
    if options.get("format") is None:
        tree.unknown.append("parsing of dates without a format, which the first value decides")


def _infers(function: Any) -> bool:
    options = next(iter(function["StringExpr"].values()))
    if isinstance(options, dict) and "scale" in options:
        return options["scale"] is None
    return not (isinstance(options, dict) and "Literal" in options)


def _is_series(node: Any) -> bool:
    kind, body = _opened(node)
    return kind == "Literal" and isinstance(body, dict) and "Series" in body


def _walk_all(nodes: Any, tree: Tree) -> None:
    for node in nodes:
        _walk(node, tree)


def _note(name: str, tree: Tree) -> None:
    if name in _OTHER_ROWS:
        tree.other_rows.append(_OTHER_ROWS[name])
    else:
        tree.unknown.append(_snake(name.rpartition(".")[2]))


def _opened(node: Any) -> tuple[str, Any]:
    """Kind and content of a node; kinds without content are plain strings."""
    if isinstance(node, str):
        return node, {}
    if isinstance(node, dict) and len(cast("dict[str, Any]", node)) == 1:
        return next(iter(cast("dict[str, Any]", node).items()))
    return "a node of a new kind", {}


def _name(function: Any) -> str:
    kind, body = _opened(function)
    return f"{kind}.{_opened(body)[0]}" if kind in _GROUPS else kind


def _children(body: Any) -> Iterator[Any]:
    """Sub-expressions of a wrapper, without its names, operators and dtypes."""
    if isinstance(body, list):
        yield cast("list[object]", body)[0]  # an alias: the expression, then the name
    elif set(body) & {"expr", "left", "predicate"}:
        names = ("expr", "left", "right", "predicate", "truthy", "falsy")
        yield from (body[name] for name in names if name in body)
    else:
        yield body  # a wrapper around the node itself


_FIELDS = ("input", "function", "expr", "by", "idx", "quantile")


def _nested(body: Any) -> Iterator[Any]:
    """Sub-expressions of what looks at other rows, for the rest of what is to be said."""
    if isinstance(body, list):
        for item in cast("list[object]", body):
            yield from _nested(item)
    elif isinstance(body, dict):
        mapping = cast("dict[str, Any]", body)
        kind = next(iter(mapping), "")
        if len(mapping) == 1 and (kind[:1].isupper()):
            if kind in {"Column", "Literal", "Function", "Cast", "BinaryExpr", "Alias", "Ternary"}:
                yield mapping
            else:
                yield from _nested(mapping[kind])
        else:
            for name in _FIELDS:
                yield from _nested(mapping.get(name))


def _kinds(node: Any) -> set[str]:
    """All names inside a node."""
    if isinstance(node, dict):
        items = cast("dict[str, Any]", node).items()
        return {name for key, value in items for name in {key, *_kinds(value)}}
    if isinstance(node, list):
        return {name for item in cast("list[object]", node) for name in _kinds(item)}
    return set()


def _snake(name: str) -> str:
    """As Polars' own methods are written: ``NUnique`` is ``n_unique``."""
    text = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    return text.removeprefix("_")
