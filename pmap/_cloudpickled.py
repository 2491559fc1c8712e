"""Where cloudpickle falls short of what users write, and of what they read in tracebacks.

What `functools.cache` and `lru_cache` made of a function in a script or a notebook pickles by
name alone: a worker would look for it in a `__main__` of its own. And from 3.1.3 on, code goes
without the name of its file, so that tracebacks from workers would show no lines.
"""

from __future__ import annotations

import functools
import io
from collections import ChainMap
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pickle
    from collections.abc import Callable, Mapping

    Reduced = tuple[Callable[..., Any], tuple[Any, ...]]

__all__ = ["dump_apart", "reduce_cached"]

#: What cloudpickle says instead of a file's name.
_NAMELESS = "<dynamic-code>"


@functools.cache
def _sample() -> None:
    """Of the type of what `functools.cache` makes, which has no public name."""


def reduce_cached(obj: Any) -> Any:
    """How a cached function is made again elsewhere, with an empty cache; else `NotImplemented`."""
    if type(obj) is not type(_sample):
        return NotImplemented
    if obj.__module__ != "__main__" and "<locals>" not in obj.__qualname__:
        return NotImplemented  # its module can be imported
    return _rebuilt, (obj.__wrapped__, obj.cache_parameters())


def _rebuilt(function: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def dump_apart(
    value: object, reducers: Mapping[type, Callable[[Any], Reduced | None]], longest: int | None
) -> tuple[bytes, list[memoryview]]:
    """Pickle, large buffers apart.

    Parameters
    ----------
    value
        Whatever the user has.
    reducers
        By the type of an object, and of no other below it, how it is pickled; where they give
        ``None``, as it always is.
    longest
        Buffer that stays in the pickle: bytes. ``None``: all of them stay.
    """
    buffers: list[memoryview] = []

    def apart(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not in one piece
            return True
        if longest is None or raw.nbytes <= longest:
            return True
        buffers.append(raw)
        return False

    file = io.BytesIO()
    _pickler()(file, reducers, apart).dump(value)
    return file.getvalue(), buffers


@functools.cache
def _pickler() -> Any:
    """The class, made once: that takes as long as to pickle a small task."""
    import cloudpickle  # noqa: PLC0415  only calls that leave the process need it

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
        dispatch_table = _with_code_names(cloudpickle.Pickler.dispatch_table)

        def __init__(self, file: io.BytesIO, reducers: Mapping[type, Any], apart: Any) -> None:
            super().__init__(file, protocol=5, buffer_callback=apart)
            self._reducers = reducers

        def reducer_override(self, obj: Any) -> Any:
            reduce = self._reducers.get(type(obj))  # pyright: ignore[reportUnknownArgumentType]
            reduced = None if reduce is None else reduce(obj)
            if reduced is not None:
                return reduced
            cached = reduce_cached(obj)
            if cached is not NotImplemented:
                return cached
            return super().reducer_override(obj)  # pyright: ignore[reportUnknownVariableType]

    return Pickler


def _with_code_names(table: Mapping[type, Any]) -> ChainMap[type, Any]:
    """A pickler's dispatch table by which code keeps the name of its file."""
    reduce_code = table[CodeType]

    def reduce(code: CodeType) -> tuple[Any, ...]:
        make, arguments, *rest = reduce_code(code)
        named = (
            code.co_filename if isinstance(value, str) and value == _NAMELESS else value
            for value in arguments
        )
        return (make, tuple(named), *rest)

    maps: list[Any] = table.maps if isinstance(table, ChainMap) else [table]
    return ChainMap({CodeType: reduce}, *maps)  # one of another would be slow
