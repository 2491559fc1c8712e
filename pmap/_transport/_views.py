"""Views of strings: which bytes of which buffer they name.

A view has four words: the size of the string, its first four bytes, a buffer, and the
first byte in it. A string of twelve bytes at most lies in its view, and in no buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    Words = np.ndarray[Any, np.dtype[np.uint32]]
    Offsets = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["VIEW", "Used", "lowered_views", "parts_used_by_views", "used_by_views"]

#: Bytes of a view, and of the strings that lie in it.
VIEW, _SHORT = 16, 12
#: Views that are looked at together: so few that the arrays stay in the cache.
_AT_ONCE = 12 * 1024


class Used(NamedTuple):
    """What views name of a buffer: the first byte and the one after the last, and how many."""

    low: int
    high: int
    n_bytes: int

    def __or__(self, other: Used) -> Used:
        """What both name."""
        return Used(
            min(self.low, other.low), max(self.high, other.high), self.n_bytes + other.n_bytes
        )


def used_by_views(views: memoryview) -> dict[int, Used]:
    """What all views together name, by the number of the buffer."""
    import numpy as np  # noqa: PLC0415

    words = np.frombuffer(views, np.uint32).reshape(-1, 4)
    found: dict[int, Used] = {}
    for at in range(0, len(words), _AT_ONCE):
        buffers, starts, ends = _long_strings(words[at : at + _AT_ONCE])
        for buffer in _numbers(buffers):
            mine = buffers == buffer
            used = _used(starts[mine], ends[mine])
            found[buffer] = found[buffer] | used if buffer in found else used
    return found


def _numbers(buffers: Words) -> list[int]:
    """Those that occur; most often it is one, or none."""
    import numpy as np  # noqa: PLC0415

    if not len(buffers):
        return []
    low, high = int(buffers.min()), int(buffers.max())
    return [low] if low == high else np.unique(buffers).tolist()


def parts_used_by_views(views: memoryview, buffer: int, gap: int) -> list[tuple[int, int]]:
    """The parts of one buffer that views name, in order; gaps as small as `gap` are not left out."""
    import numpy as np  # noqa: PLC0415

    buffers, starts, ends = _long_strings(np.frombuffer(views, np.uint32).reshape(-1, 4))
    starts, ends = starts[buffers == buffer], ends[buffers == buffer]
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    breaks = np.flatnonzero(starts[1:] > reach[:-1] + gap)
    lows = starts[[0, *(breaks + 1).tolist()]]
    highs = reach[[*breaks.tolist(), -1]]
    return list(zip(lows.tolist(), highs.tolist(), strict=True))


def lowered_views(views: memoryview, by: Mapping[int, int]) -> memoryview:
    """The same views of buffers of which the first bytes are left out: how many, by number."""
    import numpy as np  # noqa: PLC0415

    words = np.frombuffer(views, np.uint32).reshape(-1, 4).copy()
    for at in range(0, len(words), _AT_ONCE):
        some = words[at : at + _AT_ONCE]
        for buffer, low in by.items():
            mine = (some[:, 2] == buffer) & (some[:, 0] > _SHORT)
            some[:, 3] -= mine * np.uint32(low)
    return memoryview(cast("Any", words)).cast("B")


def _long_strings(words: Words) -> tuple[Words, Offsets, Offsets]:
    """Buffer, start and end of those that lie in a buffer."""
    import numpy as np  # noqa: PLC0415

    long = words[:, 0] > _SHORT
    chosen = words if long.all() else words[long]
    starts = chosen[:, 3].astype(np.int64)
    return chosen[:, 2], starts, starts + chosen[:, 0]


def _used(starts: Offsets, ends: Offsets) -> Used:
    return Used(int(starts.min()), int(ends.max()), int(ends.sum()) - int(starts.sum()))
