"""What it takes to send a function to a new worker, about, without sending it.

Frames, arrays and what else lies in one piece of memory are copied, not pickled, and cost next to
nothing. A dictionary of a million words does not: it is found, and a sample of it is timed. A new
worker imports what the function needs, which takes longer than its start if that is pandas, say.
"""

from __future__ import annotations

import itertools
import pickle
import sys
import time
import types
from collections import Counter
from typing import TYPE_CHECKING, cast

from pmap._function import BULKY, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

__all__ = ["import_seconds", "pickling_seconds"]

#: Containers with fewer items are no weight; so many items are timed of a larger one.
_LARGE, _SAMPLE = 10_000, 1_000
_CONTAINERS = frozenset({dict, list, tuple, set, frozenset})
#: How deep in a function they are looked for, and in how many of its parts.
_MAX_DEPTH, _MAX_PARTS = 4, 1_000

#: To import a module, with its code compiled already: seconds.
_ONE_MODULE = 0.001
#: Packages that workers have anyway, or import in no time.
_PRELOADED = frozenset({"polars", "pmap", "cloudpickle", "numpy", "pyarrow", "__main__"})
#: Methods of frames that import a package.
_IMPORTING = {"to_pandas": "pandas", "to_torch": "torch", "to_jax": "jax"}


def import_seconds(function: Callable[..., object]) -> float:
    """Seconds that a new worker needs to import what a function refers to and this process has."""
    packages = _packages_of(function, 0) - _PRELOADED - sys.stdlib_module_names
    loaded = Counter(name.partition(".")[0] for name in sys.modules.copy())
    return _ONE_MODULE * sum(loaded[package] for package in packages)


def _packages_of(function: object, depth: int) -> set[str]:
    """Top-level packages of what a function, and those that are sent with it, are made of."""
    found = {_package_of(function)}
    if isinstance(function, types.FunctionType):
        found |= {_IMPORTING[name] for name in function.__code__.co_names if name in _IMPORTING}
        if not _is_sent_by_value(function):  # its module is imported, and what that imports
            module = sys.modules[function.__module__]
            return found | set(map(_package_of, vars(module).copy().values()))
    if depth < _MAX_DEPTH and not isinstance(function, types.ModuleType | type):
        for _, part in itertools.islice(parts_of(function), _MAX_PARTS):
            found |= _packages_of(part, depth + 1)
    return found


def _package_of(value: object) -> str:
    if isinstance(value, types.ModuleType):
        return value.__name__.partition(".")[0]
    # of an instance by its class: proxies do what they like when they are asked
    made = value if isinstance(value, types.FunctionType | type) else type(value)
    return str(made.__module__).partition(".")[0]


def _is_sent_by_value(function: types.FunctionType) -> bool:
    module = sys.modules.get(function.__module__)
    return function.__module__ == "__main__" or not hasattr(module, function.__qualname__)


def pickling_seconds(function: Callable[..., object]) -> float:
    """Seconds that pickling the large containers of a function takes; unpickling takes as long."""
    return sum(map(_seconds_for, _large_containers(function, 0, set())))


def _large_containers(value: object, depth: int, known: set[int]) -> Iterator[Collection[object]]:
    if id(value) in known or len(known) > _MAX_PARTS or _is_light(value):
        return
    known.add(id(value))
    if type(value) in _CONTAINERS:
        container = cast("Collection[object]", value)
        if len(container) >= _LARGE:
            yield container
            return
    if depth < _MAX_DEPTH:
        for _, part in parts_of(value):
            yield from _large_containers(part, depth + 1, known)


def _is_light(value: object) -> bool:
    """What is sent by name, or copied."""
    if isinstance(value, types.ModuleType | type | str | bytes | int | float | None):
        return True
    if isinstance(value, types.FunctionType):
        return not _is_sent_by_value(value)
    return type(value).__module__.partition(".")[0] in BULKY


def _seconds_for(container: Collection[object]) -> float:
    items = getattr(container, "items", container.__iter__)()
    sample = list(itertools.islice(items, _SAMPLE))
    started = time.perf_counter()
    try:
        pickle.dumps(sample, pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001  cloudpickle may do it, and takes longer than this could show
        return 0.0
    return (time.perf_counter() - started) * len(container) / len(sample)
