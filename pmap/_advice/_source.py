"""The syntax tree of a function, found by where its code stands in its file or notebook cell."""

from __future__ import annotations

import ast
import functools
import linecache
from types import FunctionType

__all__ = ["body_of"]


def body_of(function: object) -> tuple[str, list[ast.stmt]] | None:
    """Name of the one parameter, and the statements; ``None`` if that is not what it is."""
    if not isinstance(function, FunctionType):
        return None
    code = function.__code__
    if (
        code.co_argcount != 1 or code.co_kwonlyargcount or code.co_flags & 0x2C
    ):  # *args, **kwargs, generator
        return None
    node = _node_of(function)
    if isinstance(node, ast.Lambda):
        return code.co_varnames[0], [ast.Return(node.body)]
    if isinstance(node, ast.FunctionDef) and not node.decorator_list:
        return code.co_varnames[0], node.body
    return None


def _node_of(function: FunctionType) -> ast.AST | None:
    code = function.__code__
    tree = _parsed("".join(linecache.getlines(code.co_filename, function.__globals__)))
    if tree is None:
        return None
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Lambda | ast.FunctionDef)
        and node.lineno == code.co_firstlineno
        and (code.co_name == "<lambda>") == isinstance(node, ast.Lambda)
    ]
    matching = [node for node in found if _is_same(node, function)]
    return matching[0] if len(matching) == 1 else None


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _is_same(node: ast.Lambda | ast.FunctionDef, function: FunctionType) -> bool:
    """Whether the file still says what was compiled: names, constants and positions agree."""
    places = {
        (line, column)
        for line, _, column, _ in function.__code__.co_positions()
        if line is not None and column is not None
    }
    inner = node.body if isinstance(node, ast.Lambda) else node
    end = (inner.end_lineno or 0, inner.end_col_offset or 0)
    start = (node.lineno, node.col_offset)
    if isinstance(node, ast.Lambda) and (inner.lineno, inner.col_offset) not in places:
        return False
    used = {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}
    code = function.__code__
    named = {name for name in code.co_varnames + code.co_freevars if not name.startswith(".")}
    arguments = {item.arg for item in node.args.args}
    return all(start <= place <= end for place in places if place[1] or place[0] != start[0]) and (
        named <= used | arguments
    )
