"""Results of partitions back into one frame, dtypes reconciled where no value is lost.

Partitions of one job seldom agree on every dtype: a column of nothing but nulls has
dtype Null, Python integers become Int64, a filter leaves no row. `gather` mends what
differs harmlessly and refuses the rest, naming partition and column::

    results ── None, or no rows? ── left out
       ├─ all alike ── pl.concat ───────────────────────────────────────┐
       └─ else ── one dtype a column ── each frame cast, cast checked ──┴── frame
                  (as declared, or the narrowest that holds all)

Dtypes decide what is tried, values whether it holds: casting back must restore them.
"""

from __future__ import annotations

import re
from itertools import combinations
from reprlib import Repr
from typing import TYPE_CHECKING

import polars as pl

from pmap.errors import SchemaMismatchError

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

_SIGNED = {8: pl.Int8(), 16: pl.Int16(), 32: pl.Int32(), 64: pl.Int64(), 128: pl.Int128()}
_EXACT = 2.0**53  # beyond it, neighbouring integers are one and the same Float64
_LONGEST = 200  # characters in a message: an Enum may have thousands of categories
_SHORT = Repr()
_SHORT.maxother = _SHORT.maxstring = _LONGEST


def gather(
    results: Sequence[tuple[int, pl.DataFrame | None]], schema: pl.Schema | None
) -> pl.DataFrame:
    """Put the results of partitions into one frame.

    Parameters
    ----------
    results
        Partition index and result, in the order the rows are wanted. Left out are
        None and, if any frame has rows, frames without, whatever their columns.
    schema
        The declared schema, which the result has exactly; None to reconcile dtypes.

    Returns
    -------
    polars.DataFrame
        All rows, not rechunked; that very frame if only one is left and fits.

    Raises
    ------
    SchemaMismatchError
        If columns differ, or dtypes do and values might be lost.

    """
    present = [(index, frame) for index, frame in results if frame is not None]
    parts = [part for part in present if part[1].height] or present
    if not parts:
        return pl.DataFrame() if schema is None else schema.to_frame()
    stacked = _stack([frame for _, frame in parts], schema)
    return _reconcile(parts, schema) if stacked is None else stacked


def _stack(frames: list[pl.DataFrame], schema: pl.Schema | None) -> pl.DataFrame | None:
    """Concatenate frames that are alike (and as declared); None if they are not."""
    first = frames[0]
    if schema is not None and first.schema != schema:
        return None
    if len(frames) == 1:
        return first
    # concat compares schemas itself, far faster than Python could. It lets two differences pass:
    # Null after another dtype, which is harmless, and a Decimal of other precision or scale,
    # which it would round, or replace by null, without a word.
    dtypes = first.dtypes
    if any(map(_may_hold_decimals, dtypes)) and any(f.dtypes != dtypes for f in frames):
        return None
    try:
        return pl.concat(frames, how="vertical", rechunk=False)
    except (pl.exceptions.SchemaError, pl.exceptions.ShapeError):
        return None


def _may_hold_decimals(dtype: pl.DataType) -> bool:
    inside = _inside(dtype).values()
    # a nested dtype that _inside does not look into, such as Map, may
    if dtype.is_nested() and inside:
        return any(map(_may_hold_decimals, inside))
    return dtype.is_decimal() or dtype.is_nested()


def _reconcile(parts: list[tuple[int, pl.DataFrame]], schema: pl.Schema | None) -> pl.DataFrame:
    """Cast all frames to the declared schema, or else to one that they can share."""
    if not parts[0][1].height:  # then none has rows
        if schema is not None:
            return schema.to_frame()
        widest = max((set(frame.columns) for _, frame in parts), key=len)
        parts = [part for part in parts if not set(part[1].columns) < widest]
    # to_frame makes an inner class, as in List(Int8), the instance that frames have
    target = _shared_schema(parts) if schema is None else schema.to_frame().schema
    frames = [_fit(*part, target, declared=schema is not None) for part in parts]
    return pl.concat(frames, how="vertical", rechunk=False)


def _shared_schema(parts: list[tuple[int, pl.DataFrame]]) -> pl.Schema:
    """Find a dtype for each column that holds what all partitions returned."""
    # by index, not by order of completion: the same job has the same schema every time
    first, *others = sorted(parts, key=lambda part: part[0])
    seen = {name: {dtype: first[0]} for name, dtype in first[1].schema.items()}
    for index, frame in others:
        _check_names(index, frame, seen, f"partition {first[0]}")
        for name, dtype in frame.schema.items():
            seen[name].setdefault(dtype, index)
    return pl.Schema({name: _shared_dtype(name, seen[name]) for name in seen})


def _shared_dtype(name: str, seen: Mapping[pl.DataType, int]) -> pl.DataType:
    """Find the dtype of a column, given its dtypes and who first returned each."""
    common = _common(seen)
    if common is not None:
        return common
    pairs = combinations(seen.items(), 2)  # where all fail, some pair does
    one, other = next(pair for pair in pairs if _common(dict(pair)) is None)
    says = f"but partition {one[1]} returned {_SHORT.repr(one[0])}"
    raise _error(other[1], name, other[0], says, "declare")


def _common(dtypes: Iterable[pl.DataType]) -> pl.DataType | None:
    """Find the narrowest dtype that holds what all `dtypes` hold, or None."""
    known = list(dict.fromkeys(d for d in dtypes if not isinstance(d, pl.Null)))
    if len(known) <= 1:
        return known[0] if known else pl.Null()
    if len({_family(dtype) for dtype in known}) > 1:
        return None
    if isinstance(known[0], pl.Decimal):
        return _common_decimal(known)
    if known[0].is_numeric():
        return _common_number(known)
    return _common_nested(known) if known[0].is_nested() else _common_text(known)


def _family(dtype: pl.DataType) -> Hashable:
    """Tell what dtypes must share to be reconciled at all."""
    if dtype.is_integer() or dtype.is_float():
        return "number"
    if isinstance(dtype, (pl.String, pl.Enum, pl.Categorical)):
        return "text"
    width = dtype.size if isinstance(dtype, pl.Array) else None
    names = frozenset(_inside(dtype))
    return (type(dtype), width, names) if names or dtype.is_decimal() else dtype


def _common_number(known: list[pl.DataType]) -> pl.DataType:
    widest = max(known, key=_bits)
    if any(dtype.is_float() for dtype in known):
        return widest if all(dtype.is_float() for dtype in known) else pl.Float64()
    signed = max((_bits(dtype) for dtype in known if dtype.is_signed_integer()), default=0)
    unsigned = max((_bits(dtype) for dtype in known if dtype.is_unsigned_integer()), default=0)
    if not signed:
        return widest
    # 128 bits only if one has them: UInt64 beside Int64 is Int64, values permitting
    return _SIGNED[min(max(signed, 2 * unsigned), max(_bits(widest), 64))]


def _bits(dtype: pl.DataType) -> int:
    """Width of a number, by its name: not every Polars has Float16 or UInt128 to compare with."""
    return int(re.sub(r"\D", "", str(dtype)))


def _common_decimal(known: list[pl.DataType]) -> pl.DataType | None:
    decimals = [dtype for dtype in known if isinstance(dtype, pl.Decimal)]
    scales = {dtype.scale for dtype in decimals}
    widest = max(decimals, key=lambda dtype: dtype.precision)
    return widest if len(scales) == 1 else None


def _common_text(known: list[pl.DataType]) -> pl.DataType | None:
    if any(isinstance(dtype, pl.String) for dtype in known):
        return None
    categoricals = [dtype for dtype in known if isinstance(dtype, pl.Categorical)]
    if categoricals:  # who named Categories did so on purpose: they win over global
        named = [d for d in categoricals if not d.categories.is_global()]
        return None if len(named) > 1 else (named or categoricals)[0]
    enums = [dtype for dtype in known if isinstance(dtype, pl.Enum)]
    largest = max(enums, key=lambda enum: enum.categories.len())
    words = set(largest.categories)
    return largest if all(words.issuperset(e.categories) for e in enums) else None


def _common_nested(known: list[pl.DataType]) -> pl.DataType | None:
    tables = [_inside(dtype) for dtype in known]
    inside = {name: _common(table[name] for table in tables) for name in tables[0]}
    return _rebuilt(known[0], inside)


def _inside(dtype: pl.DataType) -> pl.Schema:
    """Dtypes inside a List, Array or Struct, by name; none in another."""
    if isinstance(dtype, pl.Struct):
        return pl.Schema(dtype)
    if isinstance(dtype, (pl.List, pl.Array)):
        return pl.Schema({"item": dtype.inner})
    return pl.Schema()


def _rebuilt(dtype: pl.DataType, inside: Mapping[str, pl.DataType | None]) -> pl.DataType | None:
    """Make a nested dtype again with others inside; None if one of these is None."""
    known = {name: inner for name, inner in inside.items() if inner is not None}
    if len(known) < len(inside):
        return None
    if isinstance(dtype, pl.List):
        return pl.List(known["item"])
    if isinstance(dtype, pl.Array):
        return pl.Array(known["item"], dtype.size)
    return pl.Struct(known) if isinstance(dtype, pl.Struct) else dtype


def _fit(index: int, frame: pl.DataFrame, target: pl.Schema, *, declared: bool) -> pl.DataFrame:
    """Bring a frame to the target's columns, order and dtypes, every value kept."""
    if frame.schema == target:
        return frame
    _check_names(index, frame, target, "the declared schema")
    origin, verb = ("declared", "change") if declared else ("common", "declare")
    columns = [frame[name] for name in target]
    for at, (column, dtype) in enumerate(zip(columns, target.values(), strict=True)):
        if column.dtype == dtype:
            continue
        arranged = _arranged(column.dtype, dtype)
        says = f"but the {origin} dtype is {_SHORT.repr(dtype)}"
        if arranged is None:
            raise _error(index, column.name, column.dtype, says, verb)
        try:
            columns[at] = _cast(column, arranged, dtype)
        except pl.exceptions.PolarsError as error:
            says += f" ({str(error).splitlines()[0][:_LONGEST]})"
            raise _error(index, column.name, column.dtype, says, verb) from error
    return pl.DataFrame(columns)


def _arranged(source: pl.DataType, target: pl.DataType) -> pl.DataType | None:
    """Give `source` the target's order of struct fields; None if they are unlike."""
    if isinstance(source, pl.Null):
        return source
    if _family(source) != _family(target):
        return None
    ours, theirs = _inside(source), _inside(target)
    return _rebuilt(source, {n: _arranged(ours[n], theirs[n]) for n in theirs})


def _cast(column: pl.Series, arranged: pl.DataType, dtype: pl.DataType) -> pl.Series:
    """Cast strictly, after giving struct fields their order; raise if values change."""
    if column.dtype != arranged:  # cast would insist on the order of fields
        column = column.to_frame().match_to_schema({column.name: arranged}).to_series()
    converted = column.cast(dtype)
    if not _is_same(column, converted):
        raise pl.exceptions.InvalidOperationError("not every value stays the same")
    return converted


def _is_same(before: pl.Series, after: pl.Series) -> bool:
    """Tell whether a cast kept every value, at any depth."""
    if isinstance(before.dtype, pl.Null):
        return True
    if isinstance(before.dtype, (pl.List, pl.Array)):
        return _is_same(before.explode(), after.explode())
    if isinstance(before.dtype, pl.Struct):
        pairs = zip(before.struct.unnest(), after.struct.unnest(), strict=True)
        return all(_is_same(*pair) for pair in pairs)
    if before.dtype.is_float() != after.dtype.is_float():
        in_range = before.cast(pl.Float64).is_between(-_EXACT, _EXACT)
        return in_range.all() and after.cast(before.dtype).equals(before)
    return after.cast(before.dtype).equals(before)


def _check_names(index: int, frame: pl.DataFrame, wanted: Collection[str], origin: str) -> None:
    columns = dict.fromkeys(frame.columns)  # a list would be searched for each of them
    missing = [name for name in wanted if name not in columns]
    extra = [name for name in columns if name not in wanted]
    faults = [f"lacks the columns {_SHORT.repr(missing)}"] * bool(missing)
    faults += [f"adds the columns {_SHORT.repr(extra)}"] * bool(extra)
    if faults:
        raise SchemaMismatchError(
            f"partition {index} {' and '.join(faults)}, unlike {origin}"
            f"{_hint(missing, extra)}: return the same columns from every partition"
        )


def _hint(missing: list[str], extra: list[str]) -> str:
    """Name the first missing column that may be an extra one misspelt."""
    import difflib  # noqa: PLC0415  for results that do not fit

    folded = {name.casefold(): name for name in extra}
    for name in missing:
        if near := difflib.get_close_matches(name.casefold(), folded, n=1):
            return f" (did you mean {name!r} by {folded[near[0]]!r}?)"
    return ""


def _error(index: int, name: str, dtype: pl.DataType, says: str, verb: str) -> SchemaMismatchError:
    return SchemaMismatchError(
        f"partition {index} returned column {name!r} as {_SHORT.repr(dtype)}, {says}: "
        f"cast it inside the function, or {verb} schema={{{name!r}: ...}}"
    )
