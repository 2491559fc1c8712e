"""Attempts at partitions that are made in other processes: messages out, answers in."""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, cast

from pmap import _board, _output, _pages, _transport
from pmap._carry import Answer, Flight, LocalCarrier
from pmap._figures import figures
from pmap._function import dump_function
from pmap._interrupts import deferred
from pmap._plain import dump_task, load_reply
from pmap._segment import kind_for
from pmap._wire import CallTerms, Job, JobRef, TaskMessage, digest_of, note
from pmap.backend import Locality, Task, execute
from pmap.errors import FunctionExitError

if TYPE_CHECKING:
    from pmap._board import Board, Entry
    from pmap._carry import CallSpec
    from pmap._partition import Partition
    from pmap._segment import Segment
    from pmap._wire import Reply
    from pmap.backend import Capabilities

__all__ = ["RemoteCarrier"]


class RemoteCarrier:
    """To other processes, on this machine (by reference) or elsewhere (bytes alone)."""

    def __init__(self, call: CallSpec, capabilities: Capabilities, *, n_slots: int) -> None:
        self._call = call
        self._shared = capabilities.locality is Locality.MACHINE
        self._owned = capabilities.owns_workers
        self._replaceable = capabilities.owns_workers and capabilities.killable
        self._n_workers = capabilities.n_workers
        self._kind = kind_for(call.options.transport)
        self._n_slots = n_slots
        self._terms: bytes
        self._job_segment: Segment | None = None
        self._board: Board | None = None
        self._closure = _transport.Closure(self._kind if self._shared else None)
        self._sender = _transport.Sender(shared=self._shared, kind=self._kind)
        self._replies = _pages.Replies(self._kind)
        self._lock = threading.Lock()
        self._n_flying = 0
        self._reply_bytes = 0  # of the latest reply, which the next may resemble
        self._moved_bytes, self.moving_seconds = 0, 0.0
        self._closing = False

    def open(self) -> None:
        """Lay out the board, and pickle the function."""
        if self._shared and self._call.largest > _transport.INLINE_BYTES:
            # Which large partitions need, now, while a fork server starts: it imports what its caller
            # has, once for all workers.
            importlib.import_module("pyarrow")
        with deferred:
            self._board = _board.take(self._n_slots) if self._shared else None
        terms = CallTerms(
            self._dump_job(owned=self._owned),
            self._call.n_partitions,
            self._call.options.seed,
            self._call.want_frame,
            exclusive=self._shared or self._owned,
            log_level=logging.getLogger().getEffectiveLevel(),
            may_leave=self._replaceable,
            board=None if self._board is None else self._board.shared,
        )
        self._terms = pickle.dumps(terms, pickle.HIGHEST_PROTOCOL)

    def _dump_job(self, *, owned: bool) -> JobRef:
        """The function, pickled once; large ones travel once, in a segment."""
        initializer = self._call.options.initializer
        job = Job(
            dump_function(self._call.function, self._closure.dump),
            None if initializer is None else dump_function(initializer, self._closure.dump),
            tuple(map(str, sys.path)) if owned else (),
            _working_folder() if owned else None,
        )
        data = pickle.dumps(job, pickle.HIGHEST_PROTOCOL)
        blob = _transport.Blob(data)
        if self._shared and len(data) > _transport.INLINE_BYTES:
            with deferred:
                self._job_segment = _pages.take(self._kind, len(data))
            blob = _transport.put_blob(data, self._job_segment)
        return JobRef(digest_of(data), blob)

    def load(self, partition: Partition, attempt: int) -> Flight:
        """A task whose payload is a message of a few kilobytes at most."""
        if partition.rows == 0:
            return self._load_empty(partition, attempt)
        flight = Flight(partition, attempt, Task(execute, b""))
        with self._lock:
            self._n_flying += 1
        try:
            self._fuel(flight)
        except BaseException:
            flight.released = True  # no worker has seen it
            self.land(flight)
            raise
        return flight

    def _fuel(self, flight: Flight) -> None:
        """Give a flight its task, and what that needs."""
        partition, clock = flight.partition, time.perf_counter()
        parcel, flight.lent = self._sender.parcel(partition)
        self.moving_seconds += time.perf_counter() - clock
        if self._shared:
            flight.reply = self._replies.take(self._reply_bytes)
        if self._board is not None:
            flight.place = self._board.take()
        reply = None if flight.reply is None else flight.reply.shared
        message = TaskMessage(
            self._terms,
            parcel,
            partition.index,
            flight.attempt,
            partition.rows,
            reply,
            None if flight.place is None else flight.place.slot,
        )
        flight.task = Task(execute, dump_task(message))

    def _load_empty(self, partition: Partition, attempt: int) -> Flight:
        """An empty frame of a stream is never sent: many functions fail on it, or lose dtypes."""
        task = LocalCarrier(self._call).load(partition, attempt).task
        with self._lock:
            self._n_flying += 1
        return Flight(partition, attempt, task, in_caller=True)

    def unload(self, flight: Flight) -> Answer:
        """Open the reply; a large frame is mapped where the worker wrote it."""
        if flight.in_caller:
            return cast("Answer", flight.future.result())
        reply = load_reply(flight.future.result())
        flight.released, self._reply_bytes = reply.released, reply.stats.bytes_out
        flight.reply_is_unused = _is_inline(reply)
        self._moved_bytes += reply.stats.bytes_in + reply.stats.bytes_out
        self.moving_seconds += reply.stats.transport_seconds / self._n_workers
        doing = "writing what the function printed"
        try:
            _output.replay(reply.output)
            if reply.error is not None:
                return Answer(None, reply.error.rebuild(), reply.stats)
            doing = "opening the result"
            return Answer(_value(reply, flight), None, reply.stats)
        except KeyboardInterrupt:
            raise  # Ctrl-C
        except BaseException as exc:  # noqa: BLE001  a result's own unpickling may raise anything
            return Answer(None, _raised_here(exc, doing), reply.stats)

    def running(self, flight: Flight) -> Entry | None:
        """As its worker wrote on the board."""
        if self._board is None or flight.place is None:
            return None
        return self._board.read(flight.place)

    def has_started(self, flight: Flight) -> bool:
        """As its worker wrote on the board."""
        if self._board is None or flight.place is None:
            return True
        return self._board.has_started(flight.place)

    def abandon(self, flight: Flight) -> Entry | None:
        """Write on the board that nobody waits for it."""
        if self._board is None or flight.place is None:
            return None
        return self._board.cancel(flight.place)

    def land(self, flight: Flight) -> None:
        """Free what it held: only now, since until now its worker might have written there."""
        if flight.reply is not None and not flight.reply.lent:
            if flight.reply_is_unused:
                self._replies.keep(flight.reply)
            else:
                _pages.give_back(flight.reply)
        if flight.lent is not None:
            flight.lent.close(released=flight.released)
        if flight.place is not None and self._board is not None:
            self._board.reusable = self._board.reusable and flight.released
            self._board.give_back(flight.place)
        with self._lock:
            self._n_flying -= 1
        self._free()

    def close(self) -> None:
        """Free everything, as soon as the last flight has landed."""
        if not self._closing:
            figures.note_moved(self._moved_bytes, self.moving_seconds)
        self._closing = True
        self._free()

    def _free(self) -> None:
        with self._lock:
            if not self._closing or self._n_flying > 0:
                return
            board, self._board = self._board, None
        self._closure.close()
        self._replies.close()
        if board is not None:
            _board.put_away(board)
        if self._job_segment is not None:
            self._job_segment.close()


def _raised_here(exc: BaseException, doing: str) -> BaseException:
    """What the user's code raised in the caller, as the error of its partition."""
    if isinstance(exc, SystemExit | GeneratorExit):
        return FunctionExitError(f"{type(exc).__name__}({exc}) was raised in the caller, {doing}")
    note(exc, f"pmap: raised in the caller while {doing}")
    return exc


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # it was deleted


def _is_inline(reply: Reply) -> bool:
    """Whether the answer came in the message, with nothing written elsewhere."""
    what = reply.parcel or reply.blob
    return reply.error is None and (what is None or _transport.is_inline(what))


def _value(reply: Reply, flight: Flight) -> Any:
    if reply.parcel is not None and flight.lent is not None:
        return _transport.open_reply(reply.parcel, flight.reply, flight.lent)
    if reply.blob is not None:
        return pickle.loads(_transport.open_blob(reply.blob, flight.reply))  # noqa: S301  from our own worker
    return None
