"""Plots as SVG inside a page: bars beside each other, and lines over two logarithmic axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["bars", "lines"]

_BAR, _LEFT, _WIDTH, _RIGHT = 20, 210, 860, 90
_PLOT = (56, 12, 560, 300)  # left, top, width, height
_MINE, _OTHERS, _YARDSTICKS = "#0b6e4f", "#9aa5b1", "#c9a227"
_COLOURS = ("#0b6e4f", "#b5482f", "#3b5b92", "#8a5a9e", "#c9a227", "#4c4c4c")
_GRID, _INK = "#e4e7eb", "#222"
#: From the fastest to the slowest, where bars would hide the fastest: then there are dots.
_FAR_APART = 12.0


def bars(seconds: Mapping[str, float], spread: Mapping[str, tuple[float, float]]) -> str:
    """A bar for each name, in their order, and a line for its spread.

    Bars begin at 0. Times that lie far apart are dots, on a logarithmic axis instead. pmap's are
    green, yardsticks (the loop, the ideal, Polars itself) yellow, the others grey.
    """
    if not seconds:
        return ""
    lowest = min([*seconds.values(), *(low for low, _ in spread.values())])
    highest = max([*seconds.values(), *(high for _, high in spread.values())])
    is_log = max(seconds.values()) / min(seconds.values()) > _FAR_APART
    axis = _log_axis(lowest, highest) if is_log else _linear_axis(highest)
    bottom = _BAR * len(seconds) + 6
    parts = [_open(_WIDTH, bottom + 22)]
    for tick in axis.ticks:
        x = _LEFT + axis.place(tick) * (_WIDTH - _LEFT - _RIGHT)
        parts += [
            _line(x, 0, x, bottom, _GRID),
            _text(x, bottom + 15, _seconds(tick), "middle", "#667"),
        ]
    for index, (name, value) in enumerate(seconds.items()):
        top = _BAR * index + 5
        at, low, high = (
            _LEFT + axis.place(each) * (_WIDTH - _LEFT - _RIGHT) for each in (value, *spread[name])
        )
        parts.append(_text(_LEFT - 8, top + 12, name, anchor="end"))
        middle, spread_line = top + (_BAR - 5) / 2, _line(low, top + 7.5, high, top + 7.5, _INK)
        if is_log:
            parts += [spread_line, _dot(at, middle, _fill(name), 5)]
        else:
            parts.append(
                f'<rect x="{_LEFT}" y="{top}" width="{at - _LEFT:.1f}" height="{_BAR - 5}" rx="2" '
                f'fill="{_fill(name)}"/>{spread_line}'
            )
        parts.append(_text(max(at + 4, high) + 6, top + 12, _seconds(value)))
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Axis:
    """Where values stand, as a part of its length; and which of them are written."""

    ticks: list[float]
    place: Callable[[float], float]


def _log_axis(lowest: float, highest: float) -> _Axis:
    low, high = _span([_decade(lowest), _decade(highest)])
    return _Axis(
        [10.0**power for power in range(low, high + 1)],
        lambda value: (_decade(value) - low) / (high - low),
    )


def _linear_axis(highest: float) -> _Axis:
    """From 0, in steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(_decade(highest / 3))
    step = next(power * each for each in (1, 2, 5, 10) if highest / (power * each) <= 6)
    count = math.ceil(highest / step)
    return _Axis([step * i for i in range(count + 1)], lambda value: value / (step * count))


def lines(title: str, across: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """A line for each name, through points (x, seconds)."""
    points = [point for known in series.values() for point in known]
    if not points:
        return ""
    left, top, width, height = _PLOT
    x_axis, y_axis = ([_decade(point[i]) for point in points] for i in (0, 1))
    x_span, y_span = _span(x_axis), _span(y_axis)
    parts = [_open(left + width + 200, top + height + 46)]

    def place(x: float, y: float) -> tuple[float, float]:
        across_part = (math.log10(x) - x_span[0]) / (x_span[1] - x_span[0])
        up = (math.log10(y) - y_span[0]) / (y_span[1] - y_span[0])
        return left + across_part * width, top + height - up * height

    for power in range(x_span[0], x_span[1] + 1):
        x, y = place(10**power, 10 ** y_span[0])
        parts += [_line(x, top, x, y, _GRID), _text(x, y + 16, _count(power), anchor="middle")]
    for power in range(y_span[0], y_span[1] + 1):
        x, y = place(10 ** x_span[0], 10**power)
        parts += [
            _line(x, y, left + width, y, _GRID),
            _text(x - 6, y + 4, _seconds(10**power), anchor="end"),
        ]
    for index, (name, known) in enumerate(series.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in known))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [_dot(*place(*point), colour) for point in known]
        parts.append(_text(left + width + 10, top + 14 + 18 * index, name, fill=colour))
    parts.append(_text(left + width / 2, top + height + 36, across, anchor="middle"))
    return f"<figure><figcaption>{escape(title)}</figcaption>{''.join(parts)}</svg></figure>"


def _decade(value: float) -> float:
    return math.log10(value)


def _span(powers: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(min(powers)), math.ceil(max(powers))
    return low, max(high, low + 1)


def _open(width: float, height: float) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _dot(x: float, y: float, colour: str, radius: int = 3) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = "#222") -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"'
    return f"<text {where}>{escape(text)}</text>"


def _fill(name: str) -> str:
    if name.startswith("pmap"):
        return _MINE
    return _YARDSTICKS if name in {"plain loop", "ideal", "native Polars"} else _OTHERS


def _seconds(value: float) -> str:
    if value == 0 or value >= 1:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def _count(power: int) -> str:
    return f"{10**power:,}" if 0 <= power <= 4 else f"10^{power}"
