"""What is told of a measured workload: medians, spread, ratios, and who was first."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from pmap._bench._table import IDEAL, LOOP

__all__ = ["Line", "lines_of", "verdict"]

#: No pools, but yardsticks.
_YARDSTICKS = (LOOP, IDEAL, "native Polars")


@dataclass(frozen=True)
class Line:
    """One contender of one workload, in seconds and bytes.

    Attributes
    ----------
    seconds, low, high
        Of warm calls: the median and the quartiles; of first calls, if there are no warm ones.
    cold, second
        Median of first calls; the call after the first.
    of_loop, of_ideal
        How many times as fast as the plain loop; the ideal's time in terms of this one's.
    """

    name: str
    seconds: float | None
    low: float
    high: float
    cold: float | None
    second: float | None
    of_loop: float | None
    of_ideal: float | None
    cpu_seconds: float | None
    peak_bytes: int | None
    error: str | None


def lines_of(workload: dict[str, Any]) -> list[Line]:
    """A line a contender, fastest first, those without a time last."""
    known = {row["contender"]: _median(_times(row)) for row in workload["contenders"]}
    loop, ideal = known.get(LOOP), known.get(IDEAL)
    lines = [_line(row, loop, ideal) for row in workload["contenders"]]
    return sorted(lines, key=lambda line: (line.seconds is None, line.seconds))


def _line(row: dict[str, Any], loop: float | None, ideal: float | None) -> Line:
    times = _times(row)
    seconds = _median(times)
    low, high = _spread(times)
    return Line(
        row["contender"],
        seconds,
        low,
        high,
        _median(row["cold_seconds"]),
        _median(row["settling_seconds"][:1]),
        None if loop is None or seconds is None else loop / seconds,
        None if ideal is None or seconds is None else ideal / seconds,
        row["cpu_seconds"],
        row["peak_bytes"],
        row["error"],
    )


def _times(row: dict[str, Any]) -> list[float]:
    times: list[float] = row["warm_seconds"] or row["cold_seconds"]
    return times


def _median(seconds: list[float]) -> float | None:
    return median(seconds) if seconds else None


def _spread(seconds: list[float]) -> tuple[float, float]:
    """The quartiles; of few, the extremes."""
    if len(seconds) < 4:  # quartiles of less mean nothing
        return min(seconds, default=0.0), max(seconds, default=0.0)
    low, _, high = quantiles(seconds, n=4)
    return low, high


def verdict(workload: dict[str, Any]) -> dict[str, Any]:
    """Who was first, pmap's best, and how far `auto` is from the first.

    The ideal takes no part, since nobody could pick it. Contenders whose result was wrong take none.
    """
    lines = [line for line in lines_of(workload) if line.seconds is not None and not line.error]
    picked = [line for line in lines if line.name != IDEAL]
    if not picked:
        return {}
    first = picked[0]
    ours = [line for line in picked if line.name.startswith("pmap")]
    pools = [line for line in picked if line not in ours and line.name not in _YARDSTICKS]
    auto = next((line for line in ours if line.name == "pmap auto"), None)
    return {
        "first": first.name,
        "best_of_pmap": ours[0].name if ours else None,
        "best_other_pool": pools[0].name if pools else None,
        "pmap_to_best_other_pool": _ratio(ours[:1], pools[:1]),
        "auto_to_first": _ratio([auto] if auto else [], [first]),
        "best_of_pmap_of_ideal": ours[0].of_ideal if ours else None,
    }


def _ratio(these: list[Line], those: list[Line]) -> float | None:
    """Of the times of the first of both."""
    if not these or not those or not these[0].seconds or not those[0].seconds:
        return None
    return these[0].seconds / those[0].seconds
