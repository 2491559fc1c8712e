"""What it takes to pickle a function, about, without pickling it.

Frames, arrays and what else lies in one piece of memory are copied, not pickled, and cost next to
nothing. A dictionary of a million words does not: it is found, and a sample of it is timed.
"""

from __future__ import annotations

import itertools
import pickle
import sys
import time
import types
from typing import TYPE_CHECKING, cast

from pmap._function import BULKY, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

__all__ = ["pickling_seconds"]

#: Containers with fewer items are no weight; so many items are timed of a larger one.
_LARGE, _SAMPLE = 10_000, 1_000
_CONTAINERS = frozenset({dict, list, tuple, set, frozenset})
#: How deep in a function they are looked for, and in how many of its parts.
_MAX_DEPTH, _MAX_PARTS = 4, 1_000


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
        module = sys.modules.get(value.__module__)
        return value.__module__ != "__main__" and hasattr(module, value.__qualname__)
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
