"""backend="auto": begin in the caller, and go elsewhere when what is left pays for it.

The first partitions run in the caller, timed, and their results are used, so the function is
never called more often than the job needs, and a small job never waits for a worker. While
one runs, a thread looks at what it does (`_looker`), and where the others are done fastest is
judged (`_judge`). Workers get ready, and begin, behind the back of the function that runs on.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

from pmap._background import quick_turns, start_helper
from pmap._imported import own_imports
from pmap._interrupts import give_way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmap._leg import Leg
    from pmap._partition import Partition

__all__ = ["Ahead", "Gate"]

#: How often who waits for a thread looks up, for Ctrl-C. Seconds.
_TICK = 0.1


class Gate:
    """Partitions for the caller, until those behind it have use for the rest."""

    def __init__(self, partitions: Iterator[Partition]) -> None:
        self._partitions = partitions
        self._lock = threading.Lock()
        self._closed = False
        self.rows = 0  #: of the partition that was taken last
        self.is_exhausted = False

    def __iter__(self) -> Iterator[Partition]:
        return self

    def __next__(self) -> Partition:
        with self._lock:
            if self._closed:
                raise StopIteration
            partition = next(self._partitions, None)
            if partition is None:
                self.is_exhausted = True
                raise StopIteration
            self.rows = partition.rows
            return partition

    def close(self) -> None:
        """Let no more pass."""
        with self._lock:
            self._closed = True


class Ahead:
    """A leg that is opened, and begun, behind the back of the function that runs in the caller.

    Parameters
    ----------
    make
        Makes the leg on a backend.
    gate
        Closed before the leg takes partitions.
    may_begin
        Whether partitions may be taken and sent in another thread than the caller's.
    """

    def __init__(self, make: Callable[[str], Leg], gate: Gate, *, may_begin: bool) -> None:
        self._make = make
        self._gate = gate
        self._may_begin = may_begin
        self._lock = threading.Lock()
        self._leg: Leg | None = None
        self._error: BaseException | None = None
        self._over = threading.Event()
        self._abandoned = False
        self._begun = False

    def start(self, name: str) -> None:
        """Begin in a thread, unless that was done."""
        with self._lock:
            begun = self._begun
        if not begun and start_helper("pmap-ahead", self.begin, name) is None:
            self.begin(name)

    def begin(self, name: str) -> None:
        """Get workers ready, and send them what they have use for."""
        with self._lock:
            if self._begun or self._abandoned:
                return
            self._begun = True
        leg = self._make(name)
        try:
            with quick_turns(), own_imports():
                self._open(leg)
        except BaseException as exc:  # noqa: BLE001  raised again in the caller
            self._error = exc
        self._gate.close()
        with self._lock:
            self._leg = leg
            abandoned = self._abandoned
            self._over.set()
        if abandoned:
            leg.close()

    def _open(self, leg: Leg) -> None:
        leg.open()
        leg.warm_up()
        if self._may_begin and not self._abandoned:
            self._gate.close()
            leg.start()

    def take(self) -> Leg:
        """The leg, once it is ready.

        Raises
        ------
        BaseException
            What opening it has raised.
        """
        while not self._over.wait(_TICK):  # timed, for Ctrl-C
            give_way()
        if self._error is not None:
            raise self._error
        return cast("Leg", self._leg)

    def close(self) -> None:
        """Close the leg, now or, if it is not open yet, as soon as it is."""
        with self._lock:
            self._abandoned = True
            leg = self._leg
        if leg is not None:
            leg.close()
