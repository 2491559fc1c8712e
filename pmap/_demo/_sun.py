"""The function that the demo maps: ordinary Python, one call of a library for each row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
from astral import Observer
from astral.sun import elevation

if TYPE_CHECKING:
    from datetime import datetime

_METRES_PER_FOOT = 0.3048
TWILIGHT = pl.Enum(["night", "astronomical", "nautical", "civil", "day"])
# The lowest sun of each state, in degrees. The sun rises when its upper edge shows: its centre is
# then half its width and the refraction of the air, 0.833 degrees together, below the horizon.
_LOWEST = {"day": -0.833, "civil": -6.0, "nautical": -12.0, "astronomical": -18.0, "night": -90.0}


def sun_at_departure(flights: pl.DataFrame) -> pl.DataFrame:
    """Say for each flight how high the sun stood when it was to leave.

    Parameters
    ----------
    flights
        Any number of rows, with ``lat`` and ``lon`` (degrees), ``alt`` (feet) and
        ``scheduled_departure`` (with a time zone).

    Returns
    -------
    polars.DataFrame
        The same rows and columns, and ``sun_elevation`` (Float64, degrees above the horizon of the
        sun's centre, without refraction) and ``twilight`` (Enum); both null where an input is null.
    """
    # Two calls in five repeat the place and minute of an earlier one. A cache would save them, but
    # it would also hide what a row costs: this is the plain job, one call a row.
    rows = flights.select("lat", "lon", "alt", "scheduled_departure").iter_rows()
    degrees = pl.Series("sun_elevation", [_elevation(*row) for row in rows], pl.Float64)
    return flights.with_columns(degrees).with_columns(twilight=_twilight())


def _elevation(
    latitude: float | None, longitude: float | None, feet: float | None, when: datetime | None
) -> float | None:
    if latitude is None or longitude is None or feet is None or when is None:
        return None
    observer = Observer(latitude, longitude, feet * _METRES_PER_FOOT)
    return elevation(observer, when, with_refraction=False)


def _twilight() -> pl.Expr:
    # What Polars can say, Polars says: only the call of astral needs Python.
    degrees = pl.col("sun_elevation")
    states = (
        pl.when(degrees >= lowest).then(pl.lit(state, TWILIGHT))
        for state, lowest in _LOWEST.items()
    )
    return pl.coalesce(*states)
