"""Frames that are mapped from a file on disk: they travel as that file.

Which file an address belongs to is in `/proc/self/maps`; where there is none, such frames
travel like any other.
"""

from __future__ import annotations

import mmap
import os
import re
from bisect import bisect_right
from functools import lru_cache
from typing import NamedTuple

from pmap._transport._parcel import File
from pmap.errors import TransportError

__all__ = ["FileRegion", "file_regions", "find_file", "map_file"]


class FileRegion(NamedTuple):
    """Addresses at which a file is mapped, from `start` of it on."""

    address: int
    size: int
    place: File
    start: int


#: Addresses, rights, offset, device, inode, path; programs' own files are left out.
_LINE = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) r--. ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) +(/.*)$", re.MULTILINE
)


def file_regions() -> list[FileRegion]:
    """The regular files on disk that this process has mapped to read, by address."""
    try:
        with open("/proc/self/maps") as lines:
            found = _LINE.finditer(lines.read())
    except OSError:
        return []
    return [_region(match) for match in found if not match[7].endswith((" (deleted)", ".so"))]


def _region(match: re.Match[str]) -> FileRegion:
    first, last, start, major, minor = (int(part, 16) for part in match.groups()[:5])
    file = File(match[7], os.makedev(major, minor), int(match[6]))
    return FileRegion(first, last - first, file, start)


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
