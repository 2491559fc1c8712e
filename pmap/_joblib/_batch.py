"""What travels: a batch of calls, and its answer."""

from __future__ import annotations

import importlib
import io
import os
import pickle
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from pmap import _board
from pmap._joblib import _opened
from pmap._joblib._body import (
    Layout,
    dump,
    inline,
    is_short,
    load,
    open_columns,
    placed,
    reduce_by_stream,
    streams,
)
from pmap._joblib._memmaps import reduce_as_array
from pmap._joblib._register import register_joblib_backend
from pmap._joblib._workers import prepare
from pmap._output import recorder
from pmap._segment import open_shared, refuse_if_full, write_at
from pmap._size import estimate
from pmap._standard import keep_open
from pmap._transport import also_forget
from pmap._transport._places import Atlas
from pmap._transport._send import map_segment
from pmap._wire import describe_error
from pmap.errors import TransportError

if TYPE_CHECKING:
    from pmap._board import Place
    from pmap._cloudpickled import Reduced
    from pmap._joblib._body import Body
    from pmap._joblib._workers import SetupRef
    from pmap._segment import Segment, Shared
    from pmap._transport._parcel import Columns
    from pmap._wire import ErrorInfo

__all__ = ["Answer", "Batch", "open_answer"]

#: From this size on a frame of a result is mapped by the caller rather than copied: bytes.
_WORTH_MAPPING = 1024 * 1024


class Answer(NamedTuple):
    """Of a batch: what it returned, or what it raised, and what it wrote meanwhile.

    Attributes
    ----------
    frames
        Of the result, that lie in the segment of the reply: where each is.
    end
        Bytes of that segment.
    """

    body: Body | None
    error: ErrorInfo | None = None
    output: tuple[tuple[str, object], ...] = ()
    frames: tuple[tuple[Columns, str], ...] = ()
    end: int = 0


class Batch(NamedTuple):
    """A batch of calls on its way to a worker."""

    setup: SetupRef
    body: Body
    reply: Shared
    place: Place
    log_level: int
    exclusive: bool = True  #: the worker has no other task meanwhile

    def run(self) -> Answer:
        """Worker's side: run it, whatever happens."""
        keep_open()
        if not _board.mark_running(self.place, os.getpid()):
            return Answer(None)  # nobody waits for it any more
        phase = "preparing the worker"
        try:
            with recorder.at(self.log_level):
                _get_ready()
                prepare(self.setup)
                phase = "unpickling the tasks in the worker"
                calls = load(self.body)
                phase = ""
                result = calls()
                phase = "sending the results back"
                answer = _answer(result, self.reply)
        except BaseException as exc:  # noqa: BLE001  KeyboardInterrupt and PanicException are no Exception
            answer = Answer(None, describe_error(exc, phase, exits=True))
        _board.mark_done(self.place)
        _opened.end_batch()
        return answer._replace(output=recorder.take())


@cache
def _get_ready() -> None:
    """Once in each worker, and before the first unpickling: tasks may name the backend."""
    register_joblib_backend()
    _refuse_fork()
    also_forget(_opened.forget)


def _refuse_fork() -> None:
    """Of this worker, whose engine has threads, by `multiprocessing`; below loky joblib does not do that."""
    process_executor: Any = importlib.import_module("joblib.externals.loky.process_executor")
    if hasattr(process_executor, "_CURRENT_DEPTH"):
        process_executor._CURRENT_DEPTH = 1  # noqa: SLF001  what it looks at


# Results.


class _Frames:
    """Large frames of a result, which are left out of its pickle."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.found: list[tuple[Columns, str]] = []

    def reduce(self, value: pl.DataFrame | pl.Series) -> Reduced | None:
        """By number, if it is large."""
        frame = value if isinstance(value, pl.DataFrame) else value.to_frame()
        if estimate(frame) < _WORTH_MAPPING or not streams(frame):
            return reduce_by_stream(value)
        columns = self._layout.add_frame(frame, Atlas())
        self.found.append((columns, type(value).__name__))
        return _nth_frame, (len(self.found) - 1,)


def _answer(result: object, reply: Shared) -> Answer:
    layout = Layout()
    frames = _Frames(layout)
    data, buffers = dump(
        result,
        {pl.DataFrame: frames.reduce, pl.Series: frames.reduce, np.memmap: reduce_as_array},
    )
    if not frames.found and is_short(data, buffers):
        return Answer(inline(data, buffers))
    body = placed(data, buffers, layout, reply)
    with open_shared(reply, os.O_RDWR) as fd:
        refuse_if_full(fd, layout.size)
        write_at(fd, layout.pieces, layout.size)
    return Answer(body, frames=tuple(frames.found), end=layout.size)


def _nth_frame(number: int) -> Any:
    raise TransportError(f"frame {number} of a result, which is not being opened")


class _Unpickler(pickle.Unpickler):
    """Knows the frames of the result."""

    frames: tuple[Any, ...]

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == __name__ and global_name == "_nth_frame":
            return self.frames.__getitem__
        return super().find_class(module_name, global_name)


def open_answer(answer: Answer, segment: Segment | None) -> Any:
    """Caller's side: the result; its large frames are the mapping of the segment."""
    if answer.body is None:
        raise TransportError("a worker did not run the tasks")
    if answer.body.place is None:
        return load(answer.body)
    if segment is None or answer.body.place != segment.shared:
        raise TransportError("a worker's answer lies in no segment of its own")
    memory = memoryview(segment.map(answer.end))
    data, *buffers = (bytearray(memory[at : at + size]) for at, size in answer.body.extents)
    unpickler = _Unpickler(io.BytesIO(data), buffers=buffers)
    unpickler.frames = ()
    if answer.frames:
        whole = map_segment(segment, answer.end)
        unpickler.frames = tuple(_frame(columns, kind, whole) for columns, kind in answer.frames)
    return unpickler.load()


def _frame(columns: Columns, kind: str, whole: Any) -> pl.DataFrame | pl.Series:
    frame = open_columns(columns, [whole])
    return frame.to_series() if kind == "Series" else frame
