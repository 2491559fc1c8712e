"""The syntax tree of a function, found by where its code stands in its file or notebook cell.

Without a file, from its bytecode.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import linecache
import warnings
from types import CodeType, FunctionType, MethodDescriptorType
from typing import TYPE_CHECKING, Any, cast

from pmap._advice._bytecode import body_from_bytecode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["body_of", "constants_of", "node_of", "parsed"]


def body_of(function: object) -> tuple[str, list[ast.stmt]] | None:
    """Name of the one parameter, and the statements; ``None`` if that is not what it is."""
    if not isinstance(function, FunctionType):
        return _body_of_builtin(function)
    code = function.__code__
    if (
        code.co_argcount != 1 or code.co_kwonlyargcount or code.co_flags & 0x2C
    ):  # *args, **kwargs, generator
        return None
    node = node_of(function)
    if node is None:
        return body_from_bytecode(function)
    if isinstance(node, ast.Lambda):
        return code.co_varnames[0], [ast.Return(node.body)]
    if not node.decorator_list:
        return code.co_varnames[0], node.body
    return None


def _body_of_builtin(function: Any) -> tuple[str, list[ast.stmt]] | None:
    """Of `str.upper`, `len` and the like: the call that a lambda would have written."""
    value, name = ast.Name("value"), getattr(function, "__name__", "")
    if isinstance(function, MethodDescriptorType) and function.__objclass__ is str:
        call = ast.Call(ast.Attribute(value, name), [], [])
    elif name and getattr(builtins, name, None) is function:
        call = ast.Call(ast.Name(name), [value], [])
    else:
        return None
    return value.id, [ast.Return(call)]


def node_of(function: FunctionType) -> ast.Lambda | ast.FunctionDef | None:
    code = function.__code__
    text = "".join(linecache.getlines(code.co_filename, function.__globals__))
    found = _parsed(text)
    if found is None or not any(_is_same(code, other) for other in found[1]):
        return None  # the file says something else by now
    for node in found[0]:
        is_lambda = isinstance(node, ast.Lambda)
        if node.lineno != code.co_firstlineno or is_lambda != (code.co_name == "<lambda>"):
            continue
        if not isinstance(node, ast.Lambda) or _places(code) == _places_of(node):
            return node
    return None


def _places(code: CodeType) -> set[tuple[int | None, ...]]:
    """Where in its file the code stands; what is the same for closures and others."""
    return {place for place in code.co_positions() if None not in place}


def _places_of(node: ast.Lambda) -> set[tuple[int | None, ...]]:
    """Of a lambda by itself: several may begin in the same line."""
    whole = compile(ast.Expression(body=node), "<pmap>", "eval", dont_inherit=True)
    return next(_places(code) for code in _codes(whole) if code.co_name == "<lambda>")


@functools.lru_cache(maxsize=1)
def parsed(text: str) -> ast.Module | None:
    """A file's syntax; what is odd about it was said when it was imported."""
    with warnings.catch_warnings(action="ignore"):
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError):
            return None


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> tuple[list[ast.Lambda | ast.FunctionDef], list[CodeType]] | None:
    """The functions of a file, as syntax and as code."""
    tree = parsed(text)
    if tree is None:
        return None
    with warnings.catch_warnings(action="ignore"):
        code = compile(tree, "<pmap>", "exec", dont_inherit=True)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda | ast.FunctionDef)]
    return nodes, list(_codes(code))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _is_same(one: CodeType, other: CodeType) -> bool:
    return (
        one.co_firstlineno == other.co_firstlineno
        and list(one.co_positions()) == list(other.co_positions())
        and _essence(one) == _essence(other)
    )


def _essence(code: CodeType) -> tuple[object, ...]:
    """Of a piece of code, what it does."""
    constants: list[object] = []
    for part in code.co_consts:
        constants.append(_essence(part) if isinstance(part, CodeType) else repr(part))  # noqa: PERF401  types
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants


#: Of a table in a function, keys that are tried.
_KEYS = 50


def constants_of(function: FunctionType) -> Iterator[object]:
    """Numbers and texts in a function's code, or in what its names stand for; keys of tables too.

    Those of plain functions of one value that it calls are among them.
    """
    seen: set[int] = set()
    stack: list[object] = [function]
    while stack:
        value = stack.pop()
        if isinstance(value, int | float | str):
            yield value
        elif isinstance(value, dict | list | tuple | set | frozenset):
            stack += list(cast("Iterable[object]", value))[:_KEYS]
        elif isinstance(value, FunctionType) and id(value) not in seen:
            seen.add(id(value))
            if len(seen) == 1 or value.__code__.co_argcount == 1:
                stack += _held_by(value)


def _held_by(function: FunctionType) -> Iterator[object]:
    outer = inspect.getclosurevars(function)
    for code in _codes(function.__code__):
        yield from (part for part in code.co_consts if not isinstance(part, CodeType))
    yield from (*outer.globals.values(), *outer.nonlocals.values())
