"""Frames that are mapped from a file on disk: they travel as that file.

Which file an address belongs to is in `/proc/self/maps`; where there is none, such frames
travel like any other.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from pmap._transport._parcel import File
from pmap.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FileRegion", "file_regions", "find_file", "map_file"]


class FileRegion(NamedTuple):
    """Addresses at which a file is mapped, from `start` of it on."""

    address: int
    size: int
    place: File
    start: int


def file_regions() -> list[FileRegion]:
    """The regular files on disk that this process has mapped to read, by address."""
    try:
        with open("/proc/self/maps") as lines:
            return [region for line in lines for region in _region(line)]
    except OSError:
        return []


def _region(line: str) -> Iterator[FileRegion]:
    addresses, rights, offset, device, inode, *rest = line.split(maxsplit=5)
    path = rest[0].rstrip("\n") if rest else ""
    if not path.startswith("/") or path.endswith(" (deleted)") or rights[:3] != "r--":
        return
    first, last = (int(end, 16) for end in addresses.split("-"))
    major, minor = (int(part, 16) for part in device.split(":"))
    file = File(path, os.makedev(major, minor), int(inode))
    yield FileRegion(first, last - first, file, int(offset, 16))


def find_file(regions: list[FileRegion], address: int, size: int) -> FileRegion | None:
    """The region that holds these bytes."""
    at = bisect_right(regions, address, key=_address) - 1
    if at < 0 or address + size > regions[at].address + regions[at].size:
        return None
    return regions[at] if _is_there(regions[at].place) else None


@lru_cache(maxsize=64)
def _is_there(file: File) -> bool:
    """Whether the path still leads to it; layered file systems show other inodes in the list."""
    try:
        return os.stat(file.path).st_ino == file.inode
    except OSError:
        return False


def _address(region: FileRegion) -> int:
    return region.address


def map_file(file: File) -> mmap.mmap:
    """Map a file in a worker.

    Raises
    ------
    TransportError
        When it is not the file that the caller has mapped.
    """
    try:
        with open(file.path, "rb") as opened:
            stat = os.fstat(opened.fileno())
            if stat.st_ino == file.inode:
                return mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
    except (OSError, ValueError) as exc:
        raise TransportError(f"the file of a mapped frame is gone: {file.path}: {exc}") from exc
    raise TransportError(f"the file of a mapped frame was replaced meanwhile: {file.path}")
