"""Frames that are mapped from a file on disk: they travel as that file.

Which file an address belongs to is in `/proc/self/maps`; where there is none, such frames
travel like any other.
"""

from __future__ import annotations

import contextlib
import os
import re
from bisect import bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from pmap._transport._parcel import File
from pmap.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["FileRegion", "file_regions", "find_file", "open_file"]


class FileRegion(NamedTuple):
    """Addresses at which a file is mapped, from `start` of it on."""

    address: int
    size: int
    place: File
    start: int


#: Addresses, rights, offset, device, inode, path. Compiled when it is first used.
_LINE = r"^([0-9a-f]+)-([0-9a-f]+) r--. ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) +(/.*)$"
#: Most of the list are libraries, which are left out: to take them apart would double the time.
_IS_LIBRARY = r"\.so[.\d]*$"


def file_regions() -> list[FileRegion]:
    """The regular files on disk that this process has mapped to read, by address."""
    try:
        with open("/proc/self/maps") as lines:
            found = re.finditer(_LINE, lines.read(), re.MULTILINE)
    except OSError:
        return []
    return [_region(match) for match in found if not _is_left_out(match[7])]


def _is_left_out(path: str) -> bool:
    return path.endswith(" (deleted)") or re.search(_IS_LIBRARY, path) is not None


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


@contextlib.contextmanager
def open_file(file: File) -> Generator[int]:
    """The file in a worker, as a descriptor.

    Raises
    ------
    TransportError
        When it is not the file that the caller has mapped.
    """
    try:
        fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise TransportError(f"the file of a mapped frame is gone: {file.path}: {exc}") from exc
    try:
        if os.fstat(fd).st_ino != file.inode:
            raise TransportError(f"the file of a mapped frame was replaced: {file.path}")
        yield fd
    finally:
        os.close(fd)
