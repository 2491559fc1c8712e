"""One call, from checked arguments to a stream of outcomes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pmap._access import open_access
from pmap._auto import Judge
from pmap._bisect import narrow
from pmap._carry import CallSpec, LocalCarrier, RemoteCarrier
from pmap._context import PartitionInfo
from pmap._failed import FailedPartition, attach
from pmap._forkguard import note_fork_default, refuse_fork, start_method_of
from pmap._function import check_picklable
from pmap._interrupts import Stack
from pmap._plan import Plan, default_process_backend, plan_workers
from pmap._progress import Progress
from pmap._report import Report, remember
from pmap._schedule import Run, in_order, window_of
from pmap._warn import warn
from pmap._wire import note
from pmap._worker import in_worker
from pmap.backend import Locality

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from pmap._carry import Carrier
    from pmap._checkpoint import Checkpoint
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
        self._checkpoint: Checkpoint | None = None
        self._resumed: tuple[str, ...] = ()  # for the report

    def outcomes(self, *, ordered: bool) -> Generator[Outcome]:
        """Run it: the first error is raised, or all are noted, as `on_error` says."""
        remember(self._report)
        with Stack() as stack:
            stack.callback(self._report.finish)
            progress = Progress(self._options.progress, self._work.count, self._work.rows)
            stack.callback(progress.close)
            self._open_checkpoint(stack)
            for outcome in stack.enter_context(
                contextlib.closing(self._legs(stack, ordered=ordered))
            ):
                self._n_done += 1
                self._check_threads(outcome)
                self._report.add(outcome)
                progress.advance(outcome.partition.rows, failed=outcome.error is not None)
                if outcome.error is not None:
                    self._fail(outcome, outcome.error)
                yield outcome
        self._tell_skipped()

    def _open_checkpoint(self, stack: contextlib.ExitStack) -> None:
        """Begin where an earlier run of the same job was; a map inside a map is not a job."""
        if self._options.checkpoint is None or in_worker():
            return
        work, partitions = self._work, None
        if work.count is not None:
            partitions = list(work.partitions)
            self._work = replace(work, partitions=iter(partitions))
        from pmap._checkpoint import Checkpoint  # noqa: PLC0415  for those who ask for one

        self._checkpoint = Checkpoint(self._options.checkpoint)
        stack.callback(self._checkpoint.close)
        self._checkpoint.open(work.function, self._options, partitions)
        if self._checkpoint.n_finished:
            self._resumed = (self._checkpoint.reason,)
            self._plan = replace(self._plan, why=(*self._plan.why, *self._resumed))

    def _check_threads(self, outcome: Outcome) -> None:
        """Whether the cap was in the worker's environment before it imported Polars."""
        asked = self._report.plan.threads_per_worker
        found = None if outcome.stats is None else outcome.stats.threads
        if asked is not None and found is not None and found > asked:
            warn(
                f"a worker of backend {self._report.plan.backend!r} runs {found} Polars threads where {asked} "
                "were asked for: something in it imports Polars before its environment is set"
            )

    def _fail(self, outcome: Outcome, error: BaseException) -> None:
        attach(self._failed(outcome), error)
        self._report.failures.append(error)
        if self._options.on_error == "raise":
            raise error

    def _failed(self, outcome: Outcome) -> FailedPartition:
        partition = outcome.partition
        return FailedPartition(
            partition,
            PartitionInfo(
                partition.index,
                self._work.count,
                outcome.attempt,
                partition.rows,
                self._options.seed,
            ),
            self._work.function,
            want_frame=self._work.want_frame,
            backend=self._report.plan.backend,
            worker=None if outcome.stats is None else outcome.stats.worker,
        )

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
        judge = Judge(self._spec, self._rows_left(), self._work.total)
        for outcome in self._leg(stack, "serial", judge.gate(partitions), ordered=False):
            judge.note(outcome)
            yield outcome
        self._explain(judge)
        if judge.pays:
            yield from self._leg(stack, judge.name, partitions, ordered=ordered)

    def _rows_left(self) -> int | None:
        """Of the whole job; what is finished does not have to be run."""
        if self._work.rows is None or self._checkpoint is None:
            return self._work.rows
        return self._work.rows - self._checkpoint.rows

    def _explain(self, judge: Judge) -> None:
        why = (judge.reason, *(self._why if judge.pays else ()), *self._resumed)
        self._plan = replace(self._plan, why=why)
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
        carrier.open()
        self._note(access)
        keep = None if self._checkpoint is None else self._checkpoint.keep
        run = Run(partitions, carrier, access, self._options, count=self._work.count, keep=keep)
        stack.callback(run.stop)  # once more: a Ctrl-C may come between an error and its end
        narrow = _Narrower(carrier, access, self._options, self._work.count)
        last: Outcome | None = None
        with contextlib.closing(
            in_order(run, self._n_done) if ordered else run.outcomes()
        ) as outcomes:
            for outcome in outcomes:
                if outcome.error is not None and run.fail_fast:
                    last = outcome  # the others are stopped first
                    break
                yield narrow(outcome)
        if last is not None:
            yield narrow(last)

    def _carrier(self, access: Access) -> Carrier:
        carrier = self._carrier_to(access)
        if self._checkpoint is None:
            return carrier
        from pmap._checkpoint import ResumingCarrier  # noqa: PLC0415  as above

        return ResumingCarrier(carrier, self._checkpoint)

    def _carrier_to(self, access: Access) -> Carrier:
        work = self._work
        spec = CallSpec(work.function, self._options, work.count, work.want_frame)
        capabilities = access.backend.capabilities
        if capabilities.locality is Locality.PROCESS:
            return LocalCarrier(spec)
        slots = window_of(access.backend) + 1  # one for who looks for the rows at fault
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


class _Narrower:
    """Outcomes with errors, narrowed to the rows at fault if that is asked for."""

    def __init__(
        self, carrier: Carrier, access: Access, options: Options, count: int | None
    ) -> None:
        self._carrier = carrier
        self._access = access
        self._count = count
        self._asked = options.bisect
        self._options = replace(options, retries=0, on_error="return", partition_wise=False)

    def __call__(self, outcome: Outcome) -> Outcome:
        if outcome.error is None or not self._asked:
            return outcome
        partition, error, n_calls = narrow(outcome.partition, outcome.error, self._error_of)
        note(
            error,
            f"pmap: bisected in {n_calls} calls: {partition.rows:,} of the partition's "
            f"{outcome.partition.rows:,} rows fail by themselves, from row {partition.start:,} on",
        )
        return outcome._replace(partition=partition, error=error)

    def _error_of(self, partition: Partition) -> BaseException | None:
        alone = iter([partition])
        run = Run(alone, self._carrier, self._access, self._options, count=self._count)
        (outcome,) = run.outcomes()
        return outcome.error


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
    needs = (options.timeout, options.memory_limit, options.max_tasks_per_child)
    if any(need is not None for need in needs):
        name, reason = default_process_backend()
        return name, False, f"backend: what was asked needs processes; {name}: {reason}"
    return "serial", True, "backend: auto begins in the caller"
