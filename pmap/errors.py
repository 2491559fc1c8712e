"""Every error and warning that pmap itself raises.

A leaf also inherits the builtin that fits it, so that ``except TimeoutError`` works::

    PmapError (Exception)
    ├── ArgumentError (ValueError)            a call that makes no sense
    │   └── ConfigError                       an unknown option or PMAP_* variable
    ├── ForkRefusedError (RuntimeError)       fork, by whatever road it came in
    ├── BackendError (RuntimeError)           a backend could not do its part
    │   ├── UnknownBackendError               no backend of that name
    │   ├── MissingDependencyError (ImportError)
    │   └── WorkerStartError                  workers die or hang before their first task
    ├── PartitionDependentError (ValueError)  parts give another result than the whole
    ├── UnsupportedDtypeError (TypeError)     a column that no other process can receive
    ├── UnpicklableFunctionError (TypeError)  the function or something inside it
    ├── TransportError (OSError)              a frame could not be moved
    ├── CheckpointError (OSError)             a checkpoint is another job's, in use, damaged, or full
    ├── PartitionError (RuntimeError)         one partition failed; knows which
    │   ├── WorkerDiedError                   its worker ended: exit code, signal, memory
    │   ├── PartitionTimeoutError (TimeoutError)
    │   ├── MemoryLimitError (MemoryError)    its worker took more than memory_limit
    │   ├── FunctionExitError                 the function raised SystemExit or the like
    │   ├── RemoteError                       its exception could not be brought back as itself
    │   └── ResultTypeError (TypeError)       it returned something that is no frame
    └── SchemaMismatchError (ValueError)      results that do not fit together

    PmapWarning (UserWarning)
    PmapAdvice (UserWarning)                  what would have been faster, by what was measured

An exception that the user's function raises comes back as itself, with the worker's
traceback as its cause and a note that names the partition. Whatever error a partition ends
with, it has the partition in hand: ``error.partition()``, ``error.save(path)`` and
``error.replay()``; `failed_partition` gives the same to type checkers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    import polars as pl

    from pmap._failed import FailedPartition

__all__ = [
    "ArgumentError",
    "BackendError",
    "CheckpointError",
    "ConfigError",
    "ForkRefusedError",
    "FunctionExitError",
    "MemoryLimitError",
    "MissingDependencyError",
    "PartitionDependentError",
    "PartitionError",
    "PartitionTimeoutError",
    "PmapAdvice",
    "PmapError",
    "PmapWarning",
    "RemoteError",
    "RemoteTraceback",
    "ResultTypeError",
    "SchemaMismatchError",
    "TransportError",
    "UnknownBackendError",
    "UnpicklableFunctionError",
    "UnsupportedDtypeError",
    "WorkerDiedError",
    "WorkerStartError",
    "failed_partition",
]


class PmapError(Exception):
    """Root of all errors of pmap."""


class PmapWarning(UserWarning):
    """Something that pmap did differently from what was asked, and why."""


class PmapAdvice(UserWarning):
    """What would have been faster than the call just made, with the facts that were measured.

    At most one for each function; ``pmap.config(advise="off")`` says nothing, ``"error"`` raises it.
    """


class ArgumentError(PmapError, ValueError):
    """A call that makes no sense; raised before anything starts."""


class ConfigError(ArgumentError):
    """An unknown option of `pmap.config`, or an unknown ``PMAP_*`` variable."""


class ForkRefusedError(PmapError, RuntimeError):
    """Workers would be, or this process is, a fork of a multithreaded engine."""


class BackendError(PmapError, RuntimeError):
    """A backend could not do its part."""


class UnknownBackendError(BackendError, LookupError):
    """No backend of that name is registered."""


class MissingDependencyError(BackendError, ImportError):
    """A backend is known, but what it needs is not installed."""


class WorkerStartError(BackendError):
    """Workers end, or do not answer, before their first task."""


class PartitionDependentError(PmapError, ValueError):
    """A function whose results depend on how the frame is split; found by ``check="sample"``."""


class UnsupportedDtypeError(PmapError, TypeError):
    """A column whose dtype can not leave this process."""


class UnpicklableFunctionError(PmapError, TypeError):
    """The function, or something inside it, can not be pickled."""


class TransportError(PmapError, OSError):
    """A frame could not be moved: no memory, no disk, or a foreign segment."""


class CheckpointError(PmapError, OSError):
    """A checkpoint that can not be used: another job's, in use, damaged, or without room."""


class SchemaMismatchError(PmapError, ValueError):
    """Results of partitions that do not fit together, or not the declared schema."""


class PartitionError(PmapError, RuntimeError):
    """One partition failed, and not by an exception that can be raised as itself.

    Attributes
    ----------
    index : int or None
        The partition's number, from 0; ``None`` where it is not known.
    """

    def __init__(self, message: str = "", *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index

    def partition(self) -> pl.DataFrame:
        """The very rows that failed, without a copy."""
        return failed_partition(self).partition()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write these rows to a file, ``*.arrow`` or ``*.parquet``."""
        failed_partition(self).save(path)

    def replay(self) -> Any:
        """Call the function on these rows again, here, where a debugger can follow it."""
        return failed_partition(self).replay()


class WorkerDiedError(PartitionError):
    """The worker process that ran the partition ended.

    Attributes
    ----------
    exitcode : int or None
        As of `subprocess`: negative for a signal; ``None`` where it is not known.
    pid : int or None
        The dead process.
    peak_memory : int or None
        The most memory that it held, in bytes, as far as it was seen; frames that it shared
        with others count in full.
    out_of_memory : bool
        Whether the kernel is known to have ended a process for want of memory meanwhile.
    """

    def __init__(  # noqa: PLR0913  facts, each by name
        self,
        message: str = "",
        *,
        index: int | None = None,
        exitcode: int | None = None,
        pid: int | None = None,
        peak_memory: int | None = None,
        out_of_memory: bool = False,
    ) -> None:
        super().__init__(message, index=index)
        self.exitcode = exitcode
        self.pid = pid
        self.peak_memory = peak_memory
        self.out_of_memory = out_of_memory


class PartitionTimeoutError(PartitionError, TimeoutError):
    """The partition ran longer than `timeout` seconds and was stopped."""


class MemoryLimitError(PartitionError, MemoryError):
    """The worker took more memory than `memory_limit` and was stopped."""


class FunctionExitError(PartitionError):
    """The function raised `SystemExit`, `KeyboardInterrupt` or `GeneratorExit`."""


class RemoteError(PartitionError):
    """The function's exception, which could not be pickled or unpickled, as text."""


class ResultTypeError(PartitionError, TypeError):
    """The function returned something that is not a Polars frame."""


class RemoteTraceback(Exception):  # noqa: N818  it is a cause, never raised by itself
    """Traceback of a worker, as text; the ``__cause__`` of what it raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        """Set off from the caller's own traceback, as `concurrent.futures` does."""
        return f'\n"""\n{self.text}"""'


def failed_partition(error: BaseException) -> FailedPartition:
    """The partition that an error of a map is about.

    Parameters
    ----------
    error
        Raised by a map, or one of ``last_report().failures``.

    Returns
    -------
    FailedPartition
        With ``index``, ``start``, ``rows``, ``attempt``, ``backend``, ``worker``, and the
        methods ``partition()``, ``save(path)`` and ``replay()``.

    Raises
    ------
    LookupError
        For an error that is not about a partition.

    Examples
    --------
    >>> import polars as pl, pmap
    >>> try:
    ...     pmap.map_partitions(pl.DataFrame({"x": [1, 0]}), lambda p: p.select(1 // p["x"][0]), n_partitions=2)
    ... except ZeroDivisionError as error:
    ...     print(pmap.errors.failed_partition(error).partition()["x"].to_list())
    [0]
    """
    failed: FailedPartition | None = error.__dict__.get("pmap_failed")
    if failed is None:
        raise LookupError(f"no partition is known of this {type(error).__name__}")
    return failed
