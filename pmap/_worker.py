"""All that runs in a worker: take a message apart, run the function, answer.

`execute` never raises: whatever happens becomes a `Reply`, since an exception that escapes
hangs or breaks most pools.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import sys
import threading
import time
import traceback
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

import polars as pl

from pmap import _board, _context, _transport
from pmap._allocator import Giver
from pmap._apply import apply
from pmap._background import start_helper
from pmap._board import Place
from pmap._context import PartitionInfo
from pmap._function import instantiate
from pmap._gauge import Gauge, Usage
from pmap._looker import QUICK_LOOKS, Looker
from pmap._output import recorder
from pmap._plain import dump_reply, load_message
from pmap._standard import keep_open
from pmap._wire import Job, Reply, Stats, TaskMessage, describe_error, digest_of
from pmap.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmap._segment import Shared
    from pmap._transport import Blob, Parcel, Pickled, Received, Unused
    from pmap._wire import CallTerms, ErrorInfo, JobRef

__all__ = ["execute"]

#: Functions that a worker keeps ready between calls.
_KEPT_JOBS = 4
#: Seconds of rest after which a worker unmaps its input; and after so many more it gives memory of its
#: own back, which the next call would have to ask for, and the system to zero.
_FORGET_AFTER, _GIVE_BACK_AFTER = 1.0, 10.0


class _Ready(NamedTuple):
    """A function, and what measures it."""

    function: Callable[..., Any]
    gauge: Gauge


class _Jobs:
    """The functions that this worker has ready, most recently used last."""

    def __init__(self) -> None:
        self._ready: OrderedDict[bytes, _Ready] = OrderedDict()
        self._initialized: set[Pickled] = set()
        self._lock = threading.RLock()  # a cluster's worker may run several tasks at once

    def get(self, ref: JobRef) -> _Ready:
        """The function, made ready if it is not."""
        with self._lock:
            return self._get(ref)

    def has_any(self) -> bool:
        """Whether this worker has run something."""
        return bool(self._ready)

    def _get(self, ref: JobRef) -> _Ready:
        if ref.digest not in self._ready:
            # more than the first call, which has few rows, may use up
            gauge = Gauge(alone=True, looker=Looker(most=2 * QUICK_LOOKS))
            self._ready[ref.digest] = _Ready(self._load(ref), gauge)
            while len(self._ready) > _KEPT_JOBS:
                self._ready.popitem(last=False)
        self._ready.move_to_end(ref.digest)
        return self._ready[ref.digest]

    def _load(self, ref: JobRef) -> Callable[..., Any]:
        job: Job = pickle.loads(_genuine(ref))  # noqa: S301  what our caller's message vouches for
        _adopt_surroundings(job)
        if job.initializer is not None and job.initializer not in self._initialized:
            _transport.load_pickled(job.initializer)()
            self._initialized.add(job.initializer)
        return instantiate(_transport.load_pickled(job.function))


def _genuine(ref: JobRef) -> bytes:
    """The bytes of a job: those that the message means, wherever they lie."""
    data = _transport.load_blob(ref.blob)
    if digest_of(data) != ref.digest:
        raise TransportError("the function was changed on its way to the worker")
    return data


def _adopt_surroundings(job: Job) -> None:
    """Modules and relative paths of the function mean here what they mean in the caller."""
    sys.path[:] = [*job.sys_path, *(p for p in sys.path if p not in job.sys_path)]
    importlib.invalidate_caches()  # a module may have been written a moment ago
    if job.cwd is not None:
        with contextlib.suppress(OSError):  # the caller's folder may be gone by now
            os.chdir(job.cwd)


_jobs = _Jobs()


def execute(payload: bytes) -> bytes:
    """Run one message; the answer, pickled."""
    message = load_message(payload)
    task = _Attempt(message) if isinstance(message, TaskMessage) else message
    _context.n_exclusive += task.exclusive
    _forgetter.begin()
    try:
        reply = task.run()
    finally:
        _context.n_exclusive -= task.exclusive
        _forgetter.rest()
    if isinstance(reply, Reply):
        return dump_reply(reply)
    return pickle.dumps(reply, pickle.HIGHEST_PROTOCOL)


@lru_cache(maxsize=_KEPT_JOBS)
def _terms(data: bytes) -> CallTerms:
    return cast("CallTerms", pickle.loads(data))  # noqa: S301  from the pipe of our caller


class _Attempt:
    """One message on its way through this worker."""

    def __init__(self, message: TaskMessage) -> None:
        self._message = message
        self._terms = _terms(message.terms)
        self._place = _place(self._terms.board, message.slot)
        self.exclusive = self._terms.exclusive
        self._phase = "unpickling the function in the worker"
        self._loading_seconds = 0.0
        self._usage = Usage()
        self._unused: Unused | None = None
        self._received: Received | None = None
        self._may_leave = self._terms.may_leave and _jobs.has_any()

    def run(self) -> Reply:
        """The answer, whatever happens."""
        started, clock = time.time(), time.perf_counter()
        place = self._place
        if self.exclusive:
            keep_open()
        if place is not None:
            refusal = _refusal(place, may_leave=self._may_leave)
            if refusal is not None:
                nothing = Stats(os.getpid(), started, started, 0.0, 0.0, 0, 0)
                return Reply(None, None, refusal, nothing)
        parcel, blob, error = None, None, None
        try:
            parcel, blob = self._answer()
        except BaseException as exc:  # noqa: BLE001  PanicException and SystemExit are no Exception
            error = describe_error(exc, self._phase)
        seconds = self._usage.wall
        transport = time.perf_counter() - clock - seconds - self._loading_seconds
        n_bytes = parcel.n_bytes if parcel is not None else 0
        stats = Stats(
            os.getpid(),
            started,
            time.time(),
            seconds,
            transport,
            0 if self._received is None else self._received.n_bytes,
            n_bytes,
            _pool_size(),
            self._loading_seconds,
            self._usage,
            self._unused,
        )
        if place is not None:
            _board.mark_done(place)
        released = self._received is None or self._received.is_released()
        output = recorder.take() if self.exclusive else ()
        return Reply(parcel, blob, error, stats, output, released=released)

    def _answer(self) -> tuple[Parcel | None, Blob | None]:
        terms = self._terms
        with recorder.at(terms.log_level) if self.exclusive else contextlib.nullcontext():
            clock = time.perf_counter()
            ready = _jobs.get(terms.job)
            self._loading_seconds = time.perf_counter() - clock
            self._phase = "receiving the partition"
            frame, self._received = self._unpack()
            self._phase = ""
            is_new = ready.gauge.is_new
            result = self._call(ready, frame)
            if is_new:
                self._unused = _unused(self._received, result)
            self._phase = "sending the result back"
            return self._pack(result)

    def _unpack(self) -> tuple[pl.DataFrame, Received]:
        try:
            return _transport.unpack(self._message.parcel)
        except (OSError, MemoryError) as exc:
            if self._may_leave and self._place is not None:
                _board.mark_waiting(self._place)
                _leave(exc)
            raise

    def _call(self, ready: _Ready, frame: pl.DataFrame) -> object:
        message, terms = self._message, self._terms
        measured = ready.gauge.measure(message.rows)
        info = PartitionInfo(
            message.number, terms.n_partitions, message.attempt, message.rows, terms.seed
        )
        here = os.getpid()
        try:
            with measured:
                try:
                    return apply(ready.function, frame, info, want_frame=terms.want_frame)
                finally:
                    if os.getpid() != here:
                        _leave_fork()
        finally:
            self._usage = measured.usage
            if self.exclusive:
                keep_open()  # before what it may have closed is opened again, for its result

    def _pack(self, result: object) -> tuple[Parcel | None, Blob | None]:
        if result is None:
            return None, None
        if isinstance(result, pl.DataFrame):
            return _transport.pack(result, self._message.reply, self._received), None
        import cloudpickle  # noqa: PLC0415  only what is no frame needs it

        return None, _transport.pack_bytes(cloudpickle.dumps(result), self._message.reply)


def _place(board: Shared | None, slot: int | None) -> Place | None:
    return None if board is None or slot is None else Place(board, slot)


def _leave_fork() -> None:
    """End a fork that the function made and let return: the partition is its parent's to answer."""
    exc = sys.exception()
    if exc is not None and not isinstance(exc, SystemExit):
        traceback.print_exception(exc, file=sys.__stderr__)
    code = exc.code if isinstance(exc, SystemExit) else int(exc is not None)
    os._exit(code if isinstance(code, int) else int(code is not None))


def _unused(received: Received, result: object) -> Unused | None:
    """The columns that the function neither looked at nor gave back."""
    unused = received.unused()
    if unused is None or not unused.columns:
        return None
    given_back = isinstance(result, pl.DataFrame) and set(unused.columns) & set(result.columns)
    return None if given_back else unused


def _refusal(place: Place, *, may_leave: bool) -> ErrorInfo | None:
    """Why the task is not begun, where it is not: nobody waits for it, or its caller is out of reach."""
    try:
        if _board.mark_running(place, os.getpid()):
            return None
    except (OSError, MemoryError) as exc:
        if may_leave:
            _leave(exc)
        return describe_error(exc, "beginning with the partition")
    nobody = TransportError("nobody waits for this partition any more")  # and so nobody hears it
    return describe_error(nobody, "")


def _leave(exc: BaseException) -> NoReturn:
    """End a worker that was of use before: what a function has done to it would spoil other calls."""
    if sys.__stderr__ is not None:
        sys.__stderr__.write(
            f"pmap: worker {os.getpid()} is of no more use, and is replaced: {exc}\n"
        )
        sys.__stderr__.flush()
    os._exit(1)


_reported_size = False


def _pool_size() -> int | None:
    """The size of Polars' pool, told once: it says whether the cap came in time."""
    global _reported_size  # noqa: PLW0603
    if _reported_size:
        return None
    _reported_size = True
    try:
        return pl.thread_pool_size()
    except pl.exceptions.PanicException:
        return None  # it has none: no threads were granted, as the function's error will say


class _Forgetter:
    """Gives back what a worker that rests has no use for: its input, which is the caller's memory, and its own.

    Its thread is there before a function runs: where one has left no memory, a new thread may
    end before it begins, which `Thread.start` waits for in vain.
    """

    def __init__(self) -> None:
        self._last = 0.0
        self._thread: threading.Thread | None = None
        self._has_work = threading.Event()
        self._giver = Giver()

    def begin(self) -> None:
        """A task begins."""
        if self._thread is None:
            self._thread = start_helper("pmap-forget", self._run)

    def rest(self) -> None:
        """A task is over."""
        self._last = time.monotonic()
        self._has_work.set()

    def _run(self) -> None:
        while True:
            self._has_work.wait()
            self._has_work.clear()
            while not self._is_resting():
                time.sleep(_FORGET_AFTER / 2)
            _transport.forget_mapped()
            gc.collect()  # exceptions often hold their frames, and those the partition, in a ring
            if not self._has_work.wait(_GIVE_BACK_AFTER):
                self._giver.give_back(self._is_resting)

    def _is_resting(self) -> bool:
        return not _context.n_exclusive and time.monotonic() - self._last >= _FORGET_AFTER


_forgetter = _Forgetter()
