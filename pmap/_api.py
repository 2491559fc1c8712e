"""The front door: `map_partitions` and `iter_partitions`."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Never, TypeVar, cast

import polars as pl

from pmap._access import start_ahead
from pmap._arguments import refuse_foreign
from pmap._config import UNSET, Options, resolve
from pmap._context import in_worker
from pmap._dtypes import refuse_unsupported
from pmap._forkguard import check_process
from pmap._partition import Partition, Split, partitions_of_frame, partitions_of_stream
from pmap._plan import Choice, choose, requested_workers
from pmap._resources import cpu_count
from pmap._size import estimate
from pmap._work import Work
from pmap.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from concurrent.futures import Executor

    from polars._typing import SchemaDefinition

    from pmap._call import Call
    from pmap._progress import ProgressCounts
    from pmap.backend import Backend

    Frames = pl.DataFrame | Iterable[pl.DataFrame]
    Result = TypeVar("Result")
    #: A function of a partition, or a class whose instances are.
    Mapped = Callable[[pl.DataFrame], Result] | Callable[[], Callable[[pl.DataFrame], Result]]
    Progress = bool | Callable[[ProgressCounts], object] | None

__all__ = ["iter_partitions", "map_partitions"]


def map_partitions(  # noqa: PLR0913  the public face
    frame: Frames,
    function: Mapped[pl.DataFrame | pl.LazyFrame | None],
    /,
    *,
    by: str | Sequence[str] | None = None,
    n_partitions: int | None = UNSET,
    chunk_size: int | None = UNSET,
    schema: SchemaDefinition | None = None,
    maintain_order: bool = UNSET,
    backend: str | Backend | Executor | object = UNSET,
    n_jobs: int | None = UNSET,
    timeout: float | None = UNSET,
    retries: int = UNSET,
    on_error: str = UNSET,
    progress: Progress = UNSET,
    **unknown: Never,
) -> pl.DataFrame:
    """Split a frame into partitions, call `function` on each in parallel, put the results together.

    The result equals ``pl.concat([function(p) for p in partitions])``: order, dtypes, nulls.
    Arguments that are not given are as `pmap.config` says; the defaults are in brackets.

    Parameters
    ----------
    frame
        A `DataFrame`, or an iterable of `DataFrame` of which each is one partition; it is
        read only when there is room for one more in flight.
    function
        From a `DataFrame` to a `DataFrame`, a `LazyFrame` (collected in the worker) or
        ``None`` (no rows). A lambda, a closure, a method, a `functools.partial`, a callable
        object, or a class, which is instantiated once in each worker and then called.
    by
        Not yet: pass ``frame.partition_by(by)`` as the first argument.
    n_partitions
        Exactly ``min(n_partitions, rows)`` contiguous partitions. [by rows, bytes, `n_jobs`: four a
        worker or more, the first and the last of them the smallest]
    chunk_size
        Rows a partition, but the last.
    schema
        What comes back, exactly; also for a frame without rows. [found from the results,
        where dtypes that differ harmlessly between partitions are reconciled]
    maintain_order
        Rows in the order of the partitions, or as they are completed. [True]
    backend
        ``"auto"``, a name of `available_backends`, a `concurrent.futures.Executor`, a
        `pmap.backend.Backend`, or what a backend adopts (a Dask client or its address).
        ["auto": in the caller first, on worker processes when that pays]
    n_jobs
        Workers, as in joblib: -1 all usable CPUs, -2 all but one. [all]
    timeout
        Seconds that one partition may run, from its start in the worker. [no limit]
    retries
        Extra attempts at a failed partition. [0]
    on_error
        When a partition has failed: ``"raise"`` at once; ``"skip"`` leaves its rows out and
        warns; ``"return"`` leaves them out, the errors are in ``last_report().failures``,
        and ``last_report().raise_failures()`` raises them together. ["raise"]
    progress
        ``True`` for a bar, or a callable that takes the counts as they change. [no]
    **unknown
        Nothing: an argument that does not exist raises `TypeError` with the one that was meant.

    Returns
    -------
    polars.DataFrame
        In several chunks, as they came from the workers; ``.rechunk()`` makes it one.

    Raises
    ------
    ArgumentError, TypeError
        For a call that makes no sense; before any worker starts.
    UnpicklableFunctionError, UnsupportedDtypeError
        For what can not leave this process; before any worker starts.
    ForkRefusedError
        When workers would be forks of this process.
    Exception
        What `function` raised, as itself, with the worker's traceback as its cause and a
        note that names the partition.
    WorkerDiedError, PartitionTimeoutError, ResultTypeError, SchemaMismatchError
        What went wrong with a partition, which is named.

    Examples
    --------
    >>> import polars as pl, pmap
    >>> df = pl.DataFrame({"word": ["anna", "bert", "otto"]})
    >>> def mirrored(part: pl.DataFrame) -> pl.DataFrame:
    ...     return part.with_columns(is_palindrome=pl.Series([w == w[::-1] for w in part["word"]]))
    >>> pmap.map_partitions(df, mirrored)["is_palindrome"].to_list()
    [True, False, True]
    """
    refuse_foreign("map_partitions", unknown, _MAP_ARGUMENTS)
    options = resolve(
        n_partitions=n_partitions,
        chunk_size=chunk_size,
        maintain_order=maintain_order,
        backend=backend,
        n_jobs=n_jobs,
        timeout=timeout,
        retries=retries,
        on_error=on_error,
        progress=progress,
    )
    declared = None if schema is None else pl.DataFrame(schema=schema).schema
    if isinstance(frame, pl.DataFrame) and frame.height == 0:
        if declared is not None:
            _check(frame, function, by)
            return pl.DataFrame(schema=declared)
        options = _in_caller(options)
    if options.check is not None:
        _check(frame, function, by)
        _check_sample(frame, function, options)
    work = _work(frame, function, by, options, want_frame=True)
    choice = choose(work, options, nested=in_worker() and backend is UNSET)
    return _begin(work, options, choice).frame(declared)


def iter_partitions(  # noqa: PLR0913  the public face
    frame: Frames,
    function: Mapped[Any],
    /,
    *,
    by: str | Sequence[str] | None = None,
    n_partitions: int | None = UNSET,
    chunk_size: int | None = UNSET,
    maintain_order: bool = UNSET,
    backend: str | Backend | Executor | object = UNSET,
    n_jobs: int | None = UNSET,
    timeout: float | None = UNSET,
    retries: int = UNSET,
    on_error: str = UNSET,
    progress: Progress = UNSET,
    **unknown: Never,
) -> Generator[Any]:
    """Call `function` on each partition in parallel and iterate over what it returns.

    As `map_partitions`, but `function` may return anything, ``None`` included, and results
    come one by one: a few partitions are in flight ahead of the consumer, not all of them.
    Nothing starts before the first `next`.

    Parameters
    ----------
    frame, function, by, n_partitions, chunk_size, backend, n_jobs, timeout, retries, progress
        As in `map_partitions`.
    maintain_order
        Results in the order of the partitions, or as they are completed. [True]
    on_error
        As in `map_partitions`; ``"skip"`` leaves a partition that failed out of the iteration,
        ``"return"`` gives its error in the place of its result.
    **unknown
        Nothing: an argument that does not exist raises `TypeError` with the one that was meant.

    Returns
    -------
    generator
        Of results; its ``close()`` stops what still runs.

    Raises
    ------
    ArgumentError, TypeError
        At the call; everything else as in `map_partitions`, from the iteration.

    Examples
    --------
    >>> import polars as pl, pmap
    >>> list(pmap.iter_partitions(pl.DataFrame({"x": [1, 2, 3]}), lambda p: p["x"].sum(), chunk_size=2))
    [3, 3]
    """
    refuse_foreign("iter_partitions", unknown, _ITER_ARGUMENTS)
    options = resolve(
        n_partitions=n_partitions,
        chunk_size=chunk_size,
        maintain_order=maintain_order,
        backend=backend,
        n_jobs=n_jobs,
        timeout=timeout,
        retries=retries,
        on_error=on_error,
        progress=progress,
    )
    if isinstance(frame, pl.DataFrame) and frame.height == 0:
        options = _in_caller(options)
    work = _work(frame, function, by, options, want_frame=False)
    choice = choose(work, options, nested=in_worker() and backend is UNSET)
    return _values(work, options, choice)


def _values(work: Work, options: Options, choice: Choice) -> Generator[Any]:
    yield from _begin(work, options, choice).values()


def _begin(work: Work, options: Options, choice: Choice) -> Call:
    """The call; what it needs is imported while its workers start, if they do."""
    begun = time.perf_counter()
    start_ahead(work, options, choice)
    from pmap._call import Call  # noqa: PLC0415  as said

    return Call(work, options, choice, begun)


_MAP_ARGUMENTS = tuple(inspect.signature(map_partitions).parameters)
_ITER_ARGUMENTS = tuple(inspect.signature(iter_partitions).parameters)


def _in_caller(options: Options) -> Options:
    """A frame without rows is never sent anywhere."""
    return dataclasses.replace(options, backend="serial", timeout=None, memory_limit=None)


def _work(
    frame: object, function: object, by: object, options: Options, *, want_frame: bool
) -> Work:
    _check(frame, function, by)
    call = cast("Callable[..., Any]", function)
    if isinstance(frame, pl.DataFrame):
        size = estimate(frame)
        parts = _partitions(frame, size, options)
        largest = max(part.n_bytes for part in parts)
        count, rows = len(parts), frame.height
        return Work(call, iter(parts), frame, count, rows, largest, size, want_frame)
    stream = partitions_of_stream(cast("Iterable[object]", frame))
    return Work(call, stream, None, None, None, 0, 0, want_frame)


def _partitions(frame: pl.DataFrame, size: int, options: Options) -> list[Partition]:
    if frame.height == 0:
        return [Partition(0, 0, 0, frame, 0.0)]
    if options.backend == "auto":
        refuse_unsupported(frame.get_columns())
    n_workers, _ = requested_workers(options.n_jobs, cpu_count())
    split = Split(options.n_partitions, options.chunk_size)
    return partitions_of_frame(frame, size, split, n_workers)


def _check(frame: object, function: object, by: object) -> None:
    """Say what to write instead, before anything starts."""
    check_process()
    if isinstance(frame, pl.LazyFrame):
        raise ArgumentError("a LazyFrame can not be split yet: pass frame.collect()")
    if isinstance(frame, pl.Series):
        raise ArgumentError("a Series is no frame: pass series.to_frame()")
    if not isinstance(frame, pl.DataFrame) and not _is_stream(frame):
        raise ArgumentError(
            f"the first argument is a {_kind(frame)}, not a polars DataFrame{_conversion(frame)}"
        )
    if not callable(function):
        raise ArgumentError(
            f"the second argument is a {_kind(function)}, which can not be called: pass a function"
        )
    if by is not None:
        raise ArgumentError(
            f"by={by!r} is not there yet: pass frame.partition_by({by!r}) as the first argument"
        )


def _check_sample(frame: object, function: object, options: Options) -> None:
    """Refuse what parts give another result; frames of a stream are parts already."""
    if isinstance(frame, pl.DataFrame) and frame.height > 1 and not in_worker():
        from pmap._advice._guard import check_sample  # noqa: PLC0415  for those who ask for it

        check_sample(frame, cast("Callable[..., Any]", function), options.seed)


def _is_stream(frame: object) -> bool:
    foreign = type(frame).__module__.partition(".")[0] in {"pandas", "pyarrow", "numpy"}
    return isinstance(frame, Iterable) and not isinstance(frame, str | bytes | dict) and not foreign


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _conversion(frame: object) -> str:
    package = type(frame).__module__.partition(".")[0]
    known = {
        "pandas": "pl.from_pandas(frame)",
        "pyarrow": "pl.from_arrow(frame)",
        "numpy": "pl.from_numpy(frame)",
    }
    if isinstance(frame, dict):
        return ": pass pl.DataFrame(frame)"
    return f": pass {known[package]}" if package in known else " or an iterable of them"
