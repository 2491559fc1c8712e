"""What the demo prints: plain ASCII, at most 100 columns, the same on a terminal and in a file."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import polars as pl

from pmap._demo._flights import SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pmap._report import Report

WIDTH = 100
_ROW = "  {:<14}{:>12}{:>10}{:>12}{:>10}    {}"
_FLIGHT = ("carrier", "flight", "origin", "dest", "scheduled_departure")
_SHOWN = (*_FLIGHT, "sun_elevation", "twilight")
_UNSTEADY = 1.1  # a loop that differs more from itself says little about what it is compared with
_CAPTION = """\
Times (seconds; x: how many times as fast as the plain loop at its better time)
A first call includes starting the workers; the next one finds them running."""


@dataclass(frozen=True)
class Timing:
    """Two calls of one kind: their seconds, and whether both gave what the plain loop gave."""

    backend: str
    first: float
    again: float
    same: bool

    @property
    def best(self) -> float:
        """Seconds of the faster call."""
        return min(self.first, self.again)

    @property
    def spread(self) -> float:
        """The slower call's time in terms of the faster one's."""
        return max(self.first, self.again) / self.best


def say(*texts: str) -> None:
    """Print each text at once, so that it stands before the progress bar of what follows."""
    for text in texts:
        print(text, flush=True)


def unknown_backends(names: Iterable[str], available: Iterable[str]) -> str:
    """One line on names that are no backend, and the names that are."""
    known = ", ".join(("auto", *sorted(available)))
    return f"No such backend: {', '.join(names)}. There are: {known}."


def data(flights: pl.DataFrame) -> str:
    """Say what the data is and what is computed from it."""
    size = f"{flights.height:,} flights from New York City in 2013, {flights.width} columns"
    job = (
        "Job: for each flight, the sun's elevation and the twilight at its scheduled departure, "
        "by one call of astral, a library in pure Python"
    )
    return "\n".join((_wrapped(f"Data: {size} ({SOURCE})"), _wrapped(job)))


def loop(seconds: float, rows: int) -> str:
    """Say how long the plain loop took over all rows."""
    return f"Plain loop: {seconds:.2f} s, {seconds / rows * 1e6:.1f} microseconds a flight"


def course(names: Sequence[str]) -> str:
    """Say what is timed from here on."""
    return _wrapped(f"Now pmap.map_partitions, twice on each of: {', '.join(names)}")


def plan(name: str, report: Report | None) -> str:
    """Say how pmap went about the call that it last reported on."""
    text = str(report.plan) if report else "no report"
    lines = (_wrapped(line) for line in text.splitlines())
    return "\n".join((f"\nPlan, backend {name!r}:", *lines))


def result(frame: pl.DataFrame) -> str:
    """Show the first rows of the result, its chief columns alone."""
    with pl.Config(
        tbl_formatting="ASCII_MARKDOWN",
        tbl_hide_column_data_types=True,
        tbl_width_chars=WIDTH,
        tbl_cols=len(_SHOWN),
        float_precision=2,
    ):
        head = str(frame.select(_SHOWN).head())
    return f"\nResult: {frame.height:,} rows, {frame.width} columns, of which\n{head}"


def table(loop: Timing, timings: Iterable[Timing]) -> str:
    """Give the times of all, the plain loop first, next to the plain loop's better one."""
    heading = _ROW.format("", "first call", "x", "next call", "x", "result")
    rows = (_row(timing, loop.best) for timing in (loop, *timings))
    return "\n".join((f"\n{_CAPTION}", heading, *rows))


def closing(loop: Timing, timings: Sequence[Timing]) -> str:
    """Say which backend was fastest, and whether all gave the same."""
    sentences = (_fastest(loop, timings), _steadiness(loop), _agreement(timings))
    return "\n".join(("", *(_wrapped(sentence) for sentence in sentences if sentence)))


def second_job() -> str:
    """Say what the second function is, and that pmap is asked about it first."""
    job = (
        "Another job: the part of the day in which each flight was to leave, by a Python function "
        "of its scheduled time. Before it is mapped, pmap.explain is asked:"
    )
    return f"\n{_wrapped(job)}\n"


def natively(python: float, native: float, rows: int, *, same: bool) -> str:
    """Give both times of the second function on all rows."""
    agreed = "the same result" if same else "ANOTHER RESULT"
    times = f"{python:.3f} s with Python, {native:.3f} s with the native code"
    return f"\n{_wrapped(f'All {rows:,} flights: {times} ({python / native:.1f} times as fast), {agreed}.')}"


def _row(timing: Timing, loop: float) -> str:
    calls = (timing.first, timing.again)
    cells = (f"{cell:.2f}" for call in calls for cell in (call, loop / call))
    return _ROW.format(timing.backend, *cells, "equal" if timing.same else "DIFFERENT")


def _fastest(loop: Timing, timings: Iterable[Timing]) -> str:
    best = min(timings, key=lambda timing: timing.best)
    ratio = loop.best / best.best
    times = f"{best.best:.2f} s for its {loop.best:.2f} s"
    # A lead that is smaller than what the same loop differs by from itself is no lead.
    if ratio <= loop.spread:
        return f"None was clearly faster than the plain loop; {best.backend} came nearest: {times}."
    return f"Fastest: {best.backend}, {ratio:.2f} times as fast as the plain loop ({times})."


def _steadiness(loop: Timing) -> str:
    if loop.spread < _UNSTEADY:
        return ""
    return (
        f"But the plain loop's own two times are {loop.spread - 1:.0%} apart (other work on this "
        "machine, or so short a job): take every ratio with that in mind."
    )


def _agreement(timings: Iterable[Timing]) -> str:
    differing = ", ".join(timing.backend for timing in timings if not timing.same)
    if differing:
        return f"Results that differ from the plain loop's: {differing}."
    return "All results equal the plain loop's, row by row."


def _wrapped(text: str) -> str:
    # Under the text of its own line, be that indented or an item of a list.
    indent = len(text) - len(text.lstrip(" -")) or 2
    return fill(text, WIDTH, subsequent_indent=" " * indent)
