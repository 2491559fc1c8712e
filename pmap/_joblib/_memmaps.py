"""Arrays that are mapped from a file of the user's travel as the name of that file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import joblib
import numpy as np

if TYPE_CHECKING:
    from pmap._cloudpickled import Reduced

__all__ = ["reduce_as_array", "reduce_by_file"]


def reduce_by_file(value: np.ndarray[Any, Any]) -> Reduced | None:
    """An array that is mapped from a file of the user's is mapped from it in workers too."""
    if value.base is None:
        return None
    joblibs: Any = getattr(joblib, "_memmapping_reducer", None)  # not public: it may go
    if not hasattr(joblibs, "_reduce_memmap_backed"):
        return None  # then it travels as any other array
    backing: Any = joblibs._get_backing_memmap(value)  # noqa: SLF001
    if not isinstance(backing, np.memmap) or backing.filename is None:
        return None
    reduced: Reduced = joblibs._reduce_memmap_backed(value, backing)  # noqa: SLF001
    return reduced


def reduce_as_array(value: np.ndarray[Any, Any]) -> Any:
    """A result: one that is mapped from shared memory of ours comes back as a plain array."""
    return reduce_by_file(value) or np.asarray(value).__reduce_ex__(5)
