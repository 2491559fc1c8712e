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

LOCAL_BACKENDS = ("serial", "threads", "forkserver", "spawn", "loky", "dask")


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
        call, rest = self._delayed(function), ()
        if isinstance(function, partial):
            call, rest = self._delayed(function.func), function.args
        return joined(self._parallel(call(*rest, part) for part in self._setting.parts(frame)))

    def close(self) -> None:
        """Stop the workers."""
        self._parallel.__exit__(None, None, None)


class Mpire:
    """mpire's pool, kept alive."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        mpire = _foreign("mpire")
        self._pool = mpire.WorkerPool(setting.workers, start_method="spawn", keep_alive=True)

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        tasks = [(part,) for part in self._setting.parts(frame)]
        return joined(self._pool.map(function, tasks, chunk_size=1))

    def close(self) -> None:
        """Stop the workers."""
        self._pool.terminate()


class Dask:
    """A local cluster of dask's, a thread a worker."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._client = _foreign("distributed").Client(
            n_workers=setting.workers, threads_per_worker=1, dashboard_address=None
        )

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        tasks = self._client.map(function, self._setting.parts(frame), pure=False)
        return joined(self._client.gather(tasks))

    def close(self) -> None:
        """Stop the cluster."""
        self._client.shutdown()


class Ray:
    """A task of ray's for each part."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._ray = start_ray(setting)

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Map it, and give one frame."""
        task = self._ray.remote(_named(function))
        parts = self._setting.parts(frame)
        return joined(self._ray.get([task.remote(part) for part in parts]))

    def close(self) -> None:
        """Stop the cluster."""
        self._ray.shutdown()


def _named(function: Function) -> Function:
    """As it is, or a function around it: ray takes no `functools.partial`."""

    def named(part: pl.DataFrame) -> pl.DataFrame:
        return function(part)

    is_bound: bool = isinstance(function, partial)
    return named if is_bound else function


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
