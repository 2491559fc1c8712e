"""The user's function: pickled once a call, made callable once a worker."""

from __future__ import annotations

import functools
import inspect
import io
import sys
import types
import weakref
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pmap._cloudpickled import reduce_cached
from pmap.errors import TransportError, UnpicklableFunctionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Pickle = TypeVar("Pickle")

__all__ = [
    "check_picklable",
    "dump_function",
    "instantiate",
    "name_of",
    "parts_of",
    "send_main_along",
]

_MAX_DEPTH = 4
#: Bytes after which a pickle that went well so far is taken to go well.
_ENOUGH = 1024 * 1024
#: Packages whose objects are data: not pickled only to see whether that would work.
BULKY = frozenset({"polars", "numpy", "pyarrow", "pandas", "scipy"})


#: Those that were found to pickle: to find it out takes half a millisecond.
_checked: weakref.WeakSet[Any] = weakref.WeakSet()


def name_of(function: object) -> str:
    """A name for messages."""
    if isinstance(function, functools.partial):
        return f"partial({name_of(function.func)})"
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def instantiate(function: Callable[..., Any]) -> Callable[..., Any]:
    """A class becomes an instance of it; anything else stays."""
    return function() if isinstance(function, type) else function


def dump_function(function: object, dump: Callable[[object], Pickle]) -> Pickle:
    """Pickle: lambdas, closures, and what `__main__` or a notebook defines.

    Parameters
    ----------
    function
        Of the user.
    dump
        What pickles it.

    Raises
    ------
    UnpicklableFunctionError
        It names the innermost object that can not be pickled, and how it is reached.
    """
    send_main_along()
    try:
        return dump(function)
    except TransportError:
        raise  # there is no room for its data
    except Exception as exc:  # pickling runs arbitrary __reduce__ methods
        raise UnpicklableFunctionError(_explain(function, exc)) from exc


def send_main_along() -> None:
    """In a child of `multiprocessing` the user's script, also while it is imported, has another name.

    Workers can not import it, and cloudpickle would take it for a module that they can.
    """
    main = sys.modules.get("__mp_main__")
    if main is not None:
        import cloudpickle  # noqa: PLC0415

        cloudpickle.register_pickle_by_value(main)


class _Sink(io.RawIOBase):
    """Takes a pickle and keeps nothing."""

    def __init__(self) -> None:
        self._room = _ENOUGH

    def write(self, data: Any) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise _EnoughError
        return len(data)


class _EnoughError(Exception):
    """So much has been pickled without an error that the rest is only time."""


def check_picklable(function: object) -> None:
    """Raise what `dump_function` would, without the cost of pickling large data.

    Raises
    ------
    UnpicklableFunctionError
        As `dump_function`.
    """
    has_identity = type(function) in {types.FunctionType, functools.partial}
    if has_identity and function in _checked:
        return
    _check_picklable(function)
    if has_identity:
        _checked.add(function)


def _check_picklable(function: object) -> None:
    import cloudpickle  # noqa: PLC0415

    class Checker(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
        def reducer_override(self, obj: Any) -> Any:
            if type(obj).__module__.partition(".")[0] in BULKY:
                return str, ()  # data, whose pickling is known to work
            cached = reduce_cached(obj)
            if cached is not NotImplemented:
                return cached
            return super().reducer_override(obj)  # pyright: ignore[reportUnknownVariableType]

    try:
        Checker(_Sink()).dump(function)
    except _EnoughError:
        return
    except Exception as exc:  # pickling runs arbitrary __reduce__ methods
        raise UnpicklableFunctionError(_explain(function, exc)) from exc


def _explain(function: object, exc: Exception) -> str:
    path, culprit = _culprit(function, name_of(function), 0)
    where = f"{path} (a {_type_name(culprit)})" if culprit is not function else path
    return (
        f"{where} can not be pickled, so {name_of(function)} can not be sent to a worker: {exc}. "
        "Create it inside the function, or pass a class: pmap instantiates it once in each worker; "
        "backend='threads' or 'serial' need no pickling"
    )


def _type_name(value: object) -> str:
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _culprit(value: object, path: str, depth: int) -> tuple[str, object]:
    """The innermost reachable part that does not pickle by itself."""
    if depth < _MAX_DEPTH:
        for name, part in parts_of(value):
            if not _pickles(part):
                return _culprit(part, f"{name} of {path}", depth + 1)
    return path, value


def _pickles(value: object) -> bool:
    import cloudpickle  # noqa: PLC0415

    try:
        cloudpickle.dumps(value)
    except Exception:  # noqa: BLE001  whatever it raises, it does not pickle
        return False
    return True


def parts_of(value: object) -> Iterator[tuple[str, object]]:
    """What pickling `value` pickles along with it, by the name a user knows it by."""
    if isinstance(value, types.MethodType):
        yield "the instance", value.__self__
    elif isinstance(value, functools.partial):
        yield "the function", value.func
        yield from ((f"argument {i}", arg) for i, arg in enumerate(value.args))
        yield from ((f"argument {name!r}", arg) for name, arg in value.keywords.items())
    elif isinstance(value, types.FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        yield from ((f"item {key!r}", item) for key, item in items)
    elif isinstance(value, list | tuple | set):
        yield from ((f"item {i}", item) for i, item in enumerate(cast("Iterable[object]", value)))
    elif hasattr(value, "__dict__"):
        yield from ((f"attribute {name!r}", item) for name, item in vars(value).items())


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    try:
        names = inspect.getclosurevars(function)
    except ValueError:  # a cell that is not filled yet
        return
    yield from ((f"closure variable {name!r}", value) for name, value in names.nonlocals.items())
    yield from ((f"global {name!r}", value) for name, value in names.globals.items())
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is not parameter.empty:
            yield f"default of parameter {parameter.name!r}", parameter.default
