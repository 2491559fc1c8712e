"""Partitions through a backend: bounded in flight, retried, timed, cancelled.

One `Run` drives one call. The thread that consumes its outcomes is the only one that
submits and decides; futures only put their flight on a queue. It never waits without a
time-out, since an untimed wait ignores Ctrl-C once Polars is imported.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import time
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError, Future
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pmap._blame import Blame, as_ours, failure_of
from pmap.backend import Locality
from pmap.errors import BackendError, WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from pmap._carry import Answer, Carrier, Flight
    from pmap._config import Options
    from pmap._partition import Partition
    from pmap._wire import Stats
    from pmap.backend import Backend, Task, WorkerSpec

__all__ = ["Access", "Outcome", "Run", "in_order", "window_of"]

#: How often a waiting caller looks up, for Ctrl-C and for time-outs. Seconds.
_TICK = 0.1
_TIMEOUT_TICK = 0.02
#: Finished partitions that may wait for an earlier one, in windows.
_LOOKAHEAD = 4
#: Backends that may break in a row without one partition finished.
_MAX_BREAKS = 3

#: Workers that calls of this process have killed. One may have answered just before, and have
#: been given a task of another call, which is innocent of its death.
_killed: set[int] = set()


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


def window_of(backend: Backend) -> int:
    """How many flights keep all workers busy while the caller does something else."""
    capabilities = backend.capabilities
    if capabilities.n_workers == 1 and capabilities.locality is Locality.PROCESS:
        return 1
    return 2 * capabilities.n_workers + 1


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
        `timeout`, `retries` and `retry_on` are looked at.
    count
        How many partitions there are, if that is known; for messages.
    """

    def __init__(
        self,
        partitions: Iterator[Partition],
        carrier: Carrier,
        access: Access,
        options: Options,
        count: int | None,
    ) -> None:
        self._partitions = partitions
        self._carrier = carrier
        self._access = access
        self._options = options
        self._blame = Blame(options, count)
        self._window = window_of(access.backend)
        self._again: deque[tuple[Partition, int]] = deque()  # retries, and the innocent of a break
        self._alone: deque[tuple[Partition, int]] = deque()  # suspects of a break, one at a time
        self._flights: set[Flight] = set()
        self._done: queue.SimpleQueue[Flight] = queue.SimpleQueue()
        self._breaks = 0
        self._exhausted = False
        self._newest = -1  # index of what was read last
        self._failed = False
        self.fail_fast = options.on_error == "raise"
        self.head: int | None = None  #: index that an ordered consumer waits for

    def outcomes(self) -> Generator[Outcome]:
        """Run until all partitions are over; closing the iterator stops what runs."""
        try:
            self._fill()
            while self._flights:
                outcome = self._settle(self._next_done())
                if self._window > 1 and not self._failed:
                    self._fill()  # before the consumer takes its time
                if outcome is not None:
                    yield outcome
                self._fill()
        finally:
            self._abort()

    # Submitting.

    def _fill(self) -> None:
        while len(self._flights) < self._window:
            work = self._next_work()
            if work is None:
                return
            self._submit(*work)

    def _next_work(self) -> tuple[Partition, int] | None:
        if self._alone:
            return None if self._flights else self._alone.popleft()
        if self._again:
            return self._again.popleft()
        if self._exhausted or self._too_far_ahead():
            return None
        partition = next(self._partitions, None)
        if partition is None:
            self._exhausted = True
            return None
        self._newest = partition.index
        return partition, 0

    def _too_far_ahead(self) -> bool:
        if self.head is None or not self._flights:
            return False
        return self._newest - self.head >= _LOOKAHEAD * self._window

    def _submit(self, partition: Partition, attempt: int) -> None:
        flight = self._carrier.load(partition, attempt)
        try:
            submit = _run_here if flight.in_caller else self._access.backend.submit
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
        self._flights.add(flight)
        done = self._done  # a later queue, after a break, is not for this flight
        flight.future.add_done_callback(lambda _: done.put(flight))

    # Waiting.

    def _next_done(self) -> Flight:
        timeout = self._options.timeout
        while True:
            try:
                return self._done.get(timeout=_TICK if timeout is None else _TIMEOUT_TICK)
            except queue.Empty:
                pass  # look up, and wait on
            finally:
                if timeout is not None:
                    self._stop_late(timeout)

    def _stop_late(self, timeout: float) -> None:
        now = time.monotonic()
        for flight in self._flights:
            entry = self._carrier.running(flight)
            if entry is not None and not flight.timed_out and now - entry.started > timeout:
                flight.timed_out = True
                self._kill(entry.pid)

    def _kill(self, pid: int) -> None:
        _killed.add(pid)
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(pid, signal.SIGKILL)

    # Judging.

    def _settle(self, flight: Flight) -> Outcome | None:
        """The outcome of a flight that is over; ``None`` if the partition runs again."""
        failure = failure_of(flight)
        if failure is not None and self._access.is_lost:
            self._resubmit_all(flight)
            return None
        if isinstance(failure, BrokenExecutor):
            return self._settle_broken(flight, failure)
        self._flights.discard(flight)
        try:
            return self._judge(flight, failure)
        finally:
            self._carrier.land(flight)

    def _judge(self, flight: Flight, failure: BaseException | None) -> Outcome | None:
        if failure is None:
            answer = self._carrier.unload(flight)
            self._breaks = 0
            return self._conclude(flight, answer.value, answer.error, answer)
        if isinstance(failure, WorkerDiedError):
            innocent = failure.pid in _killed and not flight.timed_out
            if innocent:  # it had just started in a worker that was killed for another's sake
                self._again.append((flight.partition, flight.attempt))
                return None
            return self._conclude(flight, None, self._blame.death(flight, failure), None)
        raise as_ours(failure)

    def _conclude(
        self, flight: Flight, value: Any, error: BaseException | None, answer: Answer | None
    ) -> Outcome | None:
        if error is not None:
            if flight.attempt < self._options.retries and isinstance(error, self._options.retry_on):
                self._again.append((flight.partition, flight.attempt + 1))
                return None
            self._blame.put(error, flight, self._access.name, answer)
            self._failed = self.fail_fast
        stats = None if answer is None else answer.stats
        return Outcome(flight.partition, flight.attempt, value, error, stats)

    # A backend that breaks as a whole when one worker dies.

    def _settle_broken(self, first: Flight, failure: BrokenExecutor) -> Outcome | None:
        flights = [first, *(flight for flight in self._flights if flight is not first)]
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
            return self._conclude(suspects[0], None, died, None)
        self._alone.extend((flight.partition, flight.attempt) for flight in suspects)
        return None

    def _resubmit_all(self, first: Flight) -> None:
        """The backend was stopped under this call: nobody's fault, so nobody is charged."""
        self._flights.add(first)
        self._again.extend((flight.partition, flight.attempt) for flight in self._flights)
        self._drop_all()
        self._access.renew()

    def _drop_all(self) -> None:
        """All flights of a broken backend: whatever comes of them comes too late."""
        for flight in self._flights:
            _when_done(flight, self._carrier.land)
        self._flights.clear()
        self._done = queue.SimpleQueue()

    def _renew(self, failure: BaseException) -> None:
        self._breaks += 1
        if self._breaks > _MAX_BREAKS or not self._access.renew():
            raise BackendError(
                f"backend {self._access.name!r} broke, and can not be replaced or broke again and again: {failure}"
            ) from failure

    # The end.

    def _abort(self) -> None:
        """Stop what runs, at an error, at Ctrl-C, or when the consumer has had enough."""
        flights, self._flights = self._flights, set()
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

    def _stop_one_by_one(self, flights: set[Flight]) -> None:
        left = [flight for flight in flights if not flight.future.cancel()]
        entries = [self._carrier.abandon(flight) for flight in left]
        for pid in {entry.pid for entry in entries if entry is not None}:
            self._kill(pid)

    def _stop_all_together(self, flights: set[Flight]) -> None:
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
