"""Brief partitions are sent to a worker behind the one that it runs, and nothing of that shows.

Whatever becomes of the worker, those that only waited in it go to another, once.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections import Counter

import polars as pl
import programs
import pytest

import pmap
from pmap import _window
from pmap.backend import WorkerSpec
from pmap.errors import PartitionTimeoutError, WorkerDiedError
from pmap_backends import _processes

N = 1000
DF = pl.DataFrame({"x": range(N)})
AT_ONCE = 1 + _processes._AHEAD
IN_FLIGHT = 5 * AT_ONCE

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="pipes of other systems hold too little"
)


@pytest.fixture(params=["spawn", "forkserver"], autouse=True)
def options(request):
    """A pool of pmap's own, of two workers; a row a partition."""
    given = {"backend": request.param, "n_jobs": 2, "n_partitions": N, "advise": "off"}
    with pmap.config(**given):
        yield given


@pytest.fixture
def depths(monkeypatch):
    """Of each partition in the order of their sending, how many were in its worker then."""
    found, give = [], _processes._Worker.give

    def seen(worker, item):
        found.append(len(worker.items) + 1)
        give(worker, item)

    monkeypatch.setattr(_processes._Worker, "give", seen)
    return found


@pytest.fixture
def begun(tmp_path):
    """Which partitions were begun, and by whom: noted by the function, wherever it runs."""
    path = tmp_path / "begun"
    path.touch()

    def note():
        with open(path, "a") as file:  # whole lines, even of several at once
            file.write(f"{pmap.current_partition().index} {os.getpid()}\n")

    def read():
        return [tuple(map(int, line.split())) for line in path.read_text().splitlines()]

    note.read = read
    return note


def first_time(path):
    """Whether nobody has been here before."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class TestWhoIsSentAhead:
    def test_brief_ones_are(self, depths):
        assert pmap.map_partitions(DF, lambda part: part).equals(DF)
        assert max(depths) == AT_ONCE

    def test_the_first_and_the_last_are_not(self, depths):
        assert pmap.map_partitions(DF, lambda part: part).equals(DF)
        assert set(depths[:16]) == {1}
        assert set(depths[-2:]) == {1}

    def test_long_ones_are_not(self, depths):
        def nap(part):
            time.sleep(0.003)
            return part

        assert pmap.map_partitions(DF.head(100), nap, n_partitions=100).height == 100
        assert set(depths) == {1}

    def test_those_after_a_long_one_are_not(self, depths):
        def long_at_last(part):
            if pmap.current_partition().index >= N // 2:
                time.sleep(0.003)
            return part

        assert pmap.map_partitions(DF, long_at_last).equals(DF)
        assert max(depths) == AT_ONCE
        assert set(depths[N // 2 + IN_FLIGHT :]) == {1}

    def test_those_of_a_stream_are_not(self, depths):
        pmap.map_partitions(DF.iter_slices(1), lambda part: part)
        assert set(depths) == {1}

    def test_none_is_behind_one_that_runs_for_long(self, options, tmp_path):
        """However brief it should be: of two calls that share the pool, one need not wait for the other."""
        os.mkfifo(tmp_path / "hangs")
        os.mkfifo(tmp_path / "goes on")

        def hangs(part):
            if pmap.current_partition().index == N - IN_FLIGHT - 1:  # none of its own is behind it
                (tmp_path / "hangs").write_text("now")
                (tmp_path / "goes on").read_text()
            return part

        def hang():
            with pmap.config(**options):  # that of another thread is not this one's
                results.append(pmap.map_partitions(DF, hangs))

        results = []
        thread = threading.Thread(target=hang)
        thread.start()
        assert (tmp_path / "hangs").read_text() == "now"
        assert pmap.map_partitions(DF, lambda part: part).equals(DF)  # by the other worker
        (tmp_path / "goes on").write_text("now")
        thread.join(60)
        assert results[0].equals(DF)

    def test_no_more_than_there_are_descriptors_for(self, monkeypatch):
        """Each that is in flight takes some."""
        monkeypatch.setattr(_window, "open_files_limit", lambda: 64)
        pool = _processes.ForkserverBackend(WorkerSpec(n_workers=2))
        assert _window.most_in_flight(pool) == 8
        pool.close()

    def test_no_more_than_one_caller_has_use_for(self):
        pool = _processes.ForkserverBackend(WorkerSpec(n_workers=100))
        assert _window.most_in_flight(pool) == 2 * 100 + 1
        pool.close()

    def test_those_that_do_not_fit_the_pipe_are_not(self, depths):
        wide = pl.DataFrame({f"c{i}": range(100) for i in range(100)})
        with pmap.config(n_partitions=100):
            assert pmap.map_partitions(wide, lambda part: part).equals(wide)
        assert set(depths) == {1}


class TestADeath:
    def test_is_charged_to_who_ran(self):
        def killed(part):
            if pmap.current_partition().index == N // 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return part

        with pytest.raises(WorkerDiedError, match=rf"partition {N // 2} of {N}"):
            pmap.map_partitions(DF, killed)
        with pmap.config(on_error="skip"), pytest.warns(pmap.errors.PmapWarning, match="1 of 1000"):
            rest = pmap.map_partitions(DF, killed)
        assert rest.equals(DF.filter(pl.col("x") != N // 2))

    def test_others_begin_once(self, begun, tmp_path):
        def killed_once(part):
            begun()
            if pmap.current_partition().index == N // 2 and first_time(tmp_path / "killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            return part

        assert pmap.map_partitions(DF, killed_once, retries=1).equals(DF)
        counts = Counter(index for index, _ in begun.read())
        assert counts == {**dict.fromkeys(range(N), 1), N // 2: 2}

    def test_at_rest_is_nobodys(self):
        assert pmap.map_partitions(DF, lambda part: part).equals(DF)
        for pid in pmap.last_report().timings["worker"].unique():
            os.kill(pid, signal.SIGKILL)
        assert pmap.map_partitions(DF, lambda part: part).equals(DF)


class TestATimeout:
    def test_is_of_who_hangs(self):
        def hangs(part):
            if pmap.current_partition().index == N // 2:
                time.sleep(60)
            return part

        with pytest.raises(PartitionTimeoutError, match=rf"partition {N // 2} of {N}"):
            pmap.map_partitions(DF, hangs, timeout=0.5)

    def test_others_begin_once(self, begun, tmp_path):
        def hangs_once(part):
            begun()
            if pmap.current_partition().index == N // 2 and first_time(tmp_path / "hung"):
                time.sleep(60)
            return part

        assert pmap.map_partitions(DF, hangs_once, timeout=0.5, retries=1).equals(DF)
        counts = Counter(index for index, _ in begun.read())
        assert counts == {**dict.fromkeys(range(N), 1), N // 2: 2}


class TestTheEnd:
    def test_of_a_call_that_nobody_goes_on_with(self, begun):
        def noting(part):
            begun()
            return part

        parts = pmap.iter_partitions(DF, noting)
        for _ in range(N // 2):
            next(parts)
        parts.close()
        # by the same workers, after what waits in them
        assert pmap.map_partitions(DF, lambda part: part).equals(DF)
        assert max(index for index, _ in begun.read()) < N - 1

    def test_of_a_worker_that_has_had_its_partitions(self, begun):
        def noting(part):
            begun()
            return part

        with pmap.config(max_tasks_per_child=N // 4):
            assert pmap.map_partitions(DF, noting).equals(DF)
        counts = Counter(pid for _, pid in begun.read())
        assert max(counts.values()) <= N // 4

    def test_of_the_pool(self, options):
        """At the hands of another thread."""
        results, errors, half = [], [], threading.Event()

        def call():
            with pmap.config(**options):  # that of another thread is not this one's
                try:
                    for part in pmap.iter_partitions(DF, lambda part: part):
                        results.append(part)
                        if len(results) == N // 2:
                            half.set()
                except pmap.errors.BackendError as exc:
                    errors.append(exc)

        thread = threading.Thread(target=call)
        thread.start()
        assert half.wait(60)
        pmap.shutdown()
        thread.join(60)
        assert not thread.is_alive()
        assert errors or len(results) == N
        assert pl.concat(results).equals(DF.head(len(results)))

    def test_of_the_pool_while_a_death_is_seen_to(self, options, monkeypatch):
        """Those that waited in the dead worker are not given to new ones that nobody would end."""
        pools, errors = [], []
        dying, closing = threading.Event(), threading.Event()
        bury = _processes._ProcessPool._bury

        def slow_wait(wait):
            dying.set()
            assert closing.wait(60)
            return wait()

        def burying(pool, fd, worker):
            pools.append(pool)
            worker.process.wait = functools.partial(slow_wait, worker.process.wait)
            bury(pool, fd, worker)

        def killed(part):
            if pmap.current_partition().index == N // 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return part

        def call():
            with pmap.config(**options):  # that of another thread is not this one's
                try:
                    pmap.map_partitions(DF, killed)
                except pmap.errors.PmapError as exc:
                    errors.append(exc)

        monkeypatch.setattr(_processes._ProcessPool, "_bury", burying)
        threads = [threading.Thread(target=target) for target in (call, pmap.shutdown)]
        threads[0].start()
        assert dying.wait(60)
        threads[1].start()
        programs.wait_until(lambda: pools[0]._closed)
        closing.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert errors
        assert not pools[0]._workers
