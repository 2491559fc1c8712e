"""Messages of partitions as they go through a pipe: pickles of plain tuples.

Pickle names the class of each named tuple, and looks it up on the other side: for the few that are in
every message that takes ten times as long as their fields. What is rare, or large, keeps its class.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, cast

from pmap._gauge import Usage
from pmap._segment import Shared
from pmap._transport import Blob, Inline
from pmap._wire import Reply, Stats, TaskMessage

if TYPE_CHECKING:
    from pmap._transport import Parcel
    from pmap._wire import Message

__all__ = ["dump_reply", "dump_task", "load_message", "load_reply"]


def dump_task(task: TaskMessage) -> bytes:
    """The bytes of a task."""
    terms, parcel, number, attempt, rows, reply, slot = task
    plain = (terms, _plain(parcel), number, attempt, rows, reply and tuple(reply), slot)
    return pickle.dumps(plain, pickle.HIGHEST_PROTOCOL)


def load_message(data: bytes) -> TaskMessage | Message:
    """What came from our caller: a task that was dumped so, or another kind of message."""
    message: Any = pickle.loads(data)  # noqa: S301  from the pipe of our caller
    if message.__class__ is not tuple:
        return cast("Message", message)
    terms, parcel, number, attempt, rows, reply, slot = message
    return TaskMessage(
        terms, _parcel(parcel), number, attempt, rows, reply and Shared(*reply), slot
    )


def dump_reply(reply: Reply) -> bytes:
    """The bytes of a reply."""
    parcel, blob, error, stats, output, released = reply
    *figures, usage, unused = stats
    plain = (
        parcel and _plain(parcel),
        blob and tuple(blob),
        error,
        figures,
        usage and tuple(usage),
        unused,
        output,
        released,
    )
    return pickle.dumps(plain, pickle.HIGHEST_PROTOCOL)


def load_reply(data: bytes) -> Reply:
    """The reply that was dumped so."""
    plain: tuple[Any, ...] = pickle.loads(data)  # noqa: S301  from our own worker
    parcel, blob, error, figures, usage, unused, output, released = plain
    return Reply(
        parcel and _parcel(parcel),
        blob and Blob(*blob),
        error,
        Stats._make((*figures, usage and Usage(*usage), unused)),
        output,
        released,
    )


def _plain(parcel: Parcel) -> Parcel | tuple[Any, ...]:
    """A small frame without its class; others hold what takes longer."""
    return tuple(parcel) if isinstance(parcel, Inline) else parcel


def _parcel(plain: Any) -> Parcel:
    parcel: Parcel = Inline(*plain) if plain.__class__ is tuple else plain
    return parcel
