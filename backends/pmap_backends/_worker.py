"""One worker of a pool of ours, and the tasks that it was given."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from pmap_backends._link import HAS_INBOX, LONGEST

if TYPE_CHECKING:
    from pmap.backend import Task
    from pmap_backends._item import Item
    from pmap_backends._launch import WorkerProcess

__all__ = ["BRIEF_AHEAD", "Worker"]

#: Tasks that wait in a worker behind the one that it runs; the same of brief ones, and the bytes of each
#: of these at most: together there must be room for them. Where they could not be taken back none waits.
_AHEAD, BRIEF_AHEAD = (1, 7) if HAS_INBOX else (0, 0)
_BRIEF_BYTES = 8 * 1024


class Worker:
    """One process, and what it was given."""

    def __init__(self, process: WorkerProcess, max_tasks: int | None) -> None:
        self.process = process
        self.ready = False
        self.started = time.monotonic()
        self.items: deque[Item] = deque()  #: what it runs, and what was sent ahead
        self.begun = 0  #: how many tasks of the pool were over when it began what it runs
        self._left = max_tasks

    @property
    def exhausted(self) -> bool:
        """Whether it has had all the tasks it may have."""
        return self._left == 0

    @property
    def is_free(self) -> bool:
        """Whether it has nothing to do, and may be given something."""
        return self.ready and not self.items and not self.exhausted

    def has_room_for(self, task: Task) -> bool:
        """Whether the task may be sent ahead; to one that has something to do."""
        if self.exhausted or max(len(task.payload), len(self.items[-1].task.payload)) > LONGEST:
            return False  # what does not come through the inbox alone can not be taken back
        is_brief = task.is_brief and len(task.payload) <= _BRIEF_BYTES
        return len(self.items) <= (BRIEF_AHEAD if is_brief else _AHEAD)

    def give(self, item: Item, n_over: int) -> bool:
        """Send its payload; whether there was room for it."""
        is_sent = self.process.link.send(item.task.payload, item.number)
        if not is_sent and self.items:
            return False
        if not self.items:
            self.begun = n_over
        self.items.append(item)
        if self._left is not None:
            self._left -= 1
        if not is_sent:  # the system grants none: its end is heard, and another one is tried
            self.process.kill()
        return True

    def take_back(self) -> list[Item]:
        """What was sent ahead and it has not read yet."""
        if len(self.items) <= 1:  # that is what it runs
            return []
        numbers = self.process.link.take_back()
        taken = [item for item in self.items if item.number in numbers]
        for item in taken:
            self.items.remove(item)
        if self._left is not None:
            self._left += len(taken)
        return taken

    def finish(self, n_over: int) -> Item | None:
        """What it has run: its reply is there."""
        self.begun = n_over
        return self.items.popleft() if self.items else None
