"""The same for a terminal: plain text, a table a workload."""

from __future__ import annotations

from typing import Any

from pmap._bench._figures import Line, lines_of, verdict

__all__ = [
    "COLUMNS",
    "cells",
    "figure",
    "fits",
    "head",
    "limits",
    "names",
    "seconds",
    "summary",
    "table",
]

_ROW = "  {:<28}{:>10}{:>22}{:>10}{:>10}{:>9}{:>9}{:>10}{:>9}"
#: What is told of a contender, here and on the page.
COLUMNS = (
    "contender",
    "time",
    "quartiles",
    "cold",
    "second",
    "x loop",
    "of ideal",
    "CPU",
    "memory",
)


def head(result: dict[str, Any]) -> str:
    """The machine, and versions."""
    machine, versions = result["machine"], result["versions"]
    lines = [
        (
            f"{machine['processor']}, {machine['usable_cpus']} CPUs usable, load {machine['load']:.1f}, "
            f"{machine['system']}, Python {machine['python']}"
        ),
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    if not machine["bytecode"]:
        lines.append(
            "pmap was not compiled here (python -m compileall): its imports, and all that is cold, "
            "take longer than for others"
        )
    return "\n".join(lines)


_LIMITS = {
    "memcpy_bytes_per_second": "copy in memory",
    "pipe_bytes_per_second": "through a pipe",
    "pipe_round_trip_seconds": "a byte to another process and back",
    "process_start_seconds": "start of a Python",
    "import_polars_seconds": "import polars",
    "first_call_seconds": "import pmap, and its first call",
}


def limits(found: dict[str, float]) -> str:
    """What the machine does at best."""
    lines = (f"  {_LIMITS[name]:36}{_limit(name, value):>12}" for name, value in found.items())
    return "\n".join(("\nThis machine's limits", *lines))


def _limit(name: str, value: float) -> str:
    return f"{value / 1e9:.2f} GB/s" if name.endswith("per_second") else seconds(value)


def table(workload: dict[str, Any]) -> str:
    """All contenders of one workload, and who was first."""
    size = "" if not workload["bytes"] else f", {workload['bytes'] / 1e6:,.1f} MB"
    title = f"\n{workload['name']}: {workload['what']}"
    given = f"  {workload['rows']:,} rows{size}, {workload['workers']} workers"
    rows = [_row(line) for line in lines_of(workload)]
    left = [f"  left out: {name} ({why})" for name, why in workload["left_out"].items()]
    return "\n".join(
        (title, given, _ROW.format(*COLUMNS), *rows, *left, _closing(verdict(workload)))
    )


def _row(line: Line) -> str:
    if line.seconds is None:
        return f"  {line.name:<28}{line.error or 'not measured'}"
    row = _ROW.format(*cells(line))
    return f"{row}  {line.error}" if line.error else row


def cells(line: Line) -> tuple[str, ...]:
    """A contender's figures, one for each of `COLUMNS`."""
    return (
        line.name,
        seconds(line.seconds),
        "" if line.seconds is None else f"{seconds(line.low)} - {seconds(line.high)}",
        seconds(line.cold),
        seconds(line.second),
        figure(line.of_loop),
        figure(line.of_ideal),
        seconds(line.cpu_seconds),
        "" if line.peak_bytes is None else f"{line.peak_bytes / 1e6:,.0f} MB",
    )


def _closing(found: dict[str, Any]) -> str:
    if not found:
        return "  nobody gave a result"
    parts = [f"first: {found['first']}"]
    if found["pmap_to_best_other_pool"] is not None:
        ratio = found["pmap_to_best_other_pool"]
        parts.append(f"{found['best_of_pmap']}: {ratio:.2f} of {found['best_other_pool']}'s time")
    if found["auto_to_first"] is not None:
        parts.append(f"auto: {found['auto_to_first']:.2f} of the first's time")
    return f"  {'; '.join(parts)}"


_SUMMARY = "  {:<12}{:<28}{:<18}{:>14}{:>14}{:>10}"


_OF_SMALL = "  In the short form frames are so small that auto need not find its workers worth starting yet."


def summary(workloads: list[dict[str, Any]], *, short: bool = False) -> str:
    """Who was first in each, and how pmap stands to the first; nothing for less than two."""
    found = [(workload["name"], verdict(workload)) for workload in workloads]
    if len(found) < 2:
        return ""
    head = ("workload", "first", "pmap's best", "/ best other", "auto / first", "of ideal")
    rows = [
        _SUMMARY.format(
            name,
            told["first"],
            told["best_of_pmap"] or "",
            figure(told["pmap_to_best_other_pool"]),
            figure(told["auto_to_first"]),
            figure(told["best_of_pmap_of_ideal"]),
        )
        for name, told in found
        if told
    ]
    note = [_OF_SMALL] if short else []
    return "\n".join(("\nAll workloads, ratios of times", _SUMMARY.format(*head), *rows, *note))


def names(workloads: dict[str, str], contenders: dict[str, str]) -> str:
    """A line each."""
    return "\n".join(
        (
            "Workloads",
            *(f"  {name:<28}{what}" for name, what in workloads.items()),
            "\nContenders",
            *(f"  {name:<28}{note}".rstrip() for name, note in contenders.items()),
        )
    )


def fits(fitted: dict[str, dict[str, float]], beside: dict[str, dict[str, float]]) -> str:
    """Overheads, and how they stand to the machine's limits."""
    lines: list[str] = []
    for name, found in fitted.items():
        if not found:
            continue
        lines += [
            (
                f"  {name}: {seconds(found['fixed'])} a call, {seconds(found['per_partition'])} a partition, "
                f"{seconds(found['per_column_of_partition'])} for each column of it,"
            ),
            (
                f"    {found['per_byte_out'] * 1e9:.3f} s a GB out, {found['per_byte_back'] * 1e9:.3f} s a GB back "
                f"(median error {found['median_error']:.0%})"
            ),
            (
                f"    that is {beside[name]['fixed_in_pipe_round_trips']:.0f} and "
                f"{beside[name]['partition_in_pipe_round_trips']:.1f} round trips through a pipe, "
                f"{beside[name]['byte_out_in_copies']:.2f} and {beside[name]['byte_back_in_copies']:.2f} copies in memory"
            ),
        ]
    return "\n".join(("\nOverheads, fitted to the curves", *lines))


def seconds(value: float | None) -> str:
    """With the unit that suits it; nothing for none."""
    if not value:
        return "" if value is None else "0"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} us"


def figure(value: float | None) -> str:
    """Two digits that say something; nothing for none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
