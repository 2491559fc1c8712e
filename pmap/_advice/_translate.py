"""A Python function of one value as a Polars expression, as text; what can't be said is refused.

Only what means the same in both for every value, null and NaN included, is written at all.
Left out on purpose, since they differ: ``**``, ``round`` and ``str`` of floats, ``//`` and ``%``
of floats, ``title``, ``find``, ``isdigit``, ``int`` of text. What is written is still verified.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from pmap._advice._said import (
    DTYPES,
    Said,
    Untranslatable,
    bare,
    choice,
    constant_of,
)
from pmap._advice._source import body_of
from pmap._advice._translator import Translator, namespace_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FunctionType

__all__ = ["Said", "Untranslatable", "namespace_of", "translate", "translate_loop"]


def translate(
    function: Callable[[Any], Any],
    column: str,
    dtype: pl.DataType,
    return_dtype: Any = None,
    *,
    skip_nulls: bool = True,
) -> str:
    """The text of an expression that gives what ``pl.col(column).map_elements(function)`` gives.

    Raises
    ------
    Untranslatable
        With what is in the way.
    """
    found = body_of(function)
    if found is None:
        raise Untranslatable("its source was not found, or it is no plain function of one value")
    said = _said(function, *found, _base(column, dtype))
    if skip_nulls:
        return _finished(said, column, return_dtype)
    return _with_null(said, function, column, return_dtype)


def translate_loop(
    function: FunctionType,
    name: str,
    body: list[ast.stmt],
    column: pl.Series,
    *,
    is_watched: bool = False,
) -> str:
    """The text of an expression that gives, as a column, what a loop's body gives for each value.

    Parameters
    ----------
    function
        The body as a function, which is called with ``None`` once: a loop is handed nulls too.
    name, body
        Its parameter and its statements.
    column
        What it goes over.
    is_watched
        Whether to refuse what may need more than 64 bits for these values: it wraps around.

    Raises
    ------
    Untranslatable
        With what is in the way.
    """
    base = _base(column.name, column.dtype)
    if is_watched and base.kind == "int":
        ends = [abs(cast("int", end)) for end in (column.min(), column.max()) if end is not None]
        base = replace(base, limit=max(ends, default=0))
    return _with_null(_said(function, name, body, base), function, column.name, None)


def _with_null(said: Said, function: Callable[[Any], Any], column: str, return_dtype: Any) -> str:
    """For a function that is handed nulls too: it is called with one."""
    try:
        of_null = function(None)  # it calls nothing but what has an expression
    except Exception:  # noqa: BLE001  whatever it raises, a null has no result to keep to
        of_null = None
    if of_null is None:
        return _finished(said, column, return_dtype)
    node = ast.Constant(of_null)
    is_null = Said(f"pl.col({column!r}).is_null()", "bool")
    whole = choice(is_null, constant_of(of_null, node), said, node)
    return bare(_as_asked(whole, return_dtype))


def _said(function: object, name: str, body: list[ast.stmt], base: Said) -> Said:
    outer = namespace_of(function)
    said = Translator({name: base}, outer, outer).block(body)
    if said.kind not in DTYPES:
        raise Untranslatable(f"it gives {said.kind}")
    return said


def _base(column: str, dtype: pl.DataType) -> Said:
    """The column, in the width that Python sees its values in."""
    text = f"pl.col({column!r})"
    if column == "*" or (column.startswith("^") and column.endswith("$")):
        raise Untranslatable(f"Polars reads the name {column!r} as a pattern")
    if dtype == pl.UInt64 or (dtype.is_integer() and "128" in str(dtype)):
        raise Untranslatable(f"{dtype} is wider than Polars can calculate with")
    if dtype.is_integer():
        return Said(text if dtype == pl.Int64 else f"{text}.cast(pl.Int64)", "int")
    if dtype.is_float():
        return Said(text if dtype == pl.Float64 else f"{text}.cast(pl.Float64)", "float")
    plain = {pl.String: "str", pl.Boolean: "bool", pl.Date: "date"}
    for known, kind in plain.items():
        if dtype == known:
            return Said(text, kind)
    if isinstance(dtype, pl.Datetime) and dtype.time_unit != "ns":
        return Said(text, "datetime")
    raise Untranslatable(f"columns of {dtype}")


def _finished(said: Said, column: str, return_dtype: Any) -> str:
    if said.value is not None:
        text = f"pl.lit({said.text}, dtype=pl.{_wanted(said, return_dtype)!r})"
    else:
        text = _as_asked(said, return_dtype)
    if not said.keeps_nulls or said.value is not None or "pl.when(" in text:
        known = f"pl.col({column!r})"
        if said.is_choice:
            return f"pl.when({known}.is_null()).then(None){text.removeprefix('pl')}"
        text = f"pl.when({known}.is_not_null()).then({bare(text)})"
    return bare(text)


def _as_asked(said: Said, return_dtype: Any) -> str:
    wanted = _wanted(said, return_dtype)
    return said.text if wanted in DTYPES.values() else f"{said.text}.cast(pl.{wanted!r})"


def _wanted(said: Said, return_dtype: Any) -> pl.DataType:
    if return_dtype is None:
        return DTYPES[said.kind]
    asked = return_dtype() if isinstance(return_dtype, type) else return_dtype
    if not isinstance(asked, pl.DataType) or not _fits(said.kind, asked):
        raise Untranslatable(f"{said.kind} as {return_dtype}")
    return asked


def _fits(kind: str, dtype: pl.DataType) -> bool:
    return {
        "int": dtype.is_integer(),
        "float": dtype == pl.Float64,
        "str": dtype == pl.String,
        "bool": dtype == pl.Boolean,
    }[kind]
