"""Threads that help, where the system grants them.

`ulimit -u` and the limits of containers count threads as they do processes.
"""

from __future__ import annotations

import _thread
import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["start_helper", "start_unseen"]


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
