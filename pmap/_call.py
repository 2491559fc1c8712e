"""One call, from checked arguments to a stream of outcomes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pmap._access import open_access
from pmap._auto import Judge
from pmap._carry import CallSpec, LocalCarrier, RemoteCarrier
from pmap._forkguard import note_fork_default, refuse_fork, start_method_of
from pmap._function import check_picklable
from pmap._plan import Plan, default_process_backend, plan_workers
from pmap._progress import Progress
from pmap._report import Report, remember
from pmap._schedule import Run, in_order, window_of
from pmap._warn import warn
from pmap._worker import in_worker
from pmap.backend import Locality

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from pmap._carry import Carrier
    from pmap._config import Options
    from pmap._partition import Partition
    from pmap._schedule import Access, Outcome

__all__ = ["Call", "Work"]


@dataclass(frozen=True, slots=True)
class Work:
    """What a call is to do.

    Parameters
    ----------
    function
        Of the user.
    partitions
        In their order; a stream is read when there is room.
    count, rows
        Of all partitions; ``None`` for a stream.
    largest, total
        Bytes of the largest partition, and of all; 0 for a stream.
    want_frame
        Whether results must be frames.
    """

    function: Callable[..., Any]
    partitions: Iterator[Partition]
    count: int | None
    rows: int | None
    largest: int
    total: int
    want_frame: bool


class Call:
    """Work, on the backend that was asked for or that pays."""

    def __init__(self, work: Work, options: Options, *, explicit_backend: bool) -> None:
        self._work = work
        self._options = options
        self._spec, self._why = plan_workers(options, work.count, work.largest)
        self._target, self._is_auto, reason = _choose(
            options, nested=in_worker() and not explicit_backend
        )
        self._plan = Plan(
            str(self._target), self._spec.n_workers, None, work.count, (reason, *self._why)
        )
        self._report = Report(self._plan)
        if self._is_auto:  # what could not run on a larger frame shall not seem to work on this one
            check_picklable(work.function)
        self._n_done = 0

    def outcomes(self, *, ordered: bool) -> Generator[Outcome]:
        """Run it: the first error is raised, or all are noted, as `on_error` says."""
        remember(self._report)
        with contextlib.ExitStack() as stack:
            stack.callback(self._report.finish)
            progress = Progress(self._options.progress, self._work.count, self._work.rows)
            stack.callback(progress.close)
            for outcome in stack.enter_context(
                contextlib.closing(self._legs(stack, ordered=ordered))
            ):
                self._n_done += 1
                self._check_threads(outcome)
                self._report.add(outcome)
                progress.advance(outcome.partition.rows, failed=outcome.error is not None)
                if outcome.error is not None:
                    self._fail(outcome.error)
                yield outcome
        self._tell_skipped()

    def _check_threads(self, outcome: Outcome) -> None:
        """Whether the cap was in the worker's environment before it imported Polars."""
        asked = self._report.plan.threads_per_worker
        found = None if outcome.stats is None else outcome.stats.threads
        if asked is not None and found is not None and found > asked:
            warn(
                f"a worker of backend {self._report.plan.backend!r} runs {found} Polars threads where {asked} "
                "were asked for: something in it imports Polars before its environment is set"
            )

    def _fail(self, error: BaseException) -> None:
        self._report.failures.append(error)
        if self._options.on_error == "raise":
            raise error

    def _tell_skipped(self) -> None:
        failures = self._report.failures
        if failures and self._options.on_error == "skip":
            of = "" if self._work.count is None else f" of {self._work.count}"
            warn(
                f"{len(failures)}{of} partitions failed and their rows are missing, the first because of "
                f"{failures[0]!r}; pmap.last_report().failures has them all"
            )

    # A call has one leg, or, with "auto", one in the caller and perhaps one on workers.

    def _legs(self, stack: contextlib.ExitStack, *, ordered: bool) -> Generator[Outcome]:
        partitions = self._work.partitions
        if not self._is_auto:
            yield from self._leg(stack, self._target, partitions, ordered=ordered)
            return
        judge = Judge(self._spec, self._work.rows, self._work.total)
        for outcome in self._leg(stack, "serial", judge.gate(partitions), ordered=False):
            judge.note(outcome)
            yield outcome
        self._explain(judge)
        if judge.pays:
            yield from self._leg(stack, judge.name, partitions, ordered=ordered)

    def _explain(self, judge: Judge) -> None:
        self._plan = replace(self._plan, why=(judge.reason, *(self._why if judge.pays else ())))
        self._report.plan = replace(self._report.plan, why=self._plan.why)

    def _leg(
        self,
        stack: contextlib.ExitStack,
        target: object,
        partitions: Iterator[Partition],
        *,
        ordered: bool,
    ) -> Generator[Outcome]:
        access = open_access(target, self._spec, self._options, stack)
        carrier = self._carrier(access)
        stack.callback(carrier.close)
        self._note(access)
        run = Run(partitions, carrier, access, self._options, self._work.count)
        with contextlib.closing(
            in_order(run, self._n_done) if ordered else run.outcomes()
        ) as outcomes:
            yield from outcomes

    def _carrier(self, access: Access) -> Carrier:
        work = self._work
        spec = CallSpec(work.function, self._options, work.count, work.want_frame)
        capabilities = access.backend.capabilities
        if capabilities.locality is Locality.PROCESS:
            return LocalCarrier(spec)
        slots = window_of(access.backend)
        return RemoteCarrier(
            spec, capabilities.locality, n_slots=slots, owned=capabilities.owns_workers
        )

    def _note(self, access: Access) -> None:
        """Put into the plan what the backend really is."""
        capabilities = access.backend.capabilities
        capped = access.spec is not None and capabilities.owns_workers
        self._report.plan = replace(
            self._plan,
            backend=access.name,
            n_workers=capabilities.n_workers,
            threads_per_worker=self._spec.threads if capped else None,
        )


def _choose(options: Options, *, nested: bool) -> tuple[object, bool, str]:
    """The backend to begin with, whether pmap may change its mind, and why."""
    target = options.backend
    refuse_fork(target)
    if nested:
        return "serial", False, "backend: a map inside a map runs inside its worker"
    method = start_method_of(target)
    if method is not None:
        return method, False, f"backend: pmap's own pool for a {method} context"
    if target != "auto":
        return target, False, "backend: as asked"
    note_fork_default()
    if options.timeout is not None or options.max_tasks_per_child is not None:
        name, reason = default_process_backend()
        return name, False, f"backend: what was asked needs processes; {name}: {reason}"
    return "serial", True, "backend: auto begins in the caller"
