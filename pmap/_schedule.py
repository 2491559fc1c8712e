"""Partitions through a backend: bounded in flight, retried, timed, cancelled.

One `Run` drives one call. The thread that consumes its outcomes is the only one that
submits and decides; futures only put their flight on a queue. It never waits without a
time-out, since an untimed wait ignores Ctrl-C once Polars is imported.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError, Future
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pmap._blame import Blame, as_ours, failure_of
from pmap._interrupts import deferred, give_way
from pmap._pieces import Pieces
from pmap._watch import Watch, call_off, is_innocent, kill
from pmap._window import Window
from pmap.backend import Locality
from pmap.errors import BackendError, PmapError, WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from pmap._carry import Answer, Carrier, Flight
    from pmap._config import Options
    from pmap._partition import Partition
    from pmap._wire import Stats
    from pmap.backend import Backend, Task, WorkerSpec

__all__ = ["Access", "Outcome", "Run", "in_order"]

#: How often who waits for threads looks up, for Ctrl-C. Seconds.
_TICK = 0.1
#: A consumer that takes longer leaves listening to workers to others. Seconds.
_LONG = 0.001
#: Finished partitions that may wait for an earlier one, in windows.
_LOOKAHEAD = 4
#: Times that a backend, or a worker at rest, may break without one partition finished.
_MAX_BREAKS = 3


class Outcome(NamedTuple):
    """A partition that is over: with a value, or with an error."""

    partition: Partition
    attempt: int
    value: Any
    error: BaseException | None
    stats: Stats | None


class Access(Protocol):
    """The backend of a run, and how to get another when it breaks."""

    name: str
    backend: Backend

    @property
    def spec(self) -> WorkerSpec | None:
        """What its workers were started for; ``None`` for the user's."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether another call has given the backend up."""
        ...

    def give_up(self) -> None:
        """Stop the backend, if it is not the user's."""
        ...

    def renew(self) -> bool:
        """Replace a broken backend; ``False`` if it is the user's."""
        ...


class Run:
    """Partitions through a backend, as outcomes in the order of finishing.

    Parameters
    ----------
    partitions
        Read only when there is room for one more in flight.
    carrier
        Makes tasks of partitions; `close` it after the run.
    access
        The backend.
    options
        Of the call: limits, `retries`, `retry_on`, `on_error`, `partition_wise`.
    count
        How many partitions there are, if that is known; for messages.
    keep
        Called with each whole partition that succeeded, and its value, as soon as it is there.
    """

    def __init__(  # noqa: PLR0913  what a run is made of
        self,
        partitions: Iterator[Partition],
        carrier: Carrier,
        access: Access,
        options: Options,
        *,
        count: int | None,
        keep: Callable[[Partition, Any], None] | None = None,
    ) -> None:
        self._pid = os.getpid()
        self._partitions = partitions
        self._carrier = carrier
        self._access = access
        self._options = options
        self._keep = keep
        elsewhere = access.backend.capabilities.locality is not Locality.PROCESS
        # a flight that never left this process holds nothing that could be lost
        self._at_landing = deferred if elsewhere else contextlib.nullcontext()
        self._blame = Blame(options, count, access.name, elsewhere=elsewhere)
        self._watch = Watch(carrier, options)
        self._pieces = Pieces()
        self._window = Window(access.backend, options, count)
        self._next: Partition | None = None  # read, and waits for room
        self._again: deque[tuple[Partition, int]] = deque()  # retries, and the innocent of a break
        self._alone: deque[tuple[Partition, int]] = deque()  # suspects of a break, one at a time
        # A future knows nothing of its flight: it would keep itself, and its result, alive.
        self._flights: dict[Future[Any], Flight] = {}
        self._done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._breaks = 0
        self._exhausted = False
        self._newest = -1  # index of what was read last
        self._failed = False
        self._consumer_takes = 0.0  # seconds, for the latest outcome
        self.fail_fast = options.on_error == "raise"
        self.head: int | None = None  #: index that an ordered consumer waits for

    def start(self) -> None:
        """Submit what there is room for; from then on the run must be stopped, or run to its end."""
        self._fill()

    def outcomes(self) -> Generator[Outcome]:
        """Run until all partitions are over; closing the iterator stops what runs."""
        try:
            self._attend(0)
            self._fill()
            while self._flights:
                outcome = self._settle(self._next_done())
                if self._window.size > 1 and not self._failed:
                    self._fill()  # before the consumer takes its time
                if outcome is not None:
                    yield from self._to_consumer(outcome)
                self._fill()
        finally:
            self.stop()

    def _to_consumer(self, outcome: Outcome) -> Generator[Outcome]:
        if self._consumer_takes > _LONG:
            self._leave()
        clock = time.monotonic()
        yield outcome
        self._consumer_takes = time.monotonic() - clock

    # Submitting.

    def _fill(self) -> None:
        while len(self._flights) < self._window.room:
            work = self._next_work()
            if work is None:
                return
            self._submit(*work)

    def _next_work(self) -> tuple[Partition, int] | None:
        if self._alone:
            return None if self._flights else self._alone.popleft()
        if self._again:
            return self._again.popleft()
        partition = self._peek()
        if partition is None:
            return None
        if not self._window.has_room_for(partition, self._flights.values()):
            return None
        self._next = None
        return partition, 0

    def _peek(self) -> Partition | None:
        """The next partition of all, if it may be read."""
        if self._next is None and not self._exhausted and not self._too_far_ahead():
            self._next = next(self._partitions, None)
            if self._next is None:
                self._exhausted = True
            else:
                self._newest = self._next.index
        return self._next

    def _too_far_ahead(self) -> bool:
        if self.head is None or not self._flights:
            return False
        return self._newest - self.head >= _LOOKAHEAD * self._window.room

    def _submit(self, partition: Partition, attempt: int) -> None:
        if self._access.backend.capabilities.owns_workers and partition.rows:
            with deferred:
                self._launch(partition, attempt)
        else:  # which may run the function right here, and Ctrl-C is to end it
            self._launch(partition, attempt)

    def _launch(self, partition: Partition, attempt: int) -> None:
        flight = self._carrier.load(partition, attempt)
        try:
            submit = _run_here if flight.in_caller else self._access.backend.submit
            flight.task.is_brief = not attempt and self._window.may_go_ahead(partition)
            flight.future = submit(flight.task)
        except Exception as exc:  # noqa: BLE001  an executor's submit raises what it likes
            self._carrier.land(flight)
            if not (isinstance(exc, BrokenExecutor) or self._access.is_lost):
                raise as_ours(exc)  # noqa: B904  it has its cause already
            self._again.append((partition, attempt))
            self._renew(exc)
            return
        except BaseException:
            self._carrier.land(flight)
            raise
        self._flights[flight.future] = flight
        # a later queue, after a break, is not for this flight
        flight.future.add_done_callback(self._done.put)

    # Waiting.

    def _next_done(self) -> Flight:
        attended = True
        while True:
            try:
                return self._flights[self._done.get(timeout=0 if attended else self._watch.tick)]
            except queue.Empty:
                attended = self._attend(self._watch.tick)
            finally:
                self._watch.look(self._flights.values())

    def _attend(self, seconds: float) -> bool:
        """Listen to the workers, if the backend leaves that to who waits."""
        attend = getattr(self._access.backend, "attend", None)
        return attend is not None and attend(seconds)

    def _leave(self) -> None:
        """Have the backend listen by itself."""
        leave = getattr(self._access.backend, "leave", None)
        if leave is not None:
            leave()

    # Judging.

    def _settle(self, flight: Flight) -> Outcome | None:
        """The outcome of a flight that is over; ``None`` if the partition runs again."""
        failure = failure_of(flight)
        if failure is not None and self._access.is_lost:
            self._resubmit_all(flight)
            return None
        if isinstance(failure, BrokenExecutor):
            return self._settle_broken(flight, failure)
        try:
            return self._judge(flight, failure)
        finally:
            with self._at_landing:
                self._flights.pop(flight.future, None)
                self._carrier.land(flight)

    def _judge(self, flight: Flight, failure: BaseException | None) -> Outcome | None:
        if self._pieces.is_lost(flight.partition):
            return None
        if failure is None:
            answer = self._carrier.unload(flight)
            self._breaks = 0
            self._window.note(flight.partition, answer.stats)
            if answer.error is None:
                return self._succeed(flight, answer)
            return self._fail(flight, answer.error, answer.stats)
        if isinstance(failure, WorkerDiedError):
            return self._judge_death(flight, failure)
        raise as_ours(failure)

    def _judge_death(self, flight: Flight, died: WorkerDiedError) -> Outcome | None:
        self._window.note(flight.partition, None)
        never_started = not self._carrier.has_started(flight)
        if never_started:
            self._count_break(died, _MAX_BREAKS * self._access.backend.capabilities.n_workers)
        if is_innocent(flight, died.pid) or never_started:  # it was not what killed the worker
            self._again.append((flight.partition, flight.attempt))
            return None
        if flight.over_limit and self._options.partition_wise and flight.partition.rows > 1:
            halves = self._pieces.split(flight.partition)
            self._again.extend((half, flight.attempt) for half in halves)
            return None
        return self._fail(flight, self._blame.death(flight, died), None)

    def _succeed(self, flight: Flight, answer: Answer) -> Outcome | None:
        try:
            whole = self._pieces.add(flight.partition, answer.value)
        except PmapError as exc:
            return self._fail(flight, exc, answer.stats)
        if whole is None:
            return None
        if self._keep is not None:
            self._keep(*whole)
        return Outcome(whole[0], flight.attempt, whole[1], None, answer.stats)

    def _fail(self, flight: Flight, error: BaseException, stats: Stats | None) -> Outcome | None:
        if flight.attempt < self._options.retries and isinstance(error, self._options.retry_on):
            self._again.append((flight.partition, flight.attempt + 1))
            return None
        self._pieces.lose(flight.partition)
        self._blame.put(error, flight, stats)
        self._failed = self.fail_fast
        return Outcome(flight.partition, flight.attempt, None, error, stats)

    # A backend that breaks as a whole when one worker dies.

    def _settle_broken(self, first: Flight, failure: BrokenExecutor) -> Outcome | None:
        flights = [first, *(flight for flight in self._flights.values() if flight is not first)]
        entries = {flight: self._carrier.running(flight) for flight in flights}
        late = [flight for flight in flights if flight.timed_out]
        suspects = late or [flight for flight, entry in entries.items() if entry is not None]
        if len(flights) == 1:
            suspects = flights
        for flight in flights:
            if flight not in suspects:
                self._again.append((flight.partition, flight.attempt))
        self._drop_all()
        self._renew(failure)
        if len(suspects) == 1:
            entry = entries[suspects[0]]
            died = self._blame.death(
                suspects[0], WorkerDiedError(pid=None if entry is None else entry.pid)
            )
            died.__cause__ = failure
            return self._fail(suspects[0], died, None)
        self._alone.extend((flight.partition, flight.attempt) for flight in suspects)
        return None

    def _resubmit_all(self, first: Flight) -> None:
        """The backend was stopped under this call: nobody's fault, so nobody is charged."""
        self._flights[first.future] = first
        self._again.extend((flight.partition, flight.attempt) for flight in self._flights.values())
        self._drop_all()
        self._access.renew()

    def _drop_all(self) -> None:
        """All flights of a broken backend: whatever comes of them comes too late."""
        for flight in self._flights.values():
            _when_done(flight, self._carrier.land)
        self._flights.clear()
        self._done = queue.SimpleQueue()

    def _renew(self, failure: BaseException) -> None:
        self._count_break(failure, _MAX_BREAKS)
        if not self._access.renew():
            raise BackendError(
                f"backend {self._access.name!r} broke, and is not pmap's to replace: {failure}"
            ) from failure

    def _count_break(self, failure: BaseException, most: int) -> None:
        """What is no partition's fault must not go on for ever."""
        self._breaks += 1
        if self._breaks > most:
            raise BackendError(
                f"backend {self._access.name!r} broke again and again: {failure}"
            ) from failure

    # The end.

    def stop(self) -> None:
        """Stop what runs, at an error, at Ctrl-C, or when the consumer has had enough."""
        if os.getpid() != self._pid:  # a fork's copy of an iterator: what runs is its parent's
            return
        with deferred:
            self._abort()

    def _abort(self) -> None:
        flights, self._flights = list(self._flights.values()), {}
        if flights:
            self._leave()
        capabilities = self._access.backend.capabilities
        if capabilities.killable:
            self._stop_one_by_one(flights)
        elif capabilities.owns_workers and capabilities.locality is Locality.MACHINE:
            self._stop_all_together(flights)
        else:
            left = [flight for flight in flights if not flight.future.cancel()]
            if self._failed:  # threads can't be stopped; the user's code is not to go on unseen
                _wait_for(left)
        for flight in flights:
            _when_done(flight, self._carrier.land)

    def _stop_one_by_one(self, flights: list[Flight]) -> None:
        left = call_off((flight.future for flight in flights), self._access.backend)
        for flight in flights:
            entry = self._carrier.abandon(flight) if flight.future in left else None
            if entry is not None:
                kill(entry.pid)  # at once, since it may begin another call's

    def _stop_all_together(self, flights: list[Flight]) -> None:
        """Without cancelling futures, which an executor that is killed sets itself."""
        for flight in flights:
            self._carrier.abandon(flight)
        if not all(flight.future.done() for flight in flights):
            self._access.give_up()


def _run_here(task: Task) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(task())
    return future


def _when_done(flight: Flight, call: Callable[[Flight], None]) -> None:
    flight.future.add_done_callback(lambda _: call(flight))


def _wait_for(flights: list[Flight]) -> None:
    for flight in flights:
        while not flight.future.done():
            give_way()
            with contextlib.suppress(TimeoutError, CancelledError, Exception):
                flight.future.exception(timeout=_TICK)


def in_order(run: Run, start: int) -> Generator[Outcome]:
    """The outcomes of a run in the order of their partitions, from `start` on.

    An error that ends the call is not kept waiting.
    """
    early: dict[int, Outcome] = {}
    run.head = start
    with contextlib.closing(run.outcomes()) as outcomes:
        for outcome in outcomes:
            if outcome.error is not None and run.fail_fast:
                yield outcome
            early[outcome.partition.index] = outcome
            while run.head in early:
                yield early.pop(run.head)
                run.head += 1
