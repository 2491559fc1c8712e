"""How one attempt at a partition is made into a task, and its answer into an outcome.

Two ways: within this process, here, objects are passed as they are; to other processes
(`_carry_away`) a message goes, with the data by reference where memory is shared.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from pmap._apply import apply
from pmap._context import PartitionInfo
from pmap._function import instantiate
from pmap._gauge import Gauge
from pmap._wire import Stats
from pmap.backend import Task
from pmap.errors import FunctionExitError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from pmap._board import Entry, Place
    from pmap._config import Options
    from pmap._looker import Looker
    from pmap._partition import Partition
    from pmap._segment import Segment
    from pmap._transport import Lent

__all__ = ["Answer", "CallSpec", "Carrier", "Flight", "LocalCarrier"]


class Answer(NamedTuple):
    """What came of an attempt."""

    value: Any
    error: BaseException | None
    stats: Stats | None


class Flight:
    """One attempt at a partition that is under way."""

    __slots__ = (
        "attempt",
        "future",
        "in_caller",
        "lent",
        "over_limit",
        "partition",
        "peak_memory",
        "place",
        "released",
        "reply",
        "reply_is_unused",
        "task",
        "timed_out",
    )

    def __init__(
        self, partition: Partition, attempt: int, task: Task, *, in_caller: bool = False
    ) -> None:
        self.in_caller = in_caller
        self.partition = partition
        self.attempt = attempt
        self.task = task
        self.lent: Lent | None = None
        self.released = False
        self.reply: Segment | None = None
        self.reply_is_unused = False  #: as the answer came in the message
        self.place: Place | None = None
        self.timed_out = False
        #: Of its worker, in bytes, as far as somebody looked.
        self.peak_memory = 0
        self.over_limit = 0  #: what it held of its own when that was too much
        self.future: Future[Any]

    @property
    def was_stopped(self) -> bool:
        """Whether its own worker was killed, and because of it."""
        return self.timed_out or self.over_limit > 0


class Carrier(Protocol):
    """Makes tasks of partitions, and answers of what the tasks return."""

    @property
    def moving_seconds(self) -> float:
        """What moving data took so far: in the caller, and in each worker on average."""
        ...

    def open(self) -> None:
        """Make what all flights share; to be closed even if that fails half-way."""
        ...

    def load(self, partition: Partition, attempt: int) -> Flight:
        """A flight, ready to be submitted."""
        ...

    def unload(self, flight: Flight) -> Answer:
        """The answer of a flight whose task has returned."""
        ...

    def running(self, flight: Flight) -> Entry | None:
        """Who runs it and since when, if that is known."""
        ...

    def has_started(self, flight: Flight) -> bool:
        """Whether a worker has begun with it; also where that can't be told."""
        ...

    def abandon(self, flight: Flight) -> Entry | None:
        """Nobody waits for it: it is not to start any more; who runs it, if one does."""
        ...

    def land(self, flight: Flight) -> None:
        """It is over: free what it held."""
        ...

    def close(self) -> None:
        """Free everything, as soon as the last flight has landed."""
        ...


class CallSpec(NamedTuple):
    """What carriers need to know of a call."""

    function: Callable[..., Any]
    options: Options
    n_partitions: int | None
    want_frame: bool
    largest: int = 0  #: bytes of the largest partition, if that is known


class LocalCarrier:
    """Within this process: the function sees the caller's own objects."""

    moving_seconds = 0.0

    def __init__(
        self, call: CallSpec, *, alone: bool = False, looker: Looker | None = None
    ) -> None:
        self._call = call
        self._gauge = Gauge(alone=alone, looker=looker)
        self._of_thread = threading.local()

    def open(self) -> None:
        """Flights share nothing."""

    def load(self, partition: Partition, attempt: int) -> Flight:
        """A task that calls the function on a slice."""
        return Flight(partition, attempt, Task(self._run, (partition, attempt)))

    def _run(self, payload: tuple[Partition, int]) -> Answer:
        partition, attempt = payload
        started, measured = time.time(), self._gauge.measure(partition.rows)
        value, error = None, cast("BaseException | None", None)
        info = PartitionInfo(
            partition.index,
            self._call.n_partitions,
            attempt,
            partition.rows,
            self._call.options.seed,
        )
        try:
            function = self._function()
            with measured:
                value = apply(function, partition.frame(), info, want_frame=self._call.want_frame)
        except (SystemExit, GeneratorExit, KeyboardInterrupt) as exc:
            if (
                isinstance(exc, KeyboardInterrupt)
                and threading.current_thread() is threading.main_thread()
            ):
                raise  # Ctrl-C
            error = FunctionExitError(f"the function raised {type(exc).__name__}({exc})")
        except BaseException as exc:  # noqa: BLE001  PanicException is no Exception
            error = exc
        usage = measured.usage
        stats = Stats(os.getpid(), started, time.time(), usage.wall, 0.0, 0, 0, usage=usage)
        return Answer(value, error, stats)

    def _function(self) -> Callable[..., Any]:
        """Of this thread: a class is instantiated once in each worker."""
        if not hasattr(self._of_thread, "function"):
            if self._call.options.initializer is not None:
                self._call.options.initializer()
            self._of_thread.function = instantiate(self._call.function)
        return cast("Callable[..., Any]", self._of_thread.function)

    def unload(self, flight: Flight) -> Answer:
        """What the task returned is the answer."""
        return cast("Answer", flight.future.result())

    def running(self, flight: Flight) -> Entry | None:  # noqa: ARG002  as the protocol has it
        """Threads can not be told apart from outside."""
        return None

    abandon = running

    def has_started(self, flight: Flight) -> bool:  # noqa: ARG002  as the protocol has it
        """Threads can not be told apart from outside."""
        return True

    def land(self, flight: Flight) -> None:
        """Nothing was held."""

    def close(self) -> None:
        """Nothing was held."""
