"""A parallel map for Polars: `map_partitions(df, function)`, sane everywhere."""

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
