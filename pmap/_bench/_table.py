"""The contenders of the table, and which workloads each can take part in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from pmap._bench import _contenders, _foreign
from pmap._bench._contenders import LOCAL_BACKENDS, Contender, Joblib, Pmap, Setting, is_there
from pmap._bench._share import Copies

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

    from pmap._bench._contenders import Function
    from pmap._bench._workloads import Workload

__all__ = ["CONTENDERS", "IDEAL", "LOOP", "Entry", "Made"]

LOOP = "plain loop"
IDEAL = "ideal"


@dataclass(frozen=True)
class Made:
    """All that a contender is made from."""

    workload: Workload
    setting: Setting
    rows: int
    seed: int


def _always(workload: Workload) -> bool:  # noqa: ARG001  one of several rules
    return True


def _one_step(workload: Workload) -> bool:
    return len(workload.steps) == 1


def _flat(workload: Workload) -> bool:
    """What pandas can hold and dask can carry: no frame bound to the function."""
    return workload.argument is None and not workload.pmap_split


@dataclass(frozen=True)
class Entry:
    """A contender of the table.

    Attributes
    ----------
    name
        In the table.
    make
        From what it is told to the contender; starts its workers, or has them started later.
    needs
        Modules without which it is left out.
    applies
        Whether it can take part.
    whole
        Whether it runs all steps of a workload in one call.
    alone
        Whether it has no process but the one that calls it.
    short
        Whether it is in the short form.
    """

    name: str
    make: Callable[[Made], Contender]
    needs: tuple[str, ...] = ()
    applies: Callable[[Workload], bool] = _always
    whole: bool = False
    alone: bool = False
    short: bool = False

    @property
    def missing(self) -> list[str]:
        """What it needs that is not there; a word each."""
        missing = [name for name in self.needs if not is_there(name)]
        if self.name == JOBLIB_ON_PMAP and not _has_joblib_backend():
            missing.append("pmap.register_joblib_backend")
        return missing


class _Native:
    """What Polars says itself."""

    def __init__(self, made: Made) -> None:
        if made.workload.native is None:
            raise ValueError(f"Polars has no expression for {made.workload.name!r}")
        self._native = made.workload.native

    def __call__(self, frame: pl.DataFrame, function: Function, /) -> pl.DataFrame:
        """Say it, of the whole frame."""
        del function
        return self._native(frame)

    def close(self) -> None:
        """Nothing is left."""


def _pandas(made: Made) -> Contender:
    if made.workload.value is None:
        raise ValueError(f"{made.workload.name!r} is no function of a value")
    return _foreign.PandasApply(made.setting, *made.workload.value)


def _on(make: Callable[[Setting], Contender]) -> Callable[[Made], Contender]:
    return lambda made: make(made.setting)


def _on_pmap(backend: str) -> Callable[[Made], Contender]:
    return lambda made: Pmap(made.setting, backend)


def _has_joblib_backend() -> bool:
    return hasattr(import_module("pmap"), "register_joblib_backend")


JOBLIB_ON_PMAP = "joblib on pmap"

_BACKENDS = {"dask": ("distributed",), "loky": ("loky",), "joblib": ("joblib",)}

_ALL = (
    Entry(LOOP, _on(_contenders.Loop), alone=True, short=True),
    Entry(
        IDEAL,
        lambda made: Copies(made.workload.name, made.rows, made.seed, made.setting.workers),
        whole=True,
        short=True,
    ),
    Entry(
        "native Polars",
        _Native,
        applies=lambda w: w.native is not None,
        whole=True,
        alone=True,
        short=True,
    ),
    Entry("ThreadPoolExecutor", _on(_contenders.Threads), alone=True, short=True),
    Entry("multiprocessing.Pool(spawn)", _on(_contenders.SpawnPool)),
    Entry("ProcessPoolExecutor(spawn)", _on(_contenders.Processes), short=True),
    Entry("loky", _on(_contenders.Loky), ("loky",)),
    Entry("joblib", _on(Joblib), ("joblib",), short=True),
    Entry(JOBLIB_ON_PMAP, _on(partial(Joblib, backend="pmap")), ("joblib",)),
    Entry("mpire", _on(_contenders.Mpire), ("mpire",)),
    Entry(
        "pandas apply, in processes",
        _pandas,
        ("pandas",),
        lambda w: w.value is not None and _one_step(w),
    ),
    Entry("dask.distributed", _on(_contenders.Dask), ("distributed",)),
    Entry(
        "dask.dataframe",
        _on(_foreign.DaskFrame),
        ("distributed", "dask.dataframe", "pandas"),
        _flat,
    ),
    Entry("ray", _on(_contenders.Ray), ("ray",)),
    Entry("ray.data", _on(_foreign.RayData), ("ray.data",)),
    Entry("pmap auto", _on_pmap("auto"), short=True),
    *(
        Entry(
            f"pmap {backend}",
            _on_pmap(backend),
            _BACKENDS.get(backend, ()),
            alone=backend in {"serial", "threads"},
            short=backend in {"threads", "forkserver"},
        )
        for backend in LOCAL_BACKENDS
    ),
)

CONTENDERS: dict[str, Entry] = {entry.name: entry for entry in _ALL}
