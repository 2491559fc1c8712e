"""The demo's course: the plain loop and pmap on every local backend, timed and compared."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TYPE_CHECKING

import pmap
from pmap._demo import _text
from pmap._demo._flights import load_flights
from pmap._demo._hours import part_of_day
from pmap._demo._sun import sun_at_departure
from pmap._demo._text import Timing, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl

_LOCAL = ("threads", "spawn", "forkserver", "loky")


def run(rows: int | None, backends: Sequence[str] | None, n_jobs: int | None) -> int:
    """Run the demo, printing to the standard output as it goes.

    Parameters
    ----------
    rows
        How many flights; all without it.
    backends
        Names of backends, or "auto"; "auto" and the local ones without it.
    n_jobs
        Workers, as in `pmap.map_partitions`.

    Returns
    -------
    int
        The exit code: 0, 1 if a result differs from the plain loop's, 2 for an unknown backend.
    """
    names = list(dict.fromkeys(backends or _local_names()))
    unknown = sorted(set(names) - {"auto", *pmap.available_backends()})
    if unknown:
        print(_text.unknown_backends(unknown, pmap.available_backends()), file=sys.stderr)
        return 2
    return _compare(load_flights(rows), names, n_jobs)


def _local_names() -> list[str]:
    available = pmap.available_backends()
    return ["auto", *(name for name in _LOCAL if name in available)]


def _compare(flights: pl.DataFrame, names: Sequence[str], n_jobs: int | None) -> int:
    say(_text.data(flights))
    expected, before = _timed(lambda: sun_at_departure(flights))
    say(_text.loop(before, flights.height), _text.course(names))
    timings = [_measure(names[0], flights, n_jobs, expected)]
    say(_text.plan(names[0], pmap.last_report()), _text.result(expected))
    timings += [_measure(name, flights, n_jobs, expected) for name in names[1:]]
    # Once more after all else: how far the two are apart shows how steady this machine is.
    repeated, after = _timed(lambda: sun_at_departure(flights))
    loop = Timing("plain loop", before, after, same=_same(repeated, expected))
    say(_text.table(loop, timings), _text.closing(loop, timings))
    native_is_same = _advise(flights)
    return 0 if native_is_same and all(timing.same for timing in timings) else 1


def _advise(flights: pl.DataFrame) -> bool:
    """A second function, that Polars can say: what pmap advises, and both times on all flights."""
    say(_text.second_job())
    found = pmap.explain(flights, part_of_day)
    say(str(found))
    if found.replacement is None:
        return True
    expected, python = _timed(lambda: part_of_day(flights))
    native, seconds = _timed(lambda: found.native(flights))
    same = _same(native, expected)
    say(_text.natively(python, seconds, flights.height, same=same))
    return same


def _measure(
    name: str, flights: pl.DataFrame, n_jobs: int | None, expected: pl.DataFrame
) -> Timing:
    def call() -> pl.DataFrame:
        return pmap.map_partitions(
            flights, sun_at_departure, backend=name, n_jobs=n_jobs, progress=True
        )

    # Workers left by the backend before would flatter this one's first call.
    pmap.shutdown()
    cold, first = _timed(call)
    warm, again = _timed(call)
    return Timing(name, first, again, same=_same(cold, expected) and _same(warm, expected))


def _timed(call: Callable[[], pl.DataFrame]) -> tuple[pl.DataFrame, float]:
    start = perf_counter()
    return call(), perf_counter() - start


def _same(frame: pl.DataFrame, expected: pl.DataFrame) -> bool:
    return frame.schema == expected.schema and frame.equals(expected)
