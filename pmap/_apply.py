"""Where the function is called on a partition, on every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from pmap._context import depth, running
from pmap.errors import ResultTypeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmap._context import PartitionInfo

__all__ = ["apply"]


def apply(
    function: Callable[[pl.DataFrame], Any],
    frame: pl.DataFrame,
    info: PartitionInfo,
    *,
    want_frame: bool,
) -> Any:
    """Call the function on one partition, here; on every backend, this is where it runs."""
    token, deeper = running.set(info), depth.set(depth.get() + 1)
    try:
        result = function(frame)
        return _as_frame(result) if want_frame else result
    finally:
        running.reset(token)
        depth.reset(deeper)


def _as_frame(result: object) -> pl.DataFrame | None:
    if result is None or isinstance(result, pl.DataFrame):
        return result
    if isinstance(result, pl.LazyFrame):
        return result.collect()
    kind = type(result)
    hint = {
        "Series": "return series.to_frame()",
        "pandas": "return pl.from_pandas(...)",
        "pyarrow": "return pl.from_arrow(...)",
    }
    which = "Series" if isinstance(result, pl.Series) else kind.__module__.partition(".")[0]
    remedy = hint.get(which, "return a frame or None")
    raise ResultTypeError(
        f"the function returned a {kind.__qualname__}, not a polars DataFrame: {remedy}, "
        "or use pmap.iter_partitions, which gives back whatever the function returns"
    )
