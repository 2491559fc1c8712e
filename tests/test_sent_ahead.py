"""Partitions are sent to a worker behind the one that it runs, and nothing of that shows.

Whatever becomes of the worker, those that only waited in it go to another, once.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import pickle
import random
import signal
import sys
import threading
import time
from collections import Counter

import cloudpickle
import polars as pl
import programs
import pytest

import pmap
from pmap import _window
from pmap.backend import Task, WorkerSpec, execute
from pmap.errors import PartitionTimeoutError, WorkerDiedError
from pmap_backends import _link, _processes, _worker

N = 1000
DF = pl.DataFrame({"x": range(N)})
AT_ONCE = 1 + _worker.BRIEF_AHEAD
IN_FLIGHT = 5 * AT_ONCE

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="other systems have no inboxes"
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
    found, give = [], _worker.Worker.give

    def seen(worker, item, *more):
        found.append(len(worker.items) + 1)
        return give(worker, item, *more)

    monkeypatch.setattr(_worker.Worker, "give", seen)
    return found


@pytest.fixture
def taken(monkeypatch):
    """The numbers of tasks that were taken back from workers, in that order."""
    found, take_back = [], _worker.Worker.take_back

    def seen(worker):
        items = take_back(worker)
        found.extend(item.number for item in items)
        return items

    monkeypatch.setattr(_worker.Worker, "take_back", seen)
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


def nap(part):
    """Not brief."""
    time.sleep(0.003)
    return part


@contextlib.contextmanager
def call_that_hangs(options, folder, which, function=lambda part: part):
    """A call in another thread, one of whose partitions hangs as long as the block lasts."""
    os.mkfifo(folder / "hangs")
    os.mkfifo(folder / "goes on")

    def hangs(part):
        if pmap.current_partition().index == which:
            (folder / "hangs").write_text("now")
            (folder / "goes on").read_text()
        return function(part)

    def hang():
        with pmap.config(**options):  # that of another thread is not this one's
            results.append(pmap.map_partitions(DF, hangs))

    results = []
    thread = threading.Thread(target=hang)
    thread.start()
    assert (folder / "hangs").read_text() == "now"
    try:
        yield
    finally:  # else the thread would outlive a test that fails
        (folder / "goes on").write_text("now")
        thread.join(60)
    assert results[0].equals(DF)


class _Nap:
    """A message that says how long it has slept."""

    exclusive = False

    def __init__(self, seconds):
        self.seconds = seconds

    def run(self):
        time.sleep(self.seconds)
        return self.seconds


def wide(width):
    """A hundred rows; each alone is a message of some kilobytes."""
    return pl.DataFrame({f"c{i}": range(100) for i in range(width)})


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

    def test_no_more_than_one_before_it_is_known_that_they_are_brief(self, depths):
        assert pmap.map_partitions(DF, lambda part: part).equals(DF)
        assert max(depths[:16]) <= 2

    def test_of_long_ones_one_is(self, depths):
        assert pmap.map_partitions(DF.head(100), nap, n_partitions=100).height == 100
        assert max(depths) == 2

    def test_of_those_after_a_long_one_one_is(self, depths):
        def long_at_last(part):
            return nap(part) if pmap.current_partition().index >= N // 2 else part

        assert pmap.map_partitions(DF, long_at_last).equals(DF)
        assert max(depths) == AT_ONCE
        assert max(depths[N // 2 + 2 * IN_FLIGHT :]) == 2

    def test_of_a_stream_no_more_are_read_for_that(self):
        n_read = 0

        def parts():
            nonlocal n_read
            for part in DF.iter_slices(1):
                n_read += 1
                yield part

        results = pmap.iter_partitions(parts(), lambda part: part, maintain_order=False)
        assert max(n_read - n_got for n_got, _ in enumerate(results)) <= 2 * 2 + 2

    def test_none_is_while_a_worker_may_be_free(self, depths):
        """Two partitions are for two workers, however long the second takes to be there."""
        pmap.map_partitions(DF.head(2), nap, n_partitions=2)
        assert depths == [1, 1]

    def test_one_alone_is_where_a_worker_is_done_first(self, taken, tmp_path):
        """Of large partitions one is ready for two workers: where it is sent, it is begun, as a rule."""

        def in_turn(part):
            index = pmap.current_partition().index
            time.sleep(0.03)  # it takes longer than the next one's way here
            while index and not (tmp_path / str(index - 1)).exists():
                time.sleep(0.0005)
            (tmp_path / str(index)).touch()
            return part.head(1)

        large = pl.DataFrame({"x": range(_window._LARGE)})  # 8 bytes a row
        assert pmap.map_partitions(large, in_turn, n_partitions=8).height == 8
        assert len(taken) <= 2

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

    def test_of_those_with_long_messages_one_is(self, depths):
        with pmap.config(n_partitions=100):
            assert pmap.map_partitions(wide(100), lambda part: part).equals(wide(100))
        assert max(depths) == 2

    def test_those_whose_messages_do_not_fit_are_not(self, depths, monkeypatch):
        """They come by another way, from which nothing can be taken back."""
        for module in (_link, _worker):
            monkeypatch.setattr(module, "LONGEST", 4096)
        with pmap.config(n_partitions=100):
            assert pmap.map_partitions(wide(100), lambda part: part).equals(wide(100))
        assert set(depths) == {1}


class TestWhatWaitsBehindALongOne:
    """Is taken back when another worker has nothing to do."""

    @pytest.mark.parametrize(
        ("others", "n"), [(lambda part: part, N), (nap, N // 4)], ids=["brief", "long"]
    )
    @pytest.mark.parametrize("at", [0.0, 0.5, 0.95])
    def test_of_its_own_call(self, others, n, at, begun, tmp_path):
        """Nothing is left but the long one, and all are begun once."""
        os.mkfifo(tmp_path / "goes on")
        which = int(at * n)

        def hangs(part):
            begun()
            if pmap.current_partition().index == which:
                (tmp_path / "goes on").read_text()
            return others(part)

        results = pmap.iter_partitions(DF.head(n), hangs, n_partitions=n, maintain_order=False)
        found = [next(results)["x"].item() for _ in range(n - 1)]
        (tmp_path / "goes on").write_text("now")
        assert sorted(found) == [x for x in range(n) if x != which]
        assert [part["x"].item() for part in results] == [which]
        assert sorted(index for index, _ in begun.read()) == list(range(n))

    def test_of_another_call(self, options, tmp_path):
        with call_that_hangs(options, tmp_path, N // 2):
            assert pmap.map_partitions(DF, lambda part: part).equals(DF)  # by the other worker

    def test_of_another_call_although_its_own_call_goes_on(self, options, begun, taken, tmp_path):
        """Whose partitions keep the other worker busy, and so would be given to it, all of them."""

        def noting(part):
            begun()
            return nap(part)

        with call_that_hangs(options, tmp_path, 50, noting):
            for n in (4, 4, 4, 1, 1, 1, 1, 1):
                pmap.map_partitions(DF.head(n), lambda part: part, n_partitions=n)
            n_begun = len(begun.read())
        assert n_begun < N - 100
        assert max(Counter(taken).values()) < 4  # and is not sent there again and again

    def test_goes_before_what_came_later(self, begun, tmp_path):
        """To a worker that is new, while the long one goes on."""
        os.mkfifo(tmp_path / "goes on")

        def hangs_or_dies(part):
            begun()
            index = pmap.current_partition().index
            if index == 0:
                (tmp_path / "goes on").read_text()
            if index == 1 and first_time(tmp_path / "died"):
                os.kill(os.getpid(), signal.SIGKILL)
            return part

        rows = DF.head(8)
        with pmap.config(n_partitions=8, maintain_order=False, retries=1):
            results = pmap.iter_partitions(rows, hangs_or_dies)
            found = [next(results)["x"].item()]
            (tmp_path / "goes on").write_text("now")
            found += [part["x"].item() for part in results]
        assert sorted(found) == list(range(8))
        order = [index for index, _ in begun.read()]
        assert set(order[:2]) == {0, 1}
        assert order[2] == 2

    def test_of_which_there_are_several(self, begun, taken):
        """However many take long, and whenever they end: none is passed by again and again."""
        naps = [0.02 * nap for nap in random.Random(3).choices([1, 2, 4], k=60)]
        for index in (0, 5, 15, 28, 41, 42, 44):
            naps[index] = 1.0

        def uneven(part):
            begun()
            time.sleep(naps[pmap.current_partition().index])
            return part

        with pmap.config(n_jobs=3, n_partitions=60):
            assert pmap.map_partitions(DF.head(60), uneven).equals(DF.head(60))
        assert max(Counter(taken).values(), default=0) < 4
        order = [index for index, _ in begun.read()]
        passed_by = [sum(other > index for other in order[:at]) for at, index in enumerate(order)]
        assert max(passed_by) < 25

    def test_does_not_wait_while_a_worker_may_be_started(self, tmp_path):
        """In the place of one that has had its partitions."""
        os.mkfifo(tmp_path / "goes on")

        def first_hangs(part):
            if pmap.current_partition().index == 0:
                (tmp_path / "goes on").read_text()
            return part

        with pmap.config(n_partitions=4, max_tasks_per_child=2, maintain_order=False):
            results = pmap.iter_partitions(DF.head(4), first_hangs)
            found = [next(results)["x"].item() for _ in range(3)]
            (tmp_path / "goes on").write_text("now")
            assert sorted(found) == [1, 2, 3]
            assert [part["x"].item() for part in results] == [0]

    def test_while_workers_read_at_the_same_time(self, begun):
        """Each is run by one of those who may have it, and by no other."""
        naps = random.Random(0).choices([0.0, 0.0, 0.0, 0.002, 0.01], k=N)

        def uneven(part):
            begun()
            time.sleep(naps[part["x"].item()])
            return part

        with pmap.config(n_jobs=5):
            assert pmap.map_partitions(DF, uneven).equals(DF)
        assert sorted(index for index, _ in begun.read()) == list(range(N))


class TestTheInbox:
    def test_knows_tasks_that_are_alike(self):
        """By their numbers: of the same bytes one may have been read, and another not."""
        pool = _processes.SpawnBackend(WorkerSpec(n_workers=2))
        pool.warm_up()
        naps = [0.2, 0.4, 0, 0.6, 0, 0.01, 0, 0.6]
        tasks = [Task(execute, cloudpickle.dumps(_Nap(seconds))) for seconds in naps]
        for task in tasks:
            task.is_brief = True
        futures = [pool.submit(task) for task in tasks]
        assert [pickle.loads(future.result(30)) for future in futures] == naps
        pool.close()

    def test_without_room_has_a_worker_that_has_nothing_else_replaced(self, monkeypatch):
        """Where the system grants a message no memory."""
        refused, put = [], _link._Inbox.put

        def refusing(inbox, task, number):
            if number % 10 == 5 and number not in refused:
                refused.append(number)
                return False
            return put(inbox, task, number)

        monkeypatch.setattr(_link._Inbox, "put", refusing)
        with pmap.config(n_partitions=100):
            assert pmap.map_partitions(DF.head(100), nap).equals(DF.head(100))
        assert refused

    def test_is_safe_from_the_collector(self):
        """Which closes iterators that are garbage in the midst of whatever happens in a thread."""
        threshold = gc.get_threshold()
        gc.set_threshold(50)
        try:
            for _ in range(5):
                parts = pmap.iter_partitions(DF, lambda part: part)
                next(parts)
                ring = [parts]
                ring.append(ring)
                del parts, ring
                assert pmap.map_partitions(DF, lambda part: part).equals(DF)
        finally:
            gc.set_threshold(*threshold)

    def test_is_not_touched_by_a_thread_that_is_changing_it(self):
        pool = _processes.SpawnBackend(WorkerSpec(n_workers=1))
        pool.warm_up()
        running, ahead = [
            pool.submit(Task(execute, cloudpickle.dumps(_Nap(seconds)))) for seconds in (0.5, 0)
        ]
        with pool._lock:
            assert pool.withdraw([ahead]) == []
        assert pool.withdraw([running, ahead]) == [ahead]
        assert isinstance(ahead.exception(), pmap.errors.BackendError)
        assert pickle.loads(running.result(30)) == 0.5
        pool.close()


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
            pmap.map_partitions(DF, hangs, timeout=2)

    def test_others_begin_once(self, begun, tmp_path):
        def hangs_once(part):
            begun()
            if pmap.current_partition().index == N // 2 and first_time(tmp_path / "hung"):
                time.sleep(60)
            return part

        assert pmap.map_partitions(DF, hangs_once, timeout=2, retries=1).equals(DF)
        counts = Counter(index for index, _ in begun.read())
        assert counts == {**dict.fromkeys(range(N), 1), N // 2: 2}


class TestTheEnd:
    def test_leaves_out_what_waits(self, begun, depths, monkeypatch):
        """Those who ran are killed; no worker is started for what waited in them."""
        pools, start = [], _processes._ProcessPool._start_worker

        def noted(pool, **how):
            pools.append(pool)
            return start(pool, **how)

        def long_ones(part):
            begun()
            if pmap.current_partition().index >= 50:
                time.sleep(60)
            return nap(part)

        pmap.shutdown()
        monkeypatch.setattr(_processes._ProcessPool, "_start_worker", noted)
        parts = pmap.iter_partitions(DF, long_ones)
        for _ in range(50):
            next(parts)
        assert depths[-1] == 2
        parts.close()
        programs.wait_until(lambda: not pools[0]._workers)
        assert len(pools) == 2
        assert max(index for index, _ in begun.read()) <= 51

    def test_is_not_the_end_of_a_neighbours_partitions(self, options, begun):
        """Of those that ran, their workers are killed before they begin another call's."""

        def noting(part):
            begun()
            return nap(part)

        def stop_again_and_again():
            with pmap.config(**options):  # that of another thread is not this one's
                while not over.is_set():
                    parts = pmap.iter_partitions(DF, nap)
                    for _ in range(8):
                        next(parts)
                    parts.close()

        over = threading.Event()
        thread = threading.Thread(target=stop_again_and_again)
        with pmap.config(n_jobs=4, n_partitions=400):
            options.update(n_jobs=4)
            thread.start()
            try:
                assert pmap.map_partitions(DF.head(400), noting).equals(DF.head(400))
            finally:
                over.set()
                thread.join(60)
        assert sorted(index for index, _ in begun.read()) == list(range(400))

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
