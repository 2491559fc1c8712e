"""Loops over the values of a column, found in the syntax of the function that they stand in.

Only what gives one value for each value is taken: lists made in one go, `map`, and lists that a
loop's every way appends to once.
"""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass, replace
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

from pmap._advice._locals import Locals
from pmap._advice._loops import ASK, VALUE, Loop, Loops, compiled, function_of
from pmap._advice._source import node_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["find_loops"]

_ROWS = {"iter_rows", "rows"}
_LONGEST = 70


def find_loops(function: object) -> Loops | None:
    """The loops of a plain function whose source is known; ``None`` if it has none."""
    if not isinstance(function, FunctionType):
        return None
    node = node_of(function)
    if node is None or getattr(node, "type_params", None):
        return None
    finder = _Finder(node)
    changed = finder.visit(copy.deepcopy(node))
    if not finder.found:
        return None
    code = compiled(changed, function.__code__)
    return None if code is None else Loops(function, code, finder.found, Locals(node).constants)


@dataclass(frozen=True, slots=True)
class _Source:
    node: ast.expr
    method: str
    rows: bool


class _Finder(ast.NodeTransformer):
    """Puts a call in the place of each loop."""

    def __init__(self, function: ast.Lambda | ast.FunctionDef) -> None:
        self._function = function
        self._direct: set[int] = set()
        self._columns = _columns_of(function)
        body = getattr(function, "body", None)
        statements = cast("list[ast.stmt]", body if isinstance(body, list) else [])
        self._locals = Locals(function)
        self._run_once = {(part.lineno, part.col_offset) for part in statements}
        self.found: list[Loop] = []

    # Expressions

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        return self._comprehension(node, node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if len(node.targets) == 1 and self._becomes_column(node.targets[0], 1):
            self._direct.add(id(node.value))
        return self.generic_visit(node)

    def _becomes_column(self, node: ast.expr, sets: int) -> bool:
        """Whether a list is made at so many places and used for nothing but a column of a frame."""
        return isinstance(node, ast.Name) and self._columns.get(node.id) == sets

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self._direct |= {id(part) for part in _into_frame(node)}
        if (
            isinstance(node.func, ast.Name)
            and node.func.id == "list"
            and len(node.args) == 1
            and not node.keywords
        ):
            inner = node.args[0]
            if isinstance(inner, ast.GeneratorExp):
                return self._comprehension(node, inner)
            if _is_call_of(inner, "map", 2):
                return self._mapped(node, cast("ast.Call", inner))
        return self.generic_visit(node)

    def _comprehension(self, node: ast.expr, inner: ast.ListComp | ast.GeneratorExp) -> ast.AST:
        part = inner.generators[0]
        is_simple = len(inner.generators) == 1 and not part.ifs and not part.is_async
        if not is_simple or not isinstance(part.target, ast.Name) or _binds(inner.elt):
            return self.generic_visit(node)
        body: list[ast.stmt] = [ast.Return(inner.elt)]
        return self._replaced(node, part.target.id, body, part.iter) or self.generic_visit(node)

    def _mapped(self, node: ast.expr, inner: ast.Call) -> ast.AST:
        function, source = inner.args
        if isinstance(function, ast.Lambda):
            names = [part.arg for part in function.args.args]
            if len(names) != 1 or ast.unparse(function.args) != names[0]:
                return self.generic_visit(node)
            name, elt = names[0], function.body
        else:
            name, elt = VALUE, ast.Call(function, [ast.Name(VALUE, ast.Load())], [])
        if _binds(elt):
            return self.generic_visit(node)
        return self._replaced(node, name, [ast.Return(elt)], source) or self.generic_visit(node)

    def _replaced(
        self, node: ast.expr, name: str, body: list[ast.stmt], over: ast.expr
    ) -> ast.expr | None:
        """The call that asks, for a loop that gives a list."""
        loop = Loop(_text(node), node.lineno, name, body, wants_list=id(node) not in self._direct)
        done = self._noted(loop, over)
        if done is None:
            return None
        loop, source = done
        function = cast("ast.Lambda", ast.parse(f"lambda {loop.parameter}: 0", mode="eval").body)
        function.body = cast("ast.expr", cast("ast.Return", loop.body[0]).value)
        return self._asking(source, function, node)

    def _noted(self, loop: Loop, over: ast.expr) -> tuple[Loop, ast.expr] | None:
        """Keep a loop over something; ``None`` if it needs more than one value of each row."""
        source = _source_of(over)
        if not self._locals.is_column(source.node, is_frame=source.rows):
            return None
        loop = replace(loop, method=source.method, origin=ast.unparse(source.node))
        if source.rows:
            fields = _Fields(loop.parameter)
            body = [fields.visit(copy.deepcopy(statement)) for statement in loop.body]
            if len(fields.names) != 1 or fields.is_used_whole:
                return None
            field = fields.names.pop()
            origin = f"{loop.origin}[{field!r}]"
            loop = replace(loop, parameter=VALUE, body=body, field=field, origin=origin)
        if not self._locals.names & {
            part.id for part in ast.walk(source.node) if isinstance(part, ast.Name)
        }:
            loop = replace(
                loop, wants_list=True
            )  # of another frame than what the function was given
        self.found.append(loop)
        return loop, source.node

    def _asking(self, source: ast.expr, function: ast.expr, node: ast.AST) -> ast.expr:
        """The call for the loop that was noted last."""
        index = ast.Constant(len(self.found) - 1)
        call = ast.Call(ast.Name(ASK, ast.Load()), [index, source, function], [])
        return ast.copy_location(call, node)

    # Statements

    def visit_For(self, node: ast.For) -> Any:
        lists = _appended(node.body)
        if not lists or node.orelse or not isinstance(node.target, ast.Name) or self._leaks(node):
            return self.generic_visit(node)
        bodies = [(name, _as_function(node.body, name, lists, is_last=True)) for name in lists]
        if any(body is None for _, body in bodies):
            return self.generic_visit(node)
        before, new = len(self.found), list[ast.stmt]()
        for name, body in bodies:
            statements = self._filling(node, name, cast("list[ast.stmt]", body))
            if statements is None:
                del self.found[before:]
                return self.generic_visit(node)
            new += statements
        return new

    def _filling(self, node: ast.For, name: str, body: list[ast.stmt]) -> list[ast.stmt] | None:
        """A function for the loop's body, and what keeps its values in a list."""
        value = cast("ast.Name", node.target).id
        is_column = (node.lineno, node.col_offset) in self._run_once and self._becomes_column(
            ast.Name(name), 1 + _appends_to(name, node.body)
        )
        head = f"{name}, filled by: for {value} in {ast.unparse(node.iter)}: ..."
        loop = Loop(head, node.lineno, value, body, wants_list=not is_column)
        done = self._noted(loop, node.iter)
        if done is None:
            return None
        loop, source = done
        called = f"__pmap_body_{len(self.found)}__"
        function = function_of(called, [loop.parameter], loop.body)
        values = self._asking(source, ast.Name(called, ast.Load()), node)
        kept = _kept_in(name, values, is_column=is_column)
        return [ast.copy_location(statement, node) for statement in (function, kept)]

    def _leaks(self, loop: ast.For) -> bool:
        """Whether a name that the loop sets is read outside it."""
        bound = {
            part.id
            for part in ast.walk(loop)
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
        }
        place = (loop.lineno, loop.col_offset)
        return bool(bound & set(_read(self._function, place)))


def _kept_in(name: str, values: ast.expr, *, is_column: bool) -> ast.stmt:
    if is_column:
        return ast.Assign([ast.Name(name, ast.Store())], values)
    into = ast.Attribute(ast.Name(name, ast.Load()), "extend", ast.Load())
    return ast.Expr(ast.Call(into, [values], []))


def _text(node: ast.expr) -> str:
    """What stands there, short."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _source_of(node: ast.expr) -> _Source:
    """What is gone over, without the method that makes Python values of it."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args:
        name = node.func.attr
        if name == "to_list" and not node.keywords:
            return _Source(node.func.value, name, rows=False)
        is_named = [ast.unparse(part) for part in node.keywords] == ["named=True"]
        if (name in _ROWS and is_named) or (name == "to_dicts" and not node.keywords):
            return _Source(node.func.value, name, rows=True)
    return _Source(node, "", rows=False)


class _Fields(ast.NodeTransformer):
    """Of a row as a dict, the fields that are read; they become the value itself."""

    def __init__(self, row: str) -> None:
        self._row = row
        self.names: set[str] = set()
        self.is_used_whole = False

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        is_row = isinstance(node.value, ast.Name) and node.value.id == self._row
        if is_row and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            self.names.add(node.slice.value)
            return ast.copy_location(ast.Name(VALUE, node.ctx), node)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        self.is_used_whole |= node.id == self._row
        return node


def _into_frame(node: ast.Call) -> Iterator[ast.expr]:
    """Of a call of `pl.Series` or `pl.DataFrame`, what becomes a column, where a Series does as well."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    arguments = [*node.args, *(part.value for part in node.keywords)]
    if name == "Series":
        yield from arguments
    elif name == "DataFrame":
        for argument in arguments:
            if isinstance(argument, ast.Dict):
                yield from argument.values


def _columns_of(function: ast.AST) -> dict[str, int]:
    """Names that are made once and else become columns of a frame; how often they are made or appended to."""
    nodes = list(ast.walk(function))
    columns = [part for call in nodes if isinstance(call, ast.Call) for part in _into_frame(call)]
    allowed = {id(part) for part in columns}
    made: dict[str, int] = {}
    for node in nodes:
        found = _append_of(node) if isinstance(node, ast.stmt) else None
        if found is not None:
            made[found[0]] = made.get(found[0], 0) + 1
            allowed.add(id(cast("Any", node).value.func.value))
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            is_list = isinstance(value, ast.List) and not value.elts
            if isinstance(target, ast.Name) and (
                is_list or isinstance(value, ast.ListComp | ast.Call)
            ):
                made[target.id] = made.get(target.id, 0) + 1
                allowed.add(id(target))
    names = [node for node in nodes if isinstance(node, ast.Name) and id(node) not in allowed]
    taken = {node.id for node in names} | {name for node in nodes for name in _declared(node)}
    return {name: count for name, count in made.items() if name not in taken}


def _declared(node: ast.AST) -> list[str]:
    return node.names if isinstance(node, ast.Global | ast.Nonlocal) else []


def _appends_to(name: str, body: list[ast.stmt]) -> int:
    nodes = (part for statement in body for part in ast.walk(statement))
    found = (_append_of(part) for part in nodes if isinstance(part, ast.stmt))
    return sum(part is not None and part[0] == name for part in found)


def _is_call_of(node: ast.expr, name: str, count: int) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == name
        and len(node.args) == count
        and not node.keywords
        and not any(isinstance(part, ast.Starred) for part in node.args)
    )


def _binds(node: ast.AST) -> bool:
    """Whether an expression can not stand in a function of its own."""
    kinds = ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom
    return any(isinstance(part, kinds) for part in ast.walk(node))


def _append_of(node: ast.stmt) -> tuple[str, ast.expr] | None:
    """Name and value, if a statement is ``name.append(value)``."""
    call = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(call, ast.Call) or len(call.args) != 1 or call.keywords:
        return None
    method = call.func
    if not isinstance(method, ast.Attribute) or method.attr != "append":
        return None
    return (method.value.id, call.args[0]) if isinstance(method.value, ast.Name) else None


def _appended(body: list[ast.stmt]) -> list[str]:
    """The lists that a loop's statements append to, if they use them for nothing else."""
    nodes = [part for statement in body for part in ast.walk(statement)]
    appends = [
        found for part in nodes if isinstance(part, ast.stmt) and (found := _append_of(part))
    ]
    lists = list(dict.fromkeys(name for name, _ in appends))
    named = [part.id for part in nodes if isinstance(part, ast.Name) and part.id in lists]
    is_plain = len(named) == len(appends) and not any(_binds(statement) for statement in body)
    return lists if is_plain else []


def _as_function(
    body: list[ast.stmt], name: str, lists: list[str], *, is_last: bool
) -> list[ast.stmt] | None:
    """The statements with a return for each append to `name`; ``None`` if not every way has just one."""
    new: list[ast.stmt] = []
    kept = [
        statement
        for statement in body
        if (found := _append_of(statement)) is None or found[0] == name or found[0] not in lists
    ]
    for index, statement in enumerate(kept):
        rest = kept[index + 1 :]
        found = _append_of(statement)
        if found is not None:
            ends = is_last if not rest else len(rest) == 1 and isinstance(rest[0], ast.Continue)
            return [*new, ast.copy_location(ast.Return(found[1]), statement)] if ends else None
        if isinstance(statement, ast.If):
            return _as_branches(statement, rest, name, lists, new, is_last=is_last)
        if not isinstance(statement, ast.Assign):
            return None
        new.append(statement)
    return None


def _as_branches(  # noqa: PLR0913  what is known of the statements around
    node: ast.If,
    rest: list[ast.stmt],
    name: str,
    lists: list[str],
    new: list[ast.stmt],
    *,
    is_last: bool,
) -> list[ast.stmt] | None:
    """Each branch goes on with what follows, unless it ends by itself."""
    ways: list[list[ast.stmt]] = []
    for branch in (node.body, node.orelse):
        ends = bool(branch) and isinstance(branch[-1], ast.Continue)
        way = _as_function(branch if ends else [*branch, *rest], name, lists, is_last=is_last)
        if way is None:
            return None
        ways.append(way)
    return [*new, ast.copy_location(ast.If(node.test, ways[0], ways[1]), node)]


def _read(node: ast.AST, place: tuple[int, int]) -> Iterator[str]:
    """Names that are read, but for those of the loop at a place and those that a part sets for itself."""
    if isinstance(node, ast.For):
        if (node.lineno, node.col_offset) == place:
            return
        own = {node.target.id} if isinstance(node.target, ast.Name) else set[str]()
        yield from (name for part in node.body for name in _read(part, place) if name not in own)
        yield from (name for part in [node.iter, *node.orelse] for name in _read(part, place))
        return
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp | ast.Lambda):
        own = {
            part.id
            for part in ast.walk(node)
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
        }
        own |= {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
        yield from (
            name
            for part in ast.iter_child_nodes(node)
            for name in _read(part, place)
            if name not in own
        )
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id
    for part in ast.iter_child_nodes(node):
        yield from _read(part, place)
