"""Calls of the user's function on samples, within a budget of seconds; an exception is a finding."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from pmap._advice._trace import Trace, traced
from pmap._context import PartitionInfo, running

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["Ran", "Runner", "untouched"]


@dataclass(frozen=True, slots=True)
class Ran:
    """One call: what it gave or raised, and its seconds."""

    value: Any
    error: BaseException | None
    seconds: float

    @property
    def kind(self) -> str:
        """What it returned, for messages."""
        return type(self.value).__name__


class Runner:
    """Calls a function, counts the calls, and knows what is left of the budget.

    Parameters
    ----------
    function
        Of the user, instantiated if it is a class.
    budget
        Seconds for all calls together, ``None`` without a limit.
    seed
        Of `current_partition`, which the function may ask for.
    """

    def __init__(
        self, function: Callable[..., Any], budget: float | None, seed: int | None = None
    ) -> None:
        self.function = function
        self.n_calls = 0
        self._begun = time.perf_counter()
        self._budget = budget
        self._seed = seed

    def restart(self) -> None:
        """Take the budget as unspent."""
        self._begun = time.perf_counter()

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._begun

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return float("inf") if self._budget is None else self._budget - self.spent

    def call(self, frame: pl.DataFrame, index: int = 0, count: int = 1) -> Ran:
        """Call the function on its own copy of a frame; a query that it returns is collected."""
        return self._run(lambda part: (self.function(part), None), frame, index, count)[0]

    def call_instead(self, function: Callable[..., Any], frame: pl.DataFrame) -> Ran:
        """As `call`, of a copy of the function."""
        return self._run(lambda part: (function(part), None), frame, 0, 1)[0]

    def trace(self, frame: pl.DataFrame) -> tuple[Ran, Trace | None]:
        """As `call`, and what the function did; ``None`` if it raised."""
        return self._run(lambda part: traced(self.function, part), frame, 0, 1)

    def _run(
        self,
        call: Callable[[pl.DataFrame], tuple[Any, Trace | None]],
        frame: pl.DataFrame,
        index: int,
        count: int,
    ) -> tuple[Ran, Trace | None]:
        part = frame.clone()  # what is changed in place is this part's own
        token = running.set(PartitionInfo(index, count, 0, part.height, self._seed))
        self.n_calls += 1
        start = time.perf_counter()
        try:
            value, trace = call(part)
            if isinstance(value, pl.LazyFrame):
                value = value.collect()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001  panics of Polars and exits are findings too
            return Ran(None, error, time.perf_counter() - start), None
        finally:
            running.reset(token)
        return Ran(value, None, time.perf_counter() - start), trace


@contextlib.contextmanager
def untouched() -> Generator[None]:
    """Random numbers go on afterwards as if the function had not been called."""
    numpy = sys.modules.get("numpy")
    state = random.getstate()
    numpy_state = None if numpy is None else numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
