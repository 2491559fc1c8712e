"""One call, from checked arguments to a stream of outcomes."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import polars as pl

from pmap._advice import _run
from pmap._auto import Ahead, Gate
from pmap._context import PartitionInfo, in_worker
from pmap._failed import FailedPartition, attach
from pmap._function import check_picklable, name_of
from pmap._gather import gather
from pmap._interrupts import Stack
from pmap._judge import Judge
from pmap._leg import Leg
from pmap._looker import Looker
from pmap._plan import Plan, requested_workers
from pmap._progress import Progress
from pmap._report import Report, remember
from pmap._resources import cpu_count
from pmap._warn import warn
from pmap.backend import Locality

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from pmap._checkpoint import Checkpoint
    from pmap._config import Options
    from pmap._gauge import Usage
    from pmap._partition import Partition
    from pmap._plan import Choice
    from pmap._schedule import Outcome
    from pmap._work import Work

__all__ = ["Call"]


class Call:
    """Work, on the backend that was asked for or that pays."""

    def __init__(self, work: Work, options: Options, choice: Choice, begun: float) -> None:
        self._work = work
        self._options = options
        self._target, self._is_auto, self._spec, why, self._why = choice
        self._plan = Plan(
            str(self._target), self._spec.n_workers, None, work.n_partitions, (why, *self._why)
        )
        self._report = Report(self._plan, begun)
        if self._is_auto:  # what could not run on a larger frame shall not seem to work on this one
            check_picklable(work.function)
        self._n_done = self._rows_back = 0
        self._away = 0.0  # seconds that the consumer took
        self._locality = Locality.PROCESS
        self._checkpoint: Checkpoint | None = None
        self._resumed: tuple[str, ...] = ()  # for the report

    def frame(self, declared: pl.Schema | None) -> pl.DataFrame:
        """Run it, and put the results together."""
        with contextlib.closing(self.outcomes(ordered=False)) as outcomes:
            results = [
                (outcome.partition.index, outcome.value)
                for outcome in outcomes
                if outcome.error is None
            ]
        if self._options.maintain_order:
            results.sort(key=_index)
        return gather(results, declared)

    def values(self) -> Generator[Any]:
        """Run it, and give what the function returned."""
        with contextlib.closing(self.outcomes(ordered=self._options.maintain_order)) as outcomes:
            for outcome in outcomes:
                if outcome.error is None:
                    yield outcome.value
                elif self._options.on_error == "return":
                    yield outcome.error

    def outcomes(self, *, ordered: bool) -> Generator[Outcome]:
        """Run it: the first error is raised, or all are noted, as `on_error` says."""
        remember(self._report)
        with Stack() as stack:
            stack.callback(self._report.finish)
            progress = Progress(self._options.progress, self._work.n_partitions, self._work.rows)
            stack.callback(progress.close)
            self._open_checkpoint(stack)
            for outcome in stack.enter_context(
                contextlib.closing(self._legs(stack, ordered=ordered))
            ):
                self._n_done += 1
                if isinstance(outcome.value, pl.DataFrame):
                    self._rows_back += outcome.value.height
                self._check_threads(outcome)
                self._report.add(outcome)
                progress.advance(outcome.partition.rows, failed=outcome.error is not None)
                if outcome.error is not None:
                    self._fail(outcome, outcome.error)
                left = time.perf_counter()
                yield outcome
                self._away += time.perf_counter() - left
        self._tell_skipped()
        self._advise()

    def _open_checkpoint(self, stack: contextlib.ExitStack) -> None:
        """Begin where an earlier run of the same job was; a map inside a map is not a job."""
        if self._options.checkpoint is None or in_worker():
            return
        work, partitions = self._work, None
        if work.n_partitions is not None:
            partitions = list(work.partitions)
            self._work = work._replace(partitions=iter(partitions))
        from pmap._checkpoint import Checkpoint  # noqa: PLC0415  for those who ask for one

        self._checkpoint = Checkpoint(self._options.checkpoint)
        stack.callback(self._checkpoint.close)
        self._checkpoint.open(work.function, self._options, partitions)
        if self._checkpoint.n_finished:
            self._resumed = (self._checkpoint.reason,)
            self._plan = self._plan._replace(why=(*self._plan.why, *self._resumed))

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
                self._work.n_partitions,
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
            of = "" if self._work.n_partitions is None else f" of {self._work.n_partitions}"
            warn(
                f"{len(failures)}{of} partitions failed and their rows are missing, the first because of "
                f"{failures[0]!r}; pmap.last_report().failures has them all"
            )

    def _advise(self) -> None:
        """What would have been faster, if nothing failed; a map inside a map has its reasons."""
        if self._report.failures or in_worker():
            return
        run = _run.Run(
            name_of(self._work.function),
            self._locality,
            self._is_auto,
            self._report.seconds - self._away,
            self._report.start_seconds,
            self._report.moving_seconds,
            self._report.stats,
            self._report.plan.n_workers,
            requested_workers(self._options.n_jobs, cpu_count())[0],
            self._work.total if self._is_split_by_default else 0,
            self._rows_back / max(1, self._work.rows or 0),
        )
        _run.advise(self._work.function, run, self._options.advise)

    @property
    def _is_split_by_default(self) -> bool:
        """Whether neither the user nor a check has a part in it."""
        options = self._options
        return (options.n_partitions, options.chunk_size, options.check) == (None, None, None)

    # A call has one leg, or, with "auto", one in the caller and perhaps one elsewhere.

    def _legs(self, stack: contextlib.ExitStack, *, ordered: bool) -> Generator[Outcome]:
        if not self._is_auto:
            yield from self._run(stack, self._leg(self._target), ordered=ordered)
            return
        judge = self._judge()
        if judge.foresee():
            self._explain(judge)
            yield from self._elsewhere(stack, judge, self._leg(judge.choice), ordered=ordered)
            return
        gate = Gate(self._work.partitions)
        ahead = Ahead(self._leg, gate, may_begin=self._may_begin_ahead)
        stack.callback(ahead.close)
        first = self._leg("serial", gate, self._looker(stack, judge, gate, ahead))
        for outcome in self._run(stack, first, ordered=False):
            judge.note(outcome)
            if judge.choice is not None:
                ahead.start(judge.choice)
            if judge.is_ready:
                gate.close()
            yield outcome
        self._explain(judge)
        if gate.is_exhausted or judge.choice is None:
            judge.learn()
            return
        yield from self._elsewhere(stack, judge, ahead.take(), ordered=ordered)

    def _judge(self) -> Judge:
        if self._checkpoint is None:
            return Judge(self._work, self._spec)
        return Judge(
            self._work,
            self._spec,
            n_finished=self._checkpoint.n_finished,
            finished_rows=self._checkpoint.rows,
        )

    def _elsewhere(
        self, stack: contextlib.ExitStack, judge: Judge, leg: Leg, *, ordered: bool
    ) -> Generator[Outcome]:
        """What is left, where that is done fastest."""
        away = self._away
        for outcome in self._run(stack, leg, ordered=ordered):
            judge.note_elsewhere(outcome)
            yield outcome
        # the leg may have begun while the caller was still at work
        judge.learn(time.perf_counter() - leg.begun - (self._away - away))

    @property
    def _may_begin_ahead(self) -> bool:
        """A user's generator runs in the caller's thread alone, and a checkpoint is written there."""
        return self._work.n_partitions is not None and self._checkpoint is None

    def _looker(
        self, stack: contextlib.ExitStack, judge: Judge, gate: Gate, ahead: Ahead
    ) -> Looker | None:
        """What looks at the function in the caller, if there is something to decide."""
        if not judge.may_leave or self._work.n_partitions == 1:
            return None

        def look(usage: Usage) -> bool:
            choice = judge.look(usage, gate.rows)
            if choice is not None:
                ahead.begin(choice)
            return choice is not None

        looker = Looker(look, is_wanted=lambda: not judge.stays)
        stack.callback(looker.close)
        return looker

    def _explain(self, judge: Judge) -> None:
        why = (judge.reason, *(self._why if judge.choice else ()), *self._resumed)
        self._plan = self._plan._replace(why=why)
        self._report.plan = self._report.plan._replace(why=self._plan.why)

    def _leg(
        self,
        target: object,
        partitions: Iterator[Partition] | None = None,
        looker: Looker | None = None,
    ) -> Leg:
        work = self._work if partitions is None else self._work._replace(partitions=partitions)
        return Leg(
            target, work, self._spec, self._options, checkpoint=self._checkpoint, looker=looker
        )

    def _run(self, stack: contextlib.ExitStack, leg: Leg, *, ordered: bool) -> Generator[Outcome]:
        stack.callback(leg.close)
        leg.open()
        self._report.plan = leg.put_into(self._plan)
        self._locality = leg.access.backend.capabilities.locality
        yield from leg.outcomes(ordered=ordered, first=self._n_done)
        self._report.start_seconds += leg.start_seconds
        self._report.moving_seconds += leg.moving_seconds


def _index(result: tuple[int, Any]) -> int:
    return result[0]
