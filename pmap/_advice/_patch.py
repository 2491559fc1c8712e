"""`map_elements` giving native expressions, for one thread and as long as a block runs."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import threading
from types import MethodDescriptorType
from typing import TYPE_CHECKING, Any

import polars as pl

from pmap._advice._translate import Untranslatable, namespace_of, translate, translate_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from types import FrameType

    from pmap._advice._loops import Loop

__all__ = ["Replaced", "probed", "replaced"]

_LOCK = threading.RLock()
_POLARS = os.path.dirname(pl.__file__) + os.sep


class Replaced:
    """Translates what one thread hands to `map_elements`, and keeps what became of it.

    Parameters
    ----------
    dtypes
        Of what the functions are given, by column and line, as `probed` found them.
    verified
        Expressions that alone may be put in; ``None`` for all.

    Attributes
    ----------
    texts
        Of each line: what was replaced, by what.
    columns
        The functions that were replaced, by their column.
    given_nulls
        Those that are handed nulls too, as the bodies of loops are.
    has_loops
        Whether one of them is the body of a loop.
    may_wrap
        Whether a loop's expression may need more than 64 bits, for values that its column can hold.
    is_ambiguous
        Whether one line needs different code each time that it runs.
    refused
        Why a function was not translated, by its line.
    """

    def __init__(
        self,
        dtypes: Mapping[tuple[str, str], pl.DataType],
        verified: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        self._dtypes = dtypes
        self._verified = verified
        self.texts: dict[tuple[str, str], str] = {}
        self.refused: dict[str, str] = {}
        self.columns: dict[str, list[Any]] = {}
        self.given_nulls: list[Any] = []
        self.has_loops = False
        self.may_wrap = False
        self.is_ambiguous = False

    def expression(
        self, receiver: pl.Expr, function: Any, options: dict[str, Any]
    ) -> pl.Expr | None:
        """The native expression for a call of `Expr.map_elements`, or ``None``."""
        column = _column_of(receiver)
        if column is None:
            self._refuse(function, "it is not called on a plain column")
            return None
        return self._native(f"pl.col({column!r})", column, function, options)

    def series(
        self, receiver: pl.Series, function: Any, options: dict[str, Any]
    ) -> pl.Series | None:
        """The values that the native expression gives for a Series, or ``None``."""
        name = receiver.name  # which columns have that were changed, too: it is not written as one
        written = "series.to_frame().select({}).to_series()"
        found = self._native(f"series {name!r}", name, function, options, written)
        return None if found is None else receiver.to_frame().select(found).to_series()

    def loop(self, loop: Loop, source: Any, function: Any) -> Any:
        """The values that a loop gives, by a native expression where there is one."""
        column = loop.series(source)
        found = None if column is None else self._of_loop(loop, column, function)
        if column is None or found is None:
            return loop.in_python(source, function)
        values = column.to_frame().select(found).to_series()
        has_dtype = values.null_count() < values.len()  # a list of nothing has no dtype
        return values.to_list() if loop.wants_list or not has_dtype else values.rename("")

    def _of_loop(self, loop: Loop, column: pl.Series, function: Any) -> pl.Expr | None:
        name = f"{loop.shown} (line {loop.line})"
        try:
            if loop.obstacle:
                raise Untranslatable(loop.obstacle)  # noqa: TRY301  it ends a try
            if self._dtypes.get((column.name, loop.shown)) != column.dtype:
                raise Untranslatable(  # noqa: TRY301  it ends a try
                    f"{column.name!r} is not a column as the partition has it"
                )
            is_real = self._verified is not None
            text = translate_loop(function, loop.parameter, loop.body, column, is_watched=is_real)
        except Untranslatable as reason:
            self.refused[name] = loop.spoken(str(reason))
            self.is_ambiguous |= loop.where in self.texts
            return None
        self.is_ambiguous |= name in self.refused
        self.may_wrap |= _may_wrap(loop, column, function)
        self.has_loops = True
        self.given_nulls.append(function)
        return self._kept(loop.where, loop.written(text), column.name, function, text)

    def _kept(
        self, key: tuple[str, str], text: str, column: str, function: Any, native: str
    ) -> pl.Expr | None:
        """Note what is written in a place, and give the expression in it."""
        if self._verified is not None and self._verified.get(key) != text:
            return None
        expression: pl.Expr = eval(native, namespace_of(function))  # noqa: S307  of our own making
        self.columns.setdefault(column, []).append(function)
        self.is_ambiguous |= self.texts.setdefault(key, text) != text
        return expression.alias(column)

    def _native(
        self, shown: str, column: str, function: Any, options: dict[str, Any], written: str = "{}"
    ) -> pl.Expr | None:
        dtype = self._dtypes.get((column, _line(function)))
        if dtype is None:
            self._refuse(function, f"{column!r} is not a column as the partition has it")
            return None
        if options.get("pass_name"):
            self._refuse(function, "it is handed names")
            return None
        skip_nulls = bool(options.get("skip_nulls", True))
        try:
            text = translate(
                function, column, dtype, options.get("return_dtype"), skip_nulls=skip_nulls
            )
        except Untranslatable as reason:
            self._refuse(function, str(reason))
            return None
        if not skip_nulls:
            self.given_nulls.append(function)
        name = _name(function).replace("<lambda>", "lambda ...")
        key = (f"{shown}.map_elements({name})", _line(function))
        return self._kept(key, written.format(text), column, function, text)

    def _refuse(self, function: Any, reason: str) -> None:
        self.refused[f"{_name(function)} ({_line(function)})"] = reason


def _may_wrap(loop: Loop, column: pl.Series, function: Any) -> bool:
    if column.dtype != pl.Int64:
        return False  # others can hold no value that is large enough
    largest = pl.Series(column.name, [(1 << 63) - 1])
    try:
        translate_loop(function, loop.parameter, loop.body, largest, is_watched=True)
    except Untranslatable:
        return True
    return False


def _line(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return "not of Python" if code is None else f"line {code.co_firstlineno}"


def _name(function: Any) -> str:
    """As it is written: `str.upper` by its class, too."""
    is_method = isinstance(function, MethodDescriptorType)
    return getattr(function, "__qualname__" if is_method else "__name__", "the function")


def _column_of(receiver: pl.Expr) -> str | None:
    return receiver.meta.output_name() if receiver.meta.is_column() else None


@contextlib.contextmanager
def replaced(
    dtypes: Mapping[tuple[str, str], pl.DataType],
    verified: Mapping[tuple[str, str], str] | None = None,
) -> Generator[Replaced]:
    """In this block, `map_elements` of this thread gives native expressions where there are any."""
    mine = Replaced(dtypes, verified)
    with _patched(mine.expression, mine.series):
        yield mine


class Probed:
    """Notes which dtypes functions of one value are given, by column and line, or loop.

    Only of columns that have the dtype that they had in the partition: others were made, or
    changed, before, and nothing is known of the values that they can hold.
    """

    def __init__(self, schema: pl.Schema) -> None:
        self._schema = schema
        self._changed: set[tuple[str, str]] = set()
        self.dtypes: dict[tuple[str, str], pl.DataType] = {}

    def note(self, key: tuple[str, str], dtype: pl.DataType) -> None:
        """Keep the dtype of a column."""
        if self._schema.get(key[0]) != dtype:
            self._changed.add(key)
            self.dtypes.pop(key, None)
        elif key not in self._changed:
            self.dtypes[key] = dtype

    def loop(self, loop: Loop, source: Any, function: Any) -> list[Any]:
        """What a loop gives; what it goes over is noted."""
        column = loop.series(source)
        if column is not None:
            self.note((column.name, loop.shown), column.dtype)
        return loop.in_python(source, function)


@contextlib.contextmanager
def probed(schema: pl.Schema) -> Generator[Probed]:
    """In this block, what `map_elements` of this thread is given is noted."""
    mine = Probed(schema)

    def probe(receiver: pl.Expr, function: Any, options: dict[str, Any]) -> pl.Expr | None:
        column = _column_of(receiver)
        if column is None:
            return None
        key = (column, _line(function))

        def noted(values: pl.Series) -> pl.Series:
            mine.note(key, values.dtype)
            return values.map_elements(function, **options)

        return receiver.map_batches(noted, return_dtype=options.get("return_dtype"))

    def probe_series(receiver: pl.Series, function: Any, _: dict[str, Any]) -> None:
        mine.note((receiver.name, _line(function)), receiver.dtype)

    with _patched(probe, probe_series):
        yield mine


@contextlib.contextmanager
def _patched(
    of_expr: Callable[..., pl.Expr | None], of_series: Callable[..., pl.Series | None]
) -> Generator[None]:
    """Ask these first, for this thread: others get Polars' own method. It is put back however the block ends."""
    with _LOCK:
        before = pl.Expr.map_elements, pl.Series.map_elements
        try:
            pl.Expr.map_elements = _asking(before[0], of_expr)  # type: ignore[method-assign]
            pl.Series.map_elements = _asking(before[1], of_series)  # type: ignore[method-assign]
            yield
        finally:
            pl.Expr.map_elements, pl.Series.map_elements = before  # type: ignore[method-assign]


def _asking(original: Any, instead: Callable[..., Any]) -> Any:
    mine = threading.get_ident()

    @functools.wraps(original)
    def map_elements(self: Any, function: Any, *args: Any, **options: Any) -> Any:
        if threading.get_ident() == mine and not _is_polars(inspect.currentframe()):
            given = {**options, **({"return_dtype": args[0]} if args else {})}
            found = instead(self, function, given)
            if found is not None:
                return found
        return original(self, function, *args, **options)

    return map_elements


def _is_polars(frame: FrameType | None) -> bool:
    """Whether it was Polars that called the function of this frame, as it does inside."""
    caller = None if frame is None else frame.f_back
    return caller is not None and caller.f_code.co_filename.startswith(_POLARS)
