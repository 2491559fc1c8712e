"""Options of the backend: joblib's, pmap's, and the nearest to a wrong one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pmap._config import nearest, resolve
from pmap._plan import default_process_backend
from pmap._segment import kind_for
from pmap.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["JoblibOptions", "check_names", "read_options"]

#: pmap's own, and those of joblib's process backends.
_NAMES = (
    "idle_timeout",
    "idle_worker_timeout",
    "initargs",
    "initializer",
    "inner_max_num_threads",
    "max_nbytes",
    "max_tasks_per_child",
    "mmap_mode",
    "start",
    "temp_folder",
)
#: What joblib passes to every backend, and needs nobody here.
_IGNORED = frozenset({"context", "prefer", "require", "verbose"})
_STARTS = ("forkserver", "loky", "spawn")
_MMAP_MODES = (None, "r+", "r", "w+", "c")
#: What joblib takes when nobody says anything: bytes.
_MAX_NBYTES = 1024 * 1024


class JoblibOptions(NamedTuple):
    """What was asked for, and what `pmap.config` says of the rest."""

    start: str
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    idle_timeout: float
    max_tasks_per_child: int | None
    inner_max_num_threads: int | None
    max_nbytes: int | None
    mmap_mode: str | None
    kind: str  #: of segments


def check_names(options: Mapping[str, object]) -> None:
    """Refuse what the backend does not know.

    Raises
    ------
    TypeError
        With the nearest right name.
    """
    for name in options:
        if name not in _NAMES and name not in _IGNORED:
            hint = nearest(name, (*_NAMES, "n_jobs"))
            raise TypeError(
                f"joblib's backend 'pmap' has no option {name!r}{hint or '; it has ' + ', '.join(_NAMES)}"
            )


def read_options(options: Mapping[str, Any]) -> JoblibOptions:
    """Check the values too.

    Raises
    ------
    TypeError
        For a name that does not exist.
    ArgumentError
        For a value that makes no sense.
    """
    check_names(options)
    rest = options.get("idle_timeout", options.get("idle_worker_timeout"))
    given = {
        "idle_timeout": rest,
        "max_tasks_per_child": options.get("max_tasks_per_child"),
        "inner_max_num_threads": options.get("inner_max_num_threads"),
        "initializer": options.get("initializer"),
    }
    said = resolve(**{name: value for name, value in given.items() if value is not None})
    return JoblibOptions(
        start=_start(options.get("start")),
        initializer=said.initializer,
        initargs=_initargs(options.get("initargs", ())),
        idle_timeout=said.idle_timeout,
        max_tasks_per_child=said.max_tasks_per_child,
        inner_max_num_threads=said.inner_max_num_threads,
        max_nbytes=options.get("max_nbytes", _MAX_NBYTES),
        mmap_mode=_mmap_mode(options.get("mmap_mode", "r")),
        kind=kind_for(said.transport),
    )


def _start(start: object) -> str:
    if start is None:
        return default_process_backend()[0]
    if not isinstance(start, str) or start not in _STARTS:
        near = nearest(str(start), _STARTS)
        raise ArgumentError(
            f"workers of joblib's backend 'pmap' start by {', '.join(_STARTS)}, not by "
            f"start={start!r}{near or ''}"
        )
    return start


def _initargs(arguments: Any) -> tuple[Any, ...]:
    try:
        return () if arguments is None else tuple(arguments)
    except TypeError:
        raise ArgumentError(f"initargs={arguments!r}: give a tuple of arguments") from None


def _mmap_mode(mode: Any) -> str | None:
    if mode not in _MMAP_MODES:
        raise ArgumentError(f"mmap_mode={mode!r}: give 'r', 'r+', 'w+', 'c' or None")
    return mode  # type: ignore[no-any-return]
