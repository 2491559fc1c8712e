"""`share`: a frame moved into shared memory once, for many maps over it."""

from __future__ import annotations

import polars as pl

from pmap._config import resolve
from pmap.errors import ArgumentError

__all__ = ["share"]


def share(frame: pl.DataFrame) -> pl.DataFrame:
    """The same frame, in shared memory: maps over it and over parts of it ship nothing.

    Workers map the memory that the frame lies in. That holds for its slices, its columns,
    and what Polars makes of them without a copy; results of earlier maps are like that by
    themselves. The memory goes when the last frame on it goes.

    Parameters
    ----------
    frame
        Copied once; columns of dtypes that can not be mapped (128-bit integers, `Object`)
        stay as they are.

    Returns
    -------
    polars.DataFrame
        Equal to `frame`.

    Raises
    ------
    ArgumentError
        For what is no `DataFrame`.
    TransportError
        When there is no room for it, with the number of bytes.

    Examples
    --------
    >>> import polars as pl, pmap
    >>> frame = pmap.share(pl.DataFrame({"x": range(100_000)}))
    >>> pmap.map_partitions(frame, lambda p: p.tail(1), n_partitions=2)["x"].to_list()
    [49999, 99999]
    """
    if not isinstance(frame, pl.DataFrame):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentError(f"share() takes a polars DataFrame, not a {type(frame).__qualname__}")
    from pmap._segment import kind_for  # noqa: PLC0415  for those who share
    from pmap._transport import share as put  # noqa: PLC0415  as above

    return put(frame, kind_for(resolve().transport))
