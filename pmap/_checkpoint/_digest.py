"""What a function is, as short texts by name: the same in every run of the same program.

What counts is what the function does: bytecode and constants, defaults, closure, and of the
globals those that it names, the user's own functions and classes in the same way in their
turn. Files, line numbers, docstrings and the order of sets do not count. Libraries count by
name and version. What can not be pickled, such as a lock or a connection, counts by its class.

Each part has a name that a person understands, so that a difference can be told in words.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import itertools
import types
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from pmap._checkpoint._names import globals_of, modules_of
from pmap._checkpoint._origin import is_library, root_of, version_of
from pmap._checkpoint._values import Values
from pmap._function import name_of
from pmap.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["digest_of_function"]


def digest_of_function(function: Callable[..., Any]) -> dict[str, str]:
    """The parts of a function, and of all that it calls, by their names.

    Parameters
    ----------
    function
        Of any kind that can be mapped: a function, a method, a partial, an object, a class.

    Raises
    ------
    UnsupportedDtypeError
        For a frame with `Object` columns inside it.
    CheckpointError
        For data inside it that are nested too deeply.
    """
    try:
        return _Walk().parts_of(function)
    except RecursionError:
        raise CheckpointError(
            f"{name_of(function)} refers to data that are nested too deeply to be compared with those "
            "of another run, as a checkpoint needs it"
        ) from None


class _Walk:
    """From a function to all that belongs to it, each once."""

    def __init__(self) -> None:
        self._values = Values(self._label)
        self._labels: dict[int, str] = {}
        self._known: list[object] = []  # so that no other object gets its id
        self._waiting: deque[tuple[str, object]] = deque()
        self._versions: dict[str, str] = {}

    def parts_of(self, function: object) -> dict[str, str]:
        parts = dict(self._outermost(function))
        while self._waiting:
            label, thing = self._waiting.popleft()
            inside = _of_class if isinstance(thing, type) else self._of_function
            for name, value in inside(label, cast("Any", thing)):
                parts[name] = self._text(value)
        return parts | self._versions

    def _text(self, value: object) -> str:
        return hashlib.sha256(self._values.token(value)).hexdigest()[:32]

    def _outermost(self, function: object) -> Iterator[tuple[str, str]]:
        """What is mapped may hold data of its own, each piece of which has a name."""
        if isinstance(function, functools.partial):
            for index, value in enumerate(function.args):
                yield f"argument {index} of the partial", self._text(value)
            for name, value in function.keywords.items():
                yield f"the argument {name} of the partial", self._text(value)
            yield from self._outermost(function.func)
        elif isinstance(function, types.MethodType):
            yield from self._outermost(function.__self__)
            self._label(function.__func__)
        elif isinstance(function, types.FunctionType | type):
            self._label(function)
        elif not is_library(type(function)) and hasattr(function, "__dict__"):
            self._label(type(function))
            for name, value in vars(function).items():
                yield f"the attribute {name} of the {name_of(function)} object", self._text(value)
        else:
            yield f"the {name_of(function)} object", self._text(function)

    def _label(self, thing: Any) -> str:
        """A name for a function, class or module; those of the user are looked into later."""
        if id(thing) in self._labels:
            return self._labels[id(thing)]
        module = thing if isinstance(thing, types.ModuleType) else None
        name = thing.__name__ if module else thing.__qualname__
        if is_library(thing):
            self._note_version(thing)
            if module is None:
                name = f"{thing.__module__}.{name}"
        label = self._labels[id(thing)] = self._unique(name)
        self._known.append(thing)
        if module is None and (not is_library(thing) or "<locals>" in name):
            self._waiting.append((label, thing))
        return label

    def _unique(self, name: str) -> str:
        taken = set(self._labels.values())
        numbered = (f"{name} (number {n})" for n in itertools.count(2))
        return next(label for label in itertools.chain([name], numbered) if label not in taken)

    def _note_version(self, thing: object) -> None:
        root = root_of(thing)
        version = version_of(root)
        if version is not None:
            self._versions[f"the version of {root}"] = version

    def _of_function(self, label: str, function: Any) -> Iterator[tuple[str, object]]:
        if not isinstance(function, types.FunctionType):  # of a compiled module of the user's
            return
        yield f"the code of {label}", _without_doc(function)
        code = function.__code__
        positional = code.co_varnames[: code.co_argcount]
        defaults = function.__defaults__ or ()
        named = dict(zip(positional[len(positional) - len(defaults) :], defaults, strict=True))
        for name, value in {**named, **(function.__kwdefaults__ or {})}.items():
            yield f"the default of {name} in {label}", value
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            yield f"the closure variable {name} of {label}", _content(cell)
        if not is_library(function):
            for name, value in globals_of(code, function.__globals__).items():
                yield f"the global {name} of {label}", value
            for name, text in modules_of(code, function.__globals__).items():
                yield f"the module {name}, imported in {label},", text


def _of_class(label: str, kind: type) -> Iterator[tuple[str, object]]:
    yield f"the bases of {label}", kind.__bases__
    for name, value in vars(kind).items():
        inside = _unwrapped(value)
        if not _is_incidental(name, inside):
            yield f"{name} of {label}", inside


def _is_incidental(name: str, value: object) -> bool:
    """Whether Python or a library keeps books in it: where a class stands, what it is made of."""
    return (
        isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType)
        or name.startswith(("_abc_", "__annotate"))
        or (name.startswith("__") and name.endswith("__") and not callable(value))
    )


def _unwrapped(value: Any) -> object:
    """The functions inside what a class makes of them."""
    if isinstance(value, staticmethod | classmethod):
        return cast("Any", value).__func__
    if isinstance(value, property):
        return value.fget, value.fset, value.fdel
    return value


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return "<empty>"  # it is not filled yet


def _without_doc(function: types.FunctionType) -> types.CodeType:
    """The docstring is the first of the constants, where the code may use it, too."""
    code = function.__code__
    if function.__doc__ is None or code.co_consts[:1] != (function.__doc__,):
        return code
    if any(one.opcode in dis.hasconst and one.arg == 0 for one in dis.get_instructions(code)):
        return code
    return code.replace(co_consts=(None, *code.co_consts[1:]))
