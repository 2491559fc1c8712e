"""How many modules were imported, but for those that pmap imports for itself while a function runs."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["n_imported", "own_imports"]

_lock = threading.Lock()
_n_importing = 0  # threads that import for pmap
_before = 0  # modules that there were before the first of these
_own = 0


def n_imported() -> int:
    """As many as there are now, of others; tells of a function by how much it grows."""
    return _before if _n_importing else len(sys.modules) - _own


@contextlib.contextmanager
def own_imports() -> Generator[None]:
    """What is imported meanwhile, in whatever thread, counts as pmap's own."""
    global _before, _n_importing, _own  # noqa: PLW0603
    with _lock:
        _before = n_imported()
        _n_importing += 1
    try:
        yield
    finally:
        with _lock:
            _n_importing -= 1
            if not _n_importing:
                _own = len(sys.modules) - _before
