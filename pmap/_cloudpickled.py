"""Where cloudpickle falls short of what users write, and of what they read in tracebacks.

What `functools.cache` and `lru_cache` made of a function in a script or a notebook pickles by
name alone: a worker would look for it in a `__main__` of its own. And from 3.1.3 on, code goes
without the name of its file, so that tracebacks from workers would show no lines.
"""

from __future__ import annotations

import functools
from collections import ChainMap
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["reduce_cached", "with_code_names"]

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


def with_code_names(table: Mapping[type, Any]) -> ChainMap[type, Any]:
    """A pickler's dispatch table by which code keeps the name of its file."""
    reduce_code = table[CodeType]

    def reduce(code: CodeType) -> tuple[Any, ...]:
        make, arguments, *rest = reduce_code(code)
        named = (
            code.co_filename if isinstance(value, str) and value == _NAMELESS else value
            for value in arguments
        )
        return (make, tuple(named), *rest)

    return ChainMap({CodeType: reduce}, table)  # type: ignore[arg-type]  # it is never written
