"""Where the partitions that are left are done fastest, by what the first ones took.

They run in the caller and are looked at. When enough was seen, what is left is priced (`_ways`), and
what an earlier call has shown counts too (`_earlier`).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import polars as pl

from pmap._earlier import Earlier, Seen, Tried, forget, recall, remember
from pmap._figures import figures
from pmap._gauge import Usage
from pmap._imported import own_imports
from pmap._pace import Pace
from pmap._size import estimate
from pmap._ways import CALLER, Left, Way, Ways, is_frozen

if TYPE_CHECKING:
    from pmap._schedule import Outcome
    from pmap._work import Work
    from pmap.backend import WorkerSpec

__all__ = ["Judge"]

#: What has to be seen of the function before it is judged, from the third call on. Seconds.
_ENOUGH_SECONDS = 0.01
#: The same of its first call, which may take longer than others, and begin in another manner than it
#: goes on, unless it keeps no CPU busy; and where Polars' pool does some of it, but not most. Seconds;
#: cores; shares.
_ENOUGH_OF_ONE, _ENOUGH_OF_MIXED = 0.05, 0.2
_IDLE_CORES, _MIXED = 0.2, (0.1, 0.75)
#: So few calls are no measure of such a mixture, nor are more of them if all are for small partitions.
_FEW_CALLS = 2
#: While a partition runs, what was decided holds until it has taken so many times as long.
_SO_MUCH_MORE = 1.25
#: A share below is not worth a word.
_WORTH_TELLING = 0.05
#: An earlier call counts as long as the function takes not so many times longer or shorter.
_STEADY = 2
#: Workers that had the function ready took less than that, all together. Seconds.
_LOADED = 0.001

_NOTHING = Seen(Usage())


class Judge:
    """Decides, from what the first partitions took, where the others are faster.

    Parameters
    ----------
    work
        The whole job; of a stream as much is taken to be left as is done already.
    spec
        The workers that would be started.
    n_finished, finished_rows
        Partitions, and rows of them, that need not be run, since a checkpoint has them.
    """

    def __init__(
        self, work: Work, spec: WorkerSpec, *, n_finished: int = 0, finished_rows: int = 0
    ) -> None:
        self._work = work
        self._spec = spec
        rows = None if work.rows is None else work.rows - finished_rows
        count = None if work.n_partitions is None else work.n_partitions - n_finished
        self._pace = Pace(rows, count)
        self._lock = threading.Lock()
        self._seen = _NOTHING
        self._elsewhere = _NOTHING
        self._loading = 0.0  # seconds in which workers made the function ready
        self._earlier: Earlier | None = None  #: call of the function
        self._has_foreseen = False
        self.stays = False  #: in the caller, as an earlier call has shown; nobody need look
        self._costs = Ways(work, spec)
        self._ways: list[Way] = []
        self.choice: str | None = None  #: of a backend, once one is faster than the caller
        self._has_seen_enough = False
        self._next_look = 0.0  # seconds of the partition that runs
        self.is_ready = False  #: whether the choice could begin at once when it was made

    @property
    def may_leave(self) -> bool:
        """Whether there is anywhere to go."""
        return self._spec.n_workers > 1

    def foresee(self) -> bool:
        """Choose by what an earlier call has shown; whether the choice can begin at once."""
        if not (self._rows_each and self.may_leave):
            return False
        self._earlier = earlier = recall(self._work.function, self._rows_each)
        if earlier is None:
            return False
        if earlier.trusted[0]:
            self._seen = earlier.here
            rows_left, n_left = self._pace.rows_left(), self._pace.n_left(running=False)
            self._foresee(Left(self._usual_seconds(), rows_left, n_left))
        self._has_foreseen = self.stays or self.choice is not None
        if not self._has_foreseen:
            self._seen = _NOTHING
        return self.choice is not None

    def _foresee(self, left: Left) -> None:
        if self._seen.usage.wall < _ENOUGH_SECONDS:  # it was over before it could be judged
            self.stays = left.seconds < _ENOUGH_SECONDS  # as this one will, or else it is measured
            return
        self._choose(self._seen, left, at_once=True)
        if self.choice is None:  # what has to start is not begun by hearsay
            self._choose(self._seen, left)
            self.stays, self.choice = self.choice is None, None

    @property
    def _rows_each(self) -> float:
        """Of the partitions, on average; none, where there is no end to them or nothing in them."""
        rows, n = self._work.rows, self._work.n_partitions
        return rows / n if rows and n else 0.0

    @property
    def _usual_rate(self) -> float:
        """Seconds a row of an earlier call; none, without one."""
        return 0.0 if self._earlier is None else self._earlier.seconds_a_row

    def _usual_seconds(self, running_rows: int = 0) -> float:
        """What is left, by an earlier call: the first partitions may be the quick ones."""
        return self._usual_rate * self._pace.rows_left(running_rows)

    def note(self, outcome: Outcome) -> None:
        """Take a partition into account, unless it was read from a checkpoint."""
        if outcome.stats is None or outcome.stats.usage is None:
            return
        usage, rows = outcome.stats.usage, outcome.partition.rows
        with self._lock:
            self._next_look = 0.0
            if usage.imports_much:
                self._pace.skip(rows)
                return
            self._pace.note(rows, usage.wall)
            if self.stays and self._takes_longer():
                self._begin_anew()  # with the next one: nobody has looked at this one
                return
            if self._has_seen_enough or self.stays:
                return
            is_frame = isinstance(outcome.value, pl.DataFrame)
            bytes_out = estimate(outcome.value) if is_frame else 0
            self._seen = self._seen.plus(usage, rows, bytes_out)
            self._decide(self._seen.usage)
            self._has_seen_enough = self.choice is not None  # workers that start get in the way

    def _takes_longer(self) -> bool:
        """Than it should by an earlier call, which so tells nothing of where it belongs."""
        usual = self._usual_rate * self._pace.rows_timed
        return self._pace.seconds > max(_ENOUGH_SECONDS, _STEADY * usual)

    def _begin_anew(self) -> None:
        self._forget()
        self._earlier, self._seen = None, _NOTHING
        self.stays = self._has_foreseen = False

    def _forget(self) -> None:
        """What earlier calls have shown."""
        forget(self._work.function, self._rows_each)

    def look(self, usage: Usage, rows: int) -> str | None:
        """Decide while a partition of so many `rows` runs; the choice, if there is one."""
        with self._lock:
            if usage.wall >= self._next_look and not usage.imports_much:
                self._next_look = _SO_MUCH_MORE * usage.wall
                self._decide(self._seen.usage.plus(usage), rows, usage.wall)
            return self.choice

    def note_elsewhere(self, outcome: Outcome) -> None:
        """Take a partition into account that was run where the choice was."""
        if outcome.stats is not None and outcome.stats.usage is not None:
            self._elsewhere = self._elsewhere.plus(outcome.stats.usage, outcome.partition.rows)
            self._loading += outcome.stats.loading_seconds

    def learn(self, seconds: float = 0.0) -> None:
        """Note for later calls what this one has shown: of the function, of workers, and of their lack.

        Parameters
        ----------
        seconds
            That the choice took, if one was made.
        """
        whole = self._seconds_a_row()
        if whole is None:
            return
        self._note_slowdown()
        latest = self._latest(whole, self._took(seconds))
        if latest is None:
            return
        remember(self._work.function, latest)
        if self.choice is None:
            self._note_missed(latest)

    def _latest(self, whole: float, took: dict[tuple[str, int], Tried]) -> Earlier | None:
        """What this call tells later ones, if it does."""
        if self._earlier is not None and self._has_foreseen:
            return self._found_again(self._earlier, whole, took)
        return self._measured(whole, took) if self._tells_something() else None

    def _tells_something(self) -> bool:
        """To later calls: how the function spends its time, or else that it takes hardly any."""
        if self._is_enough(self._seen.usage):
            return True
        if self.choice is not None or self._pace.seconds >= _ENOUGH_SECONDS:
            return False
        # a longer one says more, which streams and those that may not leave have not asked for
        return self._earlier is not None or recall(self._work.function, self._seen.largest) is None

    def _seconds_a_row(self) -> float | None:
        """Of all partitions, in the caller and elsewhere."""
        rows = self._pace.rows_timed + self._elsewhere.rows
        return (self._pace.seconds + self._elsewhere.usage.wall) / rows if rows else None

    def _note_slowdown(self) -> None:
        """Of workers, by partitions that were in the caller; not where those were other work."""
        here, there = self._seen.seconds_a_row, self._elsewhere.seconds_a_row
        if self.choice == self._costs.processes and here and there and _is_steady(here, there):
            figures.note_slowdown(there / here)

    def _took(self, seconds: float) -> dict[tuple[str, int], Tried]:
        """What earlier calls say of ways, and this one, unless its workers were new or had to get ready.

        When the function is measured anew, ways that are not chosen are forgotten: they may have had
        a bad day, and who never tries them again never knows.
        """
        took = {} if self._earlier is None else dict(self._earlier.took)
        if not self._has_foreseen:
            took = {way: tried for way, tried in took.items() if way[0] == self.choice}
        if self.choice and self.is_ready and self._elsewhere.rows and self._loading < _LOADED:
            way, latest = (self.choice, self._spec.n_workers), seconds / self._elsewhere.rows
            took[way] = took[way].again(latest) if way in took else Tried(latest)
        return took

    def _found_again(
        self, earlier: Earlier, whole: float, took: dict[tuple[str, int], Tried]
    ) -> Earlier | None:
        """Of a call that went by an earlier one; that is forgotten if the function has changed."""
        is_short = self.stays and self._pace.seconds < _ENOUGH_SECONDS
        if not is_short and not _is_steady(earlier.seconds_a_row, whole):
            self._forget()
            return None
        whole = min(whole, earlier.seconds_a_row)
        return earlier.used()._replace(seconds_a_row=whole, took=took, choice=self.choice)

    def _measured(self, whole: float, took: dict[tuple[str, int], Tried]) -> Earlier:
        """What was measured, and what that leaves of an earlier call."""
        # a call of other sizes tells nothing of what ways take here, by rows
        before, here = self._earlier, self._seen
        if before is not None and _is_steady(before.seconds_a_row, whole):
            # of two that took about as long, what less was in the way of
            whole = min(before.seconds_a_row, whole)
            if _is_steady(_rate(before.here), _rate(here)):
                quick, slow = sorted((before.here, here), key=_rate)
                here = quick._replace(usage=quick.usage.with_looks_of(slow.usage))
        largest = max(here.largest, self._elsewhere.largest)
        latest = Earlier(here, whole, largest, took, self.choice)
        is_known = here.usage.alone_share is not None or self._pace.seconds < _ENOUGH_SECONDS
        return latest.trusted_after(before) if is_known else latest

    def _note_missed(self, latest: Earlier) -> None:
        """What workers would have saved, had they been there."""
        rows = self._work.rows or latest.here.rows
        if latest.seconds_a_row * rows < _ENOUGH_SECONDS:  # nothing could be saved
            return
        left = Left(latest.seconds_a_row * rows, rows, self._work.n_partitions)
        for way in self._costs.others(latest.here, left, self._earlier, started=True):
            gain = left.seconds - way.seconds
            if gain > self._costs.least_gain(left, way) and not self._costs.may_begin(way.name):
                figures.note_missed(way.name, gain)

    def _decide(self, usage: Usage, running_rows: int = 0, running_seconds: float = 0.0) -> None:
        if self.choice is not None or not self.may_leave or not self._is_enough(usage):
            return
        seconds = self._pace.seconds_left(running_rows, running_seconds)
        left = Left(
            max(seconds, self._usual_seconds(running_rows)),
            self._pace.rows_left(running_rows),
            self._pace.n_left(running=running_rows > 0),
        )
        with own_imports():  # of backends that are asked for the first time
            self._choose(self._seen._replace(usage=usage), left)

    def _is_enough(self, usage: Usage) -> bool:
        """Whether so much was seen of the function that it can be judged."""
        n_calls, knows_large = self._seen.n, self._pace.knows_large
        return usage.wall >= _enough_seconds(usage, n_calls, knows_large=knows_large)

    def _choose(self, seen: Seen, left: Left, *, at_once: bool = False) -> None:
        others = self._costs.others(seen, left, self._earlier, started=at_once)
        if at_once:
            others = [way for way in others if self._costs.may_begin(way.name)]
        self._ways = [Way(CALLER, left.seconds), *others]
        best = min(self._ways, key=lambda way: way.seconds)
        gain = left.seconds - best.seconds
        if best.name != CALLER and gain > self._costs.least_gain(left, best):
            self.choice = best.name
            self.is_ready = self._costs.may_begin(best.name)

    @property
    def reason(self) -> str:
        """The decision in a sentence, with its figures."""
        usage, n = self._seen.usage, self._pace.n_done
        what = f"{n} partition{'' if n == 1 else 's'}"
        if self._has_foreseen:
            what = f"{self._seen.rows:,} rows of an earlier call of the function"
        done = f"{what} took {usage.wall:.3f} s in the caller{_manner(usage)}"
        if self.choice is None:
            why = (
                "a frozen program has no Python for workers"
                if is_frozen()
                else "nothing else would have been faster"
            )
            return f"backend: auto stayed in the caller: {done}; {why}"
        ways = ", ".join(f"{way.seconds:.3f} s in {_place(way.name)}" for way in self._ways)
        name = self.choice
        why = f"; {name}: {self._costs.why_processes}" if name == self._costs.processes else ""
        return f"backend: auto: {done}; what was left: {ways}{why}"


def _is_steady(before: float, now: float) -> bool:
    """Whether the function takes as long a row as it did, about."""
    return 1 / _STEADY <= now / max(1e-12, before) <= _STEADY


def _rate(seen: Seen) -> float:
    return seen.usage.wall / max(1, seen.rows)


def _enough_seconds(usage: Usage, n_calls: int, *, knows_large: bool) -> float:
    """Seconds that the function must have run to be judged, after so many calls.

    Who waits for Polars' pool, while that waits for a CPU, looks idle.
    """
    least, most = _MIXED
    pool = usage.pool_share or 0.0
    tells_little = n_calls <= _FEW_CALLS or not knows_large
    if tells_little and least < pool < most:
        return _ENOUGH_OF_MIXED
    is_idle = usage.cores < _IDLE_CORES and pool <= least
    return _ENOUGH_SECONDS if n_calls > 1 or is_idle else _ENOUGH_OF_ONE


def _manner(usage: Usage) -> str:
    """What the function did with its time, in brackets; nothing if that is not known."""
    facts: list[str] = []
    for share, what in (
        (usage.pool_share, "of the CPU time in Polars' own pool"),
        (usage.blocked_share, "asleep or waiting"),
        (usage.alone_share, "with the GIL or in the kernel"),
    ):
        if share is not None and share >= _WORTH_TELLING:
            facts.append(f"{min(1.0, share):.0%} {what}")
    return f" ({', '.join(facts)})" if facts else ""


def _place(name: str) -> str:
    return name if name in {CALLER, "threads"} else f"{name} workers"
