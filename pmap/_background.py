"""Threads that help, where the system grants them.

`ulimit -u` and the limits of containers count threads as they do processes.
"""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["quick_turns", "start_helper", "start_unseen"]

#: Seconds after which who computes gives the GIL to a helper that has many short things to do.
_QUICK = 0.0002


def start_helper(
    name: str, target: Callable[..., object], *args: object
) -> threading.Thread | None:
    """A daemon thread that runs `target`; ``None`` where no more threads are granted."""
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    with contextlib.suppress(RuntimeError):
        thread.start()
        return thread
    return None


def start_unseen(target: Callable[[], object]) -> None:
    """Run `target` in a thread that nobody waits for, not even until it is there; or not at all.

    `Thread.start` waits until the thread runs, which on a busy machine takes a millisecond.
    """
    with contextlib.suppress(RuntimeError):
        _thread.start_new_thread(target, ())


_turns = threading.Lock()
_n_quick, _usual = 0, 0.0


@contextlib.contextmanager
def quick_turns() -> Generator[None]:
    """Have threads take the GIL in quick turns, while a helper works beside a function that computes.

    Each file that an import opens gives the GIL away, and to have it back takes a turn of the other
    thread's: with turns of 5 ms, what takes 25 ms alone takes half a second.
    """
    global _n_quick, _usual  # noqa: PLW0603  of the whole process, as the interval is
    with _turns:
        if not _n_quick:
            _usual = sys.getswitchinterval()
            sys.setswitchinterval(min(_usual, _QUICK))
        _n_quick += 1
    try:
        yield
    finally:
        with _turns:
            _n_quick -= 1
            if not _n_quick:
                sys.setswitchinterval(_usual)
