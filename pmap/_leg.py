"""One backend's part of a call: held from its opening to its close."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING

from pmap import _pools
from pmap._access import is_name, is_of_one_call, open_access
from pmap._bisect import Narrower
from pmap._carry import CallSpec, LocalCarrier
from pmap._figures import figures
from pmap._interrupts import Stack
from pmap._registry import get_backend
from pmap._schedule import Run, in_order
from pmap._window import most_in_flight
from pmap.backend import Locality

if TYPE_CHECKING:
    from collections.abc import Generator

    from pmap._carry import Carrier
    from pmap._checkpoint import Checkpoint
    from pmap._config import Options
    from pmap._looker import Looker
    from pmap._partition import Partition
    from pmap._plan import Plan
    from pmap._schedule import Access, Outcome
    from pmap._work import Work
    from pmap.backend import WorkerSpec

__all__ = ["Leg"]


class Leg:
    """Opens a backend and runs partitions on it.

    Parameters
    ----------
    target
        The backend: a name, or the user's own.
    work, spec, options
        Of the call; `work.partitions` are those of this leg.
    checkpoint
        Of the call, if it has one.
    looker
        Looks at the function while it runs, where that is in this process.
    """

    def __init__(  # noqa: PLR0913  what a leg is made of
        self,
        target: object,
        work: Work,
        spec: WorkerSpec,
        options: Options,
        *,
        checkpoint: Checkpoint | None,
        looker: Looker | None = None,
    ) -> None:
        self._target = target
        self._work = work
        self._spec = spec
        self._options = options
        self._checkpoint = checkpoint
        self._looker = looker
        self._stack = Stack()
        self._is_open = False
        self._cold_since: float | None = None
        self._carrier: Carrier
        self._run: Run
        self.access: Access
        self.start_seconds = 0.0  #: that the workers took to be there, if they were not
        self.begun = math.inf  #: when the first partitions were taken, by `time.perf_counter`

    def open(self) -> None:
        """Get hold of the backend and make all that partitions share; `close` it in any case."""
        if self._is_open:
            return
        self._is_open = True
        self._cold_since = _cold_since(self._target, self._spec)
        self.access = open_access(self._target, self._spec, self._options, self._stack)
        self._carrier = self._make_carrier(self.access)
        self._stack.callback(self._carrier.close)
        self._carrier.open()
        work, keep = self._work, None if self._checkpoint is None else self._checkpoint.keep
        self._run = Run(
            work.partitions,
            self._carrier,
            self.access,
            self._options,
            count=work.n_partitions,
            keep=keep,
        )
        # once more: a Ctrl-C may come between an error and its end
        self._stack.callback(self._run.stop)

    def warm_up(self) -> None:
        """Wait until workers are there, where the backend can start them before they are needed."""
        warm_up = getattr(self.access.backend, "warm_up", None)
        if warm_up is not None:
            warm_up()
            self._note_start(time.time())

    def start(self) -> None:
        """Send as many partitions as workers have use for at once."""
        self._note_begin()
        self._run.start()

    def outcomes(self, *, ordered: bool, first: int) -> Generator[Outcome]:
        """Run it; the index of the `first` partition counts if they shall be `ordered`."""
        self._note_begin()
        narrower = Narrower(self._options, self._error_of)
        last: Outcome | None = None
        outcomes = in_order(self._run, first) if ordered else self._run.outcomes()
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                if outcome.stats is not None:
                    self._note_start(outcome.stats.started)
                if outcome.error is not None and self._run.fail_fast:
                    last = outcome  # the others are stopped first
                    break
                yield narrower(outcome)
        if last is not None:
            yield narrower(last)

    def _error_of(self, partition: Partition, options: Options) -> BaseException | None:
        alone = Run(
            iter([partition]), self._carrier, self.access, options, count=self._work.n_partitions
        )
        (outcome,) = alone.outcomes()
        return outcome.error

    def _note_begin(self) -> None:
        self.begun = min(self.begun, time.perf_counter())

    def _note_start(self, ready: float) -> None:
        if self._cold_since is not None:
            self.start_seconds = max(0.0, ready - self._cold_since)
            self._cold_since = None
            figures.note_start(self.access.name, self.start_seconds)

    @property
    def moving_seconds(self) -> float:
        """What moving data took so far: in the caller, and in each worker on average."""
        return self._carrier.moving_seconds

    def close(self) -> None:
        """Stop what runs, and give everything back."""
        self._stack.close()

    def _make_carrier(self, access: Access) -> Carrier:
        carrier = self._carrier_to(access)
        if self._checkpoint is None:
            return carrier
        from pmap._checkpoint import ResumingCarrier  # noqa: PLC0415  for those who ask for one

        return ResumingCarrier(carrier, self._checkpoint)

    def _carrier_to(self, access: Access) -> Carrier:
        work = self._work
        spec = CallSpec(
            work.function, self._options, work.n_partitions, work.want_frame, work.largest
        )
        capabilities = access.backend.capabilities
        if capabilities.locality is Locality.PROCESS:
            alone = capabilities.n_workers == 1
            return LocalCarrier(spec, alone=alone, looker=self._looker)
        from pmap._carry_away import RemoteCarrier  # noqa: PLC0415  for calls that leave the caller

        slots = most_in_flight(access.backend) + 1  # one for who looks for the rows at fault
        return RemoteCarrier(spec, capabilities, n_slots=slots)

    def put_into(self, plan: Plan) -> Plan:
        """The plan with what the backend really is."""
        capabilities = self.access.backend.capabilities
        capped = self.access.spec is not None and capabilities.owns_workers
        return plan._replace(
            backend=self.access.name,
            n_workers=capabilities.n_workers,
            threads_per_worker=self._spec.threads if capped else None,
        )


def _cold_since(target: object, spec: WorkerSpec) -> float | None:
    """Since when workers of this name start; ``None`` if they are there, or nobody starts any."""
    if not is_name(target):
        return None
    factory = get_backend(str(target))
    return None if is_of_one_call(factory) else _pools.cold_since(factory, spec)
