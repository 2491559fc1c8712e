"""Whether Python code gives the same for the same value, whatever was called before.

Said only of code that stores nothing outside itself and calls nothing but what is known to be
so. Everything else is not known.
"""

from __future__ import annotations

import builtins
import dis
import inspect
from datetime import date, datetime, time, timedelta
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    ModuleType,
)
from typing import TYPE_CHECKING, Any, cast

from pmap._advice._names import words

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["changes_in_place", "impurity", "keeps_state", "reachable"]

_STORES = words(
    "STORE_GLOBAL DELETE_GLOBAL STORE_ATTR DELETE_ATTR STORE_SUBSCR DELETE_SUBSCR STORE_SLICE"
)
#: Sets of strings have another order in each process.
_OTHERS = words("BUILD_SET SET_ADD SET_UPDATE YIELD_VALUE IMPORT_NAME IMPORT_FROM")
_BUILTINS = words(
    "abs all any ascii bin bool bytes chr complex dict divmod enumerate filter float format hex int isinstance len list "
    "map max min oct ord pow range repr reversed round slice sorted str sum tuple zip True False None"
)
_MODULES = words("math re json string unicodedata hashlib base64 zlib html binascii")
_CLASSES = words("date datetime time timedelta Decimal Fraction")
_METHODS = words(
    # str and bytes
    "capitalize casefold center count encode decode endswith expandtabs find format index isalnum isalpha isascii "
    "isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip "
    "partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines "
    "startswith strip swapcase title translate upper zfill hex maketrans "
    # numbers, dates
    "bit_length as_integer_ratio is_integer conjugate real imag year month day hour minute second microsecond weekday "
    "isoweekday isocalendar isoformat fromisoformat strftime strptime toordinal date days seconds microseconds total_seconds quantize sqrt "
    # dictionaries and lists of constants, read
    "get keys values items copy "
    # math
    "acos acosh asin asinh atan atan2 atanh ceil comb copysign cos cosh degrees dist e erf erfc exp exp2 expm1 fabs "
    "factorial floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan isqrt lcm ldexp lgamma log log10 "
    "log1p log2 modf nan perm pi pow prod radians remainder sin sinh tan tanh tau trunc "
    # re, json, hashlib and the like
    "compile escape findall finditer fullmatch match search sub subn group groups groupdict start end span I "
    "IGNORECASE loads dumps md5 sha1 sha224 sha256 sha384 sha512 blake2b blake2s digest hexdigest b64encode b64decode "
    "crc32 adler32 unescape normalize category numeric ascii_letters ascii_lowercase ascii_uppercase digits "
    "punctuation hexlify unhexlify "
    "combine"
)
_CONSTANT = (bool, int, float, complex, str, bytes, frozenset, tuple, range, type(None))
#: Classes whose methods are asked for by name, as `str.upper`.
_VALUES = (str, bytes, int, float, date, datetime, time, timedelta)
_DEEPEST = 6


def keeps_state(code: CodeType) -> str | None:
    """What a piece of the user's code stores outside itself, or catches; ``None`` if nothing."""
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name in _STORES:
            return f"{code.co_name} changes {instruction.argval or 'an object'} as it runs"
        if name == "STORE_DEREF" and instruction.argval in code.co_freevars:
            return f"{code.co_name} changes the outer variable {instruction.argval}"
        if name == "PUSH_EXC_INFO":
            return f"{code.co_name} catches errors, or has a with block"
        if name == "YIELD_VALUE" and code.co_name not in {"<genexpr>", "<lambda>"}:
            return f"{code.co_name} is a generator"
    return None


def changes_in_place(code: CodeType) -> bool:
    """Whether a piece of code has an operator like ``+=``, which changes a list or set itself."""
    return any(
        instruction.opname == "BINARY_OP" and str(instruction.argrepr).endswith("=")
        for instruction in dis.get_instructions(code)
    )


def reachable(function: object) -> Iterator[Any]:
    """Objects that a function holds on to: closure, globals that it names, defaults, attributes."""
    seen: set[int] = set()
    stack = [(function, 0)]
    while stack:
        value, depth = stack.pop()
        if id(value) in seen or depth > _DEEPEST:
            continue
        seen.add(id(value))
        yield value
        stack += [(part, depth + 1) for part in _parts(value)]


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, FunctionType):
        yield from _cells(value).values()
        names = _names_in(value.__code__)
        yield from (value.__globals__[name] for name in names if name in value.__globals__)
        yield from (value.__defaults__ or ())
        yield from (value.__kwdefaults__ or {}).values()
    elif isinstance(value, dict):
        items = cast("dict[object, object]", value)
        yield from list(items.values())[:1000]
    elif isinstance(value, list | tuple | set | frozenset):
        yield from list(cast("list[object]", value))[:1000]
    elif isinstance(value, ModuleType | type):
        return
    else:
        for name in ("__self__", "__func__", "func", "args", "keywords", "__wrapped__"):
            part = inspect.getattr_static(value, name, None)
            if part is not None:
                yield getattr(value, name, None)
        yield from getattr(value, "__dict__", {}).values()


def _cells(function: FunctionType) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    return found


def _names_in(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names_in(constant)
    return names


def impurity(function: object, depth: int = 0) -> str | None:
    """Why a function of a value is not known to be pure; ``None`` if it is."""
    if isinstance(function, type) and function in {str, int, float, bool, len, abs, repr}:
        return None
    if isinstance(function, BuiltinFunctionType):
        known = function.__module__ in _MODULES | {"builtins", "_hashlib"}
        return None if known and function.__name__ in _BUILTINS | _METHODS else "a function in C"
    if isinstance(function, MethodDescriptorType):
        known = function.__objclass__ in _VALUES and function.__name__ in _METHODS
        return None if known else "a method in C"
    if not isinstance(function, FunctionType):
        return f"a {type(function).__name__}"
    if depth > _DEEPEST:
        return "deep calls"
    return _of_code(function.__code__, function, depth)


def _of_code(code: CodeType, function: FunctionType, depth: int) -> str | None:
    cells = _cells(function)
    if changes_in_place(code) and any(
        isinstance(value, list | dict) for value in reachable(function)
    ):
        return f"{code.co_name} may change a list that lives on"
    for instruction in dis.get_instructions(code):
        reason = _of_instruction(instruction, code, function, cells, depth)
        if reason is not None:
            return reason
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            reason = _of_code(constant, function, depth)
            if reason is not None:
                return reason
    return None


def _of_instruction(
    instruction: dis.Instruction,
    code: CodeType,
    function: FunctionType,
    cells: dict[str, Any],
    depth: int,
) -> str | None:
    name, value = instruction.opname, instruction.argval
    if name in _STORES or (name in _OTHERS and not (name == "YIELD_VALUE" and "<" in code.co_name)):
        return f"{code.co_name} stores, imports or makes a set"
    if name == "STORE_DEREF" and value in code.co_freevars and value in cells:
        return f"{code.co_name} changes the outer variable {value}"
    if name in {"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"} and value not in _METHODS:
        return f".{value} in {code.co_name}"
    if name in {"LOAD_GLOBAL", "LOAD_NAME"}:
        return _of_outer(value, _global(function, value), depth)
    if name in {"LOAD_DEREF", "LOAD_CLASSDEREF"} and value in cells:
        return _of_outer(value, cells[value], depth)
    return None


_MISSING = object()


def _global(function: FunctionType, name: str) -> Any:
    return function.__globals__.get(name, getattr(builtins, name, _MISSING))


def _of_outer(name: str, value: Any, depth: int) -> str | None:
    """Why a name from outside is not known to stand for the same always."""
    if isinstance(value, _CONSTANT) or type(value).__name__ == "Pattern":
        return None
    if isinstance(value, ModuleType):
        return None if value.__name__ in _MODULES | {"datetime", "decimal"} else f"module {name}"
    if value is getattr(builtins, name, _MISSING):
        is_error = isinstance(value, type) and issubclass(value, BaseException)
        return None if name in _BUILTINS or is_error else f"{name}()"
    if isinstance(value, type) and value.__name__ in _CLASSES:
        return None
    if type(value) in {dict, list}:
        return None  # read only: nothing in the code stores into it
    return impurity(value, depth + 1)
