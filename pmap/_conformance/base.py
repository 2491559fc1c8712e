"""What the parts of the suite share: the backend under test, and what it claims to be."""

from __future__ import annotations

import contextlib
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import pmap
from pmap._access import open_access
from pmap._config import resolve
from pmap._conformance.gate import Gate
from pmap._conformance.loop import assert_equal_to_loop
from pmap._conformance.samples import add, plain
from pmap._plan import plan_workers
from pmap.backend import Backend, Locality
from pmap.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Generator

    import polars as pl

    from pmap._conformance.samples import Function
    from pmap.backend import Capabilities, WorkerSpec

__all__ = ["Base"]


class Base:
    """Maps on the backend under test, and reasons to skip."""

    backend: ClassVar[Any]
    n_jobs: ClassVar[int]
    host: ClassVar[str]

    _target: ClassVar[Any]  #: what maps get as `backend=`
    _spec: ClassVar[WorkerSpec]
    _capabilities: ClassVar[Capabilities]

    @classmethod
    def setup_class(cls) -> None:
        """Make the backend, where it is given as a factory."""
        if not hasattr(cls, "backend"):
            raise TypeError(
                f"{cls.__name__}.backend is missing: give a name, a factory or an object"
            )
        cls._spec, _ = plan_workers(resolve(n_jobs=cls.n_jobs), None, 0)
        try:
            cls._target = cls._make() if cls._is_factory() else cls.backend
            with cls._opened() as backend:
                cls._capabilities = backend.capabilities
        except MissingDependencyError as exc:
            pytest.skip(str(exc))

    @classmethod
    def teardown_class(cls) -> None:
        """Leave no worker behind."""
        if cls._is_factory() and hasattr(cls, "_target"):
            _close(cls._target)
        pmap.shutdown()

    @classmethod
    def _is_factory(cls) -> bool:
        if isinstance(cls.backend, type):
            return True
        return callable(cls.backend) and not isinstance(cls.backend, Backend | Executor)

    @classmethod
    def _make(cls) -> Any:
        factory = pmap.get_backend(cls.backend) if isinstance(cls.backend, str) else cls.backend
        return factory(cls._spec)

    @classmethod
    @contextlib.contextmanager
    def _opened(cls) -> Generator[Backend]:
        """The backend that maps use, as the core sees it."""
        with contextlib.ExitStack() as stack:
            yield open_access(cls._target, cls._spec, resolve(), stack).backend

    @classmethod
    @contextlib.contextmanager
    def _fresh(cls) -> Generator[Backend]:
        """A backend that no map uses, for the test to close."""
        if not isinstance(cls.backend, str) and not cls._is_factory():
            pytest.skip("the backend is given as an object, which nothing here may close")
        made = cls._make()
        try:
            if not isinstance(made, Backend):
                pytest.skip(f"a {type(made).__name__} is the user's: pmap never closes it")
            yield made
        finally:
            _close(made)

    @pytest.fixture
    def gate(self) -> Generator[Gate]:
        """Where functions wait; open at the end, whatever happens."""
        gate = Gate(self.host)
        yield gate
        gate.open()

    # Maps. Advice would be a failure where warnings are errors, and here nothing shall be quick.

    @pytest.fixture(autouse=True)
    def _no_advice(self) -> Generator[None]:
        with pmap.config(advise="off"):
            yield

    def _map(self, frame: Any, function: Function, **options: Any) -> pl.DataFrame:
        return pmap.map_partitions(
            frame, function, backend=self._target, n_jobs=self.n_jobs, **options
        )

    def _iterate(self, frame: Any, function: Function, **options: Any) -> Generator[Any]:
        return pmap.iter_partitions(
            frame, function, backend=self._target, n_jobs=self.n_jobs, **options
        )

    def _check(self, frame: Any, function: Function, **options: Any) -> pl.DataFrame:
        return assert_equal_to_loop(
            frame, function, backend=self._target, n_jobs=self.n_jobs, **options
        )

    def _check_usable(self) -> None:
        """Whatever has happened, the next map works."""
        self._check(plain(), add, n_partitions=4)

    # What the backend does not claim.

    @property
    def _is_elsewhere(self) -> bool:
        """Whether workers are other processes."""
        return self._capabilities.locality is not Locality.PROCESS

    def _need_other_processes(self) -> None:
        if not self._is_elsewhere:
            pytest.skip("workers are in this process, where nothing is pickled")

    def _need_this_machine(self) -> None:
        if self._capabilities.locality is Locality.CLUSTER:
            pytest.skip("workers may be on other machines, where their output stays")

    def _need_own_processes(self) -> None:
        owned = self._capabilities.killable or self._capabilities.owns_workers
        if self._capabilities.locality is not Locality.MACHINE or not owned:
            pytest.skip("workers are not processes of this backend's own on this machine")

    def _need_two_workers(self) -> None:
        if self._capabilities.n_workers < 2:  # noqa: PLR2004
            pytest.skip("one worker: nothing runs at the same time")

    def _need_workers(self) -> None:
        if not self._is_elsewhere and self._capabilities.n_workers == 1:
            pytest.skip("one worker in this process: it may run each task as it is submitted")


def _close(made: Any) -> None:
    if isinstance(made, Executor):
        made.shutdown()
    elif hasattr(made, "close"):
        made.close()
