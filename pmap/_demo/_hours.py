"""The function that needs no pmap: ordinary Python, too, but Polars can say it."""

from __future__ import annotations

import polars as pl

_NOON = 1200
_EVENING = 1800


def part_of_day(flights: pl.DataFrame) -> pl.DataFrame:
    """Say for each flight in which part of the day it was to leave.

    Parameters
    ----------
    flights
        Any number of rows, with ``sched_dep_time`` (local time as HHMM).

    Returns
    -------
    polars.DataFrame
        The same rows and columns, and ``part_of_day`` (String), null where the time is null.
    """
    named = pl.col("sched_dep_time").map_elements(_part_of_day, return_dtype=pl.String)
    return flights.with_columns(part_of_day=named)


def _part_of_day(hhmm: int) -> str:
    if hhmm < _NOON:
        return "morning"
    return "afternoon" if hhmm < _EVENING else "evening"
