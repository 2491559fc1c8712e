"""What a trace proves: that rows are treated one by one, that they are not, or neither."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, KeysView, ValuesView
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from pmap._advice import _expressions
from pmap._advice._names import ELEMENTWISE_SERIES, LEAVING, OTHER_ROWS, ROW_BY_ROW, SCHEMA, words
from pmap._advice._purity import changes_in_place, impurity, keeps_state, reachable
from pmap._advice._trace import HANDED

if TYPE_CHECKING:
    from pmap._advice._trace import Called, Trace

__all__ = ["Offence", "Udf", "Verdict", "judge"]

_PURE_LIBRARIES = words(
    "re json typing string enum datetime collections importlib._bootstrap operator decimal re._compiler "
    "importlib._bootstrap_external"
)
_C_MODULES = words(
    "math operator _operator itertools builtins.str builtins.dict builtins.list builtins.tuple builtins.set "
    "builtins.frozenset builtins.int builtins.float builtins.bytes"
)
_C_FUNCTIONS = words(
    "len isinstance issubclass getattr hasattr callable repr abs min max sum any all sorted iter next format ord chr "
    "round divmod pow print vars dir hex bin reduce build_class __build_class__ replace"
)
_CHANGING = words(
    "append extend insert add update pop popitem remove discard clear setdefault sort reverse"
)
_CHANGING_OPERATORS = words("setitem delitem iadd iand iconcat ior isub ixor imul")
_CALLING_PYTHON = words("map_elements map_batches map_groups map_rows rolling_map")
_SPOKEN = {
    "__iter__": "a loop over a column",
    "__array__": "numpy",
    "__array_ufunc__": "numpy",
    "__contains__": "in",
    "__len__": "len()",
    "__arrow_c_stream__": "pyarrow",
}
_LISTS = (list, tuple, set, frozenset, deque, KeysView, ValuesView)
_CONTAINERS = (list, set, dict, bytearray)
_CHANGING_ROWS = words("filter remove drop_nulls drop_nans explode join")


@dataclass(frozen=True, slots=True)
class Offence:
    """A call that looks at other rows."""

    name: str
    text: str
    where: tuple[str, int]
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        path, line = self.where
        return f"{self.text} ({os.path.basename(path)}, line {line})"


@dataclass(frozen=True, slots=True)
class Udf:
    """A Python function of one value, handed to Polars."""

    function: Any
    receiver: Any
    return_dtype: Any
    skip_nulls: bool
    where: tuple[str, int]


@dataclass(slots=True)
class Verdict:
    """What one trace tells.

    Attributes
    ----------
    offences
        Calls on the partition that look at other rows.
    obstacles
        What no proof can look into, each a phrase; empty if it is proven row by row.
    udfs
        Python functions of single values.
    leaves
        How values leave Polars, each a phrase.
    keys
        Columns that rows are grouped by.
    asks_for_partition
        Whether the function asks for `current_partition`.
    needs_order
        Whether it needs its rows in their order, as a join with the nearest key does.
    has_python_inside
        Whether Polars calls Python functions of its own.
    """

    offences: list[Offence] = field(default_factory=list[Offence])
    obstacles: list[str] = field(default_factory=list[str])
    udfs: list[Udf] = field(default_factory=list[Udf])
    leaves: list[str] = field(default_factory=list[str])
    keys: list[str] = field(default_factory=list[str])
    asks_for_partition: bool = False
    needs_order: bool = False
    has_python_inside: bool = False
    has_libraries: bool = False
    n_polars: int = 0

    @property
    def is_row_by_row(self) -> bool:
        """Whether it is proven that each row is treated by itself."""
        return not self.offences and not self.obstacles and self.n_polars > 0

    @property
    def is_native(self) -> bool:
        """Whether all of the work is Polars' own."""
        return self.n_polars > 0 and not (
            self.udfs or self.leaves or self.has_libraries or self.has_python_inside
        )


class _Judge:
    def __init__(self, function: object, trace: Trace) -> None:
        self.verdict = Verdict()
        self._held = {id(value): value for value in reachable(function)}
        self._payloads: set[str] = set()
        self._rows_have_changed = False
        self._trace = trace
        self._has_categories = trace.has_categories
        self._has_integers = False

    def run(self) -> Verdict:
        for called in self._trace.calls:
            getattr(self, f"_{called.kind}")(called)
        self._check_code()
        self._check_udfs()
        verdict = self.verdict
        verdict.obstacles = list(dict.fromkeys(verdict.obstacles))
        verdict.leaves = list(dict.fromkeys(verdict.leaves))
        verdict.keys = list(dict.fromkeys(verdict.keys))
        return verdict

    # What may hide state

    def _check_code(self) -> None:
        for code in self._trace.codes:
            reason = keeps_state(code)
            if reason is not None:
                self.verdict.obstacles.append(reason)
        if self._trace.is_cut:
            self.verdict.obstacles.append("more calls than were looked at")
        if not self._trace.gives_part:
            self.verdict.obstacles.append("a result that is not made of the partition by Polars")
        if self._has_categories and self._has_integers:
            self.verdict.obstacles.append(
                "numbers of categories, which follow the order that they came in"
            )
        for value in self._held.values():
            if isinstance(value, Iterator):
                self.verdict.obstacles.append("an iterator that lives on between calls")
        if any(map(changes_in_place, self._trace.codes)) and any(
            isinstance(value, _CONTAINERS) for value in self._held.values()
        ):
            self.verdict.obstacles.append("an operator like +=, which may change what lives on")

    def _check_udfs(self) -> None:
        if len(self._payloads) > len({id(udf.function) for udf in self.verdict.udfs}):
            self.verdict.has_python_inside = True
            self.verdict.obstacles.append("an expression with a Python function of its own")
        for udf in self.verdict.udfs:
            name = getattr(udf.function, "__name__", type(udf.function).__name__)
            reason = impurity(udf.function)
            if reason is not None:
                self.verdict.obstacles.append(
                    f"whether {name} depends on its value alone ({reason})"
                )
            if udf.return_dtype is None:
                self.verdict.obstacles.append(
                    f"what dtype map_elements({name}) gives: without return_dtype, each part's first value decides"
                )

    # Builtins and libraries

    def _c(self, called: Called) -> None:
        if called.owner == "builtins" and called.name in _C_FUNCTIONS:
            return
        if called.owner.partition(".")[0] == "_thread" or called.owner not in _C_MODULES:
            # Methods of str and the like have no module of their own.
            self._obstacle_of_c(called)
        elif called.name in _CHANGING and id(called.receiver) in self._held:
            self.verdict.obstacles.append(f"{called.name} on an object that lives on between calls")
        elif called.name in _CHANGING_OPERATORS:
            self.verdict.obstacles.append(f"operator.{called.name}")

    def _obstacle_of_c(self, called: Called) -> None:
        if called.owner in {"functools", "_functools"} and called.name == "reduce":
            return
        self.verdict.obstacles.append(f"a call of {called.owner}.{called.name}")
        package = called.owner.partition(".")[0]
        if package != "builtins":
            self.verdict.has_libraries = True

    def _library(self, called: Called) -> None:
        if called.owner.startswith("pmap."):
            if called.name == "current_partition":
                self.verdict.asks_for_partition = True
            self.verdict.obstacles.append(f"a call of pmap.{called.name}")
        elif called.owner not in _PURE_LIBRARIES or called.is_derived:
            self.verdict.obstacles.append(f"a call of {called.owner}.{called.name}")
            self.verdict.has_libraries = True

    # Polars

    def _polars(self, called: Called) -> None:
        owner = called.owner.rpartition(".")[2]
        if called.name == "map_elements":
            self._note_udf(called)
        self.verdict.has_python_inside |= called.name in _CALLING_PYTHON
        if isinstance(called.receiver, pl.Expr) and called.name in {
            "map_batches",
            "__array_ufunc__",
        }:
            self.verdict.obstacles.append(f"a Python function of whole columns ({called.name})")
            self.verdict.leaves.append(f"{called.name} (line {called.where[1]})")
        if not called.is_derived:
            return
        self.verdict.n_polars += 1
        self._check_alignment(called)
        if called.receiver is None or not called.receiver_is_derived:
            self._foreign_to_part(called, owner)
        elif isinstance(called.receiver, pl.DataFrame | pl.LazyFrame):
            self._frame_method(called)
        elif isinstance(called.receiver, pl.Series):
            self._series_method(called)
        else:
            self._other_method(called, owner)

    def _check_alignment(self, called: Called) -> None:
        """A Series of one row is spread over all rows: that may happen in one part alone."""
        if self._rows_have_changed and self._has_series(called):
            self.verdict.obstacles.append(
                f"a Series beside a frame whose rows were filtered (line {called.where[1]})"
            )
        if called.name in _CHANGING_ROWS:
            self._rows_have_changed = True

    def _foreign_to_part(self, called: Called, owner: str) -> None:
        """A function of Polars, or another object's method, that is handed the partition."""
        name = f"{owner}.{called.name}" if owner else f"pl.{called.name}"
        self.verdict.obstacles.append(f"{name} of the partition's own rows")
        if called.name == "join":
            text = f"{owner}.join(...) onto the partition"
            self.verdict.offences.append(Offence("join", text, called.where))

    def _frame_method(self, called: Called) -> None:
        name = called.name
        if name in SCHEMA:
            return
        if name == "__getitem__":
            self._getitem(called)
        elif name == "join":
            self._join(called)
        elif name in ROW_BY_ROW:
            if name == "cast":
                self._has_integers |= any(map(_is_integer, _flat(called.arguments.values())))
            if name == "fill_null" and called.arguments.get("strategy") is not None:
                self._offend(called, "fill_null(strategy=...)")
            self._walk_arguments(called)
        elif name in {"get_column", "to_series"}:
            return
        elif name == "join_asof" and "other" not in called.from_part:
            self.verdict.needs_order = True
            self.verdict.obstacles.append(
                f"join_asof, which needs rows in order (line {called.where[1]})"
            )
        elif name in OTHER_ROWS:
            self._offend(called, name)
        else:
            self._leave_or_unknown(called)

    def _series_method(self, called: Called) -> None:
        name = called.name
        if name in SCHEMA or name in ELEMENTWISE_SERIES or name == "map_elements":
            if name == "cast":
                self._has_integers = True
            if any(isinstance(v, pl.Expr) for v in called.arguments.values()):
                self.verdict.obstacles.append(f"Series.{name} with an expression")
            return
        if name in OTHER_ROWS:
            self._offend(called, name)
        else:
            self._leave_or_unknown(called)

    def _other_method(self, called: Called, owner: str) -> None:
        if isinstance(called.receiver, pl.Expr):
            self.verdict.obstacles.append("an expression that holds the partition's values")
        else:
            self.verdict.obstacles.append(f"{owner}.{called.name}")

    def _getitem(self, called: Called) -> None:
        key = next(iter(called.arguments.values()), None)
        names = cast("list[object]", key) if isinstance(key, list | tuple) else [key]
        if names and all(isinstance(name, str) for name in names):
            return
        self._offend(called, "rows taken by their position")

    def _leave_or_unknown(self, called: Called) -> None:
        shown = f"{_SPOKEN.get(called.name, called.name)} (line {called.where[1]})"
        if called.name in LEAVING or called.name.startswith("write_"):
            counts = called.name in {"height", "shape", "len", "is_empty", "__len__"}
            if not counts:
                self.verdict.leaves.append(shown)
            kind = "the number of rows, by" if counts else "what Python does with the values of"
            self.verdict.obstacles.append(f"{kind} {shown}")
        else:
            self.verdict.obstacles.append(shown)

    def _join(self, called: Called) -> None:
        how = called.arguments.get("how", "inner")
        order = called.arguments.get("maintain_order")
        if called.arguments.get("validate", "m:m") in {"1:1", "1:m"}:
            self.verdict.obstacles.append("a join that raises where a key comes twice in the rows")
        if "other" in called.from_part:
            self._offend(called, "join of the partition with itself")
        elif how in {"left", "semi", "anti"} or (
            how == "inner" and order in {"left", "left_right"}
        ):
            self._walk_arguments(called)
        elif how == "inner":
            self.verdict.obstacles.append(
                "an inner join keeps no order of its own: give it maintain_order='left'"
            )
        else:
            self._offend(called, f"join(how={how!r})")

    def _note_udf(self, called: Called) -> None:
        found = called.arguments
        udf = Udf(
            found.get("function"),
            called.receiver,
            found.get("return_dtype"),
            bool(found.get("skip_nulls", True)),
            called.where,
        )
        self.verdict.udfs.append(udf)

    def _offend(self, called: Called, text: str) -> None:
        keys = tuple(_keys(called)) if called.name in {"group_by", "unique", "partition_by"} else ()
        self.verdict.keys += keys
        named = f"{called.name}({', '.join(map(repr, keys))})" if keys else text
        shown = text if "(" in text or " " in text else named if keys else f"{text}()"
        self.verdict.offences.append(Offence(called.name, shown, called.where, keys))

    # Expressions

    def _walk_arguments(self, called: Called) -> None:
        trees: list[_expressions.Tree] = []
        for value in _flat(called.arguments.values()):
            if _is_opaque(value) and HANDED not in called.arguments:
                self.verdict.obstacles.append(
                    f"a {type(value).__name__} handed to {called.name} (line {called.where[1]})"
                )
            if isinstance(value, pl.Expr):
                tree = _expressions.read(value)
                trees.append(tree)
                self._take(tree, value, called)
        if called.name in {"select", "select_seq"}:
            self._check_select(called, trees)

    def _take(self, tree: _expressions.Tree, expression: pl.Expr, called: Called) -> None:
        self._payloads |= tree.udfs
        self._has_categories |= tree.has_categories
        self._has_integers |= tree.has_integers
        self.verdict.keys += tree.keys
        for name in dict.fromkeys(tree.other_rows):
            keys = tuple(tree.keys) if name == "over" else ()
            self.verdict.offences.append(
                Offence(name, _shown(expression, name), called.where, keys)
            )
        self.verdict.obstacles += [f"{what} (line {called.where[1]})" for what in tree.unknown]

    def _check_select(self, called: Called, trees: list[_expressions.Tree]) -> None:
        names = any(isinstance(value, str) for value in _flat(called.arguments.values()))
        if (
            not names
            and not any(tree.has_column for tree in trees)
            and not self._has_series(called)
        ):
            self.verdict.obstacles.append("a select of constants, which has one row")

    def _has_series(self, called: Called) -> bool:
        return any(isinstance(value, pl.Series) for value in _flat(called.arguments.values()))


def _shown(expression: pl.Expr, name: str) -> str:
    text = " ".join(str(expression).split())
    short = text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004  fits a line
    return f"{name} in {short}"


def _flat(values: Any, depth: int = 0) -> Iterator[Any]:
    for value in values:
        if isinstance(value, _LISTS) and depth < 4:  # noqa: PLR2004  exprs in lists
            yield from _flat(cast("list[object]", value), depth + 1)
        elif isinstance(value, dict) and depth < 4:  # noqa: PLR2004
            yield from _flat(cast("dict[object, object]", value).values(), depth + 1)
        else:
            yield value


def _is_opaque(value: object) -> bool:
    """Whether it may hold expressions that were not seen."""
    known = (*_LISTS, dict, str, bytes, pl.Series, pl.DataFrame, pl.LazyFrame, pl.Expr, pl.Schema)
    return isinstance(value, Iterable) and not isinstance(value, (*known, type))


def _is_integer(dtype: object) -> bool:
    """Whether it is a dtype, or one of Python's, of whole numbers."""
    if isinstance(dtype, type) and issubclass(dtype, pl.DataType):
        return dtype.is_integer()
    return dtype is int or (isinstance(dtype, pl.DataType) and dtype.is_integer())


def _keys(called: Called) -> Iterator[str]:
    for name in ("by", "more_by", "subset"):
        for value in _flat([called.arguments.get(name)]):
            if isinstance(value, str):
                yield value
            elif isinstance(value, pl.Expr) and value.meta.is_column():
                yield value.meta.output_name()


def judge(function: object, trace: Trace) -> Verdict:
    """Judge what one call of a function did."""
    return _Judge(function, trace).run()
