"""Frames, functions, results and errors of every kind; workers import it, without pytest."""

from __future__ import annotations

import datetime as dt
import functools
import os
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

import polars as pl

from pmap._conformance.gate import index_here

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = Callable[[pl.DataFrame], Any]

__all__ = [
    "ERRORS",
    "FRAMES",
    "FUNCTIONS",
    "RESULTS",
    "Counting",
    "LockedError",
    "MuteError",
    "RaiseOn",
    "Unopenable",
    "UnopenableError",
    "add",
    "plain",
]


def plain(rows: int = 12) -> pl.DataFrame:
    """A small frame of numbers from 0, and text."""
    return pl.DataFrame({"x": range(rows), "text": [f"row {i}" for i in range(rows)]})


# Functions.


def add(part: pl.DataFrame, number: int = 1) -> pl.DataFrame:
    """Add to the column "x"."""
    return part.with_columns(pl.col("x") + number)


class _Adder:
    def __init__(self, number: int) -> None:
        self._number = number

    def add(self, part: pl.DataFrame) -> pl.DataFrame:
        return add(part, self._number)

    __call__ = add


def _with_cache() -> Function:
    @functools.cache
    def twice(x: int) -> int:
        return 2 * x

    def mapped(part: pl.DataFrame) -> pl.DataFrame:
        return part.with_columns(x=pl.Series([twice(x) for x in part["x"]]))

    return mapped


FUNCTIONS: dict[str, Function] = {
    "has a cached helper": _with_cache(),
    "function": add,
    "lambda": lambda part: part.with_columns(y=pl.col("x") * 2),
    "partial": functools.partial(add, number=5),
    "method": _Adder(7).add,
    "callable instance": _Adder(9),
    "method of Polars": pl.DataFrame.reverse,
    "gives a LazyFrame": lambda part: part.lazy().filter(pl.col("x") % 2 == 0),
    "gives no rows": pl.DataFrame.clear,
    "gives None at times": lambda part: None if part["x"][0] % 2 else part,
    "gives None": lambda _: None,
    "gives other columns": lambda part: part.select(n=pl.len(), total=pl.col("x").sum()),
    "gives more rows": lambda part: pl.concat([part] * 5_000),
}


class Counting:
    """A class as function: each instance counts the partitions that it sees."""

    def __init__(self) -> None:
        self._name = f"{os.getpid()}-{threading.get_ident()}-{id(self)}"
        self._seen = 0

    def __call__(self, part: pl.DataFrame) -> pl.DataFrame:
        """Say who this is, and how many partitions it has seen."""
        self._seen += 1
        return part.select(instance=pl.lit(self._name), seen=pl.lit(self._seen))


class RaiseOn:
    """A function that raises on one partition, and returns the others as they are."""

    def __init__(self, index: int, make: Callable[[], BaseException]) -> None:
        self._index = index
        self._make = make

    def __call__(self, part: pl.DataFrame) -> pl.DataFrame:
        """Raise, if it is the one."""
        if index_here() == self._index:
            raise self._make()
        return part


# What can not be pickled, or can not be unpickled.


def _fail_to_open() -> NoReturn:
    raise ZeroDivisionError("it can not be opened")


class Unopenable:
    """Pickles, and raises when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _fail_to_open, ()

    def __call__(self, part: pl.DataFrame) -> pl.DataFrame:
        """It is a function, too."""
        return part


class UnopenableError(Exception):
    """Pickles, but can not be unpickled: its class asks for more arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


class LockedError(Exception):
    """Holds what can not be pickled."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class MuteError(Exception):
    """Has no text: asking for it raises."""

    def __str__(self) -> str:
        raise ZeroDivisionError("no text")


#: That come back as themselves.
ERRORS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("bad value", 3),
    "KeyError": lambda: KeyError("absent"),
    "FileNotFoundError": lambda: FileNotFoundError(2, "No such file", "/nowhere"),
    "of Polars": lambda: pl.exceptions.ColumnNotFoundError("absent"),
    "panic": lambda: pl.exceptions.PanicException("a panic"),
    "group": lambda: ExceptionGroup("several", [ValueError("one"), TypeError("two")]),
    "long": lambda: RuntimeError("x" * 100_000),
}

#: That are no frames, and come back equal.
RESULTS: dict[str, Any] = {
    "None": None,
    "number": 1.5,
    "text": "text",
    "large bytes": b"\0" * 100_000,
    "containers": {"a": [1, {2}, (None,)]},
    "class": dict,
}


# Frames.

_NUMBERS = ("Int8", "Int16", "Int32", "Int64", "Int128", "UInt8", "UInt16", "UInt32", "UInt64")
_NEWER_NUMBERS = ("UInt128", "Float16")
_MOMENT = dt.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=dt.UTC)
_OTHERS: list[tuple[str, Any, list[Any]]] = [
    ("float32", pl.Float32(), [float("nan"), -0.0]),
    ("float64", pl.Float64(), [float("inf"), 1e-300]),
    ("decimal", pl.Decimal(38, 9), [Decimal("1.000000001"), Decimal(-3)]),
    ("null", pl.Null(), [None, None]),
    ("boolean", pl.Boolean(), [True, False]),
    ("string", pl.String(), ["", "a string that is too long to lie within its view"]),
    ("binary", pl.Binary(), [b"", b"\0\xff"]),
    ("date", pl.Date(), [_MOMENT.date(), dt.date(1, 1, 1)]),
    ("datetime", pl.Datetime("ns"), [_MOMENT.replace(tzinfo=None)] * 2),
    ("zoned", pl.Datetime("us", "UTC"), [_MOMENT, _MOMENT]),
    ("duration", pl.Duration("ms"), [dt.timedelta(days=-1), dt.timedelta(seconds=1)]),
    ("time", pl.Time(), [_MOMENT.time(), dt.time.max]),
    ("categorical", pl.Categorical(), ["b", "a"]),
    ("enum", pl.Enum(["x", "y"]), ["y", "x"]),
    ("list", pl.List(pl.List(pl.Int16())), [[[1], None], []]),
    ("array", pl.Array(pl.Float32(), 2), [[1.0, None], [2.0, 3.0]]),
    (
        "struct",
        pl.Struct({"a": pl.Int8(), "b": pl.List(pl.String())}),
        [{"a": 1, "b": ["", None]}, {"a": None}],
    ),
]


def _every_dtype() -> pl.DataFrame:
    """Four rows: a value, a null, another value, a null."""
    numbers = [getattr(pl, name) for name in _NUMBERS + _NEWER_NUMBERS if hasattr(pl, name)]
    columns = [pl.Series(str(dtype), [0, None, 100, None]).cast(dtype) for dtype in numbers]
    columns += [
        pl.Series(name, [one, None, other, None], dtype=dtype)
        for name, dtype, (one, other) in _OTHERS
    ]
    if hasattr(pl, "Map"):
        mapping = pl.Map(pl.String(), pl.Int64())
        columns.append(pl.Series("map", [{"a": 1}, None, {}, None], dtype=mapping))
    return pl.DataFrame(columns)


#: Some in two sizes: small ones travel inside messages, large ones in shared memory.
FRAMES: dict[str, Callable[[], pl.DataFrame]] = {
    "every dtype": _every_dtype,
    "every dtype, large": lambda: pl.concat([_every_dtype()] * 2_000, rechunk=True),
    "one row": lambda: plain(1),
    "fewer rows than partitions": lambda: plain(3),
    "no columns": lambda: plain().select(),
    "300 columns": lambda: pl.DataFrame({f"c{i}": [i, None, -i, 0] for i in range(300)}),
    "300 columns, large": lambda: pl.DataFrame({f"c{i}": range(i, i + 500) for i in range(300)}),
    "nothing but nulls": lambda: pl.DataFrame({"x": [None] * 12}, schema={"x": pl.String}),
    "many chunks": lambda: pl.concat([plain(3)] * 100, rechunk=False),
    "many chunks, large": lambda: pl.concat([plain(300)] * 100, rechunk=False),
    "a slice": lambda: plain(50_000)[17:40],
    "a slice, large": lambda: plain(50_000)[1_000:-1_000],
    "odd names": lambda: pl.DataFrame({"": [1, 2, 3, 4], "a b": [1, 2, 3, 4], "ß\n": [1, 2, 3, 4]}),
    "sorted": lambda: plain(20_000).with_columns(down=-pl.col("x")).sort("x").set_sorted("x"),
}
