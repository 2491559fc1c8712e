"""Gates: where functions wait for the test, and the test for them, without a clock."""

from __future__ import annotations

import contextlib
import secrets
import socket
from typing import TYPE_CHECKING, Any

from pmap._context import current_partition

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    import polars as pl

__all__ = ["PATIENCE", "Gate", "Wait", "index_here"]

#: A test that has waited so long for a worker fails. Seconds.
PATIENCE = 20.0


class Gate:
    """Closed until the test opens it; a port, so that it works across processes and machines.

    Parameters
    ----------
    host
        This machine, as workers see it.
    """

    def __init__(self, host: str) -> None:
        self._listener = socket.create_server((host, 0))
        self._listener.settimeout(PATIENCE)
        self._here: list[socket.socket] = []
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.key = secrets.token_bytes(8)  # the port may have been another gate's

    def await_arrivals(self, count: int, futures: Iterable[Future[Any]] = ()) -> set[int]:
        """Wait until so many functions have come; returns the numbers of their partitions.

        `futures` are theirs: what has become of them is told when they do not come.
        """
        arrived: set[int] = set()
        while len(arrived) < count:
            try:
                connection, _ = self._listener.accept()
                connection.settimeout(PATIENCE)
                self._here.append(connection)
                said = connection.recv(12, socket.MSG_WAITALL)
            except TimeoutError:
                raise AssertionError(
                    f"in {PATIENCE} seconds {len(arrived)} of {count} tasks began: {[*futures]}"
                ) from None
            if said.startswith(self.key):
                arrived.add(int.from_bytes(said[8:], "big"))
            else:
                self._here.pop().close()
        return arrived

    def open(self) -> None:
        """Let pass who waits, and who comes later."""
        self._listener.close()
        while self._here:
            self._here.pop().close()


class Wait:
    """A function that waits at a gate on some partitions, and returns them as they are.

    Parameters
    ----------
    gate
        Where to wait.
    *indices
        Of the partitions; of all, if none is named.
    """

    def __init__(self, gate: Gate, *indices: int) -> None:
        self._address, self._key = gate.address, gate.key
        self._indices = indices

    def __call__(self, part: pl.DataFrame) -> pl.DataFrame:
        """Wait, if it is one of them."""
        index = index_here()
        if not self._indices or index in self._indices:
            self._wait(index)
        return part

    def _wait(self, index: int) -> None:
        # An open gate is a port where nobody listens.
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(self._address, 2 * PATIENCE) as door,
        ):
            door.sendall(self._key + index.to_bytes(4, "big"))
            door.recv(1)


def index_here() -> int:
    """The number of the partition that this function runs on."""
    info = current_partition()
    if info is None:
        raise AssertionError("pmap.current_partition() is None inside a function")
    return info.index
