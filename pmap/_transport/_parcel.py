"""What travels of a frame: tuples of plain values."""

from __future__ import annotations

from typing import NamedTuple

from pmap._segment import Shared

__all__ = [
    "COLUMN_BYTES",
    "HERE",
    "INLINE_BYTES",
    "Blob",
    "Columns",
    "File",
    "Flags",
    "Inline",
    "Node",
    "Parcel",
    "Place",
    "Shared",
    "Span",
    "Streamed",
    "is_inline",
]

#: Frames up to this size ride inside the message: tens of microseconds, where a segment
#: costs hundreds. Bytes.
INLINE_BYTES = 32 * 1024

#: What a column costs more when its buffers travel than when it is copied, in bytes copied.
COLUMN_BYTES = 8 * 1024

#: Indices of sorted columns, and whether downwards.
Flags = tuple[tuple[int, bool], ...]


class File(NamedTuple):
    """A file on disk that the caller has mapped."""

    path: str
    device: int
    inode: int


Place = Shared | File

#: Index of no place: bytes that lie in the process itself, and are to be copied.
HERE = -1


class Span(NamedTuple):
    """Bytes of a place, by its index in the parcel; for `HERE`, at an address."""

    place: int
    start: int
    size: int


class Node(NamedTuple):
    """An Arrow array: its type is its column's, or its parent's child type."""

    length: int
    null_count: int
    offset: int
    spans: tuple[Span | None, ...]
    children: tuple[Node, ...] = ()
    dictionary: Node | None = None


class Inline(NamedTuple):
    """A whole frame as Arrow IPC stream bytes."""

    data: bytes
    flags: Flags = ()

    @property
    def n_bytes(self) -> int:
        """What travels."""
        return len(self.data)


class Streamed(NamedTuple):
    """A whole frame as Arrow IPC stream bytes in a segment, to be copied out of it.

    For middling frames of many columns: copying is quicker than mapping column by column.
    """

    place: Shared  #: it begins at the segment's start, or at `start`
    start: int
    size: int
    flags: Flags = ()

    @property
    def n_bytes(self) -> int:
        """What travels."""
        return self.size


class Columns(NamedTuple):
    """A frame as the trees of its columns' arrays.

    Attributes
    ----------
    schema
        Of the columns with trees, as an Arrow IPC message.
    names
        Of all columns, in their order, if some are in `rest`.
    arrays
        For each column the nodes of its arrays.
    places
        Where the spans lie.
    rest
        The columns that Arrow arrays do not carry faithfully, as IPC stream bytes.
    n_bytes
        What was or will be copied.
    size
        Bytes of the segment up to where its data end.
    """

    schema: bytes
    arrays: tuple[tuple[Node, ...], ...]
    places: tuple[Place, ...]
    n_bytes: int
    size: int = 0
    names: tuple[str, ...] | None = None
    rest: Inline | Streamed | None = None
    flags: Flags = ()


Parcel = Inline | Streamed | Columns


class Blob(NamedTuple):
    """Bytes that are no frame: a pickle, inline or in a segment."""

    data: bytes | None
    place: Shared | None = None  #: it begins at the segment's start
    size: int = 0


def is_inline(what: Parcel | Blob) -> bool:
    """Whether all of it is in the message, and nothing in a segment."""
    return isinstance(what, Inline) or (isinstance(what, Blob) and what.data is not None)
