"""What earlier calls have shown of a function, so that the next need not find it out again.

By its code, and that of the functions that it was made with: a lambda that is made anew for each
call, or a partial with other data, is taken to be the same function. Each size of partitions has its
own, since what a few rows take tells little of many. What is found otherwise is forgotten.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import types
from collections import OrderedDict
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from pmap._gauge import Usage

__all__ = ["Earlier", "Seen", "Tried", "forget", "forget_all", "recall", "remember"]

#: Functions that are remembered, and sizes of partitions for each.
_KEPT, _KEPT_SIZES = 64, 4
#: What a call has shown tells of partitions that are so many times larger or smaller.
_ALIKE = 4
#: Functions that are looked at to know one: itself, and those that it was made with.
_MOST_PARTS = 32
#: Calls that go by what one has shown; if then the same is found again, twice as many.
_TRUSTED = 8
#: Of what a way took that was tried once, or twice, so much is hoped for: the best of several tries,
#: which the way has that was chosen, is less than the only one.
_HOPED = {1: 0.9, 2: 0.95}


class Seen(NamedTuple):
    """Partitions that tell of others.

    Attributes
    ----------
    usage
        Of the function, for all of them.
    rows, bytes_out
        Of all of them, and of their results.
    n, largest
        How many they are, and the rows of the largest.
    """

    usage: Usage
    rows: int = 0
    bytes_out: int = 0
    n: int = 0
    largest: int = 0

    def plus(self, usage: Usage, rows: int, bytes_out: int = 0) -> Seen:
        """With one more."""
        return Seen(
            self.usage.plus(usage),
            self.rows + rows,
            self.bytes_out + bytes_out,
            self.n + 1,
            max(self.largest, rows),
        )

    @property
    def seconds_a_row(self) -> float | None:
        """On the wall's clock."""
        return self.usage.wall / self.rows if self.rows else None


class Tried(NamedTuple):
    """The least that a way took whose workers were there, and how often it was tried."""

    seconds_a_row: float
    times: int = 1

    def again(self, seconds_a_row: float) -> Tried:
        """After one more try: of several times the best counts, others were in the way of the rest."""
        return Tried(min(self.seconds_a_row, seconds_a_row), self.times + 1)

    def seconds(self, rows: int) -> float:
        """That it may be hoped to take for so many."""
        return _HOPED.get(self.times, 1.0) * self.seconds_a_row * rows


class Earlier(NamedTuple):
    """An earlier call of a function.

    Attributes
    ----------
    here
        Of its partitions, those in the caller that tell how the function spends its time.
    seconds_a_row
        Of all its partitions, wherever they were: the first may be the quick ones.
    largest
        Rows of the largest.
    took
        The ways that were tried, by their names and their workers' number.
    choice
        Where it went on.
    trusted
        How many calls may go by it, and how many could at first: what was measured may have misled.
    """

    here: Seen
    seconds_a_row: float
    largest: int
    took: dict[tuple[str, int], Tried]
    choice: str | None
    trusted: tuple[int, int] = (0, 0)

    def tells_of(self, rows: float) -> bool:
        """Whether partitions of so many rows are about as large as its own."""
        return rows <= _ALIKE * self.largest and self.largest <= _ALIKE * rows

    def trusted_after(self, before: Earlier | None) -> Earlier:
        """The same, with more calls that may go by it if it finds what was found before."""
        found_again = before is not None and before.choice == self.choice
        n = max(_TRUSTED, 2 * before.trusted[1]) if before is not None and found_again else _TRUSTED
        return self._replace(trusted=(n, n))

    def used(self) -> Earlier:
        """The same, after one more call that went by it."""
        left, all_of_them = self.trusted
        return self._replace(trusted=(left - 1, all_of_them))


_lock = threading.Lock()
_known: OrderedDict[Hashable, list[Earlier]] = OrderedDict()  # the latest call of each size first


def recall(function: Callable[..., Any], rows: float) -> Earlier | None:
    """The latest call of a function with partitions of about so many rows, if it tells something."""
    with _lock:
        calls = _known.get(_key_of(function), [])
        return next((earlier for earlier in calls if earlier.tells_of(rows)), None)


def remember(function: Callable[..., Any], earlier: Earlier) -> None:
    """Keep what a call has shown, beside calls with partitions of other sizes."""
    key = _key_of(function)
    with _lock:
        others = [each for each in _known.get(key, []) if not each.tells_of(earlier.largest)]
        _known[key] = [earlier, *others[: _KEPT_SIZES - 1]]
        _known.move_to_end(key)
        while len(_known) > _KEPT:
            _known.popitem(last=False)


def forget(function: Callable[..., Any], rows: float) -> None:
    """It is not as it was, with partitions of about so many rows."""
    key = _key_of(function)
    with _lock:
        others = [each for each in _known.pop(key, []) if not each.tells_of(rows)]
        if others:
            _known[key] = others


def forget_all() -> None:
    """As if nothing had been called."""
    with _lock:
        _known.clear()


def _key_of(function: object) -> Hashable:
    """The code of a function, and of the functions that it was made with, and of theirs."""
    parts: list[object] = [function]
    key: list[Hashable] = []
    for part in parts:  # more come in meanwhile
        key.append(_identity(part))
        more = (other for other in _made_with(part) if callable(other))
        parts += islice(more, _MOST_PARTS - len(parts))
    return tuple(key)


def _identity(part: object) -> Hashable:
    """Its code or, if that is not of Python, its name; an object is asked nothing, only its class."""
    if isinstance(part, types.FunctionType):
        return part.__code__
    kind = type(part)
    has_name = isinstance(part, type) or "__qualname__" in vars(kind)
    named: Any = part if has_name else kind
    return getattr(named, "__module__", None), named.__qualname__


def _made_with(part: Any) -> list[object]:
    """What it may call: of an object its own attributes, and what calls it.

    `_function.parts_of`, which has a name for each, takes too long for every call.
    """
    if isinstance(part, functools.partial):
        return [part.func, *part.args, *part.keywords.values()]
    if isinstance(part, types.FunctionType):
        defaults = (part.__defaults__ or ()), (part.__kwdefaults__ or {}).values()
        return [*chain(*defaults), *_enclosed(part)]
    if isinstance(part, type):
        call = part.__call__
        return [call] if isinstance(call, types.FunctionType) else []
    if isinstance(part, types.MethodType):
        return [part.__func__, *_made_with(part.__self__)]
    thing: object = part
    return [type(thing), *(vars(thing).values() if type(thing).__dictoffset__ else ())]


def _enclosed(function: types.FunctionType) -> list[object]:
    """What is in its closure, as the function that a decorator got."""
    found: list[object] = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is not filled yet
            found.append(cell.cell_contents)
    return found
