"""The command's course: what is measured, in which form, and where the result goes."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

import pmap
from pmap._bench import _text
from pmap._bench._choice import CURVES, STDOUT, Choice
from pmap._bench._compare import Course, compare
from pmap._bench._curves import beside_limits, curves, fit
from pmap._bench._limits import limits
from pmap._bench._machine import machine, versions
from pmap._bench._memory import affordable_rows
from pmap._bench._page import page
from pmap._bench._scripts import COLD_START, SCRIPTS, scripts
from pmap._bench._table import CONTENDERS, LOOP
from pmap._bench._workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from pmap._bench._workloads import Workload

__all__ = ["run"]

_SCRIPT_ROWS = 1_000
#: Bytes that are copied to find this machine's limits, in the full form.
_COPIED = 400_000_000
_SEED = 7
_WRONG_USE, _TERMINATED = 2, 128 + signal.SIGTERM


def run(choice: Choice) -> int:
    """Measure, print, and write what was asked for.

    Returns
    -------
    int
        The exit code: 0; 1 if a contender of pmap's failed or gave a wrong result; 2 for what can't
        be had.
    """
    refusal = choice.refusal()
    if refusal:
        print(refusal, file=sys.stderr)
        return _WRONG_USE
    with _ends_when_terminated(), _temporary_folder() as folder:
        return _Run(choice, folder).run()


class _Run:
    def __init__(self, choice: Choice, folder: str) -> None:
        self._choice = choice
        self._course = Course(
            choice.n_workers,
            choice.n_rounds,
            choice.n_settling_rounds,
            choice.n_cold_rounds,
            _SEED,
            choice.timeout,
            folder,
        )
        self._result: dict[str, Any] = {
            "machine": machine(),
            "versions": versions(),
            "workloads": [],
        }

    def run(self) -> int:
        started, result = perf_counter(), self._result
        self._tell(_text.head(result))
        result["limits"] = self._limits()
        self._tell(_text.limits(result["limits"]))
        for told in self._measured():
            result["workloads"].append(told)
            self._tell(_text.table(told))
            self._write()
        if self._choice.asks_for(CURVES, short=False):
            self._add_curves()
        result["seconds"] = perf_counter() - started
        self._write()
        if self._choice.json == STDOUT:
            print(json.dumps(result, indent=1))
        self._tell(_text.summary(result["workloads"], short=self._choice.short))
        self._tell(f"\n{result['seconds']:.0f} s in all")
        return _code(result["workloads"])

    def _tell(self, text: str) -> None:
        print(text, flush=True, file=sys.stderr if self._choice.json == STDOUT else sys.stdout)

    def _limits(self) -> dict[str, float]:
        part = min(1.0, self._choice.scale) / (4 if self._choice.short else 1)
        return limits(max(40_000_000, int(_COPIED * part)), min(5, self._course.rounds))

    def _measured(self) -> Iterable[dict[str, Any]]:
        names = self._choice.names()
        for workload in WORKLOADS.values():
            if self._choice.asks_for(workload.name, short=workload.short):
                rows = self._rows_of(workload, names)
                if rows:
                    yield compare(workload, rows, names, self._course)
        if self._choice.asks_for(COLD_START):
            rows = self._choice.rows or _SCRIPT_ROWS
            yield scripts(rows, [name for name in names if name in SCRIPTS], self._course)

    def _rows_of(self, workload: Workload, names: list[str]) -> int:
        """As many as there is memory for; none, and why, for a workload that can't be measured."""
        if workload.missing:
            self._tell(f"\n{workload.name}: left out, not there: {', '.join(workload.missing)}")
            return 0
        there = [n for n in names if CONTENDERS[n].applies(workload) and not CONTENDERS[n].missing]
        wanted = self._choice.rows_of(workload)
        rows = affordable_rows(workload, wanted, there, self._course.workers)
        if not rows:
            self._tell(
                f"\n{workload.name}: left out: too little memory is free for {len(there)} contenders "
                "at once; choose some of them by --contenders"
            )
        elif rows < wanted:
            self._tell(f"\n{workload.name}: memory is free for {rows:,} of {wanted:,} rows")
        return rows

    def _add_curves(self) -> None:
        self._tell("\nScaling curves")
        course, result = self._course, self._result
        points = curves(
            self._choice.curves_on,
            workers=course.workers,
            rounds=min(5, course.rounds),
            scale=self._choice.scale,
        )
        pmap.shutdown()
        result["curves"] = [point.told() for point in points]
        names = dict.fromkeys(p.contender for p in points if p.contender != LOOP)
        result["fits"] = {name: fit(points, name) for name in names}
        result["beside_limits"] = {
            name: beside_limits(found, result["limits"]) for name, found in result["fits"].items()
        }
        self._tell(_text.fits(result["fits"], result["beside_limits"]))

    def _write(self) -> None:
        """After each workload anew, so that a run that is stopped leaves what it found."""
        choice, result = self._choice, self._result
        if choice.json not in {None, STDOUT}:
            Path(str(choice.json)).write_text(json.dumps(result, indent=1), encoding="utf-8")
        if choice.html:
            Path(choice.html).write_text(page(result), encoding="utf-8")


def _code(workloads: list[dict[str, Any]]) -> int:
    rows = (row for workload in workloads for row in workload["contenders"])
    wrong = [row for row in rows if row["error"] and row["contender"].startswith("pmap")]
    return 1 if wrong else 0


@contextmanager
def _temporary_folder() -> Generator[str]:
    """Of all that takes part; a short name, since sockets in it may have no long one."""
    with tempfile.TemporaryDirectory(prefix="pmap-", ignore_cleanup_errors=True) as folder:
        yield folder


@contextmanager
def _ends_when_terminated() -> Generator[None]:
    """As with Ctrl-C: nothing is left behind."""
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: object) -> NoReturn:
    del number, frame
    raise SystemExit(_TERMINATED)
