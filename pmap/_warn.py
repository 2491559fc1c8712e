"""Warnings that point at the user's line, however deep inside pmap they are raised."""

from __future__ import annotations

import inspect
import os
import warnings
from typing import TYPE_CHECKING, cast

from pmap.errors import PmapWarning

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["users_frame", "warn"]

_HERE = os.path.dirname(__file__) + os.sep


def warn(message: str, category: type[Warning] = PmapWarning) -> None:
    """Warn at the nearest frame outside pmap."""
    level, _ = _outside(inspect.currentframe())  # `skip_file_prefixes` came with Python 3.12
    warnings.warn(message, category, stacklevel=level)


def users_frame() -> FrameType:
    """The nearest frame outside pmap."""
    return _outside(inspect.currentframe())[1]


def _outside(frame: FrameType | None) -> tuple[int, FrameType]:
    """How far up, counted from 1, and what is there; the outermost, if all are pmap's own."""
    level = 1
    while frame is not None and frame.f_back is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    return level, cast("FrameType", frame)


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_HERE)
