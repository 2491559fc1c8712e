"""Options: their defaults, the environment's, the process's, those of a `with` block.

What is said nearest to the call wins::

    built-in  <  joblib's n_jobs  <  PMAP_* variables  <  pmap.config.set(...)  <  with pmap.config(...)  <  the call
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from pmap.errors import ArgumentError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

__all__ = ["UNSET", "Options", "config", "nearest", "resolve"]


class _Unset:
    """Marks an argument that was not given, so that `config` decides."""

    def __repr__(self) -> str:
        return "<as configured>"


UNSET: Final[Any] = _Unset()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Options:
    """All options and their built-in defaults.

    Those that are no argument of `map_partitions`:

    inner_max_num_threads
        Native threads (Polars, BLAS, OpenMP) in each worker; default: cores ÷ workers.
    max_tasks_per_child
        Replace a worker after so many partitions.
    initializer
        A callable without arguments, run once in each worker before its first partition.
    seed
        Of `current_partition().rng`.
    retry_on
        Exception classes that `retries` is for.
    idle_timeout
        Seconds after which a warm pool that nobody uses is stopped.
    transport
        What large frames lie in on their way to workers on this machine: ``"memory"``, or
        ``"file"`` for temporary files, when memory is short.
    memory_limit
        Memory of its own that a worker may hold: bytes, or text such as ``"2 GB"``. One that
        takes more is stopped, and its partition fails or, with `partition_wise`, is split.
    partition_wise
        Whether the function gives the same for the parts of a partition as for the whole.
    bisect
        Narrow a partition that fails to the smallest run of rows that does.
    checkpoint
        A folder in which each finished partition is kept, so that the same call, run again
        after whatever ended it, goes on where it was. One folder for one call; made if it is
        not there. The function must return frames or None. A map inside a map keeps nothing.
    advise
        What is done when a call could have been faster: ``"warn"`` with `errors.PmapAdvice`,
        ``"error"`` raises it, ``"off"`` says nothing.
    check
        ``"sample"``: `map_partitions` first tries the function in the caller, on parts of a
        sample and on the whole of it (ten calls or so), and raises if they differ.
    """

    backend: Any = "auto"
    n_jobs: int | None = None
    n_partitions: int | None = None
    chunk_size: int | None = None
    maintain_order: bool = True
    timeout: float | None = None
    retries: int = 0
    on_error: str = "raise"
    progress: Any = None
    inner_max_num_threads: int | None = None
    max_tasks_per_child: int | None = None
    initializer: Callable[[], object] | None = None
    seed: int | None = None
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    idle_timeout: float = 60.0
    transport: str = "memory"
    memory_limit: Any = None
    partition_wise: bool = False
    bisect: bool = False
    checkpoint: Any = None
    advise: str = "warn"
    check: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.memory_limit, str):
            object.__setattr__(self, "memory_limit", parse_bytes(self.memory_limit))
        if self.checkpoint is not None:
            object.__setattr__(self, "checkpoint", _folder(self.checkpoint))
        self._check_counts()
        if self.n_partitions is not None and self.chunk_size is not None:
            raise ArgumentError("give n_partitions= or chunk_size=, not both")
        if self.n_jobs == 0:
            raise ArgumentError(
                "n_jobs=0 means nothing: -1 is all CPUs, -2 all but one, 1 a single worker"
            )
        if self.on_error not in {"raise", "skip", "return"}:
            raise ArgumentError(f"on_error={self.on_error!r}: give 'raise', 'skip' or 'return'")
        if self.transport not in {"memory", "file"}:
            raise ArgumentError(f"transport={self.transport!r}: give 'memory' or 'file'")
        if self.advise not in {"warn", "error", "off"}:
            raise ArgumentError(f"advise={self.advise!r}: give 'warn', 'error' or 'off'")
        if self.check not in {None, "sample"}:
            raise ArgumentError(f"check={self.check!r}: give 'sample' or None")
        if self.initializer is not None and not callable(self.initializer):
            raise ArgumentError("initializer= must be callable without arguments")
        object.__setattr__(self, "retry_on", _classes(self.retry_on))

    def _check_counts(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name not in _NEEDED:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ArgumentError(f"{name}={value!r}: give a number")
            if name in _WHOLE and not isinstance(value, int):
                raise ArgumentError(f"{name}={value!r}: give a whole number")
            if least is not None and (
                not value >= least or (least == 0 and name in _POSITIVE and value == 0)
            ):
                wanted = "greater than 0" if name in _POSITIVE else f"{least} or more"
                raise ArgumentError(f"{name}={value!r}: must be {wanted}")


_LEAST: dict[str, int | None] = {
    "n_jobs": None,
    "n_partitions": 1,
    "chunk_size": 1,
    "inner_max_num_threads": 1,
    "max_tasks_per_child": 1,
    "retries": 0,
    "timeout": 0,
    "idle_timeout": 0,
    "seed": 0,
    "memory_limit": 0,
}
_NEEDED = {"retries", "idle_timeout"}
_POSITIVE = {"timeout", "idle_timeout", "memory_limit"}
_WHOLE = set(_LEAST) - {"timeout", "idle_timeout"}
_SWITCHES = {"maintain_order", "partition_wise", "bisect"}
_NAMES = tuple(field.name for field in dataclasses.fields(Options))
_PREFIX = "PMAP_"

_process: dict[str, Any] = {}
_scope: ContextVar[dict[str, Any]] = ContextVar("pmap_config", default={})  # noqa: B039  never mutated


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint at the right name, or nothing."""
    import difflib  # noqa: PLC0415  for those who err

    match = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f": did you mean {match[0]}?" if match else ""


def _check_names(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in _NAMES:
            raise ConfigError(
                f"unknown option {name!r}{nearest(name, _NAMES) or '; there are ' + ', '.join(_NAMES)}"
            )


def _from_environment() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable in os.environ:  # without values, whose decoding takes as long again
        if variable.startswith(_PREFIX):
            text = os.environ[variable]
            name = variable[len(_PREFIX) :].lower()
            if name not in _NAMES:
                near = nearest(variable, [_PREFIX + n.upper() for n in _NAMES])
                raise ConfigError(f"unknown environment variable {variable}{near}")
            found[name] = _parse(variable, name, text)
    return found


def _parse(variable: str, name: str, text: str) -> Any:
    words = {"none": None, "": None}
    switches = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    try:
        if name in {*_SWITCHES, "progress"}:
            return switches[text.lower()]
        if name == "memory_limit":
            return parse_bytes(text)
        if name in _LEAST:
            return (
                words[text.lower()]
                if text.lower() in words
                else (int if name in _WHOLE else float)(text)
            )
    except (KeyError, ValueError):
        raise ConfigError(f"{variable}={text!r} can not be read as a value of {name}") from None
    if name in {"backend", "on_error", "transport", "advise"}:
        return text
    if name in {"checkpoint", "check"}:
        return text or None
    raise ConfigError(f"{variable}: {name} can be set in Python only, with pmap.config({name}=...)")


def _classes(value: object) -> tuple[type[BaseException], ...]:
    """Of exceptions; one alone will do, and a list of them."""
    found = cast("Iterable[Any]", value if isinstance(value, list | tuple) else (value,))
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in found):
        raise ArgumentError(f"retry_on={value!r}: give an exception class, or a tuple of them")
    return tuple(found)


_DECIMAL = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS = {**_DECIMAL, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def parse_bytes(text: str) -> int:
    """A number of bytes from text such as ``"2 GB"`` or ``"512MiB"``."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise ArgumentError(f"{text!r} is no amount of memory: give bytes, or text such as '2 GB'")
    return int(float(found[1]) * unit)


def _folder(path: object) -> str:
    """A path as text."""
    is_path = isinstance(path, str | os.PathLike)
    text = os.fspath(cast("str | os.PathLike[str]", path)) if is_path else b""
    if not isinstance(text, str) or not text:
        raise ArgumentError(f"checkpoint={path!r}: give the path of a folder")
    return text


def resolve(**given: Any) -> Options:
    """The options of one call: what was given, and the rest as configured."""
    merged = {**_from_environment(), **_process, **_scope.get()}
    said = {name: value for name, value in given.items() if value is not UNSET}
    if said.get("n_jobs", 0) is None:
        del said["n_jobs"]  # as in joblib, None inherits
    if "n_jobs" not in {**merged, **said}:
        merged["n_jobs"] = _joblibs_n_jobs()
    if said.get("n_partitions") is not None:
        merged.pop("chunk_size", None)  # the nearer one wins
    if said.get("chunk_size") is not None:
        merged.pop("n_partitions", None)
    return Options(**{**merged, **said})


def _joblibs_n_jobs() -> int | None:
    """Of `joblib.parallel_config`, inside such a block; where joblib is not imported, there is none."""
    joblib: Any = sys.modules.get("joblib.parallel")
    if joblib is None or not hasattr(joblib, "get_active_backend"):
        return None  # or is being imported
    n_jobs = joblib.get_active_backend()[1]
    return None if n_jobs is None else int(n_jobs)


class _Config:
    """Set options for a block, or for the process.

    Parameters
    ----------
    **options
        Any of `map_partitions`' arguments that say how or where (``backend``, ``n_jobs``,
        ``n_partitions``, ``chunk_size``, ``maintain_order``, ``timeout``, ``retries``,
        ``on_error``, ``progress``), and what is rarely set: ``inner_max_num_threads``,
        ``max_tasks_per_child``, ``initializer``, ``seed``, ``retry_on``, ``idle_timeout``
        (seconds), ``transport`` (``"memory"`` or ``"file"``), ``memory_limit`` (of one worker:
        bytes or ``"2 GB"``), ``partition_wise``, ``bisect``, ``check``
        (``"sample"`` refuses functions that parts give another result), ``checkpoint``
        (a folder that keeps what is finished, so that a job that was killed goes on) and
        ``advise`` (``"warn"``, ``"error"`` or ``"off"``). Each can be set as an environment
        variable too: ``PMAP_N_JOBS=2``.

    Raises
    ------
    ConfigError
        For a name that does not exist; it names the nearest that does.

    Examples
    --------
    >>> import polars as pl, pmap
    >>> with pmap.config(n_jobs=2, seed=1):
    ...     pmap.map_partitions(pl.DataFrame({"x": [1]}), lambda p: p).height
    1
    """

    @contextlib.contextmanager
    def __call__(self, **options: Any) -> Generator[None]:
        self._check(options)
        token = _scope.set({**_scope.get(), **options})
        try:
            yield
        finally:
            _scope.reset(token)

    def set(self, **options: Any) -> None:
        """Set options for the whole process."""
        self._check(options)
        _process.update(options)

    def reset(self) -> None:
        """Undo all that `set` did."""
        _process.clear()

    def _check(self, options: Mapping[str, Any]) -> None:
        _check_names(options)
        resolve(**options)

    def __repr__(self) -> str:
        return f"pmap.config: {resolve()}"


config = _Config()
