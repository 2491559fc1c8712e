"""What the names that a function sets itself stand for, as far as its syntax tells."""

from __future__ import annotations

import ast

__all__ = ["Locals"]


class Locals:
    """The names that a function sets.

    Parameters
    ----------
    function
        A definition or a lambda.

    Attributes
    ----------
    names
        All of them, parameters too.
    constants
        Names that stand for the same in each call: set once, by what is written there.
    """

    def __init__(self, function: ast.Lambda | ast.FunctionDef) -> None:
        self._set = _names_set(function)
        self.names = {*self._set}
        defaults = _with_defaults(function.args)
        once = {name: made[0] for name, made in self._set.items() if len(made) == 1}
        self.constants = {
            name
            for name, value in once.items()
            if name in defaults
            or (_is_constant(value) and (not _is_table(value) or _is_only_read(function, name)))
        }
        for name, value in once.items():
            if isinstance(value, ast.FunctionDef | ast.Lambda) and value is not function:
                read = {part.id for part in ast.walk(value) if isinstance(part, ast.Name)}
                if not (read - {*_names_set(value)}) & ({*self._set} - self.constants):
                    self.constants.add(name)

    def is_column(self, node: ast.expr, *, is_frame: bool) -> bool:
        """Whether it is a column by its name, or a frame if that is asked, and nothing made of it."""
        if is_frame:
            return isinstance(node, ast.Name)
        if isinstance(node, ast.Name):
            made = self._set.get(node.id, [])
            return len(made) == 1 and isinstance(made[0], ast.expr) and _is_column(made[0])
        return _is_column(node)


def _names_set(function: ast.AST) -> dict[str, list[ast.AST]]:
    """By name, what it is set to each time; where that is not known, the node that sets it."""
    found: dict[str, list[ast.AST]] = {}
    values: dict[int, ast.AST] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            values[id(node.targets[0])] = node.value
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.setdefault(node.id, []).append(values.get(id(node), node))
        elif isinstance(node, ast.FunctionDef) and node is not function:
            found.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.arg):
            found.setdefault(node.arg, []).append(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                found.setdefault((alias.asname or alias.name).partition(".")[0], []).append(node)
    return found


def _is_column(node: ast.expr) -> bool:
    """``frame["x"]`` or ``frame.get_column("x")``."""
    if isinstance(node, ast.Subscript):
        frame, name = node.value, node.slice
    elif isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        method = node.func
        if not isinstance(method, ast.Attribute) or method.attr != "get_column":
            return False
        frame, name = method.value, node.args[0]
    else:
        return False
    is_name = isinstance(name, ast.Constant) and isinstance(name.value, str)
    return is_name and isinstance(frame, ast.Name)


def _with_defaults(arguments: ast.arguments) -> set[str]:
    """Parameters that have a value without being given one."""
    positional = [*arguments.posonlyargs, *arguments.args]
    given = positional[len(positional) - len(arguments.defaults) :]
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    given += [argument for argument, default in pairs if default is not None]
    return {argument.arg for argument in given}


def _is_constant(node: ast.AST) -> bool:
    """Whether a value is written out, or imported."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    if not isinstance(node, ast.expr):
        return False
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def _is_table(node: ast.AST) -> bool:
    return isinstance(node, ast.Dict | ast.List | ast.Set)


def _is_only_read(function: ast.AST, name: str) -> bool:
    """Whether a table is used for nothing but to look something up in it."""
    nodes = list(ast.walk(function))
    looked: list[ast.expr] = []
    for node in nodes:
        if (isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load)) or (
            isinstance(node, ast.Attribute) and node.attr == "get"
        ):
            looked.append(node.value)
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            looked += node.comparators
    known = {id(node) for node in looked}
    return all(
        id(node) in known
        for node in nodes
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
    )
