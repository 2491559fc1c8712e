"""How many modules were imported, but for those that pmap imports for itself while a function runs."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["n_imported", "own_imports"]

_own = 0
_before: int | None = None  # while somebody imports for pmap


def n_imported() -> int:
    """As many as there are now, of others; tells of a function by how much it grows."""
    return len(sys.modules) - _own if _before is None else _before


@contextlib.contextmanager
def own_imports() -> Generator[None]:
    """What is imported meanwhile, in whatever thread, counts as pmap's own."""
    global _own, _before  # noqa: PLW0603
    _before = before = n_imported()
    try:
        yield
    finally:
        _own, _before = len(sys.modules) - before, None
