"""What hypothesis draws, and how many: frames of every dtype."""

from __future__ import annotations

import polars as pl
from hypothesis import reject, settings
from hypothesis import strategies as st
from polars.testing.parametric import dataframes

#: For tests that stay in this process.
many = settings(max_examples=40)
#: For tests that go through workers, where an example costs more.
few = settings(max_examples=20)


@st.composite
def frames(draw, /, **kwargs):
    """Polars' `dataframes`, without the draws that this Polars itself can not build.

    1.34 draws categoricals inside arrays, say, and then refuses them. hypothesis's own exceptions
    steer it, and pass.
    """
    try:
        return draw(dataframes(**kwargs))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        reject()
