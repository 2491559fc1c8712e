"""Everything in the caller, one partition after the other: for tests and debuggers."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from pmap.backend import Capabilities, Locality

if TYPE_CHECKING:
    from pmap.backend import Task, WorkerSpec

__all__ = ["SerialBackend"]


class SerialBackend:
    """Runs each task as it is submitted."""

    capabilities = Capabilities(locality=Locality.PROCESS, n_workers=1)
    of_one_call = True  #: there is nothing to keep warm

    def __init__(self, spec: WorkerSpec) -> None:
        """`spec` asks for nothing that a loop could give."""

    def submit(self, task: Task) -> Future[Any]:
        """Run the task now."""
        future: Future[Any] = Future()
        try:
            future.set_result(task())
        except Exception as exc:  # noqa: BLE001  Ctrl-C is the caller's and passes
            future.set_exception(exc)
        return future

    def close(self) -> None:
        """Nothing to stop."""
