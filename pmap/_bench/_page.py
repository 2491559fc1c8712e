"""The result as one page of HTML: no file beside it, nothing fetched, no script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from pmap._bench import _plots, _text
from pmap._bench._figures import lines_of, verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pmap._bench._figures import Line

__all__ = ["page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 62rem; padding: 0 1rem }
h2 { margin-top: 2.5rem; border-top: 1px solid #ccd; padding-top: 1rem }
table { border-collapse: collapse; font-size: 13px; margin: .5rem 0 }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #e4e7eb }
th:first-child, td:first-child { text-align: left }
tr.pmap td:first-child { font-weight: 600; color: #0b6e4f }
svg text { font: 12px system-ui, sans-serif } svg { max-width: 100%; height: auto }
.note { color: #667 } pre { font-size: 12px; overflow-x: auto } figure { margin: 1rem 0 }
figcaption { font-weight: 600 }
"""

_NOTES = """\
Every contender has the same parts and as many workers, in a process of its own; each round calls all
of them in an order drawn anew. Time: the median of calls on workers that are there, with quartiles
(the thin line). Where a row has first calls alone, theirs. Cold: the first call, workers' start and the
library's import included; the functions lie in pmap's package, so everybody's workers import that too.
The row "cold start" has whole programs, free of that. Second: the call after the first, in which those
start workers that do so only for a job that is worth them. It, and in the full form the one after it, are
not counted as warm. x loop: how many times as fast as the plain loop. Of ideal: the ideal's time in terms
of this one's; the ideal are independent copies of the loop that ran at once, each on its share of
the rows, with nothing sent. CPU: seconds of all processes, a call. Memory: the most that all its
processes held together (PSS) in a warm call, data included. Bars begin at 0; times that lie far apart are
dots on a logarithmic axis. Green is pmap, yellow a yardstick (the loop, the ideal, Polars itself)."""

_ACROSS = {
    "rows, out": "rows",
    "rows, both ways": "rows",
    "partitions": "partitions",
    "columns": "columns",
    "workers": "workers",
}


def page(result: dict[str, Any]) -> str:
    """All that was measured."""
    sections = [
        _summary(result["workloads"]),
        *(_workload(workload) for workload in result["workloads"]),
        _curves(result.get("curves", [])),
        _pre(_text.fits(result["fits"], result["beside_limits"]) if result.get("fits") else ""),
    ]
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><title>pmap bench</title>',
            f"<style>{_STYLE}</style></head><body>",
            "<h1>pmap beside what you would use instead</h1>",
            f"<p>{escape(_text.head(result)).replace(chr(10), '<br>')}</p>",
            f'<p class="note">{escape(_NOTES)}</p>',
            _pre(_text.limits(result["limits"])),
            *sections,
            "</body></html>",
        )
    )


def _pre(text: str) -> str:
    return f"<pre>{escape(text.strip())}</pre>" if text else ""


def _summary(workloads: list[dict[str, Any]]) -> str:
    if not workloads:
        return ""
    rows = [_summary_row(workload) for workload in workloads]
    heads = (
        "workload",
        "first",
        "pmap's best",
        "its time / best other pool's",
        "auto / first",
        "of ideal",
    )
    return f"<h2>Who is first</h2>{_table(heads, rows)}"


def _summary_row(workload: dict[str, Any]) -> str:
    found = verdict(workload)
    if not found:
        return _cells((workload["name"], "nobody", "", "", "", ""))
    return _cells(
        (
            workload["name"],
            found["first"],
            found["best_of_pmap"] or "",
            _text.figure(found["pmap_to_best_other_pool"]),
            _text.figure(found["auto_to_first"]),
            _text.figure(found["best_of_pmap_of_ideal"]),
        )
    )


def _workload(workload: dict[str, Any]) -> str:
    lines = lines_of(workload)
    timed = [line for line in lines if line.seconds]
    plot = _plots.bars(
        {line.name: line.seconds for line in timed if line.seconds},
        {line.name: (line.low, line.high) for line in timed},
    )
    size = "" if not workload["bytes"] else f", {workload['bytes'] / 1e6:,.1f} MB"
    left = "; ".join(f"{name} ({why})" for name, why in workload["left_out"].items())
    return "\n".join(
        (
            f"<h2>{escape(workload['name'])}</h2>",
            f"<p>{escape(workload['what'])}. {workload['rows']:,} rows{size}, {workload['workers']} workers.</p>",
            plot,
            _table((*_text.COLUMNS, ""), map(_row, lines)),
            f'<p class="note">Left out: {escape(left)}</p>' if left else "",
        )
    )


def _row(line: Line) -> str:
    kind = "pmap" if line.name.startswith("pmap") else ""
    return _cells((*_text.cells(line), line.error or ""), kind)


def _cells(cells: Iterable[str], kind: str = "") -> str:
    inner = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr class="{kind}">{inner}</tr>'


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _curves(points: list[dict[str, Any]]) -> str:
    plots = [_curve(name, across, points) for name, across in _ACROSS.items()]
    return f"<h2>Scaling</h2>{''.join(plots)}" if points else ""


def _curve(name: str, across: str, points: list[dict[str, Any]]) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        if point["curve"] == name:
            series.setdefault(point["contender"], []).append((point[across], point["seconds"]))
    return _plots.lines(f"Seconds of a call over {name}", across, series)
