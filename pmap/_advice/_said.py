"""Polars expressions as text, with what is known of their values, and how they are put together."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import polars as pl

__all__ = [
    "DTYPES", "Said", "Untranslatable", "bare", "both", "cast_to", "changed", "choice", "constant_of", "is_exact", "kind_of",
    "limit_of", "literal", "operand", "refused", "within",
]  # fmt: skip

DTYPES = {"int": pl.Int64(), "float": pl.Float64(), "str": pl.String(), "bool": pl.Boolean()}
_KINDS: dict[object, str] = {
    int: "int",
    float: "float",
    str: "str",
    bool: "bool",
    type(None): "none",
}
_LONGEST = 60


class Untranslatable(Exception):  # noqa: N818  no error: it ends a try
    """What has no Polars expression that is the same."""


@dataclass(frozen=True, slots=True)
class Said:
    """An expression as text.

    Attributes
    ----------
    text
        Python code, of one operand: it can be followed by a method.
    kind
        ``int``, ``float``, ``str``, ``bool``, ``none``, ``date``, ``datetime`` or ``list``.
    value
        Of a constant, in a tuple of one; ``None`` for what depends on the column.
    keeps_nulls
        Whether null in always gives null out.
    is_choice
        Whether it is a whole ``when ... then ... otherwise``, which others can go on.
    may_be_none
        Whether it may be ``None`` where the column is not null: Polars goes on with a null then,
        where Python compares with it, writes it out or raises.
    limit
        Of a whole number, how far from zero it may be at most; ``None`` if that is not watched.
    """

    text: str
    kind: str
    value: tuple[Any] | None = None
    keeps_nulls: bool = True
    is_choice: bool = False
    may_be_none: bool = False
    limit: int | None = None


def bare(text: str) -> str:
    """Without the brackets around the whole."""
    try:
        inner = text[1:-1]
        if text[:1] == "(" and ast.dump(ast.parse(inner)) == ast.dump(ast.parse(text)):
            return inner
    except SyntaxError:
        pass
    return text


def refused(node: ast.AST) -> Untranslatable:
    """For what has no expression."""
    text = ast.unparse(node)
    shown = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    return Untranslatable(f"no expression means the same as {shown!r}")


def kind_of(value: object) -> str | None:
    return _KINDS.get(type(value))


def constant_of(value: Any, node: ast.AST) -> Said:
    kind = kind_of(value)
    if (
        kind is None
        or (kind == "float" and not math.isfinite(value))
        or (kind == "int" and abs(value) >= 1 << 62)
    ):
        raise refused(node)
    return Said(repr(value), kind, (value,))


def literal(said: Said) -> Said:
    """A constant text stands for itself, not for a column."""
    if said.value is not None and said.kind == "str":
        return changed(said, text=f"pl.lit({said.text})")
    return said


def both(left: Said, sign: str, right: Said, kind: str) -> Said:
    keeps = left.keeps_nulls and right.keeps_nulls
    return Said(f"({left.text} {sign} {right.text})", kind, None, keeps_nulls=keeps)


def cast_to(said: Said, dtype: str) -> str:
    return f"{said.text}.cast({dtype})"


def is_exact(left: Said, right: Said) -> bool:
    """Whether an integer column is compared with a float that is a small whole number."""
    constant = left if left.value is not None else right
    return constant.kind == "int" and abs(cast("tuple[Any]", constant.value)[0]) < 1 << 53


def choice(test: Said, then: Said, other: Said, node: ast.AST) -> Said:
    kinds = {then.kind, other.kind} - {"none"}
    if len(kinds) != 1:
        raise Untranslatable(f"its branches give {then.kind} and {other.kind}")
    kind = kinds.pop()
    if kind not in DTYPES:
        raise refused(node)
    chosen = f"pl.when({bare(test.text)}).then({operand(then)})"
    rest = other.text.removeprefix("pl") if other.is_choice else f".otherwise({operand(other)})"
    may_be_none = any(said.kind == "none" or said.may_be_none for said in (then, other))
    limits = [limit_of(said) for said in (then, other) if said.kind != "none"]
    limit = None if None in limits else max(cast("list[int]", limits))
    return Said(
        chosen + rest,
        kind,
        None,
        keeps_nulls=False,
        is_choice=True,
        may_be_none=may_be_none,
        limit=limit,
    )


def limit_of(said: Said) -> int | None:
    """How far from zero a whole number may be; ``None`` if that is not watched."""
    if said.value is None or said.kind != "int":
        return said.limit
    return abs(cast("int", said.value[0]))


def within(said: Said, limit: int | None) -> Said:
    """A whole number that is watched, if it fits into 64 bits."""
    if limit is not None and limit >= 1 << 63:
        raise Untranslatable(f"{bare(said.text)} may need more than 64 bits")
    return replace(said, limit=limit)


def changed(said: Said, *, text: str) -> Said:
    return replace(said, text=text, is_choice=False)


def operand(said: Said) -> str:
    """As an operand: a plain number is an Int32 and a plain text a column."""
    if said.value is None:
        return bare(said.text)
    dtype = ", dtype=pl.Int64" if said.kind == "int" else ""
    return said.text if said.kind == "none" else f"pl.lit({said.text}{dtype})"
