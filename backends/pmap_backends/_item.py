"""A task in a pool of ours, from `submit` to its result."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from pmap.errors import BackendError

if TYPE_CHECKING:
    from pmap.backend import Task

__all__ = ["Item"]


class Item:
    """A task that waits or runs, and its future; numbered as they come, where that is of use."""

    def __init__(self, task: Task, number: int = 0) -> None:
        self.task = task
        self.number = number
        self.future: Future[Any] = Future()

    def claim(self) -> bool:
        """Whether it still is to run; from then on it can not be cancelled."""
        return self.future.running() or self.future.set_running_or_notify_cancel()

    def drop(self) -> None:
        """It will not run, as the pool is closed."""
        if not self.future.cancel() and not self.future.done():
            self.future.set_exception(BackendError("the pool was closed before this ran"))
