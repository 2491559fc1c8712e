"""`map_elements` giving native expressions, for one thread and as long as a block runs."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING, Any

import polars as pl

from pmap._advice._translate import Untranslatable, namespace_of, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["Replaced", "replaced"]

_LOCK = threading.RLock()


class Replaced:
    """Translates what one thread hands to `map_elements`, and keeps what became of it.

    Attributes
    ----------
    texts
        Of each line: what was replaced, by what.
    columns
        The functions that were replaced, by their column.
    is_ambiguous
        Whether one line needs different code each time that it runs.
    refused
        Why a function was not translated, by its line.
    """

    def __init__(self, schema: pl.Schema) -> None:
        self._schema = schema
        self._thread = threading.get_ident()
        self.texts: dict[tuple[str, str], str] = {}
        self.refused: dict[str, str] = {}
        self.columns: dict[str, list[Any]] = {}
        self.is_ambiguous = False

    def is_mine(self) -> bool:
        """Whether the caller is the thread that asked for it."""
        return threading.get_ident() == self._thread

    def expression(
        self, receiver: pl.Expr, function: Any, options: dict[str, Any]
    ) -> pl.Expr | None:
        """The native expression for a call of `Expr.map_elements`, or ``None``."""
        column = _column_of(receiver)
        if column is None or column not in self._schema:
            self._refuse(function, "it is not called on a plain column")
            return None
        return self._native(column, self._schema[column], function, options)

    def series(
        self, receiver: pl.Series, function: Any, options: dict[str, Any]
    ) -> pl.Series | None:
        """The values that the native expression gives for a Series, or ``None``."""
        found = self._native(receiver.name, receiver.dtype, function, options)
        return None if found is None else receiver.to_frame().select(found).to_series()

    def _native(
        self, column: str, dtype: pl.DataType, function: Any, options: dict[str, Any]
    ) -> pl.Expr | None:
        if options.get("skip_nulls", True) is not True or options.get("pass_name"):
            self._refuse(function, "it is handed nulls, or names")
            return None
        try:
            text = translate(function, column, dtype, options.get("return_dtype"))
        except Untranslatable as reason:
            self._refuse(function, str(reason))
            return None
        expression: pl.Expr = eval(text, namespace_of(function))  # noqa: S307  of our own making
        self.columns.setdefault(column, []).append(function)
        name = getattr(function, "__name__", "function")
        key = (
            f"pl.col({column!r}).map_elements({name.replace('<lambda>', 'lambda ...')})",
            _line(function),
        )
        self.is_ambiguous |= self.texts.setdefault(key, text) != text
        return expression.alias(column)

    def _refuse(self, function: Any, reason: str) -> None:
        self.refused[f"{getattr(function, '__name__', 'the function')} ({_line(function)})"] = (
            reason
        )


def _line(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return "line ?" if code is None else f"line {code.co_firstlineno}"


def _column_of(receiver: pl.Expr) -> str | None:
    return receiver.meta.output_name() if receiver.meta.is_column() else None


@contextlib.contextmanager
def replaced(schema: pl.Schema) -> Generator[Replaced]:
    """In this block, `map_elements` of this thread gives native expressions where there are any.

    Other threads get Polars' own method. It is put back however the block ends.
    """
    mine = Replaced(schema)
    with _LOCK:
        of_expr, of_series = pl.Expr.map_elements, pl.Series.map_elements
        try:
            pl.Expr.map_elements = _patched(of_expr, mine, mine.expression)  # type: ignore[method-assign]
            pl.Series.map_elements = _patched(of_series, mine, mine.series)  # type: ignore[method-assign]
            yield mine
        finally:
            pl.Expr.map_elements = of_expr  # type: ignore[method-assign]
            pl.Series.map_elements = of_series  # type: ignore[method-assign]


def _patched(original: Any, mine: Replaced, native: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def map_elements(self: Any, function: Any, *args: Any, **options: Any) -> Any:
        if mine.is_mine():
            given = {**options, **({"return_dtype": args[0]} if args else {})}
            found = native(self, function, given)
            if found is not None:
                return found
        return original(self, function, *args, **options)

    return map_elements
