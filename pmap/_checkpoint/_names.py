"""What code of the user's refers to by name: globals, and modules that it imports when it runs."""

from __future__ import annotations

import dis
import importlib.util
import itertools
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmap._checkpoint._origin import is_library, is_library_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["globals_of", "modules_of"]


def globals_of(code: types.CodeType, namespace: Mapping[str, Any]) -> dict[str, object]:
    """The globals that it names, by name; of a module of the user's, what is taken from it."""
    found: dict[str, object] = {}
    for instructions in _instructions(code):
        for at, instruction in enumerate(instructions):
            name = instruction.argval
            if instruction.opname in {"LOAD_GLOBAL", "LOAD_NAME"} and name in namespace:
                path, value = _follow(name, namespace[name], instructions[at + 1 :])
                found[path] = value
    return found


def modules_of(code: types.CodeType, namespace: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of the user's modules that it imports, by their names."""
    found: dict[str, bytes] = {}
    for instructions in _instructions(code):
        for at, instruction in enumerate(instructions):
            if instruction.opname == "IMPORT_NAME":
                level = instructions[at - 2].argval  # after which comes what is taken from it
                name = "." * level + instruction.argval
                found |= _module(name, namespace.get("__package__"))
    return found


def _instructions(code: types.CodeType) -> Iterator[list[dis.Instruction]]:
    """Of the code itself and of the functions in it."""
    yield list(dis.get_instructions(code))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _instructions(constant)


def _module(name: str, package: str | None) -> dict[str, bytes]:
    try:
        found = importlib.util.find_spec(name, package)
    except (ImportError, ValueError, AttributeError):
        return {}  # the function will say so when it runs, or goes without
    origin = None if found is None else found.origin
    if found is None or not found.has_location or origin is None or is_library_file(origin):
        return {}
    return {found.name: Path(origin).read_bytes()}


def _follow(path: str, value: object, then: list[dis.Instruction]) -> tuple[str, object]:
    """From a module of the user's to what is taken from it: `helpers` to ``helpers.clean``."""
    attributes = itertools.takewhile(lambda one: one.opname in {"LOAD_ATTR", "LOAD_METHOD"}, then)
    for name in (one.argval for one in attributes):
        if not isinstance(value, types.ModuleType) or is_library(value) or not hasattr(value, name):
            break
        path, value = f"{path}.{name}", getattr(value, name)
    return path, value
