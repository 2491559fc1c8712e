"""Advice after a run, from what this very run has measured: at most one warning a function.

Nothing is run for it, and nothing is guessed: each rule has facts of this run on its side, and
what it recommends would have saved a good part of the run's time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pmap._gauge import Usage, total
from pmap._resources import cpu_count
from pmap._warn import warn
from pmap.backend import Locality
from pmap.errors import PmapAdvice

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from pmap._wire import Stats

__all__ = ["Run", "advise"]

#: A run that took less is not worth a word. Seconds.
_WORTH_A_WORD = 0.1
#: A part that took less is not named. Seconds.
_WORTH_NAMING = 0.005
#: What must have been seen of the function before its manner is known. Seconds.
_SEEN_ENOUGH = 0.05
#: What is recommended must save so much of the run's time.
_LEAST_SAVING = 0.3
#: The same for Polars' own work, which has no business in other processes.
_LEAST_SAVING_BY_POLARS = 0.1
#: Shares: of the CPU time in Polars' pool; of the time with the GIL or in the kernel; asleep.
_NATIVE, _ALONE, _ASLEEP = 0.7, 0.15, 0.8
#: Of the CPU time, in threads of the function's own; and CPUs kept busy for one that there is.
_OWN_THREADS, _TOO_BUSY = 0.3, 1.25
#: Of the bytes that were sent, those that nobody looked at.
_UNUSED = 0.5
#: Of the run's time, spent on moving data, from which on that is worth a word.
_MOVING = 0.2
#: Of the function's time, in one partition.
_IN_ONE = 0.5
#: Partitions shorter than that cost more than they do. Seconds.
_SHORT = 0.002
#: A frame from this size on need not be whole in memory, if no more of its rows come back: bytes; a share.
_LARGE, _FEW = 100_000_000, 0.5


class Run(NamedTuple):
    """What a call did, added up: seconds, bytes.

    `frame_bytes` are those of the frame that pmap has split, 0 for a stream, or where the user or a
    check has a part in it; of its rows the share `rows_left` came back.
    """

    function: str
    locality: Locality
    is_auto: bool
    seconds: float
    starting: float
    moving: float
    stats: list[Stats]
    n_workers: int
    wanted_workers: int
    frame_bytes: int = 0
    rows_left: float = 0.0

    @property
    def n_partitions(self) -> int:
        """That were run."""
        return len(self.stats)

    @property
    def in_function(self) -> float:
        """Of all partitions, one after the other: what the plain loop takes, at most."""
        return sum(stats.function_seconds for stats in self.stats)

    @property
    def usage(self) -> Usage:
        """Of those partitions that were looked at closely."""
        return total(s.usage for s in self.stats if s.usage is not None and s.usage.looks)

    @property
    def facts(self) -> str:
        """Where the time went."""
        loading = max((stats.loading_seconds for stats in self.stats), default=0.0)
        parts = [
            (self.in_function, "the function"),
            (self.moving, "moving data"),
            (self.starting, "starting workers"),
            (loading, "loading the function in a worker"),
        ]
        told = ", ".join(
            f"{what} {seconds:.2f} s" for seconds, what in parts if seconds >= _WORTH_NAMING
        )
        return f"{self.function}: {self.seconds:.2f} s in all, of which {told or 'all is overhead'}"

    def saves(self, seconds: float, share: float = _LEAST_SAVING) -> bool:
        """Whether a run of so many seconds would be shorter, by such a share."""
        return self.seconds - seconds > max(_WORTH_A_WORD, share * self.seconds)


def advise(function: object, run: Run, how: str) -> None:
    """Say what would have been faster, if anything, and if it was not said before.

    Parameters
    ----------
    function
        Of the user.
    run
        What was measured.
    how
        ``"warn"``, ``"error"`` or ``"off"``.

    Raises
    ------
    PmapAdvice
        With ``"error"``.
    """
    if how == "off" or run.seconds < _WORTH_A_WORD or not run.stats:
        return
    if how == "warn" and _identity(function) in _told:
        return
    remedy = next((said for rule in _RULES if (said := rule(run)) is not None), None)
    if remedy is None:
        return
    text = f"{run.facts}. {remedy}"
    if how == "error":
        raise PmapAdvice(text)
    _told.add(_identity(function))
    warn(text, PmapAdvice)


_told: set[object] = set()


def _identity(function: object) -> object:
    """What is known of a function of which something was said: where it stands, as it may be made anew."""
    inner: object = getattr(function, "func", function)  # a partial
    code: CodeType | None = getattr(inner, "__code__", None)
    return (
        id(type(inner)) if code is None else (code.co_filename, code.co_firstlineno, code.co_name)
    )


# The rules: each says the remedy, or nothing. The first that does is heard.


def _is_native(run: Run) -> str | None:
    """Polars' own work, in processes that have a part of the cores each."""
    usage = run.usage
    share = usage.pool_share
    if run.locality is not Locality.MACHINE or usage.wall < _SEEN_ENOUGH or share is None:
        return None
    if share < _NATIVE or usage.held_share is None or not usage.is_native:
        return None
    if not run.saves(run.in_function / cpu_count(), _LEAST_SAVING_BY_POLARS):
        return None
    return (
        f"It is Polars' own work ({min(1.0, share):.0%} of its CPU time is Polars' pool): call "
        f"{run.function}(df) directly, where Polars has all {cpu_count()} cores and nothing moves, if "
        "its rows do not depend on which partition they are in"
    )


def _frees_the_gil(run: Run) -> str | None:
    """Threads do as well as processes, and move nothing."""
    usage = run.usage
    if run.locality is not Locality.MACHINE or usage.wall < _SEEN_ENOUGH:
        return None
    waits = (usage.blocked_share or 0.0) >= _ASLEEP
    free = usage.alone_share is not None and usage.alone_share <= _ALONE
    if not (waits or free) or not run.saves(run.in_function / run.n_workers):
        return None
    what = (
        f"waits ({usage.blocked_share:.0%} of its time)"
        if waits
        else f"computes without the GIL ({1 - (usage.alone_share or 0):.0%} of its time)"
    )
    return f"It {what}: backend='threads' is as fast, starts at once and moves nothing"


def _is_short(run: Run) -> str | None:
    """The loop would have been over before."""
    if run.locality is Locality.PROCESS or run.is_auto or not run.saves(run.in_function):
        return None
    return (
        f"One partition after the other takes at most {run.in_function:.2f} s: leave backend= out, and "
        "workers are used only where they pay"
    )


def _ships_unused(run: Run) -> str | None:
    """Columns travel that nobody looks at."""
    found = next((s.unused for s in run.stats if s.unused and s.unused.columns), None)
    if found is None or run.moving < _MOVING * run.seconds:
        return None
    share = found.n_bytes / max(1, found.of_bytes)
    if share < _UNUSED:
        return None
    names = ", ".join(map(repr, found.columns[:5]))
    more = len(found.columns) - 5
    return (
        f"It never looked at {names}{f' and {more} more' if more > 0 else ''}, {share:.0%} of the bytes "
        f"that were sent: pass df.drop({list(found.columns[:5])}{', ...' if more > 0 else ''}), or "
        "df.select(...) what it needs"
    )


def _are_few(run: Run) -> str | None:
    """Workers with nothing to do."""
    if run.n_partitions >= run.wanted_workers or run.in_function < 1.0:
        return None
    if not run.saves(run.in_function / run.wanted_workers + run.starting):
        return None
    return (
        f"{run.n_partitions} partition{'' if run.n_partitions == 1 else 's'} can not keep "
        f"{run.wanted_workers} workers busy: leave n_partitions= and chunk_size= out, or give more "
        "and smaller ones"
    )


def _are_small(run: Run) -> str | None:
    """Each costs more than it does."""
    each = run.in_function / len(run.stats)
    many = run.n_partitions > 100 * run.n_workers
    if run.locality is Locality.PROCESS or not many or each >= _SHORT:
        return None
    if not run.saves(run.in_function / run.n_workers + run.starting):
        return None
    return (
        f"{run.n_partitions:,} partitions of {each * 1e3:.2g} ms each cost more to hand over than to "
        "work on: leave n_partitions= and chunk_size= out, or give fewer and larger ones"
    )


def _is_uneven(run: Run) -> str | None:
    """One partition holds most of the time."""
    longest = max(run.stats, key=lambda stats: stats.function_seconds)
    share = longest.function_seconds / max(1e-9, run.in_function)
    if run.n_partitions <= run.n_workers or run.n_workers == 1 or share < _IN_ONE:
        return None
    if run.in_function < 1.0 or not run.saves(run.in_function / run.n_workers + run.starting):
        return None
    return (
        f"One partition took {longest.function_seconds:.2f} s of it, {share:.0%}: shuffle the rows first "
        "(df.sample(fraction=1, shuffle=True)), or give more n_partitions="
    )


def _is_oversubscribed(run: Run) -> str | None:
    """The function has more threads of its own than its worker was given."""
    usage = run.usage
    cpus = cpu_count()
    if run.locality is not Locality.MACHINE or usage.wall < _SEEN_ENOUGH or run.n_workers == 1:
        return None
    own = usage.others - (usage.pool or 0.0)
    if own < _OWN_THREADS * (usage.cpu + usage.others):
        return None
    if usage.cores * run.n_workers <= _TOO_BUSY * cpus:
        return None
    return (
        f"Each of {run.n_workers} workers kept {usage.cores:.1f} of {cpus} CPUs busy: its libraries "
        "have threads of their own. Tell them to use one each, or give n_jobs=1"
    )


def _is_collected(run: Run) -> str | None:
    """A large frame that was made of files for nothing but this call, and of which little comes back."""
    is_large = run.frame_bytes >= _LARGE and run.rows_left <= _FEW
    if run.locality is Locality.PROCESS or not is_large:
        return None
    from pmap._advice._collected import query_of_call  # noqa: PLC0415  for the few that come here

    query = query_of_call()
    if query is None:
        return None
    return (
        f"All {run.frame_bytes / 1e6:,.0f} MB of its frame were collected only to be split: pass "
        f"{query}.collect_batches(), which is never whole in memory, and is read while workers are busy"
    )


_RULES: tuple[Callable[[Run], str | None], ...] = (
    _is_native,
    _frees_the_gil,
    _is_short,
    _ships_unused,
    _are_few,
    _are_small,
    _is_uneven,
    _is_oversubscribed,
    _is_collected,
)
