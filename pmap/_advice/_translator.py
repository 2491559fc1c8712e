"""Reads the statements of a function of one value, and says in Polars what they give."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from pmap._advice._said import (
    DTYPES,
    Said,
    Untranslatable,
    both,
    cast_to,
    changed,
    choice,
    constant_of,
    is_exact,
    kind_of,
    limit_of,
    literal,
    refused,
    within,
)
from pmap._advice._source import body_of
from pmap._advice._texts import METHODS, SPACES, is_common, sliced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Translator", "namespace_of"]

#: Entries of a table that are written out where it has no name.
_WRITTEN_OUT = 20
#: Functions that are looked into one by another.
_DEEPEST = 5
#: Bits of an Int64, without that of the sign.
_INT_BITS = 63
_COMPARED: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}


def namespace_of(function: object) -> dict[str, Any]:
    """What names stand for inside a function, ``pl`` included, its own left out."""
    if not isinstance(function, FunctionType):
        return {"pl": pl}
    cells: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            cells[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    names = {**function.__globals__, **cells}
    for name in function.__code__.co_varnames:
        names.pop(name, None)
    return {**names, "pl": pl}


class Translator:
    """Reads a function.

    Parameters
    ----------
    names
        What the function's own names stand for.
    outer
        What all other names stand for in it.
    written
        What names stand for where the expression will be read.
    depth
        How many functions it is called by.
    known
        Tables and what is one of their keys.
    """

    def __init__(
        self,
        names: dict[str, Said],
        outer: dict[str, Any],
        written: dict[str, Any],
        depth: int = 0,
        known: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self._names = names
        self._outer = outer
        self._written = written
        self._depth = depth
        self._known = known

    def _inside(self, known: frozenset[tuple[str, str]] = frozenset()) -> Translator:
        """For a branch: with its own names, and what is `known` to be in a table there."""
        known |= self._known
        return Translator(dict(self._names), self._outer, self._written, self._depth, known)

    # Statements

    def block(self, body: list[ast.stmt]) -> Said:
        """What a list of statements returns."""
        for index, statement in enumerate(body):
            if isinstance(statement, ast.Return):
                return self.expression(statement.value or ast.Constant(None))
            if isinstance(statement, ast.If):
                return self._branch(statement, body[index + 1 :])
            if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                target = statement.targets[0]
                if not isinstance(target, ast.Name):
                    raise refused(statement)
                self._names[target.id] = self.expression(statement.value)
            elif not (
                isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            ):
                raise refused(statement)
        return Said("None", "none", (None,))

    def _branch(self, node: ast.If, rest: list[ast.stmt]) -> Said:
        test = self._test(node.test)
        if test.value is not None:
            return self.block([*(node.body if test.value[0] else node.orelse), *rest])
        in_then, in_else = self._tables(node.test)
        then = self._inside(in_then).block([*node.body, *rest])
        other = self._inside(in_else).block([*node.orelse, *rest])
        return choice(test, then, other, node)

    def _tables(self, test: ast.expr) -> tuple[frozenset[tuple[str, str]], ...]:
        """What is in a table where a test holds, and where it does not."""
        nothing = frozenset[tuple[str, str]]()
        if not isinstance(test, ast.Compare) or len(test.ops) != 1:
            return nothing, nothing
        key = (ast.dump(test.comparators[0]), self._operand(test.left).text)
        if isinstance(test.ops[0], ast.In):
            return frozenset({key}), nothing
        return nothing, frozenset({key}) if isinstance(test.ops[0], ast.NotIn) else nothing

    # Expressions

    def _operand(self, node: ast.expr) -> Said:
        """What something is done with."""
        said = self.expression(node)
        if said.may_be_none:
            raise refused(node)
        return said

    def expression(self, node: ast.expr) -> Said:
        """What an expression gives."""
        handler: Callable[[Any], Said] | None = getattr(
            self, f"_{type(node).__name__.lower()}", None
        )
        if handler is None:
            raise refused(node)
        return handler(node)

    def _test(self, node: ast.expr) -> Said:
        """Whether Python takes something for true."""
        if isinstance(node, ast.BoolOp):
            return self._joined(node, [self._test(value) for value in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self._unaryop(node)
        if (answer := self._is_none(node)) is not None:
            return answer
        said = self._operand(node)
        empty = {"int": "0", "float": "0", "str": "pl.lit('')"}
        if said.value is not None or said.kind not in {"bool", *empty}:
            raise refused(node)
        if said.kind == "bool":
            return said
        return Said(f"({said.text} != {empty[said.kind]})", "bool", None, said.keeps_nulls)

    def _is_none(self, node: ast.expr) -> Said | None:
        """The answer, if it is asked whether a value is ``None``: nulls are dealt with apart."""
        if not isinstance(node, ast.Compare) or len(node.ops) != 1:
            return None
        right = node.comparators[0]
        if not isinstance(node.ops[0], ast.Is | ast.IsNot):
            return None
        if not isinstance(right, ast.Constant) or right.value is not None:
            return None
        if self._operand(node.left).value is not None:
            raise refused(node)
        return constant_of(isinstance(node.ops[0], ast.IsNot), node)

    def _constant(self, node: ast.Constant) -> Said:
        return constant_of(node.value, node)

    def _name(self, node: ast.Name) -> Said:
        if node.id in self._names:
            return self._names[node.id]
        if node.id not in self._outer:
            raise refused(node)
        return constant_of(self._outer[node.id], node)

    def _joinedstr(self, node: ast.JoinedStr) -> Said:
        pieces: list[str] = []
        for part in node.values:
            if isinstance(part, ast.Constant):
                pieces.append(f"pl.lit({part.value!r})")
                continue
            if (
                not isinstance(part, ast.FormattedValue)
                or part.conversion != -1
                or part.format_spec
            ):
                raise refused(node)
            said = self._operand(part.value)
            if said.kind not in {"int", "str"} or said.value is not None:
                raise refused(part.value)
            pieces.append(cast_to(said, "pl.String") if said.kind == "int" else said.text)
        if all(piece.startswith("pl.lit(") for piece in pieces):
            raise refused(node)
        return Said(f"pl.concat_str({', '.join(pieces)})", "str")

    def _ifexp(self, node: ast.IfExp) -> Said:
        test = self._test(node.test)
        if test.value is not None:
            return self.expression(node.body if test.value[0] else node.orelse)
        in_then, in_else = self._tables(node.test)
        then = self._inside(in_then).expression(node.body)
        other = self._inside(in_else).expression(node.orelse)
        return choice(test, then, other, node)

    def _boolop(self, node: ast.BoolOp) -> Said:
        """As a value: of other things than true and false, it is one of them."""
        values = [self._is_none(value) or self._operand(value) for value in node.values]
        if all(said.kind == "bool" for said in values):
            return self._joined(node, values)
        if len(values) != 2 or values[0].value is not None:  # noqa: PLR2004  v or "unknown"
            raise refused(node)
        test, (first, second) = self._test(node.values[0]), values
        is_and = isinstance(node.op, ast.And)
        return choice(test, second, first, node) if is_and else choice(test, first, second, node)

    def _joined(self, node: ast.BoolOp, tests: list[Said]) -> Said:
        sign, ends = (" & ", False) if isinstance(node.op, ast.And) else (" | ", True)
        if any(test.value == (ends,) for test in tests):
            return constant_of(ends, node)
        tests = [test for test in tests if test.value is None]
        if not tests:
            return constant_of(not ends, node)
        if len(tests) == 1:
            return tests[0]
        return Said(f"({sign.join(test.text for test in tests)})", "bool", None, keeps_nulls=False)

    def _unaryop(self, node: ast.UnaryOp) -> Said:
        if isinstance(node.op, ast.Not):
            test = self._test(node.operand)
            if test.value is not None:
                return constant_of(not test.value[0], node)
            return changed(test, text=f"(~{test.text})")
        said = self._operand(node.operand)
        if isinstance(node.op, ast.USub) and said.kind in {"int", "float"}:
            if said.value is not None:
                return constant_of(-said.value[0], node)
            return within(changed(said, text=f"(-{said.text})"), said.limit)
        raise refused(node)

    def _binop(self, node: ast.BinOp) -> Said:
        if isinstance(node.op, ast.LShift | ast.RShift):
            return self._shifted(node)
        left, right = self._operand(node.left), self._operand(node.right)
        if left.value is not None and right.value is not None:
            raise refused(node)
        kinds = {left.kind, right.kind}
        if kinds == {"str"} and isinstance(node.op, ast.Add):
            return both(literal(left), "+", literal(right), "str")
        if not kinds <= {"int", "float"}:
            raise refused(node)
        kind = "float" if "float" in kinds else "int"
        signs: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
        if kind == "int":
            signs |= {ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^"}
        if type(node.op) in signs:
            said = both(left, signs[type(node.op)], right, kind)
            return within(said, _reach(left, node.op, right)) if kind == "int" else said
        return self._divided(left, right, kind, node)

    @staticmethod
    def _divided(left: Said, right: Said, kind: str, node: ast.BinOp) -> Said:
        divisor = None if right.value is None else right.value[0]
        if not divisor:
            raise refused(node)
        if isinstance(node.op, ast.Div):
            if abs(math.frexp(divisor)[0]) != 0.5:  # noqa: PLR2004  a power of two
                raise Untranslatable(
                    f"Polars multiplies by 1/{divisor}, which may differ from a division in the last digit"
                )
            return both(left, "/", right, "float")
        if isinstance(node.op, ast.FloorDiv | ast.Mod) and kind == "int":
            sign = "//" if isinstance(node.op, ast.FloorDiv) else "%"
            return within(both(left, sign, right, "int"), _reach(left, node.op, right))
        raise refused(node)

    def _shifted(self, node: ast.BinOp) -> Said:
        """By a number of bits that is written out: times, or by, a power of two."""
        said, bits = self._operand(node.left), self._whole(node.right, node)
        if said.kind != "int" or not 0 <= bits < _INT_BITS:
            raise refused(node)
        operator = ast.Mult() if isinstance(node.op, ast.LShift) else ast.FloorDiv()
        return self._binop(ast.BinOp(node.left, operator, ast.Constant(1 << bits)))

    def _compare(self, node: ast.Compare) -> Said:
        if len(node.ops) == 2:  # noqa: PLR2004  a < v < b
            first = ast.Compare(node.left, node.ops[:1], node.comparators[:1])
            second = ast.Compare(node.comparators[0], node.ops[1:], node.comparators[1:])
            return self._boolop(ast.BoolOp(ast.And(), [first, second]))
        if len(node.ops) != 1:
            raise refused(node)
        operator, right = node.ops[0], node.comparators[0]
        if isinstance(operator, ast.In | ast.NotIn):
            said = self._contained(node.left, right, node)
            return (
                changed(said, text=f"(~{said.text})") if isinstance(operator, ast.NotIn) else said
            )
        if type(operator) not in _COMPARED:
            raise refused(node)
        return self._ordered(self._operand(node.left), operator, self._operand(right), node)

    def _ordered(self, left: Said, operator: ast.cmpop, right: Said, node: ast.AST) -> Said:
        numbers = {"int", "float"}
        if left.kind != right.kind and not {left.kind, right.kind} <= numbers:
            raise refused(node)
        if (left.value is None) == (right.value is None) or left.kind not in {*numbers, "str"}:
            raise refused(node)  # one of the two is a constant
        column = left if left.value is None else right
        if column.kind == "int" and left.kind != right.kind:
            left, right = _between(left, right, operator, node)
        elif left.kind != right.kind and not is_exact(left, right):
            raise refused(node)  # a large integer has no float of its own
        said = both(literal(left), _COMPARED[type(operator)], literal(right), "bool")
        greater = ast.Gt | ast.GtE if column is left else ast.Lt | ast.LtE
        if column.kind == "float" and isinstance(operator, greater):
            # Python's NaN is greater than nothing, Polars' than everything.
            return changed(said, text=f"({said.text} & {column.text}.is_not_nan())")
        return said

    def _contained(self, left: ast.expr, right: ast.expr, node: ast.AST) -> Said:
        item = self._operand(left)
        if item.kind == "str" and item.value is not None and item.value[0]:
            text = self._operand(right)
            if text.kind == "str" and text.value is None:
                return Said(f"{text.text}.str.contains({item.text}, literal=True)", "bool")
            raise refused(node)
        values = self._plain(right)
        if (
            item.value is not None
            or item.kind not in {"int", "str"}
            or not isinstance(values, list | tuple | set | frozenset | dict)
        ):
            raise refused(node)
        listed = (
            sorted(cast("set[Any]", values), key=repr)
            if isinstance(values, set | frozenset)
            else list(cast("Iterable[object]", values))
        )
        if not listed or any(kind_of(value) != item.kind for value in listed):
            raise refused(node)
        return Said(f"{item.text}.is_in({listed!r})", "bool")

    def _plain(self, node: ast.expr) -> Any:
        """The object that an outer name or a display of constants stands for."""
        if isinstance(node, ast.Name) and node.id not in self._names and node.id in self._outer:
            return self._outer[node.id]
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise refused(node) from None

    def _subscript(self, node: ast.Subscript) -> Said:
        if isinstance(node.value, ast.Name | ast.Dict) and not self._is_local(node.value):
            return self._looked_up(node.value, node.slice, None, node)
        said = self._operand(node.value)
        if said.kind == "list":
            index = self._whole(node.slice, node)
            return Said(f"{said.text}.list.get({index}, null_on_oob=False)", "str")
        if said.kind != "str" or said.value is not None:
            raise refused(node)
        if isinstance(node.slice, ast.Slice):
            return Said(sliced(said.text, node.slice, node), "str")
        raise refused(node)  # of a text that is too short, Python raises

    def _is_local(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id in self._names

    def _whole(self, node: ast.expr, whole: ast.AST) -> int:
        value = self.expression(node).value
        if value is None or type(value[0]) is not int:
            raise refused(whole)
        return value[0]

    def _looked_up(
        self, table: ast.expr, key: ast.expr, default: Said | None, node: ast.AST
    ) -> Said:
        mapping, item = self._plain(table), self._operand(key)
        if type(mapping) is not dict or item.value is not None or item.kind not in {"int", "str"}:
            raise refused(node)
        entries = cast("dict[object, object]", mapping)
        kinds = {kind_of(value) for value in entries.values()}
        kinds |= set() if default is None else {default.kind}
        kinds.discard("none")
        if not entries or len(kinds) != 1 or None in kinds:
            raise refused(node)
        if any(kind_of(entry) != item.kind for entry in entries):
            raise refused(node)
        kind = cast("str", kinds.pop())
        name = self._table(table, entries, node)
        otherwise = "" if default is None else f"default={default.text}, "
        if default is None and (ast.dump(table), item.text) in self._known:
            otherwise = "default=None, "  # others are not asked for here
        text = f"{item.text}.replace_strict({name}, {otherwise}return_dtype=pl.{DTYPES[kind]!r})"
        may_be_none = None in entries.values() or (default is not None and default.kind == "none")
        return Said(text, kind, None, keeps_nulls=default is None, may_be_none=may_be_none)

    def _table(self, table: ast.expr, entries: dict[object, object], node: ast.AST) -> str:
        """How a table is named where the expression is read."""
        if isinstance(table, ast.Name) and self._written.get(table.id) is entries:
            return table.id
        if len(entries) > _WRITTEN_OUT:
            raise refused(node)
        return repr(entries)

    def _attribute(self, node: ast.Attribute) -> Said:
        said = self._operand(node.value)
        parts = {"year", "month", "day"}
        clock = {"hour", "minute", "second"} if said.kind == "datetime" else set[str]()
        if said.kind in {"date", "datetime"} and node.attr in parts | clock:
            return Said(f"{said.text}.dt.{node.attr}().cast(pl.Int64)", "int")
        raise refused(node)

    # Calls

    def _call(self, node: ast.Call) -> Said:
        if node.keywords:
            raise refused(node)
        if isinstance(node.func, ast.Name):
            return self._function(node.func.id, node)
        if not isinstance(node.func, ast.Attribute):
            raise refused(node)
        owner = node.func.value
        if isinstance(owner, ast.Name) and not self._is_local(owner):
            outer = self._outer.get(owner.id)
            if isinstance(outer, ModuleType):
                return self._of_module(f"{outer.__name__}.{node.func.attr}", node)
            if type(outer) is dict and node.func.attr == "get" and node.args:
                return self._get(owner, node)
            if owner.id == "str" and owner.id not in self._outer and node.args:  # str.upper(v)
                method = ast.Call(node.func, node.args[1:], [])
                text = self._operand(node.args[0])
                if text.kind != "str":
                    raise refused(node)
                return self._method(text, node.func.attr, method)
        if isinstance(owner, ast.Dict) and node.func.attr == "get" and node.args:
            return self._get(owner, node)
        return self._method(self._operand(owner), node.func.attr, node)

    def _get(self, table: ast.expr, node: ast.Call) -> Said:
        default = (
            self.expression(node.args[1]) if len(node.args) > 1 else Said("None", "none", (None,))
        )
        if default.value is None:
            raise refused(node)
        return self._looked_up(table, node.args[0], default, node)

    def _function(self, name: str, node: ast.Call) -> Said:
        if name in self._outer or name in self._names:
            return self._inlined(name, node)  # a name of the user's own hides the builtin
        if name in {"max", "min"} and len(node.args) == 2:  # noqa: PLR2004  a value and its bound
            return self._bounded(name, node)
        if len(node.args) != 1:
            raise refused(node)
        said = self._operand(node.args[0])
        if said.value is not None:
            raise refused(node)
        written = {
            ("len", "str"): Said(f"{said.text}.str.len_chars().cast(pl.Int64)", "int"),
            ("abs", "int"): Said(f"{said.text}.abs()", "int", limit=said.limit),
            ("abs", "float"): Said(f"{said.text}.abs()", "float"),
            ("float", "int"): Said(cast_to(said, "pl.Float64"), "float"),
            ("int", "float"): Said(cast_to(said, "pl.Int64"), "int"),
            ("int", "bool"): Said(cast_to(said, "pl.Int64"), "int"),
            ("str", "int"): Said(cast_to(said, "pl.String"), "str"),
            ("bool", "int"): Said(f"({said.text} != 0)", "bool"),
        }
        if name in {"str", "int", "float", "bool"} and name == said.kind:
            return said
        if (name, said.kind) not in written:
            raise refused(node)
        found = written[name, said.kind]
        return replace(within(found, found.limit), keeps_nulls=said.keeps_nulls)

    def _inlined(self, name: str, node: ast.Call) -> Said:
        """A function of the user's own that is called with one value."""
        function = None if name in self._names else self._outer[name]
        found = body_of(function)
        if found is None or len(node.args) != 1 or self._depth >= _DEEPEST:
            raise refused(node)
        parameter, body = found
        names = {parameter: self._operand(node.args[0])}
        outer = namespace_of(function)
        return Translator(names, outer, self._written, self._depth + 1).block(body)

    def _bounded(self, name: str, node: ast.Call) -> Said:
        """A whole number and a constant, in either order; of floats NaN would matter."""
        constant, said = sorted(map(self._operand, node.args), key=lambda said: said.value is None)
        if not (
            constant.value is not None
            and said.value is None
            and constant.kind == said.kind == "int"
        ):
            raise refused(node)
        side = "lower_bound" if name == "max" else "upper_bound"
        limits = limit_of(said), limit_of(constant)
        limit = None if said.limit is None else max(cast("tuple[int, int]", limits))
        return within(changed(said, text=f"{said.text}.clip({side}={constant.text})"), limit)

    def _of_module(self, name: str, node: ast.Call) -> Said:
        if name in {"math.sqrt", "math.fabs"} and len(node.args) == 1:
            said = self._operand(node.args[0])
            if said.kind == "float" and said.value is None:
                method = "sqrt" if name == "math.sqrt" else "abs"
                return changed(said, text=f"{said.text}.{method}()")
        if name == "re.sub" and len(node.args) == 3:  # noqa: PLR2004  pattern, replacement, text
            pattern, by, said = map(self._operand, node.args)
            if (
                is_common(pattern)
                and by.kind == "str"
                and by.value is not None
                and not set(by.value[0]) & set("\\$")
                and said.kind == "str"
                and said.value is None
            ):
                return Said(f"{said.text}.str.replace_all({pattern.text}, {by.text})", "str")
        raise refused(node)

    def _method(self, said: Said, name: str, node: ast.Call) -> Said:
        if name in {"startswith", "endswith"} and [*map(type, node.args)] == [ast.Tuple]:
            each = [ast.Call(node.func, [end], []) for end in cast("ast.Tuple", node.args[0]).elts]
            tests = [self._method(said, name, call) for call in each]
            return self._joined(ast.BoolOp(ast.Or(), []), tests)
        arguments = [self._operand(argument) for argument in node.args]
        if said.value is not None or any(argument.value is None for argument in arguments):
            raise refused(node)
        if said.kind in {"date", "datetime"}:
            if name in {"weekday", "isoweekday"} and not arguments:
                text = f"{said.text}.dt.weekday().cast(pl.Int64)"
                return Said(text if name == "isoweekday" else f"({text} - 1)", "int")
            if name == "isoformat" and said.kind == "date" and not arguments:
                return Said(f"{said.text}.dt.to_string('%Y-%m-%d')", "str")
            raise refused(node)
        if said.kind != "str" or any(argument.kind != "str" for argument in arguments):
            raise refused(node)
        if arguments and arguments[0].value == ("",):
            raise refused(node)
        texts = tuple(argument.text for argument in arguments)
        written = METHODS.get((name, len(texts)))
        if written is None:
            raise refused(node)
        template, kind = written
        return Said(
            said.text + template.format(*texts, spaces=repr(SPACES)),
            kind,
            None,
            keeps_nulls=said.keeps_nulls,
        )


def _reach(left: Said, operator: ast.operator, right: Said) -> int | None:
    """How far from zero the result may be, of whole numbers."""
    one, other = limit_of(left), limit_of(right)
    if one is None or other is None:
        return None
    if isinstance(operator, ast.Mult):
        return one * other
    if isinstance(operator, ast.BitAnd | ast.BitOr | ast.BitXor):
        return (1 << max(one, other).bit_length()) - 1
    if isinstance(operator, ast.Mod):
        return other
    return one if isinstance(operator, ast.FloorDiv) else one + other


def _between(left: Said, right: Said, operator: ast.cmpop, node: ast.AST) -> tuple[Said, Said]:
    """Of whole numbers and a float, the whole number at which the comparison changes."""
    is_left = left.value is not None
    number = cast("tuple[float]", left.value if is_left else right.value)[0]
    if number != math.floor(number) and isinstance(operator, ast.Eq | ast.NotEq):
        raise refused(node)  # no whole number is equal to it
    below = (ast.Gt, ast.LtE) if not is_left else (ast.Lt, ast.GtE)
    whole = math.floor(number) if isinstance(operator, below) else math.ceil(number)
    constant = constant_of(whole, node)
    return (constant, right) if is_left else (left, constant)
