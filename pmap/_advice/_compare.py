"""Whether two results are the same, and where they first differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl
from polars.testing import assert_frame_equal

__all__ = ["Difference", "compare", "zeros_differ"]

#: How far sums of floats may be apart that were taken in another order.
_RELATIVE = 1e-9
_RELATIVE_32 = 1e-4


@dataclass(frozen=True, slots=True)
class Difference:
    """How two frames compare: ``same``, ``rounding``, ``order`` or ``different``, and where."""

    kind: Literal["same", "rounding", "order", "different"]
    detail: str = ""


def compare(left: pl.DataFrame, right: pl.DataFrame, names: tuple[str, str]) -> Difference:
    """Compare two frames; `names` are what to call them."""
    if left.schema != right.schema:
        return Difference("different", _of_schemas(left, right, names))
    if left.height != right.height:
        counts = f"rows {names[0]}: {left.height:,}, {names[1]}: {right.height:,}"
        return Difference("different", counts)
    if _are_equal(left, right, exactly=True):
        return Difference("same")
    if _are_equal(left, right, exactly=False):
        return Difference("rounding")
    kind: Literal["order", "different"] = (
        "order" if _are_equal(left, right, exactly=False, ordered=False) else "different"
    )
    return Difference(kind, _first(left, right, names))


def zeros_differ(left: pl.DataFrame, right: pl.DataFrame) -> str | None:
    """A column of floats whose zeros have other signs in two frames that are else the same."""
    for name, dtype in left.schema.items():
        if dtype.is_float() and not (1 / left[name]).eq_missing(1 / right[name]).all():
            return name
    return None


def _are_equal(
    left: pl.DataFrame, right: pl.DataFrame, *, exactly: bool, ordered: bool = True
) -> bool:
    single = any(dtype == pl.Float32 for dtype in left.dtypes)
    try:
        assert_frame_equal(
            left,
            right,
            check_row_order=ordered,
            check_exact=exactly,
            rel_tol=_RELATIVE_32 if single else _RELATIVE,
            abs_tol=1e-12,
        )
    except AssertionError:
        return False
    except (TypeError, pl.exceptions.PolarsError):
        return False  # rows of these dtypes can not be sorted: the order is taken to matter
    return True


def _of_schemas(left: pl.DataFrame, right: pl.DataFrame, names: tuple[str, str]) -> str:
    if left.columns != right.columns:
        only = sorted(set(left.columns) ^ set(right.columns))
        return f"columns differ: {', '.join(map(repr, only)) or 'in another order'}"
    for name, dtype in left.schema.items():
        if right.schema[name] != dtype:
            return f"column {name!r} is {dtype} {names[0]}, {right.schema[name]} {names[1]}"
    return "schemas differ"


def _first(left: pl.DataFrame, right: pl.DataFrame, names: tuple[str, str]) -> str:
    for name in left.columns:
        one, other = left[name], right[name]
        try:
            differs = one.ne_missing(other)
        except pl.exceptions.PolarsError:  # nested dtypes that can not be compared
            continue
        row = differs.arg_max()
        if row is not None and differs[row]:
            return f"column {name!r}, row {row}: {one[row]!r} {names[0]}, {other[row]!r} {names[1]}"
    return ""
