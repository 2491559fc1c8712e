"""Who maps: a loop, pools and pmap, each as its own documentation says.

Every contender is given the same parts. Its workers stay from call to call, if it can keep them.
"""

from __future__ import annotations

import itertools
import multiprocessing
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    #: From a part, or a whole frame, to a frame.
    Function = Callable[[pl.DataFrame], pl.DataFrame]

__all__ = [
    "LOCAL_BACKENDS",
    "Contender",
    "Dask",
    "Joblib",
    "Loky",
    "Loop",
    "Mpire",
    "Placed",
    "Pmap",
    "Processes",
    "Ray",
    "Setting",
    "SpawnPool",
    "Threads",
    "is_there",
    "joined",
    "slices",
]

LOCAL_BACKENDS = ("serial", "threads", "forkserver", "spawn", "loky", "dask", "joblib")


def slices(frame: pl.DataFrame, n: int) -> list[pl.DataFrame]:
    """Cut into `n` contiguous parts, fewer if there are fewer rows."""
    n = max(1, min(n, frame.height))
    bounds = [frame.height * i // n for i in range(n + 1)]
    return [frame.slice(a, b - a) for a, b in itertools.pairwise(bounds)]


@dataclass(frozen=True)
class Setting:
    """What every contender of a workload is told.

    Attributes
    ----------
    workers
        How many it may have.
    partitions
        How many parts `split` cuts a frame into.
    split
        How a frame is cut.
    pmap_split
        The same, as arguments of `pmap.map_partitions`.
    """

    workers: int
    partitions: int
    split: Callable[[pl.DataFrame, int], list[pl.DataFrame]] = slices
    pmap_split: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def parts(self, frame: pl.DataFrame) -> list[pl.DataFrame]:
        """The parts of a frame."""
        return self.split(frame, self.partitions)

    def alone(self) -> Setting:
        """Of one worker, which has its share of the parts."""
        return replace(self, workers=1, partitions=max(1, self.partitions // self.workers))


class Contender(Protocol):
    """Who maps a function over a frame, again and again until it is closed."""

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        ...

    def close(self) -> None:
        """Stop all that it has started."""
        ...


def joined(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """One frame of those that came back, none of them copied."""
    return pl.concat(frames, rechunk=False)


class Loop:
    """The function on one part after the other."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        return joined([function(part) for part in self._setting.parts(frame)])

    def close(self) -> None:
        """Nothing is left."""


class Pmap:
    """pmap on a backend; ``"auto"`` with all that is pmap's to choose left to it."""

    def __init__(self, setting: Setting, backend: str = "spawn", **config: Any) -> None:
        self._config = config
        self._arguments: dict[str, Any] = {
            "backend": backend,
            "n_jobs": setting.workers,
            **setting.pmap_split,
        }
        if backend != "auto" and not setting.pmap_split:
            self._arguments["n_partitions"] = setting.partitions

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        import pmap  # noqa: PLC0415  as the other contenders: a cold call pays for it

        with pmap.config(**self._config):
            return pmap.map_partitions(frame, function, **self._arguments)

    def close(self) -> None:
        """Stop the workers."""
        import pmap  # noqa: PLC0415  as above

        pmap.shutdown()


class _OnExecutor:
    """`Executor.map` over the parts."""

    def __init__(self, setting: Setting, executor: Executor) -> None:
        self._setting = setting
        self._executor = executor

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        return joined(self._executor.map(function, self._setting.parts(frame)))

    def close(self) -> None:
        """Stop the workers."""
        self._executor.shutdown()


class Threads(_OnExecutor):
    """Threads of the caller."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, ThreadPoolExecutor(setting.workers))


class Processes(_OnExecutor):
    """`ProcessPoolExecutor`, started by spawn: fork hangs once Polars has threads."""

    def __init__(self, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        super().__init__(setting, ProcessPoolExecutor(setting.workers, context))


class Loky(_OnExecutor):
    """loky's executor, which is used again."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, _foreign("loky").get_reusable_executor(setting.workers))


class SpawnPool:
    """`multiprocessing.Pool`, started by spawn."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._pool = multiprocessing.get_context("spawn").Pool(setting.workers)

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        return joined(self._pool.map(function, self._setting.parts(frame), chunksize=1))

    def close(self) -> None:
        """Stop the workers."""
        self._pool.terminate()
        self._pool.join()


class Joblib:
    """`Parallel` in its own context, so that its workers stay; a bound argument as an argument."""

    def __init__(self, setting: Setting, backend: str | None = None) -> None:
        joblib = _foreign("joblib")
        if backend == "pmap":
            _foreign("pmap").register_joblib_backend()
        self._setting = setting
        self._delayed = joblib.delayed
        self._parallel = joblib.Parallel(n_jobs=setting.workers, backend=backend).__enter__()

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        function, bound = _unbound(function)
        call = self._delayed(function)
        return joined(self._parallel(call(*bound, part) for part in self._setting.parts(frame)))

    def close(self) -> None:
        """Stop the workers."""
        self._parallel.__exit__(None, None, None)


class Mpire:
    """mpire's pool, kept alive; a bound argument is shared among its tasks."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        mpire = _foreign("mpire")
        self._pool = mpire.WorkerPool(setting.workers, start_method="spawn", keep_alive=True)
        self._shared: tuple[Any, ...] = ()

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        plain, bound = _unbound(function)
        task = partial(_with_shared, plain) if bound else plain
        if bound is not self._shared:
            self._shared = bound
            self._pool.set_shared_objects(bound or None)
        tasks = [(part,) for part in self._setting.parts(frame)]
        return joined(self._pool.map(task, tasks, chunk_size=1))

    def close(self) -> None:
        """Stop the workers."""
        self._pool.terminate()


def _with_shared(
    function: Callable[..., pl.DataFrame], shared: tuple[Any, ...], part: pl.DataFrame
) -> pl.DataFrame:
    return function(*shared, part)


class Placed:
    """A bound argument in a cluster's store: put there once, and named by each task."""

    def __init__(self, put: Callable[[Any], Any]) -> None:
        self._put = put
        self._function: Callable[..., Any] | None = None
        self._known: tuple[Callable[..., Any], list[Any]]

    def __call__(self, function: Function) -> tuple[Callable[..., Any], list[Any]]:
        """The function, and what names its arguments."""
        if function is not self._function:
            plain, bound = _unbound(function)
            self._function, self._known = function, (plain, [self._put(each) for each in bound])
        return self._known


#: Bytes from which dask asks to scatter data instead of sending them with the tasks.
_LARGE = 10_000_000


class Dask:
    """A local cluster of dask's, a thread a worker; what is large is scattered."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._client = _foreign("distributed").Client(
            n_workers=setting.workers, threads_per_worker=1, dashboard_address=None
        )
        self._placed = Placed(partial(self._client.scatter, broadcast=True))

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        function, bound = self._placed(function)
        parts: list[Any] = self._setting.parts(frame)
        if frame.estimated_size() > _LARGE:
            parts = self._client.scatter(parts)
        tasks = [self._client.submit(function, *bound, part, pure=False) for part in parts]
        return joined(self._client.gather(tasks))

    def close(self) -> None:
        """Stop the cluster."""
        self._client.shutdown()


class Ray:
    """A task of ray's for each part; a bound argument is put into its store."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._ray = start_ray(setting)
        self._placed = Placed(self._ray.put)

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        function, bound = self._placed(function)
        task = self._ray.remote(function)
        parts = self._setting.parts(frame)
        return joined(self._ray.get([task.remote(*bound, part) for part in parts]))

    def close(self) -> None:
        """Stop the cluster."""
        self._ray.shutdown()


def _unbound(function: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function, and the arguments that are bound to it."""
    if isinstance(function, partial):
        return function.func, function.args
    return function, ()


def start_ray(setting: Setting) -> Any:
    """The module, with a cluster of its own running."""
    ray = _foreign("ray")
    ray.init(num_cpus=setting.workers, include_dashboard=False, log_to_driver=False)
    return ray


def _foreign(name: str) -> Any:
    """A library that may not be installed and mostly has no types."""
    return import_module(name)


def is_there(*names: str) -> bool:
    """Whether all these modules can be found; imports none of them but their packages."""
    try:
        return all(find_spec(name) is not None for name in names)
    except (ImportError, ValueError):  # no such package, or a module without a spec
        return False
