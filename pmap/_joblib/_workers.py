"""The pool of processes that a Parallel object uses, and what is done in each of them first."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import cloudpickle

from pmap import _pages, _pools
from pmap._function import dump_function
from pmap._joblib._body import Layout, inline, is_short, load, placed
from pmap._registry import get_backend
from pmap._resources import cpu_count
from pmap._wire import digest_of
from pmap.backend import THREAD_VARIABLES, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pmap._joblib._body import Body
    from pmap._joblib._options import JoblibOptions
    from pmap._segment import Segment
    from pmap.backend import Backend

__all__ = ["Setup", "SetupRef", "Workers", "prepare"]

#: Lets TBB's schedulers of several processes agree on how many threads they take; joblib sets it too.
_TBB = "ENABLE_IPC"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spec(WorkerSpec):
    """Workers with these very variables, for tasks with this very initializer.

    Parameters
    ----------
    variables
        Of their environment.
    initializer
        The digest of one.
    """

    variables: tuple[tuple[str, str], ...] = ()
    initializer: bytes = b""

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """As joblib has it: what the user has set stays, unless `inner_max_num_threads` is given."""
        return {**(os.environ if base is None else base), **dict(self.variables)}


def _variables(threads: int, *, given: bool) -> tuple[tuple[str, str], ...]:
    wanted = dict.fromkeys(THREAD_VARIABLES, str(threads))
    if not given:
        wanted = {name: os.environ.get(name, value) for name, value in wanted.items()}
    return (*wanted.items(), (_TBB, os.environ.get(_TBB, "1")))


class Setup(NamedTuple):
    """What makes a worker ready for the tasks of a call; done once in each.

    Attributes
    ----------
    authkey
        By which `multiprocessing`'s managers know their own: proxies in arguments need it.
    """

    sys_path: tuple[str, ...]
    cwd: str | None
    authkey: bytes
    initializer: bytes | None


class SetupRef(NamedTuple):
    """A `Setup`, pickled, and the digest by which workers know whether they are set up for it."""

    digest: bytes
    body: Body


class Workers:
    """A lease of a warm pool, and what its workers are told first."""

    def __init__(self, n_jobs: int, options: JoblibOptions) -> None:
        threads = options.inner_max_num_threads or max(1, cpu_count() // n_jobs)
        initializer = _initializer(options)
        spec = _Spec(
            n_workers=n_jobs,
            threads=threads,
            max_tasks_per_child=options.max_tasks_per_child,
            variables=_variables(threads, given=options.inner_max_num_threads is not None),
            initializer=b"" if initializer is None else digest_of(initializer),
        )
        self._segment: Segment | None = None
        self.setup = self._refer(_setup(initializer), options.kind)
        factory = get_backend(options.start)
        _pools.prepare(factory, spec, options.idle_timeout)  # which may take a while
        self._lease = _pools.lease(factory, spec, options.idle_timeout)
        self.backend: Backend = self._lease.__enter__()

    def _refer(self, data: bytes, kind: str) -> SetupRef:
        """Arguments of an initializer may be large; each batch says again where they are."""
        if is_short(data, []):
            return SetupRef(digest_of(data), inline(data, []))
        self._segment = _pages.take(kind, len(data))
        layout = Layout()
        body = placed(data, [], layout, self._segment.shared)
        self._segment.write(layout.pieces, layout.size)
        return SetupRef(body.digest, body)

    def close(self) -> None:
        """Leave the pool to others."""
        self._lease.__exit__(None, None, None)
        if self._segment is not None:
            _pages.give_back(self._segment)
            self._segment = None


def _initializer(options: JoblibOptions) -> bytes | None:
    if options.initializer is None:
        return None
    call = options.initializer, options.initargs
    return dump_function(call, _dumps)


def _dumps(value: object) -> bytes:
    data: bytes = cloudpickle.dumps(value)
    return data


def _setup(initializer: bytes | None) -> bytes:
    try:
        folder = os.getcwd()
    except OSError:
        folder = None  # it was deleted
    key = bytes(multiprocessing.current_process().authkey)
    setup = Setup(tuple(map(str, sys.path)), folder, key, initializer)
    return pickle.dumps(setup, pickle.HIGHEST_PROTOCOL)


# In the worker.

_initialized: set[bytes] = set()
_latest = b""


def prepare(setup: SetupRef) -> None:
    """Worker's side: do what is to be done before the first task, unless it was."""
    global _latest  # noqa: PLW0603  what this process is set up for
    if setup.digest == _latest:
        return
    told = cast("Setup", load(setup.body))
    _adopt(told)
    if told.initializer is not None and digest_of(told.initializer) not in _initialized:
        initializer, arguments = pickle.loads(told.initializer)  # noqa: S301  of our caller
        initializer(*arguments)
        _initialized.add(digest_of(told.initializer))
    _latest = setup.digest


def _adopt(setup: Setup) -> None:
    """Modules and relative paths mean here what they mean in the caller."""
    sys.path[:] = [*setup.sys_path, *(path for path in sys.path if path not in setup.sys_path)]
    importlib.invalidate_caches()  # a module may have been written a moment ago
    multiprocessing.current_process().authkey = setup.authkey
    if setup.cwd is not None and os.path.isdir(setup.cwd):
        os.chdir(setup.cwd)
