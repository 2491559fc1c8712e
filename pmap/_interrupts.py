"""Ctrl-C, kept back for the moments in which it would lose what nobody else knows of.

A `KeyboardInterrupt` comes between any two steps of the main thread: a segment that was just
made, a task that was just sent, would belong to nobody. Such steps are short, and are done
inside ``with deferred:``, at whose end the interrupt comes. What takes long in there asks
`give_way` where an exception does no harm.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from threading import get_ident
from threading import main_thread as _main_thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

__all__ = ["Stack", "deferred", "give_way"]

#: The module itself makes enumerations of the answers, which takes ten times as long as all else
#: at the beginning of such a step.
_of_system: Any = getattr(signal, "_signal", signal)
_getsignal: Callable[[int], Any] = _of_system.getsignal
_setsignal: Callable[[int, Any], Any] = _of_system.signal
_SIGINT = int(signal.SIGINT)


class _Deferred:
    """A reentrant context; of the main thread alone, since no other is interrupted.

    To change what the system does at Ctrl-C takes longer than all else here, so that calls
    `hold` on to the change from their beginning to their end.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._holders = 0
        self._handler: Callable[[int, FrameType | None], Any] | None = None
        self._caught: list[FrameType | None] = []

    def __enter__(self) -> None:
        if _in_main_thread():
            self._install()
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        if not _in_main_thread():
            return
        self._depth -= 1
        if self._depth == 0:
            self._uninstall()
            self.give_way()

    def hold(self) -> bool:
        """Stay installed until `release`; whether that is to be called."""
        if not _in_main_thread():
            return False
        self._holders += 1
        self._install()
        return True

    def release(self) -> None:
        """Undo a `hold`, from any thread."""
        self._holders -= 1
        if _in_main_thread() and self._depth == 0:
            self._uninstall()

    def _install(self) -> None:
        found = _getsignal(_SIGINT)
        if callable(found) and found != self._catch:
            self._handler = found
            _setsignal(_SIGINT, self._catch)

    def _uninstall(self) -> None:
        if self._holders == 0 and _getsignal(_SIGINT) == self._catch:
            _setsignal(_SIGINT, self._handler)

    def _catch(self, _: int, frame: FrameType | None) -> None:
        self._caught.append(frame)
        if self._depth == 0:
            self.give_way()

    def give_way(self) -> None:
        """If there was an interrupt, do now what the program does about it."""
        if self._caught and _in_main_thread() and self._handler is not None:
            frame = self._caught.pop()
            self._caught.clear()
            self._handler(signal.SIGINT, frame)


def _in_main_thread() -> bool:
    return get_ident() == _main_thread().ident


deferred = _Deferred()
give_way = deferred.give_way


class Stack(ExitStack):
    """An `ExitStack` all of which is done at its end; meanwhile, it makes `deferred` quick."""

    def __init__(self) -> None:
        super().__init__()
        self._holds = deferred.hold()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None:
        """Close what was entered, in spite of Ctrl-C."""
        try:
            with deferred:
                return super().__exit__(kind, error, traceback)
        finally:
            with deferred:
                super().__exit__(None, None, None)  # what a Ctrl-C just before has left
                if self._holds:
                    self._holds = False
                    deferred.release()
