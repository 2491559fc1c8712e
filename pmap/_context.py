"""What a function can know about the partition that it is running on."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PartitionInfo", "current_partition", "depth", "in_worker", "running"]


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """The partition that the calling function is running on.

    Attributes
    ----------
    index : int
        Its number, from 0, in the order of the rows.
    count : int or None
        How many there are; ``None`` for a stream, whose end is not known.
    attempt : int
        0 for the first, 1 for the first retry, and so on.
    rows : int
        Its height.
    seed : int or None
        The `seed` of `pmap.config`.
    """

    index: int
    count: int | None
    attempt: int
    rows: int
    seed: int | None = None

    @property
    def rng(self) -> np.random.Generator:
        """A random generator of this partition's own.

        With a `seed` in `pmap.config` it gives the same numbers for the same partition in
        every run, on every backend and at every attempt; without one, fresh numbers.
        Each access gives a new generator that starts anew. Streams of partitions are
        independent by NumPy's `SeedSequence` spawning (O'Neill, 2015).
        """
        import numpy as np  # noqa: PLC0415  only who draws numbers pays for it

        if self.seed is None:
            return np.random.default_rng()
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.index,)))


running: ContextVar[PartitionInfo | None] = ContextVar("pmap_partition", default=None)

#: How many mapped functions the present one is inside of: a map inside a map must not wait
#: for a pool whose threads are all busy with the outer one.
depth: ContextVar[int] = ContextVar("pmap_depth", default=0)

#: Tasks that have this process to themselves, as in a worker: it is one in all of its threads.
n_exclusive = 0


def in_worker() -> bool:
    """Whether this is a mapped function's process or thread: a map inside a map runs right here."""
    return n_exclusive > 0 or running.get() is not None


def current_partition() -> PartitionInfo | None:
    """The partition that the caller is running on; ``None`` outside a mapped function.

    Returns
    -------
    PartitionInfo or None
        With `index`, `count`, `attempt`, `rows` and a seeded `rng`.

    Examples
    --------
    >>> import polars as pl, pmap
    >>> def number(part: pl.DataFrame) -> pl.DataFrame:
    ...     return part.with_columns(partition=pmap.current_partition().index)
    >>> pmap.map_partitions(pl.DataFrame({"x": [7, 8]}), number, n_partitions=2)["partition"].to_list()
    [0, 1]
    """
    return running.get()
