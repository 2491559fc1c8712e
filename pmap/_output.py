"""Prints, warnings and log records of workers come out of the caller's own streams.

While a partition runs in a worker of this machine, what it writes to `sys.stdout` and
`sys.stderr` and what it logs is kept and sent along with the reply; the caller writes it
again. Past a bound, it goes to the worker's own streams, which are the terminal's.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import TYPE_CHECKING, TextIO, cast

from pmap._wire import plain_text

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["recorder", "replay"]

#: Most that is kept for one partition: characters, and log records.
_MAX_KEPT = 16 * 1024 * 1024

Event = tuple[str, object]


class _Stream(io.TextIOBase):
    """A text stream that keeps what is written."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        super().__init__()
        self._recorder = recorder
        self._name = name

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        text = plain_text(text)
        if not self._recorder.keep(self._name, text, len(text)):
            original = getattr(sys, f"__{self._name}__")
            if original is not None:
                original.write(text)
        return len(text)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def fileno(self) -> int:
        """The process's own descriptor, for those who write to it directly."""
        return 1 if self._name == "stdout" else 2


class _Handler(logging.Handler):
    """Keeps log records, in a form that pickles."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._keep(record)
        except Exception:  # noqa: BLE001  as every handler: to log is not to fail
            self.handleError(record)

    def _keep(self, record: logging.LogRecord) -> None:
        fields = dict(record.__dict__)
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        fields.update(msg=text, args=None, exc_info=None, exc_text=None)
        plain = {
            key: _plain(value)
            for key, value in fields.items()
            if isinstance(value, str | int | float | None)
        }
        self._recorder.keep("log", plain, len(text))


def _plain(value: str | float | None) -> object:
    """The number or text that is in it: a class of the user's, such as an enumeration's, may not pickle."""
    if isinstance(value, str):
        return plain_text(value)
    if value is None or isinstance(value, bool):
        return value
    return int.__pos__(value) if isinstance(value, int) else float.__pos__(value)


class Recorder:
    """Keeps what a partition prints and logs, inside its block; for one after the other.

    Not by a generator, which as a context manager fails on frozen exceptions of the user's.
    """

    def __init__(self) -> None:
        self._make()
        self._before: tuple[TextIO | None, TextIO | None, int]
        self._log_level = logging.NOTSET
        self._begin()

    def at(self, log_level: int) -> Recorder:
        """The same, for a caller whose root logger has that level."""
        self._log_level = log_level
        return self

    def _make(self) -> None:
        self._handler = _Handler(self)
        self._streams = _Stream(self, "stdout"), _Stream(self, "stderr")

    def _is_changed(self) -> bool:
        """Whether a function has closed the streams, or set what the handler lets pass."""
        is_closed = any(stream.closed for stream in self._streams)
        return is_closed or bool(self._handler.level or self._handler.filters)

    def _begin(self) -> None:
        self._events: list[Event] = []
        self._room = _MAX_KEPT

    def keep(self, kind: str, what: object, size: int) -> bool:
        """Keep one event; ``False`` if there is no room."""
        if size > self._room:
            return False
        self._room -= size
        self._events.append((kind, what))
        return True

    def __enter__(self) -> None:
        if self._is_changed():
            self._make()
        root = logging.getLogger()
        self._before = sys.stdout, sys.stderr, root.level
        root.addHandler(self._handler)
        _set_level(root, self._log_level)
        sys.stdout, sys.stderr = self._streams

    def __exit__(self, *_: object) -> None:
        root = logging.getLogger()
        sys.stdout, sys.stderr, level = self._before
        root.removeHandler(self._handler)
        _set_level(root, level)

    def take(self) -> tuple[Event, ...]:
        """What was kept, in order; it is kept no longer."""
        events = tuple(self._events)
        self._begin()
        return events


#: A process has its streams once; whoever uses it has the process to itself.
recorder = Recorder()


def _set_level(logger: logging.Logger, level: int) -> None:
    if logger.level != level:  # setting it empties the caches of all loggers
        logger.setLevel(level)


def replay(events: Iterable[Event]) -> None:
    """Caller's side: write again what a worker wrote."""
    for kind, what in events:
        if kind == "log":
            record = logging.makeLogRecord(cast("dict[str, object]", what))
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
            continue
        stream = sys.stdout if kind == "stdout" else sys.stderr
        if stream is not None:
            stream.write(str(what))
