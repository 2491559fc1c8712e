"""The front of `explain`: samples, trace, test, measurements, native code; then the words."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from pmap._advice._costs import Rate, costs_of, is_warm, transport_seconds
from pmap._advice._explanation import Explanation
from pmap._advice._measure import LEAST, Measured, measure
from pmap._advice._partition_test import CALLS, FIRST_CALLS, Tried, try_parts
from pmap._advice._runner import Ran, Runner, untouched
from pmap._advice._safety import Safety, weigh
from pmap._advice._sample import sample, with_key_mates
from pmap._advice._substitute import NOTHING, Native, find_native
from pmap._advice._verdict import Verdict, judge
from pmap._config import resolve
from pmap._figures import figures
from pmap._function import instantiate, name_of
from pmap._plan import default_process_backend, requested_workers
from pmap._resources import cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["explain_function"]

_FIRST = 48
_MOST_ROWS = 3000
_MANY_ROWS = 200_000
_BULK_ROWS = 1_000_000
#: New modules in a call from which on its time is that of importing them.
_MODULES = 20
#: Times that the function is called, about, for the line that is said first.
_ABOUT = CALLS + 10


@dataclass(slots=True)
class _Findings:
    """What is known so far."""

    name: str
    frame: pl.DataFrame
    runner: Runner
    facts: list[str] = field(default_factory=list[str])
    verdict: Verdict = field(default_factory=Verdict)
    tried: Tried = field(default_factory=lambda: Tried("untried", "the budget was used up"))
    measured: Measured | None = None
    native: Native = NOTHING
    timed: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    last: Ran | None = None
    rows: pl.DataFrame = field(default_factory=pl.DataFrame)

    def note(self, rows: pl.DataFrame, ran: Ran) -> None:
        """Keep what a call took."""
        self.last, self.rows = ran, rows
        if ran.error is None:
            self.timed.append((rows.height, ran.seconds))


def explain_function(
    frame: pl.DataFrame, function: Callable[..., Any], budget: float
) -> Explanation:
    """Find out what is best for a function; see `pmap.explain`."""
    name = name_of(function).rpartition(".")[2].replace("<lambda>", "function")
    _say(name, budget)
    seed = resolve().seed
    with untouched():
        found = _Findings(name, frame, Runner(instantiate(function), budget, seed))
        _look(found)
    return _explained(found, budget)


def _say(name: str, budget: float) -> None:
    text = f"pmap.explain calls {name} on samples of the frame, about {_ABOUT} times, within about {budget:g} s"
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201  said before anything is called


def _look(found: _Findings) -> None:
    runner = found.runner
    rows = sample(found.frame, _FIRST)
    modules = len(sys.modules)
    ran, trace = runner.trace(rows)
    found.note(rows, ran)
    if len(sys.modules) >= modules + _MODULES:
        found.facts.append(
            f"The first call imported modules, which took most of {ran.seconds:.1f} s."
        )
        runner.restart()  # that is paid once, and says nothing of the rows
    if trace is not None:
        found.verdict = judge(runner.function, trace)
        if runner.n_calls == 1 and runner.left > 0:
            found.note(rows, runner.call(rows))  # the first call warms up caches, and was watched
            found.timed = found.timed[-1:] or found.timed
    if runner.left <= 0:
        return
    wanted = _affordable(found, runner.left * 0.35 / CALLS)
    tested = with_key_mates(sample(found.frame, wanted), found.frame, found.verdict.keys)
    if found.timed and found.timed[-1][1] * FIRST_CALLS > runner.left:
        found.facts.append(
            f"One call takes {found.timed[-1][1]:.2f} s however few the rows: parts could not be tried within the budget."
        )
    else:
        found.tried = try_parts(runner, tested, in_order=found.verdict.needs_order)
        _try_more(found, tested.height)
    if ran.error is None:
        if runner.left > 0:
            found.native = find_native(runner, tested, found.verdict)
            found.facts += found.native.facts
        elif found.verdict.udfs:
            found.facts.append("The budget ended before native code was looked for.")
    _measure(found)


def _try_more(found: _Findings, tried: int) -> None:
    """Many more rows, where that costs little: some functions change at a number of rows."""
    rows, seconds = tried, max(found.runner.spent / found.runner.n_calls, 1e-5)
    wanted = min(
        _MANY_ROWS, found.frame.height, int(rows * found.runner.left * 0.2 / CALLS / seconds)
    )
    proven = found.verdict.is_row_by_row
    if found.tried.is_equal and not proven and wanted > 1.2 * rows:
        more = try_parts(
            found.runner, sample(found.frame, wanted), in_order=found.verdict.needs_order
        )
        if more.is_decided:
            found.tried = more


def _affordable(found: _Findings, seconds: float) -> int:
    """Rows of which a call takes about so long."""
    if not found.timed:
        return _FIRST
    rows, took = found.timed[-1]
    return max(_FIRST, min(_MOST_ROWS, int(rows * seconds / max(took, 1e-6))))


def _measure(found: _Findings) -> None:
    """A call that is long enough to tell what bounds it, as far as the budget goes."""
    if found.last is None or found.last.error is not None:
        return
    for share in (0.15, 0.3, 0.5):
        left = found.runner.left
        rows, took = max(found.timed)
        if left <= took or (found.measured is not None and found.measured.is_enough):
            return
        target = min(max(2 * LEAST, 0.1), left * share)
        wanted = min(_BULK_ROWS, found.frame.height, int(rows * max(1.0, target / max(took, 1e-6))))
        wanted = min(wanted, rows * 64)  # what costs little a row now may cost more later
        bulk = found.frame.head(max(1, wanted))
        measured = _measured(found, bulk)
        if measured is None:
            found.facts.append(f"It raised on the first {bulk.height:,} rows.")
            return
        found.measured = measured
        found.timed.append((bulk.height, measured.seconds))
        if bulk.height == found.frame.height:
            return


def _measured(found: _Findings, bulk: pl.DataFrame) -> Measured | None:
    """That another thread could run is believed when it was seen twice: on a busy machine it may be chance."""
    inside = found.verdict.has_python_inside
    first = measure(found.runner, bulk, has_python_inside=inside)
    if first is None or first.kind != "free":
        return first
    return measure(found.runner, bulk, has_python_inside=inside)


def _explained(found: _Findings, budget: float) -> Explanation:
    safety = weigh(found.verdict, found.tried)
    costs = _costs(found)
    verdict, confidence, summary = _advise(found, safety, costs)
    return Explanation(
        name=found.name,
        n_rows=found.frame.height,
        verdict=verdict,
        partition_safe=safety.answer,
        confidence=confidence,
        summary=summary,
        safety=safety.why,
        evidence=_facts(found),
        costs=_table(costs),
        replacement=found.native.text,
        n_calls=found.runner.n_calls,
        seconds=found.runner.spent,
        budget=budget,
        _native=found.native.run,
    )


def _costs(found: _Findings) -> dict[str, float]:
    if not found.timed or found.last is None:
        return {}
    workers = requested_workers(resolve().n_jobs, cpu_count())[0]
    total = found.frame.height
    moving = transport_seconds(found.frame, _bytes_out(found))
    costs = costs_of(Rate.of(found.timed), total, workers, found.measured, moving)
    if found.native.text is not None:
        costs["native"] = costs["direct"] / found.native.times_as_fast
    return costs


def _bytes_out(found: _Findings) -> float:
    """Of the result, for each row that goes in."""
    if found.measured is not None:
        return found.measured.bytes_out / max(1, found.measured.rows)
    value = None if found.last is None else found.last.value
    size = value.estimated_size() if isinstance(value, pl.DataFrame) else 0
    return size / max(1, found.rows.height)


def _table(costs: dict[str, float]) -> pl.DataFrame:
    rows = sorted(costs.items(), key=lambda item: item[1])
    return pl.DataFrame(rows, schema={"way": pl.String, "seconds": pl.Float64}, orient="row")


def _advise(found: _Findings, safety: Safety, costs: dict[str, float]) -> tuple[str, str, str]:
    """Verdict, confidence and a sentence."""
    name, verdict, measured = found.name, found.verdict, found.measured
    last = found.last
    if not costs or (last is not None and last.error is not None):
        return "serial", "low", _raised(found)
    if found.native.text is not None:
        return (
            "native",
            "high",
            (
                f"replace {found.native.what} by a Polars expression, see below: the same result on "
                f"{found.native.rows:,} rows, extremes included, and {found.native.times_as_fast:.1f} times as fast."
            ),
        )
    if verdict.is_native:
        return (
            "native",
            "high" if not verdict.obstacles else "medium",
            (
                f"call {name}(df) directly. All that it does is Polars' own, which uses every core already."
            ),
        )
    if safety.answer == "no":
        return (
            "serial",
            "high",
            f"call {name}(df) on the whole frame: parts would give another result.",
        )
    return _fastest(name, measured, costs)


def _fastest(name: str, measured: Measured | None, costs: dict[str, float]) -> tuple[str, str, str]:
    best = min(("threads", "processes"), key=lambda way: costs[way])
    plain = min(costs["direct"], costs["serial"])
    sure = "medium" if measured is not None and measured.is_enough else "low"
    if measured is not None and measured.kind == "pool":
        return (
            "native",
            sure,
            f"call {name}(df) directly. Its CPU time is Polars' own pool, which uses every core already.",
        )
    if costs[best] < 0.8 * plain:
        why = _bound(measured)
        call = f"pmap.map_partitions(df, {name}, backend={_backend(best)!r})"
        return best, sure, f"{call}. {why}"
    if plain < 1:
        return (
            "serial",
            sure,
            f"call {name}(df) directly: it takes {_time(plain)}, which workers would not shorten.",
        )
    return (
        "serial",
        sure,
        f"call {name}(df) directly: it takes about {_time(plain)}, and {_time(costs[best])} on {best}.",
    )


def _backend(way: str) -> str:
    return "threads" if way == "threads" else "auto"


def _bound(measured: Measured | None) -> str:
    kind = "short" if measured is None else measured.kind
    return {
        "waits": "It mostly waits, so threads wait side by side.",
        "free": "It lets go of Python's lock, so threads run side by side.",
    }.get(kind, "It is Python, one core at a time in one process.")


def _raised(found: _Findings) -> str:
    error = None if found.last is None else found.last.error
    if error is None:
        return "nothing could be measured within the budget."
    text = " ".join(str(error).split())[:200]
    return (
        f"{found.name} raised {type(error).__name__} on {found.rows.height} rows of the frame: {text}. "
        "Mend that first; it would fail on workers too."
    )


def _facts(found: _Findings) -> list[str]:
    facts: list[str] = []
    measured, verdict = found.measured, found.verdict
    if measured is not None:
        took = f"{measured.rows:,} rows took {_time(measured.seconds)}"
        if measured.is_enough:
            facts.append(
                f"{took}: {_busy(measured)}{measured.blocked:.0%} of the time it waited, another "
                f"thread got Python's lock after {measured.tick * 1e3:.1f} ms."
            )
        else:
            facts.append(f"{took}, which is too short to tell what bounds it.")
    if verdict.leaves:
        facts.append(f"Values leave Polars by {', '.join(verdict.leaves[:3])}.")
    if found.tried.outcome == "rounding":
        facts.append("Parts and whole agree but for the rounding of floats.")
    if found.last is not None and found.last.error is not None:
        facts.append(_raised(found))
    if not is_warm(requested_workers(resolve().n_jobs, cpu_count())[0]):
        starting = figures.start_seconds(default_process_backend()[0])
        facts.append(f"No workers are running: starting them takes about {starting:.1f} s.")
    return facts + found.facts


def _busy(measured: Measured) -> str:
    if measured.cpu < 0.2:  # noqa: PLR2004  of so little, shares say nothing
        return "hardly any CPU time, "
    return f"{measured.pool_share:.0%} of the CPU time was Polars' own pool, "


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else f"{seconds:.1f} s"  # noqa: PLR2004
