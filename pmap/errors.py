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
    ├── UnsupportedDtypeError (TypeError)     a column that no other process can receive
    ├── UnpicklableFunctionError (TypeError)  the function or something inside it
    ├── TransportError (OSError)              a frame could not be moved
    ├── PartitionError (RuntimeError)         one partition failed; knows which
    │   ├── WorkerDiedError                   its worker ended: exit code, signal
    │   ├── PartitionTimeoutError (TimeoutError)
    │   ├── FunctionExitError                 the function raised SystemExit or the like
    │   ├── RemoteError                       its exception could not be brought back as itself
    │   └── ResultTypeError (TypeError)       it returned something that is no frame
    └── SchemaMismatchError (ValueError)      results that do not fit together

    PmapWarning (UserWarning)

An exception that the user's function raises comes back as itself, with the worker's
traceback as its cause and a note that names the partition.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "BackendError",
    "ConfigError",
    "ForkRefusedError",
    "FunctionExitError",
    "MissingDependencyError",
    "PartitionError",
    "PartitionTimeoutError",
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
]


class PmapError(Exception):
    """Root of all errors of pmap."""


class PmapWarning(UserWarning):
    """Something that pmap did differently from what was asked, and why."""


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


class UnsupportedDtypeError(PmapError, TypeError):
    """A column whose dtype can not leave this process."""


class UnpicklableFunctionError(PmapError, TypeError):
    """The function, or something inside it, can not be pickled."""


class TransportError(PmapError, OSError):
    """A frame could not be moved: no memory, no disk, or a foreign segment."""


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


class WorkerDiedError(PartitionError):
    """The worker process that ran the partition ended.

    Attributes
    ----------
    exitcode : int or None
        As of `subprocess`: negative for a signal; ``None`` where it is not known.
    pid : int or None
        The dead process.
    """

    def __init__(
        self,
        message: str = "",
        *,
        index: int | None = None,
        exitcode: int | None = None,
        pid: int | None = None,
    ) -> None:
        super().__init__(message, index=index)
        self.exitcode = exitcode
        self.pid = pid


class PartitionTimeoutError(PartitionError, TimeoutError):
    """The partition ran longer than `timeout` seconds and was stopped."""


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
