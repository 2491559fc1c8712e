"""A small shared table in which workers write what they are running, and since when.

It tells the caller, on every backend of this machine, when a partition really started and
in which process: time-outs count from there, a hung worker can be found and killed, and a
death is charged to the partition that ran, not to those that waited.
"""

from __future__ import annotations

import struct
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from pmap import _pages
from pmap._interrupts import deferred
from pmap._segment import START, Segment, Shared, default_kind, map_shared

if TYPE_CHECKING:
    import mmap

__all__ = ["Board", "Entry", "Place", "put_away", "take"]

_ENTRY = struct.Struct("dq")  # started (monotonic seconds, one clock for the machine), pid
#: In the place of a pid: nobody waits for the task; it is over.
_CANCELLED, _DONE = -1, -2


class Place(NamedTuple):
    """A task's line of the board, as caller and worker know it."""

    board: Shared
    slot: int


class Entry(NamedTuple):
    """What a worker wrote: monotonic seconds, and its pid."""

    started: float
    pid: int


def _offset(slot: int) -> int:
    return START + slot * _ENTRY.size


class Board:
    """Caller's side: one line for each task in flight."""

    def __init__(self, n_slots: int, kind: str | None = None) -> None:
        self._segment = Segment(kind)
        self._memory = self._segment.map_writable(_offset(n_slots))
        self._free = [Place(self._segment.shared, slot) for slot in range(n_slots)]
        self.reusable = True  #: as long as every worker has said that it is done with its line
        self.rests_since = 0.0

    @property
    def kind(self) -> str:
        """Of its segment."""
        return self._segment.kind

    @property
    def shared(self) -> Shared:
        """As workers know it."""
        return self._segment.shared

    @property
    def n_free(self) -> int:
        """Empty lines."""
        return len(self._free)

    def take(self) -> Place | None:
        """An empty line, if there is one."""
        if not self._free:
            return None
        place = self._free.pop()
        _ENTRY.pack_into(self._memory, _offset(place.slot), 0.0, 0)
        return place

    def give_back(self, place: Place) -> None:
        """Return a line."""
        self._free.append(place)

    def read(self, place: Place) -> Entry | None:
        """Who runs the task and since when; ``None`` while it waits or when it is done."""
        entry = Entry(*_ENTRY.unpack_from(self._memory, _offset(place.slot)))
        return entry if entry.pid > 0 else None

    def has_started(self, place: Place) -> bool:
        """Whether a worker has begun with the task, at work on it or not."""
        entry = Entry(*_ENTRY.unpack_from(self._memory, _offset(place.slot)))
        return entry.pid > 0 or entry.pid == _DONE

    def cancel(self, place: Place) -> Entry | None:
        """A worker that has not started on the task will not; who runs it, if one has."""
        entry = self.read(place)
        if entry is None:
            _ENTRY.pack_into(self._memory, _offset(place.slot), 0.0, _CANCELLED)
        return entry

    def close(self) -> None:
        """Let go of the table."""
        self._memory.close()
        self._segment.close()


class _Resting:
    """Boards between two calls: a worker that has one open needs not open another."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._boards: list[Board] = []

    def take(self, n_slots: int) -> Board:
        """A board of that many empty lines at least."""
        kind = default_kind()
        with self._lock:
            fitting = [b for b in self._boards if b.n_free >= n_slots and b.kind == kind]
            if fitting:
                self._boards.remove(fitting[-1])
                return fitting[-1]
        return Board(n_slots, kind)

    def put_away(self, board: Board) -> None:
        """Keep a board for the next call, if no worker may still write on it."""
        if not board.reusable:
            board.close()
            return
        board.rests_since = time.monotonic()
        with self._lock:
            self._boards.append(board)
        _pages.watch()

    def trim(self, rest: float) -> bool:
        before = time.monotonic() - rest
        with deferred:
            with self._lock:
                old = [board for board in self._boards if board.rests_since <= before]
                self._boards = [board for board in self._boards if board not in old]
                left = bool(self._boards)
            for board in old:
                board.close()
        return left


_resting = _Resting()
_pages.at_rest(_resting.trim, _resting.forget)
take = _resting.take
put_away = _resting.put_away


class _Mapped:
    """The board that this worker has open."""

    def __init__(self) -> None:
        self._board: Shared | None = None
        self._memory: mmap.mmap | None = None

    def open(self, place: Place) -> mmap.mmap:
        """The table."""
        if self._memory is None or self._board != place.board:
            self._memory, self._board = map_shared(place.board, writable=True), place.board
        return self._memory


_mapped = _Mapped()


def mark_running(place: Place, pid: int) -> bool:
    """Worker's side: start on the task; ``False`` if nobody waits for it any more.

    Raises
    ------
    TransportError
        When the table is gone, or can not be opened here.
    """
    memory = _mapped.open(place)
    if _ENTRY.unpack_from(memory, _offset(place.slot))[1] == _CANCELLED:
        return False
    _ENTRY.pack_into(memory, _offset(place.slot), time.monotonic(), pid)
    return True


def mark_waiting(place: Place) -> None:
    """Worker's side: the task was not begun after all."""
    _ENTRY.pack_into(_mapped.open(place), _offset(place.slot), 0.0, 0)


def mark_done(place: Place) -> None:
    """Worker's side: the task is over."""
    _ENTRY.pack_into(_mapped.open(place), _offset(place.slot), 0.0, _DONE)
