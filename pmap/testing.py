"""The conformance suite for authors of backends; needs pytest.

A module among the author's tests is enough::

    import pmap.testing

    class TestMine(pmap.testing.BackendConformance):
        backend = "mine"

pytest then runs the whole suite on it: the three members of the contract, as `pmap.backend`
states it, and what `map_partitions` and `iter_partitions` promise on top of them. What the
backend does not claim by its `capabilities` is skipped, with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import pytest
except ImportError as exc:
    raise ImportError(
        "pmap.testing needs pytest, which is not installed: pip install pytest"
    ) from exc

# Before the import, so that a failed assertion shows its values.
pytest.register_assert_rewrite("pmap._conformance")

from pmap._conformance.contract import Contract  # noqa: E402
from pmap._conformance.failures import Failures  # noqa: E402
from pmap._conformance.frames import Frames  # noqa: E402
from pmap._conformance.functions import Functions  # noqa: E402
from pmap._conformance.loop import assert_equal_to_loop  # noqa: E402
from pmap._conformance.order import Order  # noqa: E402
from pmap._conformance.surroundings import Surroundings  # noqa: E402

if TYPE_CHECKING:
    from typing import Any, ClassVar

__all__ = ["BackendConformance", "assert_equal_to_loop"]


class BackendConformance(Contract, Functions, Frames, Order, Failures, Surroundings):
    """All tests that a backend must pass, to be inherited by a class that pytest collects.

    Attributes
    ----------
    backend : str, callable or object
        To be set by the subclass. A name of `pmap.available_backends`; or a factory, a
        callable from a `pmap.backend.WorkerSpec` to whatever `backend=` takes, which is
        closed after the last test; or such an object itself, which stays open.
    n_jobs : int
        Workers, 2 by default. With fewer, tests of what runs at the same time are skipped.
    host : str
        Address of this machine as workers see it: some tests wait for workers, which
        connect to a port of it. "127.0.0.1" by default.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> import pmap.testing
    >>> class TestByName(pmap.testing.BackendConformance):
    ...     backend = "threads"
    >>> class TestExecutor(pmap.testing.BackendConformance):
    ...     backend = staticmethod(lambda spec: ThreadPoolExecutor(spec.n_workers))
    """

    backend: ClassVar[Any]
    n_jobs: ClassVar[int] = 2
    host: ClassVar[str] = "127.0.0.1"
