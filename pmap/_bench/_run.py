"""The command's course: what is measured, in which form, and where the result goes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pmap
from pmap._bench import _text
from pmap._bench._compare import Course, compare
from pmap._bench._curves import beside_limits, curves, fit
from pmap._bench._limits import limits
from pmap._bench._machine import machine, versions
from pmap._bench._page import page
from pmap._bench._scripts import SCRIPTS, scripts
from pmap._bench._table import CONTENDERS, LOOP
from pmap._bench._workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pmap._bench._workloads import Workload

__all__ = ["COLD_START", "Choice", "names_of_all", "run"]

COLD_START = "cold start"
CURVES = "curves"
_SCRIPT_ROWS = 1_000
#: Bytes that are copied to find this machine's limits, in the full form.
_COPIED = 400_000_000
_SEED = 7


@dataclass(frozen=True)
class Choice:
    """What was asked for.

    Attributes
    ----------
    short
        The form of under three minutes: fewer contenders, smaller frames, no curves.
    rows, scale
        Of every frame; or a factor of each one's own.
    rounds, cold_rounds
        Calls on warm workers, and first calls; ``None`` as the form has it.
    workers
        Of each contender; ``None`` for all CPUs.
    workloads, contenders
        By their names; all of the form without them.
    json, html
        Files to write.
    """

    short: bool = False
    rows: int | None = None
    scale: float = 1.0
    rounds: int | None = None
    cold_rounds: int | None = None
    workers: int | None = None
    workloads: list[str] = field(default_factory=list[str])
    contenders: list[str] = field(default_factory=list[str])
    curves_on: str = "forkserver"
    timeout: float = 600.0
    json: str | None = None
    html: str | None = None

    @property
    def course(self) -> Course:
        """How it is measured."""
        return Course(
            self.workers or pmap.cpu_count(),
            self.rounds or (3 if self.short else 7),
            self.cold_rounds or (1 if self.short else 3),
            _SEED,
            self.timeout,
        )

    def rows_of(self, workload: Workload) -> int:
        """Of a workload's frame."""
        own = workload.short_rows if self.short else workload.rows
        return self.rows or max(1, round(own * self.scale))


def names_of_all() -> tuple[list[str], list[str]]:
    """Of workloads, and of contenders."""
    return [*WORKLOADS, COLD_START, CURVES], list(CONTENDERS)


def run(choice: Choice) -> int:
    """Measure, print, and write what was asked for.

    Returns
    -------
    int
        The exit code: 0; 1 if a contender of pmap's failed or gave a wrong result; 2 for a name
        that there is not.
    """
    unknown = _unknown(choice)
    if unknown:
        print(unknown, file=sys.stderr)
        return 2
    started = perf_counter()
    result: dict[str, Any] = {"machine": machine(), "versions": versions(), "workloads": []}
    print(_text.head(result), flush=True)
    course = choice.course
    size = max(40_000_000, int(_COPIED * min(1.0, choice.scale) / (4 if choice.short else 1)))
    result["limits"] = limits(size, max(1, min(5, course.rounds)))
    print(_text.limits(result["limits"]), flush=True)
    for told in _measured(choice, course):
        result["workloads"].append(told)
        print(_text.table(told), flush=True)
        _write(choice, result)
    _add_curves(choice, course, result)
    result["seconds"] = perf_counter() - started
    _write(choice, result)
    print(f"\n{result['seconds']:.0f} s in all")
    return _code(result["workloads"])


def _unknown(choice: Choice) -> str | None:
    for asked, known in zip((choice.workloads, choice.contenders), names_of_all(), strict=True):
        missing = sorted(set(asked) - set(known))
        if missing:
            return f"No such name: {', '.join(missing)}. There are: {', '.join(known)}."
    return None


def _contenders(choice: Choice) -> list[str]:
    if choice.contenders:
        # All are compared with the loop, by time and by result.
        return list(dict.fromkeys([LOOP, *choice.contenders]))
    return [name for name, entry in CONTENDERS.items() if entry.short or not choice.short]


def _is_asked(choice: Choice, name: str, *, short: bool) -> bool:
    if choice.workloads:
        return name in choice.workloads
    return short or not choice.short


def _measured(choice: Choice, course: Course) -> Iterable[dict[str, Any]]:
    names = _contenders(choice)
    for workload in WORKLOADS.values():
        if not _is_asked(choice, workload.name, short=workload.short):
            continue
        if workload.missing:
            print(f"\n{workload.name}: left out, not there: {', '.join(workload.missing)}")
            continue
        yield compare(workload, choice.rows_of(workload), names, course)
    if _is_asked(choice, COLD_START, short=True):
        yield scripts(
            choice.rows or _SCRIPT_ROWS,
            [name for name in names if name in SCRIPTS],
            course,
        )


def _add_curves(choice: Choice, course: Course, result: dict[str, Any]) -> None:
    if not _is_asked(choice, CURVES, short=False):
        return
    print("\nScaling curves", flush=True)
    points = curves(
        choice.curves_on, workers=course.workers, rounds=min(5, course.rounds), scale=choice.scale
    )
    pmap.shutdown()
    result["curves"] = [point.told() for point in points]
    names = dict.fromkeys(point.contender for point in points)
    result["fits"] = {name: fit(points, name) for name in names}
    result["beside_limits"] = {
        name: beside_limits(found, result["limits"]) for name, found in result["fits"].items()
    }
    print(_text.fits(result["fits"], result["beside_limits"]), flush=True)


def _write(choice: Choice, result: dict[str, Any]) -> None:
    """After each workload anew, so that a run that is stopped leaves what it found."""
    if choice.json:
        Path(choice.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
    if choice.html:
        Path(choice.html).write_text(page(result), encoding="utf-8")


def _code(workloads: list[dict[str, Any]]) -> int:
    rows = (row for workload in workloads for row in workload["contenders"])
    wrong = [row for row in rows if row["error"] and row["contender"].startswith("pmap")]
    return 1 if wrong else 0
