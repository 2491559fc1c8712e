"""How Polars' allocator keeps memory in a worker, and gives it back at rest.

jemalloc gives what is freed back to the system a moment later, by threads of its own. A fork has no such
threads: there a piece of 8 MB or more goes back at once, so that each page of the next one has to come
anew from the system, which can take ten times as long as what is done with it. All else goes back as
memory is asked for. So workers keep larger pieces too, and ask for memory when they rest.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import polars as pl

from pmap._resources import memory_of

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

__all__ = ["Giver", "set_up"]

#: Read by jemalloc when Polars is imported, which has put its own settings there; the last one counts.
_VARIABLE = "_RJEM_MALLOC_CONF"
#: Whether the system says what a process holds.
_CAN_TELL = sys.platform.startswith("linux")
#: Pieces from this size on go back at once: of pieces that grow, a fork keeps their sum for a while.
#: (Size 0, for none, would leave the first arena at its 8 MB.)
_KEEP_LARGE = f"oversize_threshold:{32 << 20}"
#: One arena, which any thread can move to give back.
_ONE_ARENA = "narenas:1"
#: Pieces to ask for: an arena looks at what it keeps about every thousandth time. Their rows: each is
#: large enough to come from the arena itself.
_REQUESTS, _ROWS = 3_000, 8_192
#: Looks that it takes, and seconds between them: the first begins a count, later ones give back what was
#: kept for half a second, first to be had again, then for good. (Polars before 2 leaves that to the kernel.)
_LOOKS, _KEPT_FOR = 4, 0.6
#: Bytes more than the last time for which that is done.
_WORTH_IT = 16 << 20


def set_up(env: MutableMapping[str, str], threads: int | None, *, keep: bool) -> None:
    """Have workers of that environment keep larger pieces, or not, unless the user has said how large.

    With several threads of Polars they keep to several arenas, and give back when they are asked for more;
    so they do if the user has said how many arenas. Where the system does not say what a worker holds,
    nobody would know when to have it give back.
    """
    said = [option for option in env.get(_VARIABLE, "").split(",") if option]
    if not keep:
        # what a worker that starts others was told
        said = [option for option in said if option != _KEEP_LARGE]
    elif _CAN_TELL and not _is_said("oversize_threshold", said):
        may_have_one = threads == 1 and not _is_said("narenas", said)
        said += [_KEEP_LARGE, _ONE_ARENA] if may_have_one else [_KEEP_LARGE]
    if said:
        env[_VARIABLE] = ",".join(said)


def _is_said(name: str, options: list[str]) -> bool:
    return any(option.partition(":")[0] == name for option in options)


class Giver:
    """Has what a worker does not use given back, where that is worth it."""

    def __init__(self) -> None:
        self._left = 0  # bytes that were in use the last time

    def give_back(self, is_resting: Callable[[], bool]) -> None:
        """Ask for memory, as long as the worker rests; takes some hundredths of a second of CPU."""
        if _held() < self._left + _WORTH_IT:
            return
        for look in range(_LOOKS):
            if look:
                time.sleep(_KEPT_FOR)
            for _ in range(_REQUESTS):
                if not is_resting():
                    return
                pl.int_range(_ROWS, eager=True)
        self._left = _held()


def _held() -> int:
    memory = memory_of(os.getpid())
    return 0 if memory is None else memory.own
