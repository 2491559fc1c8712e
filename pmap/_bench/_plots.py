"""Plots as SVG inside a page: bars beside each other, and lines over two logarithmic axes."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["bars", "lines"]

_BAR = 20
_LEFT = 210
_WIDTH = 760
_PLOT = (56, 12, 560, 300)  # left, top, width, height
_MINE, _OTHERS, _YARDSTICKS = "#0b6e4f", "#9aa5b1", "#c9a227"
_COLOURS = ("#0b6e4f", "#b5482f", "#3b5b92", "#8a5a9e", "#c9a227", "#4c4c4c")


def bars(seconds: Mapping[str, float], spread: Mapping[str, tuple[float, float]]) -> str:
    """A bar for each name, in their order, on a logarithmic axis; a line for its spread.

    pmap's are green, yardsticks (the loop, the ideal, Polars itself) yellow, the others grey.
    """
    if not seconds:
        return ""
    lowest = min([*seconds.values(), *(low for low, _ in spread.values())]) / 1.6
    highest = max([*seconds.values(), *(high for _, high in spread.values())])
    scale = (_WIDTH - _LEFT - 90) / max(1e-9, math.log(highest / lowest))
    height = _BAR * len(seconds) + 4
    parts = [_open(_WIDTH, height)]
    for index, (name, value) in enumerate(seconds.items()):
        top, width = _BAR * index + 3, math.log(value / lowest) * scale
        parts.append(_text(_LEFT - 8, top + 12, name, anchor="end"))
        parts.append(
            f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR - 5}" fill="{_fill(name)}"/>'
        )
        low, high = (math.log(each / lowest) * scale + _LEFT for each in spread[name])
        middle = top + (_BAR - 5) / 2
        parts.append(_line(low, middle, high, middle, "#222"))
        parts.append(_text(max(_LEFT + width, high) + 6, top + 12, _seconds(value)))
    return "".join([*parts, "</svg>"])


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
        parts += [_line(x, top, x, y, "#e4e7eb"), _text(x, y + 16, _count(power), anchor="middle")]
    for power in range(y_span[0], y_span[1] + 1):
        x, y = place(10 ** x_span[0], 10**power)
        parts += [
            _line(x, y, left + width, y, "#e4e7eb"),
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


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = "#222") -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"'
    return f"<text {where}>{escape(text)}</text>"


def _fill(name: str) -> str:
    if name.startswith("pmap"):
        return _MINE
    return _YARDSTICKS if name in {"plain loop", "ideal", "native Polars"} else _OTHERS


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def _count(power: int) -> str:
    return f"{10**power:,}" if 0 <= power <= 4 else f"10^{power}"
