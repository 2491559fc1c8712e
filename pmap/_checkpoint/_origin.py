"""Where code comes from: the user's own, whose text counts, or a library's, whose version does."""

from __future__ import annotations

import sys
import sysconfig
import types
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["is_library", "is_library_file", "root_of", "version_of"]

#: Names of the module that is run as a program; under `multiprocessing` it bears the second.
_MAIN = frozenset({"__main__", "__mp_main__"})
_OURS = frozenset({"pmap", "pmap_backends"})
_PACKAGES = frozenset({"site-packages", "dist-packages"})


def is_library(thing: Any) -> bool:
    """Whether a module, function or class belongs to Python or to something installed."""
    return _is_library(_module_of(thing))


def root_of(thing: Any) -> str:
    """The outermost package."""
    return _module_of(thing).partition(".")[0]


def version_of(root: str) -> str | None:
    """Of an installed package; Python's own modules have the version of Python."""
    if root in sys.stdlib_module_names:
        return None
    version = getattr(sys.modules.get(root), "__version__", None)
    return version if isinstance(version, str) else None


def _module_of(thing: Any) -> str:
    name = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
    return name if isinstance(name, str) else "__main__"


@cache
def _is_library(name: str) -> bool:
    root = name.partition(".")[0]
    if name in _MAIN:
        return False
    if root in _OURS or root in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    if not isinstance(file, str):
        return False  # of a notebook, or made by hand
    return is_library_file(file)


def is_library_file(file: str) -> bool:
    """Whether a module's file is Python's or was installed."""
    path = Path(file)
    return bool(_PACKAGES & set(path.parts)) or any(path.is_relative_to(at) for at in _homes())


@cache
def _homes() -> tuple[str, ...]:
    """Folders of Python's own modules, and of ours."""
    return (
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        str(Path(__file__).absolute().parent.parent),
    )
