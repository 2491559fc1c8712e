"""Finished partitions take no worker: their results are read in the caller when their turn comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmap._carry import Answer, Flight
from pmap.backend import Task

if TYPE_CHECKING:
    from pmap._board import Entry
    from pmap._carry import Carrier
    from pmap._checkpoint._checkpoint import Checkpoint
    from pmap._partition import Partition

__all__ = ["ResumingCarrier"]


class ResumingCarrier:
    """A carrier for the partitions that are left, and a reader for the others.

    Parameters
    ----------
    carrier
        Of the partitions that must run.
    checkpoint
        What is finished; the caller closes it.
    """

    def __init__(self, carrier: Carrier, checkpoint: Checkpoint) -> None:
        self._carrier = carrier
        self._checkpoint = checkpoint
        self._read: set[Flight] = set()

    @property
    def moving_seconds(self) -> float:
        """As the carrier has it."""
        return self._carrier.moving_seconds

    def open(self) -> None:
        """As the carrier does."""
        self._carrier.open()

    def load(self, partition: Partition, attempt: int) -> Flight:
        """A flight of the carrier, or one that reads a file."""
        if not self._checkpoint.has(partition):
            self._checkpoint.note(partition)
            return self._carrier.load(partition, attempt)
        flight = Flight(partition, attempt, Task(self._answer, partition), in_caller=True)
        self._read.add(flight)
        return flight

    def _answer(self, partition: Partition) -> Answer:
        return Answer(self._checkpoint.read(partition), None, None)

    def unload(self, flight: Flight) -> Answer:
        """What was read, or what the carrier has."""
        if flight in self._read:
            answer: Answer = flight.future.result()
            return answer
        return self._carrier.unload(flight)

    def running(self, flight: Flight) -> Entry | None:
        """As the carrier knows; nobody runs what is read."""
        return None if flight in self._read else self._carrier.running(flight)

    def has_started(self, flight: Flight) -> bool:
        """As the carrier knows; what is read is over at once."""
        return flight in self._read or self._carrier.has_started(flight)

    def abandon(self, flight: Flight) -> Entry | None:
        """As the carrier does."""
        return None if flight in self._read else self._carrier.abandon(flight)

    def land(self, flight: Flight) -> None:
        """It is over."""
        if flight in self._read:
            self._read.discard(flight)
        else:
            self._carrier.land(flight)

    def close(self) -> None:
        """Free what the carrier holds."""
        self._carrier.close()
