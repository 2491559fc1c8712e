"""Contenders that have frames of their own: Polars' have to become theirs, and come back."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import polars as pl

from pmap._bench._contenders import Placed, Setting, joined, start_ray

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmap._bench._contenders import Function

__all__ = ["DaskFrame", "PandasApply", "RayData"]


def _schema_of(frame: pl.DataFrame, function: Function) -> pl.Schema:
    """What comes back, found from two rows: dask asks for it before, pandas loses some dtypes."""
    return function(frame.head(2)).schema


class DaskFrame:
    """`dask.dataframe`: pandas frames, mapped in a local cluster of processes."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._frames: Any = import_module("dask.dataframe")
        self._client: Any = import_module("distributed").Client(
            n_workers=setting.workers, threads_per_worker=1, dashboard_address=None
        )

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        schema = _schema_of(frame, function)
        lazy = self._frames.from_pandas(frame.to_pandas(), npartitions=self._setting.partitions)
        meta = pl.DataFrame(schema=schema).to_pandas()
        found = lazy.map_partitions(_through_polars, function, frame.schema, meta=meta).compute()
        return _of_pandas(found).cast(schema)

    def close(self) -> None:
        """Stop the cluster."""
        self._client.shutdown()


def _through_polars(part: Any, function: Function, schema: pl.Schema) -> Any:
    return function(_of_pandas(part).cast(schema)).to_pandas()


def _of_pandas(frame: Any) -> pl.DataFrame:
    convert: Any = pl.from_pandas  # pandas' types are not there without its stubs
    found: pl.DataFrame = convert(frame)
    return found


class RayData:
    """`ray.data`: Arrow tables in ray's store, mapped in batches, in their order."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._ray = start_ray(setting)
        self._placed = Placed(self._ray.put)
        self._data: Any = import_module("ray.data")
        context = self._data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        tables = [part.to_arrow() for part in self._setting.parts(frame)]
        plain, bound = self._placed(function)

        def batch(table: Any) -> Any:
            return plain(*import_module("ray").get(bound), _polars(table)).to_arrow()

        dataset = self._data.from_arrow(tables)
        mapped = dataset.map_batches(batch, batch_format="pyarrow", batch_size=None)
        return joined(map(_polars, self._ray.get(mapped.to_arrow_refs())))

    def close(self) -> None:
        """Stop the cluster."""
        self._ray.shutdown()


def _polars(table: Any) -> pl.DataFrame:
    found = pl.from_arrow(table)
    return found if isinstance(found, pl.DataFrame) else found.to_frame()


class PandasApply:
    """`Series.apply` of a function of one value, over parts of a pandas column, in processes.

    What pandarallel does, which itself needs a pandas before 3.0, and forks.
    """

    def __init__(self, setting: Setting, column: str, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(setting.workers, context)
        self._setting = setting
        self._column = column
        self._apply = partial(_applied, function)

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        dtype = _schema_of(frame, function)["value"]
        parts = self._setting.parts(frame.select(self._column))
        columns = [part.to_series().to_pandas() for part in parts]
        found: list[Any] = list(self._pool.map(self._apply, columns))
        values = import_module("pandas").concat(found)
        return frame.with_columns(pl.Series("value", values.to_numpy()).cast(dtype))

    def close(self) -> None:
        """Stop the workers."""
        self._pool.shutdown()


def _applied(function: Callable[[Any], Any], column: Any) -> Any:
    return column.apply(function)
