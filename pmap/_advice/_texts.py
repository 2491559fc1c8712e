"""What is done with texts in Python and in Polars, where both mean the same."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from pmap._advice._said import refused

if TYPE_CHECKING:
    from pmap._advice._said import Said

__all__ = ["METHODS", "SPACES", "is_common", "sliced"]

SPACES = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
#: Of regular expressions, what both engines read alike; ``a++`` is possessive in Python alone.
_REGEX = re.compile(
    r"(?:[A-Za-z0-9 _,;:@#%&=<>/'\"~!-]|\\[.\-+*?()\[\]{}/]|\[[A-Za-z0-9 _,;:.@#%=/+-]+\]|(?<![+?}])[+?]|(?<![+?}])\{\d+\})+"
)

#: By name and number of arguments: what is written, and the kind that it gives.
METHODS = {
    ("upper", 0): (".str.to_uppercase()", "str"),
    ("lower", 0): (".str.to_lowercase()", "str"),
    ("strip", 0): (".str.strip_chars({spaces})", "str"),
    ("lstrip", 0): (".str.strip_chars_start({spaces})", "str"),
    ("rstrip", 0): (".str.strip_chars_end({spaces})", "str"),
    ("strip", 1): (".str.strip_chars({0})", "str"),
    ("lstrip", 1): (".str.strip_chars_start({0})", "str"),
    ("rstrip", 1): (".str.strip_chars_end({0})", "str"),
    ("startswith", 1): (".str.starts_with({0})", "bool"),
    ("endswith", 1): (".str.ends_with({0})", "bool"),
    ("removeprefix", 1): (".str.strip_prefix({0})", "str"),
    ("removesuffix", 1): (".str.strip_suffix({0})", "str"),
    ("replace", 2): (".str.replace_all({0}, {1}, literal=True)", "str"),
    ("count", 1): (".str.count_matches({0}, literal=True).cast(pl.Int64)", "int"),
    ("split", 1): (".str.split({0})", "list"),
}


def is_common(pattern: Said) -> bool:
    """Both engines find the same; what matches nothing at all they replace at other places."""
    if pattern.kind != "str" or pattern.value is None or not _REGEX.fullmatch(pattern.value[0]):
        return False
    if "--" in pattern.value[0]:  # of sets of letters, a difference in Polars
        return False
    try:
        return re.compile(pattern.value[0]).match("") is None
    except re.error:
        return False


def sliced(text: str, part: ast.Slice, node: ast.AST) -> str:
    """A slice with bounds that are written out; others are refused."""
    try:
        bounds = [
            None if side is None else ast.literal_eval(side)
            for side in (part.lower, part.upper, part.step)
        ]
    except ValueError:
        raise refused(node) from None
    low, high, step = bounds
    if step is not None or any(not (bound is None or type(bound) is int) for bound in bounds):
        raise refused(node)
    if high is None:
        return (
            text
            if not low
            else f"{text}.str.slice({low})"
            if low > 0
            else f"{text}.str.tail({-low})"
        )
    if low is None or low == 0:
        return f"{text}.str.head({high})"
    if 0 < low <= high:
        return f"{text}.str.slice({low}, {high - low})"
    raise refused(node)
