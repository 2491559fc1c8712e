"""The three members of the contract, without the core's schedule on top."""

# ruff: noqa: S101  tests assert

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from pmap._carry import CallSpec, LocalCarrier
from pmap._carry_away import RemoteCarrier
from pmap._config import resolve
from pmap._conformance.base import Base
from pmap._conformance.gate import PATIENCE, Wait
from pmap._conformance.samples import plain
from pmap._partition import Partition
from pmap.backend import Backend, Capabilities, Locality

if TYPE_CHECKING:
    import polars as pl

    from pmap._carry import Carrier, Flight
    from pmap._conformance.gate import Gate
    from pmap._conformance.samples import Function

__all__ = ["Contract"]


def _number(part: pl.DataFrame) -> int:
    return int(part["x"].item())


class _Flights:
    """Tasks as the core makes them, each for one row of a frame, submitted by hand."""

    def __init__(self, backend: Backend, function: Function, count: int) -> None:
        self._backend = backend
        self._carrier = _carrier(backend.capabilities, function, count)
        frame = plain(count)
        self._loaded = [
            self._carrier.load(Partition(i, i, 1, frame, 10.0), 0) for i in range(count)
        ]

    def submit(self, index: int) -> Flight:
        flight = self._loaded[index]
        flight.future = self._backend.submit(flight.task)
        return flight

    def submit_all(self) -> list[Flight]:
        return [self.submit(index) for index in range(len(self._loaded))]

    @property
    def futures(self) -> list[Future[Any]]:
        return [flight.future for flight in self._loaded]

    def value(self, flight: Flight) -> Any:
        flight.future.result(PATIENCE)
        answer = self._carrier.unload(flight)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def values(self, flights: list[Flight]) -> list[Any]:
        return [self.value(flight) for flight in flights]


def _carrier(capabilities: Capabilities, function: Function, count: int) -> Carrier:
    call = CallSpec(function, resolve(), count, want_frame=False)
    if capabilities.locality is Locality.PROCESS:
        return LocalCarrier(call)
    carrier = RemoteCarrier(call, capabilities, n_slots=count)
    carrier.open()
    return carrier


class Contract(Base):
    """Capabilities, submit, close."""

    def test_capabilities_are_sane(self) -> None:
        """They say where workers are, and how many."""
        with self._opened() as backend:
            assert isinstance(backend, Backend)
            assert isinstance(backend.capabilities, Capabilities)
            assert isinstance(backend.capabilities.locality, Locality)
            assert backend.capabilities.n_workers >= 1

    def test_capabilities_stay(self) -> None:
        """They do not change while the backend lives."""
        with self._opened() as backend:
            before = backend.capabilities
            self._check_usable()
            assert backend.capabilities == before

    def test_futures_have_what_tasks_return(self) -> None:
        """`submit` returns a `concurrent.futures.Future`."""
        with self._opened() as backend:
            flights = _Flights(backend, _number, 6)
            flying = flights.submit_all()
            assert all(isinstance(flight.future, Future) for flight in flying)
            assert flights.values(flying) == list(range(6))

    def test_submit_returns_at_once(self, gate: Gate) -> None:
        """`submit` does not wait for a task, not even when all workers are busy."""
        self._need_workers()
        with self._opened() as backend:
            flights = _Flights(backend, Wait(gate), 2 * backend.capabilities.n_workers + 1)
            flying = flights.submit_all()
            assert not any(flight.future.done() for flight in flying)
            gate.open()
            assert len(flights.values(flying)) == len(flying)

    def test_workers_work_at_the_same_time(self, gate: Gate) -> None:
        """So many tasks run at once as the capabilities say."""
        self._need_two_workers()
        with self._opened() as backend:
            count = min(backend.capabilities.n_workers, 4)
            flights = _Flights(backend, Wait(gate), count)
            flying = flights.submit_all()
            assert gate.await_arrivals(count, flights.futures) == set(range(count))
            gate.open()
            assert len(flights.values(flying)) == count

    def test_a_long_task_holds_up_no_other(self, gate: Gate) -> None:
        """A task never waits for a busy worker while another worker is free."""
        self._need_two_workers()
        with self._opened() as backend:
            short = _Flights(backend, _number, 40)
            assert short.values(short.submit_all()) == list(range(40))
            count = 5 * backend.capabilities.n_workers
            flights = _Flights(backend, Wait(gate, 0), count)
            long, *others = flights.submit_all()
            assert len(flights.values(others)) == count - 1
            assert not long.future.done()
            gate.open()
            assert flights.value(long)["x"].item() == 0

    def test_threads_may_submit(self) -> None:
        """`submit` is safe to call from several threads."""
        with self._opened() as backend, ThreadPoolExecutor(4) as threads:
            flights = _Flights(backend, _number, 40)
            flying = list(threads.map(flights.submit, range(40)))
            assert flights.values(flying) == list(range(40))

    def test_waiting_futures_can_be_cancelled(self, gate: Gate) -> None:
        """What was cancelled does not keep the rest from being done."""
        self._need_workers()
        with self._opened() as backend:
            flights = _Flights(backend, Wait(gate), 4 * backend.capabilities.n_workers + 4)
            *flying, last = flights.submit_all()
            gate.await_arrivals(1, flights.futures)
            assert last.future.cancel()
            gate.open()
            assert last.future.cancelled()
            assert len(flights.values(flying)) == len(flying)

    def test_close_is_idempotent(self) -> None:
        """`close` may be called again, and before the first task."""
        with self._fresh() as backend:
            backend.close()
            backend.close()

    def test_submit_after_close_raises(self) -> None:
        """A closed backend takes no tasks."""
        self._need_workers()
        with self._fresh() as backend:
            flights = _Flights(backend, _number, 2)
            assert flights.value(flights.submit(0)) == 0
            backend.close()
            with pytest.raises(RuntimeError):  # as executors do; a BackendError is one
                flights.submit(1)

    def test_close_leaves_no_future_pending(self, gate: Gate) -> None:
        """`close` ends what runs and what waits, so that nobody waits for ever."""
        self._need_workers()
        with self._fresh() as backend:
            flights = _Flights(backend, Wait(gate), 4 * backend.capabilities.n_workers + 4)
            flying = flights.submit_all()
            gate.await_arrivals(1, flights.futures)
            flying[-2].future.cancel()
            backend.close()
            gate.open()  # threads can not be stopped
            for flight in flying:
                with contextlib.suppress(BaseException):
                    flight.future.exception(PATIENCE)
            assert all(flight.future.done() for flight in flying)
