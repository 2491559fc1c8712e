"""Which columns of a partition nobody has looked at, by what the kernel knows of this process.

A page of a mapping gets an entry in the page table when it is first looked at (with a few
neighbours); `/proc/self/pagemap` shows it. So what has none was never read here. A segment
that an earlier call has read proves nothing: then too little is found, never too much.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, NamedTuple

from pmap._transport._columns import read_schema
from pmap._transport._nodes import spans_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pmap._transport._parcel import Columns

__all__ = ["Unused", "unused_of"]

#: Smaller columns have too few pages to tell. Bytes.
_LEAST_BYTES = 256 * 1024
#: Of the pages, those that neighbours bring along.
_BY_CHANCE = 0.1
#: A page that is there, or was and is swapped out.
_THERE = 0b11 << 62
_ENTRY = 8


class Unused(NamedTuple):
    """Columns that were not looked at; their bytes, and those of the whole partition."""

    columns: tuple[str, ...]
    n_bytes: int
    of_bytes: int


def unused_of(parcel: Columns, addresses: Sequence[int]) -> Unused | None:
    """The columns of a partition that are mapped, and not looked at.

    Parameters
    ----------
    parcel
        The partition; it must be mapped still.
    addresses
        Of its places.
    """
    found: list[tuple[str, int]] = []
    whole = 0
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for name, spans in _columns(parcel, addresses):
            size = sum(n for _, n in spans)
            whole += size
            if size >= _LEAST_BYTES and _share_there(pagemap.fileno(), spans) < _BY_CHANCE:
                found.append((name, size))
    return Unused(tuple(name for name, _ in found), sum(n for _, n in found), whole)


def _columns(
    parcel: Columns, addresses: Sequence[int]
) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    for name, nodes in zip(read_schema(parcel.schema).names, parcel.arrays, strict=True):
        spans = spans_of(nodes)
        yield name, [(addresses[s.place] + s.start, s.size) for s in spans if s.size]


def _share_there(pagemap: int, spans: list[tuple[int, int]]) -> float:
    pages = there = 0
    for address, size in spans:
        first, last = address // mmap.PAGESIZE, (address + size - 1) // mmap.PAGESIZE
        entries = os.pread(pagemap, _ENTRY * (last - first + 1), _ENTRY * first)
        pages += last - first + 1
        there += sum(entry & _THERE != 0 for entry in memoryview(entries).cast("Q"))
    return there / max(1, pages)
