"""What was asked for, and whether it can be had: told before anything is measured."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pmap
from pmap._bench._contenders import LOCAL_BACKENDS
from pmap._bench._scripts import COLD_START, COLD_START_IS
from pmap._bench._table import CONTENDERS, LOOP
from pmap._bench._workloads import WORKLOADS
from pmap._config import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pmap._bench._workloads import Workload

__all__ = ["COLD_START", "CURVES", "STDOUT", "Choice", "descriptions"]

CURVES = "curves"
#: The name of a file that is none.
STDOUT = "-"


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
    curves_on
        The backend of the curves.
    timeout
        Seconds that a contender may take for an answer.
    json, html
        Files to write; JSON also to stdout, as ``-``.
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
    def n_workers(self) -> int:
        """Of each contender."""
        return self.workers or pmap.cpu_count()

    @property
    def n_rounds(self) -> int:
        """Calls on warm workers."""
        return self.rounds or (3 if self.short else 7)

    @property
    def n_settling_rounds(self) -> int:
        """Calls between the first and those on warm workers."""
        return 1 if self.short else 2

    @property
    def n_cold_rounds(self) -> int:
        """First calls."""
        return self.cold_rounds or (1 if self.short else 3)

    def rows_of(self, workload: Workload) -> int:
        """Of a workload's frame."""
        own = workload.short_rows if self.short else workload.rows
        return self.rows or max(1, round(own * self.scale))

    def names(self) -> list[str]:
        """Of the contenders; the loop is always there, with whose time and result all are compared."""
        if self.contenders:
            return list(dict.fromkeys([LOOP, *self.contenders]))
        return [name for name, entry in CONTENDERS.items() if entry.short or not self.short]

    def asks_for(self, name: str, *, short: bool = True) -> bool:
        """Whether a workload, which may be in the short form, is to be measured."""
        if self.workloads:
            return name in self.workloads
        return short or not self.short

    def refusal(self) -> str | None:
        """Why nothing can be measured, if that is so: a wrong name, or a file that can't be written."""
        workloads, contenders = descriptions()
        wrong = [
            *_unknown("workload", self.workloads, workloads),
            *_unknown("contender", self.contenders, contenders),
            *_unknown("backend for --curves-on", [self.curves_on], LOCAL_BACKENDS),
            *(_unwritable(path) for path in (self.json, self.html) if path not in {None, STDOUT}),
        ]
        if self.html == STDOUT:
            wrong.append("--html needs the name of a file: only JSON goes to stdout")
        return "\n".join(filter(None, wrong)) or None


def descriptions() -> tuple[dict[str, str], dict[str, str]]:
    """What each workload is, and why a contender would be left out (nothing if it would not)."""
    workloads = {
        **{name: workload.what for name, workload in WORKLOADS.items()},
        COLD_START: COLD_START_IS,
        CURVES: "Scaling: time over rows, partitions, columns and workers, and fitted overheads",
    }
    contenders = {name: ", ".join(entry.missing) for name, entry in CONTENDERS.items()}
    return workloads, {
        name: f"not there: {missing}" if missing else "" for name, missing in contenders.items()
    }


def _unknown(what: str, asked: Iterable[str], known: Iterable[str]) -> list[str]:
    known = list(known)
    return [
        f"there is no {what} {name!r}{nearest(name, known) or '; there are: ' + ', '.join(known)}"
        for name in dict.fromkeys(asked)
        if name not in known
    ]


def _unwritable(path: str | None) -> str | None:
    """Why a file can't be written; tried, since nothing else tells for sure."""
    if path is None:
        return None
    is_new = not os.path.exists(path)
    try:
        with open(path, "a", encoding="utf-8"):
            pass
        if is_new:
            os.unlink(path)
    except OSError as exc:
        return f"cannot write {path}: {exc.strerror}"
    return None
