"""Loops over the values of a column, and a copy of their function that asks in their place.

The copy is compiled from the function's own tree and keeps its globals and its closure: nothing
of the function changes, and what the copy asks is in its closure alone.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from types import CellType, CodeType, FunctionType
from typing import TYPE_CHECKING, Any, cast

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["ASK", "VALUE", "Loop", "Loops", "compiled", "function_of"]

#: Name of what the copy asks.
ASK = "__pmap_loop__"
#: Name of the one value of each row that a loop over rows uses.
VALUE = "__pmap_value__"


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of a function.

    Attributes
    ----------
    shown
        The loop as text, short.
    line
        Where it stands in its file.
    parameter, body
        What is done with one value, as a function's parameter and statements.
    method
        Called on what it goes over: ``to_list``, or the method that gives rows; may be empty.
    field
        The one field of the rows that is used.
    wants_list
        Whether its place takes nothing but a list; others take a Series too.
    origin
        The column that it goes over, as text.
    obstacle
        What keeps any expression from replacing it; may be empty.
    """

    shown: str
    line: int
    parameter: str
    body: list[ast.stmt]
    method: str = ""
    field: str | None = None
    wants_list: bool = True
    origin: str = ""
    obstacle: str = ""

    def series(self, source: Any) -> pl.Series | None:
        """The values that the loop goes over, if they are a column's."""
        if self.field is None:
            return source if isinstance(source, pl.Series) else None
        is_known = isinstance(source, pl.DataFrame) and self.field in source.columns
        return source[self.field] if is_known else None

    @property
    def where(self) -> tuple[str, str]:
        """The loop and its line, for those who read."""
        return self.shown, f"line {self.line}"

    def written(self, expression: str) -> str:
        """What to write in its place: an expression, or where only a list will do, what gives one."""
        if not self.wants_list:
            return expression
        return f"{self.origin}.to_frame().select({expression}).to_series().to_list()"

    def spoken(self, reason: str) -> str:
        """A reason in the user's own names."""
        return reason.replace(VALUE, f"row[{self.field!r}]")

    def in_python(self, source: Any, function: Callable[[Any], Any]) -> list[Any]:
        """What the loop itself gives."""
        if self.field is not None:
            named = {} if self.method == "to_dicts" else {"named": True}
            rows = getattr(source, self.method)(**named)
            return [function(row[self.field]) for row in rows]
        return [
            function(value) for value in (getattr(source, self.method)() if self.method else source)
        ]


class Loops:
    """The loops of a function, and copies of it in which something else is done in their place."""

    def __init__(
        self, function: FunctionType, code: CodeType, found: list[Loop], constants: set[str]
    ) -> None:
        self._function = function
        self._code = code
        self._known = constants | {*function.__code__.co_freevars}
        self.found = found

    def held_by(self, body: FunctionType) -> str | None:
        """A name in a loop's body that stands for what the function computed."""
        return next((name for name in body.__code__.co_freevars if name not in self._known), None)

    def asking(self, ask: Callable[[Loop, Any, Any], Any]) -> Callable[..., Any]:
        """A copy of the function; `ask` is called with a loop, what it goes over, and its body."""
        old = self._function

        def asked(index: int, source: Any, function: Any) -> Any:
            loop, held = self.found[index], self.held_by(function)
            if held is not None:
                why = f"{held!r} is computed in the function, for each part anew"
                loop = replace(loop, obstacle=why)
            return ask(loop, source, function)

        cells = dict(zip(old.__code__.co_freevars, old.__closure__ or (), strict=True))
        cells[ASK] = CellType(asked)
        closure = tuple(cells[name] for name in self._code.co_freevars)
        new = FunctionType(self._code, old.__globals__, old.__name__, old.__defaults__, closure)
        new.__kwdefaults__ = old.__kwdefaults__
        return new


def compiled(node: ast.Lambda | ast.FunctionDef, old: CodeType) -> CodeType | None:
    """The code of a function that stands where its free names are known."""
    node.args.defaults = [ast.Constant(None) for _ in node.args.defaults]
    node.args.kw_defaults = [part and ast.Constant(None) for part in node.args.kw_defaults]
    if isinstance(node, ast.FunctionDef):
        node.returns = None
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    inside = ast.Return(node) if isinstance(node, ast.Lambda) else node
    outer = function_of("__pmap_outer__", [ASK, *old.co_freevars], [inside])
    module = ast.fix_missing_locations(ast.Module([outer], []))
    flags = old.co_flags & 0x1FF0000  # of ``from __future__``
    try:
        whole = compile(module, old.co_filename, "exec", flags, dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    around = next(part for part in whole.co_consts if isinstance(part, CodeType))
    found = [part for part in around.co_consts if isinstance(part, CodeType)]
    return found[0] if len(found) == 1 else None


def function_of(name: str, parameters: Iterable[str], body: list[ast.stmt]) -> ast.FunctionDef:
    """A definition; read from text, since its fields are others in each version of Python."""
    made = ast.parse(f"def {name}({', '.join(parameters)}): pass").body[0]
    made = cast("ast.FunctionDef", made)
    made.body = body
    return made
