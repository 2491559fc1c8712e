"""What caller and workers say to each other.

User's pickles travel inside as bytes and are opened within a `try` of their own.
"""

from __future__ import annotations

import copyreg
import hashlib
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import polars as pl

from pmap.errors import FunctionExitError, RemoteError, RemoteTraceback

if TYPE_CHECKING:
    from pmap._gauge import Usage
    from pmap._segment import Shared
    from pmap._transport import Blob, Parcel, Pickled, Unused

__all__ = [
    "CallTerms",
    "ErrorInfo",
    "Job",
    "JobRef",
    "Message",
    "Reply",
    "Stats",
    "TaskMessage",
    "describe_error",
    "digest_of",
    "facts_of",
    "note",
    "plain_text",
]

#: Longest traceback or message that is sent: characters.
_MAX_TEXT = 64 * 1024
#: Largest pickled exception that is sent: bytes.
_MAX_PICKLE = 1024 * 1024


def plain_text(text: str) -> str:
    """The same, of `str` itself: of a class of the user's it may not pickle, nor may what `str` returns.

    Raises
    ------
    TypeError
        When it is no text.
    """
    return "".join([text])  # noqa: FLY002  an f-string would ask its class


def facts_of(exc: BaseException) -> dict[str, Any]:
    """The attributes of an exception, whatever a class of the user's does about them."""
    facts: dict[str, Any] = object.__getattribute__(exc, "__dict__")
    return facts


def note(exc: BaseException, text: str) -> None:
    """As `BaseException.add_note`, which a frozen exception of the user's refuses."""
    facts = facts_of(exc)
    if not isinstance(facts.get("__notes__", []), list):
        del facts["__notes__"]  # nobody would show it
    facts.setdefault("__notes__", []).append(text)


class Job(NamedTuple):
    """What is the same for all partitions of a call; pickled once, cached in each worker."""

    function: Pickled
    initializer: Pickled | None
    sys_path: tuple[str, ...]
    cwd: str | None


class JobRef(NamedTuple):
    """A pickled `Job`, and the digest under which workers keep it."""

    digest: bytes
    blob: Blob


def digest_of(job: bytes | bytearray | memoryview) -> bytes:
    """Of a pickled `Job`, or of another pickle that does not come through a pipe itself."""
    return hashlib.blake2b(job, digest_size=16).digest()


class CallTerms(NamedTuple):
    """What all messages of a call have in common."""

    job: JobRef
    n_partitions: int | None
    seed: int | None
    want_frame: bool
    exclusive: bool  #: the worker has no other task meanwhile, and its streams are ours
    log_level: int
    may_leave: bool = False  #: the pool gets on without this worker
    board: Shared | None = None  #: on which workers write what they run


class TaskMessage(NamedTuple):
    """One attempt at one partition."""

    terms: bytes  #: a pickled `CallTerms`, so that it is made and opened once
    parcel: Parcel
    number: int
    attempt: int
    rows: int
    reply: Shared | None
    slot: int | None  #: its line of the call's board


class Message(Protocol):
    """Another kind of task for a worker of pmap's; it must not raise."""

    @property
    def exclusive(self) -> bool:
        """Whether the worker has no other task meanwhile."""
        ...

    def run(self) -> object:
        """Run it in the worker; the answer, which is to be pickled."""
        ...


class Stats(NamedTuple):
    """What one attempt took: wall-clock seconds since the epoch, seconds, bytes.

    `loading_seconds` made the function ready, with all that it imports; `transport_seconds`
    moved its frames.
    """

    worker: int
    started: float
    finished: float
    function_seconds: float
    transport_seconds: float
    bytes_in: int
    bytes_out: int
    threads: int | None = None
    loading_seconds: float = 0.0
    usage: Usage | None = None
    unused: Unused | None = None


class ErrorInfo(NamedTuple):
    """An exception on its way back: as a pickle if it survives one, and as text."""

    pickled: bytes | None
    type_name: str
    message: str
    traceback: str
    phase: str
    is_exit: bool

    def rebuild(self) -> BaseException:
        """The exception itself, its traceback as the cause; else one of pmap's that tells all."""
        exc = self._rebuild()
        BaseException.__setattr__(exc, "__cause__", RemoteTraceback(self.traceback))
        if self.phase:
            note(exc, f"pmap: raised while {self.phase}")
        return exc

    def _rebuild(self) -> BaseException:
        if self.is_exit:
            return FunctionExitError(f"the function raised {self.type_name}({self.message})")
        if self.pickled is not None:
            import cloudpickle  # noqa: PLC0415

            try:
                exc = cloudpickle.loads(self.pickled)
            except KeyboardInterrupt:
                raise  # Ctrl-C
            except BaseException:  # noqa: BLE001  a class may need what only the worker has
                exc = None
            if isinstance(exc, BaseException):
                return exc
        return RemoteError(f"{self.type_name}: {self.message}")


class Reply(NamedTuple):
    """The answer to a `TaskMessage`: a frame, a pickled value, or an error."""

    parcel: Parcel | None
    blob: Blob | None
    error: ErrorInfo | None
    stats: Stats
    output: tuple[tuple[str, object], ...] = ()
    released: bool = False  #: the worker looks at no segment of the caller's any more


def describe_error(exc: BaseException, phase: str, *, exits: bool = False) -> ErrorInfo:
    """Make an `ErrorInfo` of any exception, however it behaves.

    `exits`: those that would end the caller come back as themselves too, as joblib's do.
    """
    kind = type(exc)
    is_exit = not exits and isinstance(exc, SystemExit | KeyboardInterrupt | GeneratorExit)
    try:
        text = "".join(traceback.format_exception(exc))
    except BaseException:  # noqa: BLE001  a __str__ or __repr__ of the user's may raise anything
        text = f"{kind.__qualname__}: (its text can not be had: formatting it raised)"
    pickled = None if is_exit else _dump_exception(exc)
    return ErrorInfo(pickled, kind.__qualname__, _clip(_text(exc)), _clip(text), phase, is_exit)


def _text(exc: BaseException) -> str:
    try:
        return plain_text(str(exc))
    except BaseException:  # noqa: BLE001  as above
        return "(its str() raised)"


def _clip(text: str) -> str:
    if len(text) <= _MAX_TEXT:
        return text
    half = _MAX_TEXT // 2
    return f"{text[:half]}\n... ({len(text) - _MAX_TEXT:,} characters left out) ...\n{text[-half:]}"


def _dump_exception(exc: BaseException) -> bytes | None:
    """A pickle that is known to open again, or nothing."""
    import cloudpickle  # noqa: PLC0415

    try:
        data: bytes = cloudpickle.dumps(exc)
        if len(data) > _MAX_PICKLE:
            return None
        cloudpickle.loads(data)
    except BaseException:  # noqa: BLE001  many exceptions do not survive a round trip
        return None
    return data


def _rebuild_panic(message: str) -> BaseException:
    return pl.exceptions.PanicException(message)


def _reduce_panic(exc: BaseException) -> tuple[object, tuple[str]]:
    return _rebuild_panic, (str(exc),)


# Polars' panic class lies in no importable module, so it does not pickle without help.
copyreg.pickle(pl.exceptions.PanicException, _reduce_panic)  # type: ignore[arg-type]
