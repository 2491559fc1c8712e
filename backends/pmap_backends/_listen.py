"""Who listens to the workers of a pool: whoever waits for them, or else a thread.

A thread that listens for others is woken for each message, waits for the GIL, and wakes in turn
who waits for the result, which takes longer than a small task. So a call that waits listens
itself. The thread does it when nobody has for a moment: while the caller is elsewhere, and at
rest, when workers may die.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
from typing import TYPE_CHECKING

from pmap._interrupts import deferred
from pmap._standard import keep_open
from pmap_backends._launch import not_granted

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Listener"]

#: Seconds for which the thread leaves the workers to a call that has just listened.
_ATTENDED = 0.005
#: Seconds after which the thread looks whether anybody still listens.
_STAND_BY = 0.05
#: Seconds for which calls leave the workers to the thread, once several wait for them.
_SHARED = 1.0


class Listener:
    """Hears what workers say, in the thread of who waits or in its own.

    Parameters
    ----------
    hear
        Called with a descriptor that has something to read.
    look
        Called by the thread, every second at least. Neither is called while the other is.
    """

    def __init__(self, hear: Callable[[int], None], look: Callable[[], None]) -> None:
        self._hear = hear
        self._look = look
        self._wake_r, self._wake_w = _pipe()
        # Of the thread, and of who attends: two threads can not use one at the same time.
        self._own_ear, self._ear = select.poll(), select.poll()
        self.register(self._wake_r)
        self._hearing = threading.RLock()
        self._attending = threading.Lock()
        self._attended_until = 0.0  # monotonic seconds
        self._shared_until = 0.0
        self._heard = False  # by the thread, when nobody attended
        self._needed = threading.Event()
        self._stands_by = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Have the thread there."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="pmap-listen", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:
                raise not_granted("start the thread that listens to workers", exc) from exc
            self._thread = thread

    def register(self, fd: int) -> None:
        """Listen to one more; `wake` after it."""
        for ear in (self._own_ear, self._ear):
            ear.register(fd, select.POLLIN)

    def unregister(self, fd: int) -> None:
        """Listen to it no more."""
        for ear in (self._own_ear, self._ear):
            ear.unregister(fd)

    def wake(self) -> None:
        """Have whoever listens look again whom to listen to."""
        os.write(self._wake_w, b"x")

    # Who waits.

    def attend(self, seconds: float) -> bool:
        """Listen here, until something was heard or so many seconds are over.

        ``False``, at once, if that is left to the thread: then the caller waits for its results.
        """
        with deferred:  # what was heard must not be lost by a Ctrl-C
            if self._closed or self._is_shared():
                return False
            try:
                self._attended_until = math.inf
                heard, self._heard = self._heard, False
                self._listen(self._ear, 0 if heard else seconds)
            finally:
                self._attended_until = time.monotonic() + _ATTENDED
                self._attending.release()
            return True

    def _is_shared(self) -> bool:
        """Whether other threads wait too; if not, this one attends from now on."""
        now = time.monotonic()
        if now < self._shared_until:
            return True
        if self._attending.acquire(blocking=False):
            return False
        self._shared_until = now + _SHARED
        self._needed.set()
        return True

    def leave(self) -> None:
        """Have the thread listen: who has attended is elsewhere for a while."""
        self._attended_until = 0.0
        self._needed.set()

    def expect(self) -> None:
        """Somebody will say something: see to it that it is heard, whoever waits for it."""
        if self._stands_by and not self._is_attended():
            self._needed.set()

    def _is_attended(self) -> bool:
        now = time.monotonic()
        return self._shared_until <= now < self._attended_until

    # The thread.

    def _run(self) -> None:
        while not self._closed:
            if self._is_attended():
                self._stand_by()
            else:
                heard = self._listen(self._own_ear, 1.0)
                self._heard = self._heard or heard
                if heard and self._attending.locked():
                    self.wake()  # who attends may wait for what was heard here
            with self._hearing:
                self._look()

    def _stand_by(self) -> None:
        self._stands_by = True
        self._needed.wait(_STAND_BY)
        self._needed.clear()
        self._stands_by = False

    def _listen(self, ear: select.poll, seconds: float) -> bool:
        """Whether a worker said something."""
        # Not for ever: a Ctrl-C would come to nothing.
        if not ear.poll(1000 * seconds) or not self._hearing.acquire(timeout=_STAND_BY):
            return False
        heard = False
        try:
            for fd, _ in () if self._closed else ear.poll(0):  # unless it was heard meanwhile
                if fd == self._wake_r:
                    os.read(fd, 4096)
                else:
                    self._hear(fd)
                    heard = True
        finally:
            self._hearing.release()
        return heard

    def close(self) -> None:
        """Hear nothing any more."""
        self._closed = True
        self._needed.set()
        self.wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)
        with self._hearing:
            os.close(self._wake_r)
            os.close(self._wake_w)


def _pipe() -> tuple[int, int]:
    keep_open()
    try:
        return os.pipe()
    except OSError as exc:
        raise not_granted("make a pipe for a pool of workers", exc) from exc
