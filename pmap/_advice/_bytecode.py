"""The syntax of a function whose source is not at hand, from its bytecode.

Polars reads bytecode itself, to warn of slow functions, and writes the expression that it takes
for the same. That expression is not used: for some values it is not the same, and some functions
are misread, as ``not (a or b)``. It is read back into Python, and only if that compiles to the
very same bytecode is it what the user wrote; then it is translated as if it had stood in a file.
Polars' reader is private: where it is missing, or another, there is no suggestion.
"""

from __future__ import annotations

import ast
import dis
from types import CodeType
from typing import TYPE_CHECKING, Any

from pmap._advice._loops import function_of

if TYPE_CHECKING:
    from types import FunctionType

__all__ = ["body_from_bytecode"]

_VALUE = "__pmap_value__"
_COLUMN = f"pl.col('{_VALUE}')"
_METHODS = {
    "str.to_uppercase": "upper",
    "str.to_lowercase": "lower",
    "str.strip_chars": "strip",
    "str.strip_chars_start": "lstrip",
    "str.strip_chars_end": "rstrip",
    "str.starts_with": "startswith",
    "str.ends_with": "endswith",
    "str.strip_prefix": "removeprefix",
    "str.strip_suffix": "removesuffix",
    "dt.weekday": "isoweekday",
}
_FIELDS = {f"dt.{name}": name for name in ("year", "month", "day", "hour", "minute", "second")}
_CASTS = {"pl.String": "str", "pl.Float64": "float", "pl.Int64": "int"}


def body_from_bytecode(function: FunctionType) -> tuple[str, list[ast.stmt]] | None:
    """Name of the one parameter, and the statements, of a function of one value."""
    text = _expression_of(function)
    if text is None:
        return None
    name = function.__code__.co_varnames[0]
    for is_bits in (False, True):  # ``and`` and ``&`` are written alike
        try:
            value = _Reader(name, is_bits=is_bits).visit(ast.parse(text, mode="eval").body)
        except (SyntaxError, _Unreadable):
            continue
        body: list[ast.stmt] = [ast.fix_missing_locations(ast.Return(value))]
        if _steps(function.__code__) == _steps(_compiled(function.__code__, name, body)):
            return name, body
    return None


def _compiled(old: CodeType, name: str, body: list[ast.stmt]) -> CodeType:
    """The code of a function of one value, with its free names."""
    outer = function_of("__pmap_outer__", old.co_freevars, [function_of("inner", [name], body)])
    module = ast.fix_missing_locations(ast.Module([outer], []))
    code = compile(module, "<pmap>", "exec", dont_inherit=True)
    for _ in range(2):
        code = next(part for part in code.co_consts if isinstance(part, CodeType))
    return code


def _steps(code: CodeType) -> list[tuple[str, str]]:
    """What a piece of code does, step by step, wherever its constants are kept."""
    return [(step.opname, repr(step.argval)) for step in dis.get_instructions(code)]


def _expression_of(function: FunctionType) -> str | None:
    try:
        from polars._utils.udfs import (  # noqa: PLC0415  private: it may be missing
            BytecodeParser,
        )

        reader: Any = BytecodeParser(function, "expr")
        text = reader.to_expression(_VALUE) if reader.can_attempt_rewrite() else None
    except Exception:  # noqa: BLE001  whatever another version does, there is no suggestion
        return None
    return text if isinstance(text, str) else None


class _Unreadable(Exception):  # noqa: N818  no error: it ends a try
    """An expression that stands for no Python that is known."""


class _Reader(ast.NodeTransformer):
    """Python for an expression of Polars; the column is a value by the name given."""

    def __init__(self, name: str, *, is_bits: bool) -> None:
        self._name = name
        self._is_bits = is_bits

    def generic_visit(self, node: ast.AST) -> ast.AST:
        known = ast.BinOp | ast.UnaryOp | ast.Compare | ast.Constant | ast.Name | ast.Tuple
        kept = known | ast.List | ast.Set | ast.operator | ast.unaryop | ast.cmpop
        if not isinstance(node, kept | ast.expr_context):
            raise _Unreadable
        return super().generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """As it stands, or ``and`` for ``&``."""
        self.generic_visit(node)
        if self._is_bits or not isinstance(node.op, ast.BitAnd | ast.BitOr):
            return node
        joined = ast.And() if isinstance(node.op, ast.BitAnd) else ast.Or()
        return ast.BoolOp(joined, [node.left, node.right])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """As it stands; but ``not`` is written as ``~``."""
        self.generic_visit(node)
        return ast.UnaryOp(ast.Not(), node.operand) if isinstance(node.op, ast.Invert) else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """The value itself, or the method that the one of Polars stands for."""
        if ast.unparse(node) == _COLUMN:
            return ast.Name(self._name, ast.Load())
        name, owner = _method_of(node)
        arguments = [self.visit(argument) for argument in node.args if name != "cast"]
        value = self.visit(owner)
        options = {part.arg: ast.unparse(part.value) for part in node.keywords}
        if options:
            return _with_options(name, value, arguments, options)
        if name == "cast" and len(node.args) == 1:
            called = _CASTS.get(ast.unparse(node.args[0]))
            if called is None:
                raise _Unreadable
            return _call(ast.Name(called, ast.Load()), [value])
        return _without_options(name, value, arguments)


def _without_options(name: str, value: ast.expr, arguments: list[ast.expr]) -> ast.expr:
    if name in _METHODS:
        return _call(ast.Attribute(value, _METHODS[name], ast.Load()), arguments)
    if name in _FIELDS and not arguments:
        return ast.Attribute(value, _FIELDS[name], ast.Load())
    if name == "abs" and not arguments:
        return _call(ast.Name("abs", ast.Load()), [value])
    if name == "is_in" and len(arguments) == 1:
        return ast.Compare(value, [ast.In()], arguments)
    if name == "replace_strict" and len(arguments) == 1:
        return ast.Subscript(arguments[0], value, ast.Load())
    raise _Unreadable


def _with_options(
    name: str, value: ast.expr, arguments: list[ast.expr], options: dict[str | None, str]
) -> ast.expr:
    if options != {"literal": "True"}:
        raise _Unreadable
    if name == "str.replace_all" and len(arguments) == 2:  # noqa: PLR2004  what, by what
        return _call(ast.Attribute(value, "replace", ast.Load()), arguments)
    if name == "str.contains" and len(arguments) == 1:
        return ast.Compare(arguments[0], [ast.In()], [value])
    raise _Unreadable


def _method_of(node: ast.Call) -> tuple[str, ast.expr]:
    """The name of a method, with that of its namespace, and what it is called on."""
    method = node.func
    if not isinstance(method, ast.Attribute):
        raise _Unreadable
    owner = method.value
    if isinstance(owner, ast.Attribute) and owner.attr in {"str", "dt"}:
        return f"{owner.attr}.{method.attr}", owner.value
    return method.attr, owner


def _call(function: ast.expr, arguments: list[ast.expr]) -> ast.Call:
    return ast.Call(function, arguments, [])
