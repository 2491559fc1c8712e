"""Warnings that point at the user's line, however deep inside pmap they are raised."""

from __future__ import annotations

import inspect
import os
import warnings
from typing import TYPE_CHECKING

from pmap.errors import PmapWarning

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["warn"]

_HERE = os.path.dirname(__file__) + os.sep


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_HERE)


def warn(message: str, category: type[Warning] = PmapWarning) -> None:
    """Warn at the nearest frame outside pmap."""
    level, frame = 1, inspect.currentframe()  # `skip_file_prefixes` came with Python 3.12
    while frame is not None and frame.f_back is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
