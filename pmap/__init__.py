"""A parallel map for Polars: `map_partitions(df, function)`, sane everywhere.

What is named here is imported when it is first used: workers use none of it, and are ready sooner.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pmap import backend, errors
    from pmap._api import iter_partitions, map_partitions
    from pmap._config import config
    from pmap._context import current_partition
    from pmap._explain_api import explain
    from pmap._joblib import register_joblib_backend
    from pmap._pools import shutdown
    from pmap._registry import available_backends, get_backend
    from pmap._report import last_report
    from pmap._resources import cpu_count
    from pmap._share import share

__all__ = [
    "available_backends",
    "backend",
    "config",
    "cpu_count",
    "current_partition",
    "errors",
    "explain",
    "get_backend",
    "iter_partitions",
    "last_report",
    "map_partitions",
    "register_joblib_backend",
    "share",
    "shutdown",
]

#: The module of each.
_HOMES = {
    "available_backends": "_registry",
    "backend": "backend",
    "config": "_config",
    "cpu_count": "_resources",
    "current_partition": "_context",
    "errors": "errors",
    "explain": "_explain_api",
    "get_backend": "_registry",
    "iter_partitions": "_api",
    "last_report": "_report",
    "map_partitions": "_api",
    "register_joblib_backend": "_joblib",
    "share": "_share",
    "shutdown": "_pools",
}

if not TYPE_CHECKING:  # what type checkers would take for any name at all

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'pmap' has no attribute {name!r}")
        home = import_module(f"pmap.{_HOMES[name]}")
        globals()[name] = found = home if name == _HOMES[name] else getattr(home, name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
