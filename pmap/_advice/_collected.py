"""A query that was collected for nothing but to be split, as the user's call has it in the source."""

from __future__ import annotations

import ast
import contextlib
import functools
import linecache
from typing import TYPE_CHECKING, cast

import polars as pl

from pmap._warn import users_frame

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["query_of_call"]

_CALLED = {"map_partitions", "iter_partitions"}
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)  # fmt: skip


def query_of_call() -> str | None:
    """The query over files that is collected for the user's call of pmap alone, as text.

    ``None`` if its frame may be used for something else too, or the source does not tell.
    """
    frame = users_frame()
    tree = _tree("".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals)))
    call = _call_in(tree, frame)
    given = None if call is None else _first_argument(call)
    if call is not None and isinstance(given, ast.Name):
        given = _only_value(tree, call, given.id, frame)
    if not (isinstance(given, ast.Call) and isinstance(given.func, ast.Attribute)):
        return None
    query = given.func.value
    reads = given.func.attr == "collect" and _reads_files(query, frame)
    return ast.unparse(query) if reads else None


@functools.lru_cache(maxsize=4)
def _tree(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return ast.parse("")


def _call_in(tree: ast.Module, frame: FrameType) -> ast.Call | None:
    """The one call of pmap in what the frame is at: that itself, or what takes from its iterator."""
    positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    if None in positions:
        return None
    line, end_line, column, end_column = cast("tuple[int, int, int, int]", positions)
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", None)) in _CALLED
        and (line, column) <= (node.lineno, node.col_offset)
        and (node.end_lineno or 0, node.end_col_offset or 0) <= (end_line, end_column)
    ]
    return calls[0] if len(calls) == 1 else None


def _first_argument(call: ast.Call) -> ast.expr | None:
    named = (keyword.value for keyword in call.keywords if keyword.arg == "frame")
    return call.args[0] if call.args else next(named, None)


def _only_value(tree: ast.Module, call: ast.Call, name: str, frame: FrameType) -> ast.expr | None:
    """What a name stands for, if it is set once and read once, as often as it is set."""
    outer = [node for node in ast.walk(tree) if call in ast.walk(node)]  # outermost first
    scopes = [node for node in outer if isinstance(node, _SCOPES)]
    is_script = frame.f_globals.get("__file__") == frame.f_code.co_filename
    if not scopes and not is_script:
        return None  # other cells of a notebook may read it as well
    inside = list(ast.walk(scopes[-1] if scopes else tree))
    uses = [node for node in inside if isinstance(node, ast.Name) and node.id == name]
    set_by = [node for node in inside if isinstance(node, ast.Assign) and node.targets[0] in uses]
    if len(uses) != 2 or len(set_by) != 1:  # noqa: PLR2004  one of each kind
        return None
    loops = (node for node in outer if isinstance(node, _LOOPS))
    is_in_all = all(set_by[0] in ast.walk(loop) for loop in loops)
    return set_by[0].value if is_in_all else None


def _reads_files(query: ast.expr, frame: FrameType) -> bool:
    """Whether a chain of calls begins with `pl.scan_...`, or with the name of such a query."""
    node = query
    while isinstance(node, ast.Call | ast.Attribute):
        if isinstance(node, ast.Attribute) and node.attr.startswith("scan_"):
            return True
        node = node.func if isinstance(node, ast.Call) else node.value
    value = None
    if isinstance(node, ast.Name):
        value = frame.f_locals.get(node.id, frame.f_globals.get(node.id))
    if not isinstance(value, pl.LazyFrame):
        return False
    with contextlib.suppress(pl.exceptions.PolarsError, OSError):
        return " SCAN [" in value.explain(optimized=False)
    return False
