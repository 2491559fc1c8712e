"""How many partitions are in flight at the same time: enough to keep workers busy, as memory allows.

One may wait in each worker, behind the one that it runs: it need not wait then until the caller has heard
of that one and sent another. Of brief ones there may be a few, so that the caller, which takes as long as
a worker for so small a partition, is not woken for each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pmap._resources import available_memory, open_files_limit
from pmap.backend import Locality

if TYPE_CHECKING:
    from collections.abc import Collection

    from pmap._carry import Flight
    from pmap._config import Options
    from pmap._partition import Partition
    from pmap._wire import Stats
    from pmap.backend import Backend

__all__ = ["Window", "most_in_flight"]

#: Copies of a partition that are there while it is in flight: sent, at work, and come back.
_COPIES = 3
#: Partitions up to this size need no room worth asking for: bytes.
_SMALL = 64 * 1024
#: Of partitions from this size on one is ready for workers that finish, and no more: bytes. It is
#: copied in less time than they take, and each more would only take up memory.
_LARGE = 8 * 1024 * 1024
#: A partition that takes less in its worker, with all that it is sent and sends, is brief. Seconds.
_BRIEF = 0.002
#: And takes no more bytes to the worker.
_SHORT = 6 * 1024
#: So many of them in a row promise that the next are brief too.
_IN_A_ROW = 16
#: So many in flight are enough for a caller, however many workers it has: each takes a descriptor, of
#: which no more than this part of all there may be are taken.
_ENOUGH, _OF_DESCRIPTORS = 64, 1 / 8


def most_in_flight(backend: Backend) -> int:
    """How many flights there are at most, which is when all are brief."""
    size, ahead = _size(backend), backend.capabilities.sends_ahead
    limit = min(_ENOUGH, int(open_files_limit() * _OF_DESCRIPTORS))
    return max(size, min(limit, (1 + ahead) * size))


def _size(backend: Backend) -> int:
    """How many flights keep all workers busy while the caller does something else."""
    capabilities = backend.capabilities
    if capabilities.n_workers == 1 and capabilities.locality is Locality.PROCESS:
        return 1
    return 2 * capabilities.n_workers + 1


class Window:
    """Room for flights on one backend.

    One long partition ends a row of brief ones: what waits behind it has to be taken back.

    Parameters
    ----------
    backend
        Where they are to go.
    options
        `memory_limit` is what each worker may take.
    count
        Partitions that there are; of a stream no more are read ahead if they are brief.
    """

    def __init__(self, backend: Backend, options: Options, count: int | None) -> None:
        capabilities = backend.capabilities
        self.size = _size(backend)  #: flights, unless they are brief
        self._most = self.size if count is None else most_in_flight(backend)
        self._in_a_row = 0  # brief ones, the latest
        # where data are copied in no time
        on_machine = capabilities.locality is Locality.MACHINE
        self._n_at_work = capabilities.n_workers if on_machine else self.size
        self._budget = _budget(options, capabilities.n_workers)

    @property
    def room(self) -> int:
        """Flights that there may be now."""
        return self._most if self._are_brief else self.size

    def may_go_ahead(self, partition: Partition) -> bool:
        """Whether it should be brief, as those before it."""
        return self._are_brief and partition.n_bytes <= _SMALL

    @property
    def _are_brief(self) -> bool:
        return self._in_a_row >= _IN_A_ROW

    def note(self, partition: Partition, stats: Stats | None) -> None:
        """Of a partition that has come back, or was lost with its worker."""
        is_brief = (
            stats is not None
            and stats.finished - stats.started < _BRIEF
            and stats.bytes_in <= _SHORT
            and partition.n_bytes <= _SMALL
        )
        self._in_a_row = self._in_a_row + 1 if is_brief else 0

    def has_room_for(self, partition: Partition, flights: Collection[Flight]) -> bool:
        """Whether memory is enough for one more; one alone always has a try."""
        if partition.n_bytes <= _SMALL:
            return True
        if partition.n_bytes >= _LARGE and len(flights) > self._n_at_work:
            return False
        in_flight = sum(flight.partition.n_bytes for flight in flights)
        return not in_flight or _COPIES * (in_flight + partition.n_bytes) <= self._budget


def _budget(options: Options, n_workers: int) -> float:
    """Bytes that partitions in flight may take up, all their copies together."""
    limits = [available_memory() or math.inf]
    if options.memory_limit is not None:
        limits.append(options.memory_limit * n_workers)
    return min(limits)
