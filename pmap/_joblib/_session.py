"""One Parallel object's batches, from `submit` to their results.

Not more of them are in the pool than its workers and a few to come: what waits is pickled when
its turn comes, so that neither segments nor places on the board run out, however many batches
are dispatched ahead.
"""

from __future__ import annotations

import logging
import pickle
import queue
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from pmap import _output, _pages
from pmap._background import start_helper
from pmap._blame import as_ours, how_it_ended
from pmap._board import Board
from pmap._function import name_of, send_main_along
from pmap._interrupts import deferred
from pmap._joblib._batch import Batch, open_answer
from pmap._joblib._body import Layout, inline, is_short, placed
from pmap._joblib._inside import fail_call
from pmap._joblib._shares import Shares, Sharing
from pmap._joblib._workers import Workers
from pmap._watch import call_off, kill, was_killed
from pmap._wire import note
from pmap.backend import Task, execute
from pmap.errors import BackendError, TransportError, UnpicklableFunctionError, WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from pmap._board import Place
    from pmap._joblib._batch import Answer
    from pmap._joblib._options import JoblibOptions
    from pmap._segment import Segment

__all__ = ["Flight", "Session"]

#: Batches that wait in the pool, beside those that run.
_AHEAD = 2


class UnpicklableTaskError(UnpicklableFunctionError, pickle.PicklingError):
    """A task, or something in it, can not be pickled; joblib's users catch a `PicklingError`."""


class Flight:
    """A batch that was submitted; what joblib takes for its future."""

    def __init__(self, calls: Any, callback: Callable[[Flight], object] | None) -> None:
        self.calls: Any = calls
        self.names = _names(calls)
        self.callback = callback
        self.future: Future[Any] | None = None  #: of the pool
        self.failure: BaseException | None = None
        self.task: Task | None = None
        self.used: list[Any] = []
        self.input: Segment | None = None
        self.reply: Segment | None = None
        self.place: Place | None = None
        self.dropped = False
        self._value: Any = None
        self._opened = False
        self.done = threading.Event()

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the result, as joblib's backends let their users do."""
        if not self.done.wait(timeout):
            raise TimeoutError
        return self.result()

    def result(self) -> Any:
        """What the calls returned, or the error that one of them raised."""
        if self.failure is not None:
            raise self.failure
        return self._value

    def settle(self, value: Any, failure: BaseException | None) -> None:
        """It is over."""
        self._value, self.failure = value, failure
        self.done.set()


def _names(calls: Any) -> str:
    """What a batch calls, for messages."""
    items: list[Any] = list(getattr(calls, "items", ()))
    if not items:
        return name_of(calls)
    some = "" if len(items) == 1 else f" and {len(items) - 1} more calls"
    return f"{name_of(items[0][0])}(){some}"


def _pass_on(flight: Flight, failure: BaseException) -> None:
    """What went wrong beside the batch itself: the call that it is of raises it."""
    if not fail_call(flight.callback, failure):
        logging.getLogger("pmap").error("a callback of joblib's failed", exc_info=failure)


class Session:
    """Workers, and the batches that were given to them.

    Parameters
    ----------
    n_jobs
        How many workers.
    options
        Checked.
    """

    def __init__(self, n_jobs: int, options: JoblibOptions) -> None:
        self.n_jobs = n_jobs
        self._kind = options.kind
        self._limit = n_jobs + _AHEAD
        self._lock = threading.RLock()
        self._waiting: deque[Flight] = deque()
        self._flying: set[Flight] = set()
        self._replies = _pages.Replies(options.kind)
        self._closed = False
        self._log_level = logging.getLogger().getEffectiveLevel()
        self._shares = Shares(Sharing(options.max_nbytes, options.mmap_mode, options.kind))
        with deferred:
            self._workers = Workers(n_jobs, options)
            self._board = Board(self._limit)
        self._heard: queue.SimpleQueue[tuple[Flight, Future[Any]] | None] = queue.SimpleQueue()
        self._listener = start_helper("pmap-joblib", self._listen)

    def submit(self, calls: Any, callback: Callable[[Flight], object] | None) -> Flight:
        """Give a batch to the workers, now or when there is room."""
        flight = Flight(calls, callback)
        with self._lock:
            if self._closed:
                raise BackendError(
                    "the workers of this Parallel call have been given back: it is over, or was aborted"
                )
            self._waiting.append(flight)
        self._launch()
        return flight

    def _launch(self) -> None:
        """As many as there is room for."""
        while True:
            with self._lock:
                if self._closed or not self._waiting or len(self._flying) >= self._limit:
                    return
                flight = self._waiting.popleft()
                self._flying.add(flight)
            failure = self._start(flight)
            if failure is not None:
                self._land(flight, None, failure)
                self._tell(flight)

    def _start(self, flight: Flight) -> BaseException | None:
        """Send it; what kept it from that is the batch's, since here may be anybody's thread."""
        with deferred:
            try:
                self._fuel(flight)
                self._send(flight)
            except BaseException as exc:  # noqa: BLE001  pickling raises anything, `PanicException` too
                return exc
        return None

    def _fuel(self, flight: Flight) -> None:
        """Pickle it, and take what it needs."""
        data, buffers, flight.used = self._dump(flight)
        flight.calls = None  # what it refers to may go
        flight.reply = self._replies.take(0)
        if is_short(data, buffers):
            body = inline(data, buffers)
        else:
            layout = Layout()
            flight.input = _pages.take(self._kind, len(data))
            body = placed(data, buffers, layout, flight.input.shared)
            flight.input.write(layout.pieces, layout.size)
        with self._lock:
            flight.place = self._board.take()
        if flight.place is None:
            raise BackendError("more batches are under way than there are places for")
        batch = Batch(self._workers.setup, body, flight.reply.shared, flight.place, self._log_level)
        flight.task = Task(execute, pickle.dumps(batch, pickle.HIGHEST_PROTOCOL))

    def _dump(self, flight: Flight) -> tuple[bytes, list[Any], list[Any]]:
        send_main_along()
        try:
            return self._shares.dump(flight.calls)
        except TransportError:
            raise  # there is no room for its data
        except Exception as exc:  # pickling runs arbitrary __reduce__ methods
            raise UnpicklableTaskError(
                f"could not pickle the task to send to the workers, {flight.names}: {exc}"
            ) from exc

    def _send(self, flight: Flight) -> None:
        assert flight.task is not None  # noqa: S101  it was fuelled
        flight.future = self._workers.backend.submit(flight.task)
        if flight.dropped:  # meanwhile
            self._stop([flight])
        flight.future.add_done_callback(partial(self._note, flight))

    # The end of a batch, in a thread of this session's own: joblib takes the next tasks from the user's
    # generator there, which may take its time, or use the same pool.

    def _note(self, flight: Flight, future: Future[Any]) -> None:
        """In a thread of the pool, which serves others too."""
        if self._listener is None:  # no more threads are granted
            self._hear(flight, future)
        else:
            self._heard.put((flight, future))

    def _listen(self) -> None:
        while (heard := self._heard.get()) is not None:
            try:
                self._hear(*heard)
            except BaseException as exc:  # noqa: BLE001  this thread goes on, and nobody waits for ever
                _pass_on(heard[0], exc)
            del heard  # results are the user's alone

    def _hear(self, flight: Flight, future: Future[Any]) -> None:
        failure = BackendError("cancelled") if future.cancelled() else future.exception()
        killed = isinstance(failure, WorkerDiedError) and was_killed(failure.pid)
        if killed and not flight.dropped:
            self._again(flight)
            return
        value = None
        if failure is not None:
            failure = self._death(flight, failure)
        elif flight.dropped:
            failure = BackendError("the batch was aborted")
        else:
            value, failure = self._open(flight, future.result())
        self._land(flight, value, failure)
        self._launch()
        self._tell(flight)

    def _again(self, flight: Flight) -> None:
        """Its worker was killed for the sake of a batch of another call, which had just ended."""
        with self._lock:
            if flight.place is not None:
                self._board.give_back(flight.place)
                self._board.take()  # the same, empty
        try:
            self._send(flight)
        except Exception as exc:  # noqa: BLE001  as in `_start`
            self._land(flight, None, exc)
            self._tell(flight)

    def _open(self, flight: Flight, reply: bytes) -> tuple[Any, BaseException | None]:
        assert flight.reply is not None  # noqa: S101  it was fuelled
        try:
            answer: Answer = pickle.loads(reply)  # noqa: S301  from our own worker
            _output.replay(answer.output)
            if answer.body is None or answer.body.place is None:
                self._replies.keep(flight.reply)
                flight.reply = None
            if answer.error is not None:
                return None, answer.error.rebuild()
            return open_answer(answer, flight.reply), None
        except BaseException as exc:  # noqa: BLE001  unpickling a result may raise anything, and so may the caller's stdout
            note(exc, "pmap: raised in the caller while opening the results")
            return None, exc

    def _death(self, flight: Flight, failure: BaseException) -> BaseException:
        if not isinstance(failure, WorkerDiedError):
            return as_ours(failure)
        number = "" if failure.pid is None else f" {failure.pid}"
        how = how_it_ended(failure.exitcode, failure.peak_memory, out_of_memory=False)
        return WorkerDiedError(
            f"{flight.names}: its worker process{number} died{how}",
            exitcode=failure.exitcode,
            pid=failure.pid,
            peak_memory=failure.peak_memory,
        )

    def _land(self, flight: Flight, value: Any, failure: BaseException | None) -> None:
        """Free what it held: it is over."""
        self._free(flight)
        with self._lock:
            self._flying.discard(flight)
            last = self._closed and not self._flying
        if last:
            self._give_back()
        flight.settle(value, failure)

    def _tell(self, flight: Flight) -> None:
        """Tell joblib, which takes the next tasks from the user's generator meanwhile."""
        if flight.callback is None or flight.dropped:
            return
        try:
            flight.callback(flight)
        except BaseException as exc:  # noqa: BLE001  a generator, or what joblib prints, may raise anything
            _pass_on(flight, exc)

    def _free(self, flight: Flight) -> None:
        self._shares.release(flight.used)
        flight.used = []
        if flight.input is not None:
            _pages.give_back(flight.input)
        if flight.reply is not None and not flight.reply.lent:
            _pages.give_back(flight.reply)
        flight.input = flight.reply = None
        with self._lock:
            if flight.place is not None:
                self._board.give_back(flight.place)
            flight.place = None

    # The end.

    def end_call(self) -> None:
        """What the batches shared is not needed any more."""
        self._shares.clear()

    def close(self) -> None:
        """Stop what runs, if something does, and leave the pool to others."""
        with deferred:
            with self._lock:
                if self._closed:
                    return
                self._closed = True
                flying = list(self._flying)
                self._waiting.clear()
            self._stop(flying)
            self._shares.clear()
            if not flying:
                self._give_back()

    def _stop(self, flying: list[Flight]) -> None:
        for flight in flying:
            flight.dropped = True
        sent = [flight.future for flight in flying if flight.future is not None]
        left = call_off(sent, self._workers.backend)
        for flight in flying:
            if flight.place is None or flight.future not in left:
                continue
            with self._lock:
                entry = self._board.cancel(flight.place)
            if entry is not None:
                kill(entry.pid)  # at once, since it may begin another call's

    def _give_back(self) -> None:
        self._replies.close()
        self._workers.close()
        self._board.close()
        self._heard.put(None)
