"""A query that was collected for nothing but to be split, as the user's call has it in the source.

Of what the source does not tell for sure, nothing is said.
"""

from __future__ import annotations

import ast
import linecache
import sys
from typing import TYPE_CHECKING, cast

import polars as pl

from pmap._advice._source import parsed
from pmap._warn import users_frame

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["query_of_call"]

_CALLED = {"map_partitions", "iter_partitions"}
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)  # fmt: skip
#: Of a query over files, what goes batch by batch.
_BATCHWISE = {"filter", "select", "with_columns", "drop", "rename", "cast", "drop_nulls", "head", "limit"}  # fmt: skip
#: In the plan of a query, what does not.
_AT_ONCE = ("SORT", "AGGREGATE", "UNIQUE", "JOIN", "UNION", "GROUP", "DF [")
#: The first Polars whose batches were tried with a query that fails half-way.
_POLARS = 2


def query_of_call() -> str | None:
    """The query over files that is collected for the user's call of pmap alone, as text.

    ``None`` if its frame may be used for something else too, if it is whole in memory at some time
    in any case, or if the source does not tell.
    """
    if int(pl.__version__.partition(".")[0]) < _POLARS:
        return None
    try:
        return _query(users_frame())
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001  the call is over, and is not to fail for a word about it
        return None


def _query(frame: FrameType) -> str | None:
    tree = parsed("".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals)))
    path = [] if tree is None else _path_to(tree, _place(frame))
    call = _call_of(path)
    if call is None:
        return None
    given = _first_argument(call)
    if isinstance(given, ast.Name):
        given = _only_value(path, given.id, frame)
    if not (isinstance(given, ast.Call) and isinstance(given.func, ast.Attribute)):
        return None
    query = given.func.value
    is_read = given.func.attr == "collect" and _is_batchwise(query, frame)
    return ast.unparse(query) if is_read else None


def _place(frame: FrameType) -> tuple[int, int, int, int]:
    """First line and column, and last, of what the frame is at."""
    positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    line, end_line, column, end_column = cast("tuple[int, int, int, int]", positions)
    return line, column, end_line, end_column


def _path_to(tree: ast.Module, place: tuple[int, int, int, int]) -> list[ast.AST]:
    """From the outermost syntax around a place to the expression that is there; empty without one."""
    path: list[ast.AST] = [tree]
    while True:
        node = next((n for n in _below(path[-1]) if _holds(n, place)), None)
        if node is None:
            return []
        path.append(node)
        if isinstance(node, ast.expr) and _place_of(node) == place:
            return path


def _below(node: ast.AST) -> list[ast.AST]:
    """Children that have a place, and those of what has none, as an argument's or a comprehension's."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        found += [child] if hasattr(child, "lineno") else _below(child)
    return found


def _place_of(node: ast.AST) -> tuple[int, int, int, int]:
    known = cast("ast.expr", node)
    return known.lineno, known.col_offset, known.end_lineno or 0, known.end_col_offset or 0


def _holds(node: ast.AST, place: tuple[int, int, int, int]) -> bool:
    own = _place_of(node)
    return own[:2] <= place[:2] and place[2:] <= own[2:]


def _call_of(path: list[ast.AST]) -> ast.Call | None:
    """That of pmap at the end of a path, or the one in what takes from its iterator there."""
    if not path or not isinstance(path[-1], ast.Call):
        return None
    calls = [n for n in (path[-1], *path[-1].args) if isinstance(n, ast.Call) and _is_ours(n)]
    return calls[0] if len(calls) == 1 else None


def _is_ours(call: ast.Call) -> bool:
    return getattr(call.func, "attr", getattr(call.func, "id", None)) in _CALLED


def _first_argument(call: ast.Call) -> ast.expr | None:
    named = (keyword.value for keyword in call.keywords if keyword.arg == "frame")
    return call.args[0] if call.args else next(named, None)


def _only_value(path: list[ast.AST], name: str, frame: FrameType) -> ast.expr | None:
    """What a name stands for, if it is set once and read once, as often as it is set."""
    scope = next((node for node in reversed(path) if isinstance(node, _SCOPES)), path[0])
    if isinstance(scope, ast.ClassDef) or (scope is path[0] and not _is_whole_program(frame)):
        return None  # others may read it
    inside = list(ast.walk(scope))
    uses = [node for node in inside if isinstance(node, ast.Name) and node.id == name]
    set_by = [n for n in inside if isinstance(n, ast.Assign) and n.targets[0] in uses]
    if len(uses) != 2 or len(set_by) != 1 or len(set_by[0].targets) != 1:  # noqa: PLR2004  one of each
        return None
    if any(_names_otherwise(node, name) for node in inside):
        return None
    loops = (node for node in path if isinstance(node, _LOOPS))
    return set_by[0].value if all(set_by[0] in ast.walk(loop) for loop in loops) else None


def _names_otherwise(node: ast.AST, name: str) -> bool:
    """Whether a name is another scope's, or is in a text, as in that of an SQL query."""
    if isinstance(node, ast.Global | ast.Nonlocal):
        return name in node.names
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and name in node.value


def _is_whole_program(frame: FrameType) -> bool:
    """Whether no other file, and no prompt or cell, can read the names of this one."""
    of_file = frame.f_globals.get("__file__") == frame.f_code.co_filename
    is_prompt = bool(sys.flags.interactive) or "IPython" in sys.modules
    return of_file and frame.f_globals.get("__name__") == "__main__" and not is_prompt


def _is_batchwise(query: ast.expr, frame: FrameType) -> bool:
    """Whether a chain of calls goes batch by batch from `pl.scan_...`, or from such a query by its name."""
    node = query
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr.startswith("scan_"):
            return True
        if node.func.attr not in _BATCHWISE:
            return False
        node = node.func.value
    if not isinstance(node, ast.Name):
        return False
    value = frame.f_locals.get(node.id, frame.f_globals.get(node.id))
    if not isinstance(value, pl.LazyFrame):
        return False
    plan = value.explain(optimized=False)
    return " SCAN [" in plan and not any(word in plan for word in _AT_ONCE)
