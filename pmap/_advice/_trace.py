"""One call of a function, watched: which public Polars calls its own code makes, and with what.

`sys.setprofile` sees every call of this thread, without a patch anywhere. Only calls that the
user's code makes itself count; what Polars and other libraries do inside is theirs. Objects
that come from the partition are followed, so that sorting a lookup table is told from sorting
the partition.
"""

from __future__ import annotations

import cProfile
import os
import sys
import sysconfig
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, cast

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["HANDED", "Called", "Trace", "code_of", "traced"]

_POLARS = os.path.dirname(pl.__file__) + os.sep
_PMAP = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = tuple(
    {
        os.path.realpath(path) + os.sep
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
        if (path := sysconfig.get_path(name))
    }
    | {
        path + os.sep
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
        if (path := sysconfig.get_path(name))
    }
)
#: Name of the argument under which expressions stand that an iterator gave.
HANDED = "expressions of an iterator"
#: Different calls that are kept; a loop over rows repeats the same few.
_MOST = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Called:
    """A call that the user's code made.

    Attributes
    ----------
    kind
        ``"polars"``, ``"c"`` for a builtin, ``"library"`` for any other package.
    owner, name
        Class and method of Polars, or the module and the function.
    receiver
        The object whose method it is, or ``None``.
    arguments
        By the names of parameters, receiver left out.
    is_derived
        Whether the receiver or an argument comes from the partition.
    where
        File and line.
    from_part
        The arguments that come from the partition.
    """

    kind: str
    owner: str
    name: str
    receiver: Any
    arguments: Mapping[str, Any]
    is_derived: bool
    receiver_is_derived: bool
    where: tuple[str, int]
    from_part: frozenset[str] = frozenset()


@dataclass(slots=True)
class Trace:
    """All that one call did, and the code of the user's that ran.

    Attributes
    ----------
    calls, codes
        What was called, and the code.
    is_cut
        Whether there were more calls than are kept.
    has_categories
        Whether a column of the partition is categorical: its numbers are of one process alone.
    gives_part
        Whether the result comes from the partition.
    """

    calls: list[Called] = field(default_factory=list[Called])
    codes: dict[CodeType, None] = field(default_factory=dict[CodeType, None])
    is_cut: bool = False
    has_categories: bool = False
    gives_part: bool = False


def code_of(function: object) -> CodeType | None:
    """The code that runs when `function` is called, if it is Python."""
    while not isinstance(function, FunctionType):
        if isinstance(function, MethodType):
            function = function.__func__
        elif hasattr(function, "func") and hasattr(function, "keywords"):  # functools.partial
            function = cast("Any", function).func
        else:
            call: object = getattr(type(function), "__call__", None)  # noqa: B004  its own code is asked for
            if not isinstance(call, FunctionType):
                return None
            function = call
    return function.__code__


def traced(function: Callable[[pl.DataFrame], Any], part: pl.DataFrame) -> tuple[Any, Trace]:
    """Call `function` and watch it. A profiler that is there already is put back, whatever happens."""
    code = code_of(function)
    tracer = _Tracer(part, "" if code is None else code.co_filename)
    previous = sys.getprofile()
    try:
        sys.setprofile(tracer)
        result = function(part)
    finally:
        _put_back(previous)
    tracer.trace.has_categories = pl.Categorical in part.dtypes
    tracer.trace.gives_part = tracer.comes_from_part(result)
    return result, tracer.trace


def _put_back(profiler: Any) -> None:
    """Set a profiler again; `cProfile`, up to Python 3.11, is one that can only enable itself."""
    if isinstance(profiler, cProfile.Profile):
        profiler.enable()
    else:
        sys.setprofile(profiler)


class _Tracer:
    def __init__(self, part: pl.DataFrame, own_file: str) -> None:
        self.trace = Trace()
        self._own_file = own_file
        self._derived: dict[int, Any] = {id(part): part}
        self._inside: FrameType | None = None
        self._current: Called | None = None
        self._seen: set[tuple[object, ...]] = set()
        self._is_user: dict[str, bool] = {}

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if self._inside is not None:
            if event == "return" and frame is self._inside:
                self._leave(arg)
            elif event == "return" and isinstance(arg, pl.Expr):
                self._note_handed(frame, arg)
        elif event == "call":
            self._enter(frame)
        elif event == "c_call" and self._is_users(frame.f_code.co_filename):
            self._note_c(frame, arg)

    def _enter(self, frame: FrameType) -> None:
        path = frame.f_code.co_filename
        if self._is_users(path):
            self.trace.codes[frame.f_code] = None
            return
        caller = frame.f_back
        if caller is None or not self._is_users(caller.f_code.co_filename):
            return
        if path.startswith(_POLARS):
            called = self._polars_call(frame, caller)
            if called.name == "pipe":  # calls the user's code with its receiver, no more
                return
        else:
            module = str(frame.f_globals.get("__name__", "?"))
            where = (caller.f_code.co_filename, caller.f_lineno)
            derived = any(map(self.comes_from_part, _values_of(frame)))
            called = Called(
                "library",
                module,
                frame.f_code.co_name,
                None,
                {},
                is_derived=derived,
                receiver_is_derived=False,
                where=where,
            )
        self._inside, self._current = frame, called
        self._keep(called)

    def _note_handed(self, frame: FrameType, expression: pl.Expr) -> None:
        """Expressions that a generator, or the function of a `map`, hands to Polars as it runs."""
        called = self._current
        if (
            called is not None
            and called.kind == "polars"
            and self._is_users(frame.f_code.co_filename)
        ):
            cast("dict[str, Any]", called.arguments).setdefault(HANDED, []).append(expression)

    def _leave(self, value: Any) -> None:
        called, self._inside, self._current = self._current, None, None
        if called is not None and called.kind == "polars" and called.is_derived:
            self._follow(value)

    def _follow(self, value: Any) -> None:
        """What a call on the partition gives comes from the partition."""
        if isinstance(value, list | tuple):
            for item in cast("list[object]", value):
                self._follow(item)
        elif type(value).__module__.startswith("polars.") and not isinstance(
            value, pl.DataType | pl.Schema
        ):
            self._derived[id(value)] = value

    def _polars_call(self, frame: FrameType, caller: FrameType) -> Called:
        qualified, receiver, arguments = _resolved(frame)
        owner, _, name = qualified.rpartition(".")
        on_part = receiver is not None and self.comes_from_part(receiver)
        from_part = frozenset(
            name for name, value in arguments.items() if self.comes_from_part(value)
        )
        derived = on_part or bool(from_part)
        where = (caller.f_code.co_filename, caller.f_lineno)
        return Called(
            "polars", owner, name, receiver, arguments, derived, on_part, where, from_part
        )

    def comes_from_part(self, value: Any, depth: int = 0) -> bool:
        """Whether it is the partition, or was made of it by Polars."""
        if id(value) in self._derived:
            return True
        if depth > 2 or not isinstance(value, list | tuple | dict):  # noqa: PLR2004  frames in lists of a call
            return False
        items: Iterable[object] = (
            cast("dict[object, object]", value).values()
            if isinstance(value, dict)
            else cast("list[object]", value)
        )
        return any(self.comes_from_part(item, depth + 1) for item in items)

    def _note_c(self, frame: FrameType, function: Any) -> None:
        module = getattr(function, "__module__", None)
        holder = getattr(function, "__self__", None)
        if module is None and holder is not None:
            module = f"builtins.{type(holder).__name__}"
        where = (frame.f_code.co_filename, frame.f_lineno)
        name = getattr(function, "__name__", "?")
        receiver: Any = holder if type(holder) in {list, dict, set} else None
        called = Called(
            "c",
            str(module),
            name,
            receiver,
            {},
            is_derived=False,
            receiver_is_derived=False,
            where=where,
        )
        self._keep(called)

    def _keep(self, called: Called) -> None:
        key: tuple[object, ...] = (called.owner, called.name, called.where, called.is_derived)
        if called.kind == "polars" and called.name.startswith("__"):  # of each value, maybe
            key = (*key, *map(type, called.arguments.values()))
        elif called.kind == "polars":
            key = (*key, id(called.receiver), *map(id, called.arguments.values()))
        if key in self._seen:
            return
        if len(self.trace.calls) >= _MOST:
            self.trace.is_cut = True
            return
        self._seen.add(key)
        self.trace.calls.append(called)

    def _is_users(self, path: str) -> bool:
        known = self._is_user.get(path)
        if known is None:
            foreign = path.startswith((*_LIBRARIES, _PMAP, _POLARS, "<frozen"))
            known = self._is_user[path] = path == self._own_file or not foreign
        return known


def _values_of(frame: FrameType) -> Iterator[Any]:
    """What a library's function was called with."""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    starred = bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)  # *args, **kwargs
    for name in code.co_varnames[: count + starred]:
        yield frame.f_locals.get(name)


def _resolved(frame: FrameType) -> tuple[str, Any, dict[str, Any]]:
    """Qualified name, receiver and arguments of a call into Polars, seen through its decorators."""
    code, found = frame.f_code, frame.f_locals
    wrapped = found.get("function") or found.get("func")
    if "<locals>" in code.co_qualname and callable(wrapped):
        values = (*((found["self"],) if "self" in found else ()), *found.get("args", ()))
        names = _parameters(getattr(wrapped, "__code__", None))
        arguments = dict(zip(names, values, strict=False))
        extra = values[len(names) :]
        arguments |= {"*": extra} if extra else {}
        arguments |= found.get("kwargs", {})
        qualified = str(getattr(wrapped, "__qualname__", "?"))
    else:
        count = code.co_argcount + code.co_kwonlyargcount
        starred = bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)  # *args, **kwargs
        arguments = {
            name: found[name] for name in code.co_varnames[: count + starred] if name in found
        }
        qualified = code.co_qualname
    return qualified, arguments.pop("self", None), arguments


def _parameters(code: CodeType | None) -> tuple[str, ...]:
    return () if code is None else code.co_varnames[: code.co_argcount]
