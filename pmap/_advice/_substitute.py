"""Native code for a function's Python functions, shown only if it was verified.

The whole function is run with the native expressions in their place, on the sample and on rows
whose values lie at the edges of their dtypes. Only an identical frame counts, and only if it
comes faster.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from pmap._advice._compare import compare, zeros_differ
from pmap._advice._edges import extremes
from pmap._advice._loop_finder import find_loops
from pmap._advice._patch import probed, replaced
from pmap._advice._source import constants_of
from pmap.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pmap._advice._loops import Loops
    from pmap._advice._patch import Probed, Replaced
    from pmap._advice._runner import Ran, Runner
    from pmap._advice._verdict import Verdict

    Dtypes = Mapping[tuple[str, str], pl.DataType]

__all__ = ["NOTHING", "Native", "find_native"]

_LINE = 80
#: Rows on which it is timed, and how many times as many are taken at a step.
_TIMED = 20_000
_TIMES = 6
#: Times that both are timed twice, on a busy machine; and from which ratio on it is a difference.
_ROUNDS = 4
_FASTER = 1.05
#: Rows on which the dtypes of columns are seen.
_PROBED = 48
_WRAPS = (
    "Whole numbers that need more than 64 bits wrap around in the expression, where Python goes on; "
    "native(frame) leaves such frames to Python."
)
_NAMES = ("from the Python function", "from the native code")


@dataclass(frozen=True, slots=True)
class Native:
    """What came of the search.

    Attributes
    ----------
    text
        The code to write, or ``None``.
    run
        The whole function with it.
    facts
        What was found, in sentences.
    times_as_fast, rows
        Of the verified code, on so many rows.
    what
        What it is instead of.
    """

    text: str | None = None
    run: Callable[[pl.DataFrame], Any] | None = None
    facts: tuple[str, ...] = ()
    times_as_fast: float = 1.0
    rows: int = 0
    what: str = "the Python function"


NOTHING = Native()


def find_native(  # noqa: PLR0911  a way out at each step that fails
    runner: Runner, rows: pl.DataFrame, verdict: Verdict
) -> Native:
    """Look for native code, verify it, and time it; costs six calls or so."""
    loops = find_loops(runner.function)
    if loops is None and not verdict.udfs:
        return NOTHING
    with probed(rows.schema) as probe:
        _called(runner, rows.head(_PROBED), loops, probe)
    dtypes = probe.dtypes
    _, first = _substituted(runner, rows.head(_PROBED), dtypes, loops)
    if not first.texts:
        return Native(facts=_refusals(first))
    ours, mine = _substituted(runner, rows, dtypes, loops)
    if mine.is_ambiguous:
        return _without(
            "One line makes different Python functions, so no single expression replaces it."
        )
    if ours.error is not None:
        return _without(f"A translation exists but fails: {_short(ours.error)}.")
    differs = _difference(runner.call(rows), ours, rows, mine)
    if differs is not None:
        return _without(differs)
    edges = _defined(extremes(rows, _edge_values(mine)), mine)
    on_edges = runner.call(edges)
    if on_edges.error is not None:
        return _without(
            "A translation exists, but could not be verified: on extreme values the function "
            f"raises {_short(on_edges.error)}."
        )
    edged, at_edges = _substituted(runner, edges, dtypes, loops)
    differs = _difference(on_edges, edged, edges, mine)
    if differs is not None:
        return _without(differs)
    _, at_end = _substituted(runner, rows.tail(rows.height // 3 + 1), dtypes, loops)
    if not (mine.texts == at_edges.texts == at_end.texts):
        return _without(
            "The Python function holds a value that changes with the rows that it is called on, "
            "so no single expression replaces it."
        )
    n_places = len({udf.where for udf in verdict.udfs}) + (0 if loops is None else len(loops.found))
    facts = _refusals(mine) if len(mine.texts) < n_places else ()
    facts += (_WRAPS,) if mine.may_wrap else ()
    return _timed(runner, rows, dtypes, mine, edges.height, facts, loops)


def _without(fact: str) -> Native:
    return Native(facts=(fact,))


def _substituted(
    runner: Runner, rows: pl.DataFrame, dtypes: Dtypes, loops: Loops | None
) -> tuple[Ran, Replaced]:
    with replaced(dtypes) as mine:
        ran = _called(runner, rows, loops, mine)
    return ran, mine


def _called(
    runner: Runner, rows: pl.DataFrame, loops: Loops | None, asked: Probed | Replaced
) -> Ran:
    """The function, or the copy of it in which loops ask."""
    if loops is None:
        return runner.call(rows)
    return runner.call_instead(loops.asking(asked.loop), rows)


def _edge_values(mine: Replaced) -> dict[str, list[object]]:
    """By column, what its functions compare with, look up, or have in them."""
    return {
        column: [value for function in functions for value in constants_of(function)]
        for column, functions in mine.columns.items()
    }


def _timed(  # noqa: PLR0913, PLR0917  what was found so far
    runner: Runner,
    rows: pl.DataFrame,
    dtypes: Dtypes,
    mine: Replaced,
    n_edges: int,
    facts: tuple[str, ...],
    loops: Loops | None,
) -> Native:
    many = _many(runner, rows)
    theirs = ours = float("inf")
    for _ in range(_ROUNDS):
        theirs = min(theirs, *(runner.call(many).seconds for _ in range(2)))
        again = (_substituted(runner, many, dtypes, loops)[0].seconds for _ in range(2))
        ours = min(ours, *again)
        if theirs > _FASTER * ours or runner.left < 2 * (theirs + ours):
            break
    speed = theirs / max(ours, 1e-9)
    times = f"{theirs * 1e3:.1f} ms with Python, {ours * 1e3:.1f} ms with the native code, on {many.height:,} rows"
    if speed <= _FASTER:
        return Native(
            facts=(*facts, f"A native expression gives the same but is not faster: {times}.")
        )

    wanted = {name: rows.schema[name] for name in mine.columns if name in rows.schema}

    def run(frame: pl.DataFrame) -> Any:
        for name, dtype in wanted.items():
            if frame.schema.get(name) != dtype:
                raise ArgumentError(
                    f"the native code was verified for {name!r} as {dtype}, "
                    f"and this frame has {frame.schema.get(name)}: explain it with this frame"
                )
        with replaced(dtypes, verified=mine.texts) as again:
            function = runner.function if loops is None else loops.asking(again.loop)
            result = function(frame)
            return result.collect() if isinstance(result, pl.LazyFrame) else result

    text = "\n".join(
        f"# instead of {old} ({line})\n{_laid_out(new)}" for (old, line), new in mine.texts.items()
    )
    verified = f"The whole function gave the identical frame on {rows.height:,} rows of the frame and {n_edges} rows of extreme values: {times}."
    what = "the Python loop" if mine.has_loops else "the Python function"
    return Native(text, run, (verified, *facts), speed, rows.height + n_edges, what)


def _many(runner: Runner, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows over and over, so that the times say something, as far as the budget goes."""
    seconds = runner.call(rows).seconds
    while 0 < rows.height < _TIMED and seconds * _TIMES * 4 < runner.left:
        rows = pl.concat([rows] * _TIMES)
        seconds = runner.call(rows).seconds
    return rows


def _laid_out(text: str) -> str:
    """Over several lines if it is long, as people write it."""
    if len(text) <= _LINE:
        return text
    steps = "when|otherwise" if ").when(" in text or ".otherwise(" in text else "str|replace_strict"
    lines = re.sub(rf"(?<=\))\.({steps})(?=[.(])", r"\n    .\1", text)
    code = f"(\n    {lines}\n)"
    try:
        is_same = ast.dump(ast.parse(code)) == ast.dump(ast.parse(text))
    except SyntaxError:  # a text of the user's looked like a method
        return text
    return code if is_same else text


def _defined(edges: pl.DataFrame, mine: Replaced) -> pl.DataFrame:
    """Without the values on which the Python functions raise, or give what no Int64 can hold."""
    for name, functions in mine.columns.items():
        keep = [
            all(
                _works(function, value)
                for function in functions
                if value is not None or function in mine.given_nulls
            )
            for value in edges[name]
        ]
        edges = edges.filter(pl.Series(keep, dtype=pl.Boolean))
    return edges


def _works(function: Callable[[Any], Any], value: Any) -> bool:
    try:
        result = function(value)
    except Exception:  # noqa: BLE001  whatever it raises, there is no result to compare
        return False
    return not isinstance(result, int) or -(1 << 63) <= result < 1 << 63


def _difference(theirs: Ran, ours: Ran, rows: pl.DataFrame, mine: Replaced) -> str | None:
    if ours.error is not None:
        return f"A translation exists but fails where Python does not: {_short(ours.error)}."
    if not isinstance(theirs.value, pl.DataFrame) or not isinstance(ours.value, pl.DataFrame):
        return "A translation exists, but what is no frame can not be compared."
    found = compare(theirs.value, ours.value, _NAMES)
    if found.kind == "same":
        signs = zeros_differ(theirs.value, ours.value)
        return (
            None
            if signs is None
            else f"A translation exists but differs by the sign of zero in {signs!r}."
        )
    culprit = _value_at(theirs.value, ours.value, rows, mine)
    return f"A translation exists but differs{culprit}, so it is not shown: {found.detail or 'by rounding'}."


def _value_at(theirs: pl.DataFrame, ours: pl.DataFrame, rows: pl.DataFrame, mine: Replaced) -> str:
    """Which value of the column it differs on, where rows correspond."""
    if theirs.height != rows.height or theirs.schema != ours.schema:
        return ""
    for name in theirs.columns:
        differs = (
            theirs[name].ne_missing(ours[name]) if not theirs[name].dtype.is_nested() else None
        )
        row = None if differs is None else differs.arg_max()
        if row is not None and differs is not None and differs[row]:
            values = ", ".join(f"{column}={rows[column][row]!r}" for column in mine.columns)
            return f" on {values}"
    return ""


def _refusals(mine: Replaced) -> tuple[str, ...]:
    return tuple(f"No native code for {name}: {reason}." for name, reason in mine.refused.items())


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}"
