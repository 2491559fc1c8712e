"""What a warm call does, counted: bytes copied, segments, messages, system calls, pickles, imports.

Counts are the same on every machine, however busy it is, so they are asserted as they are. If one of
them goes up, something has become slower, however little a clock would show of it; if it goes down,
write the new one here. They are of the worker processes of pmap's own pool.
"""

from __future__ import annotations

import mmap
import os
import pickletools
import resource
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import programs
import psutil
import pytest
import workers

import pmap
from pmap_backends._link import Link

PARTS = 8
#: Each column of 8 bytes.
COLUMNS = 2
#: Partitions of a call that are in flight at the same time, and of one whose partitions are many and brief.
IN_FLIGHT, MANY_IN_FLIGHT = 5, 40
#: Messages of a call that may be heard by the thread that listens at rest.
SAID_BY_THREAD = 2
#: Backends whose workers are pmap's own.
OWN_POOLS = ("spawn", "forkserver")


@pytest.fixture(params=OWN_POOLS)
def own_pool(request):
    """A backend whose workers have pipes of pmap's own; two of them, warm, with pages that are kept."""
    if request.param == "forkserver" and not sys.platform.startswith("linux"):
        pytest.skip("forkserver needs Linux")
    return request.param


def frame_of(rows):
    return pl.DataFrame({"a": np.arange(rows, dtype=float), "b": np.arange(rows)})


def call(frame, function, backend, n_partitions=PARTS):
    return pmap.map_partitions(
        frame, function, n_partitions=n_partitions, backend=backend, n_jobs=2
    )


def warm(frame, function, backend, n_partitions=PARTS):
    """Both workers are there, have the function, and as many pages are kept as a call takes."""
    for _ in range(3):
        call(frame, function, backend, n_partitions)
    while backend in OWN_POOLS and pmap.last_report().timings["worker"].n_unique() == 1:
        call(frame, function, backend, n_partitions)


@contextmanager
def counted(*functions):
    """Count calls of functions (owner, name) as long as the block lasts."""
    counts = Counter()

    def counting(function, name):
        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    with ExitStack() as stack:
        for owner, name in functions:
            replacement = counting(getattr(owner, name), name)
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield counts


@contextmanager
def messages_counted():
    """What goes to workers and comes back; whoever is free early takes one that has waited for another."""
    counts, send, receive, take_back = Counter(), Link.send, Link.receive, Link.take_back

    def sent(link, task, number):
        counts["to workers"] += 1
        return send(link, task, number)

    def received(link):
        counts["back"] += 1
        return receive(link)

    def taken(link):
        numbers = take_back(link)
        counts["to workers"] -= len(numbers)
        return numbers

    with ExitStack() as stack:
        for function, name in ((sent, "send"), (received, "receive"), (taken, "take_back")):
            stack.enter_context(mock.patch.object(Link, name, function))
        yield counts


def bytes_sent():
    timings = pmap.last_report().timings
    return timings["bytes_in"].sum(), timings["bytes_out"].sum()


def system_calls_that_write():
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("syscw:"))


def no_system_calls_are_counted():
    return not Path("/proc/self/io").exists()


# Bytes.


def test_of_a_large_frame_each_byte_is_copied_once(own_pool):
    rows = 400_000
    call(frame_of(rows), workers.height, own_pool)
    assert bytes_sent()[0] == rows * 8 * COLUMNS


def test_of_a_slice_only_its_rows_are_copied(own_pool):
    call(frame_of(400_000).slice(80_000, 80_000), workers.height, own_pool)
    assert bytes_sent()[0] == 80_000 * 8 * COLUMNS


def test_of_a_result_only_what_is_new_is_copied(own_pool):
    rows = 400_000
    out = call(frame_of(rows), workers.one_new_column, own_pool)
    assert out.width == COLUMNS + 1
    assert bytes_sent() == (rows * 8 * COLUMNS, rows * 8)


def test_a_result_is_not_copied_when_it_is_mapped_again(own_pool):
    rows = 400_000
    doubled = call(frame_of(rows), workers.double, own_pool)
    assert bytes_sent() == (rows * 8 * COLUMNS, rows * 8 * COLUMNS)
    again = call(doubled, workers.same, own_pool)
    assert bytes_sent() == (0, 0)
    assert again.equals(doubled)


def test_a_shared_frame_is_not_copied(own_pool):
    call(pmap.share(frame_of(400_000)), workers.same, own_pool)
    assert bytes_sent() == (0, 0)


# Segments, messages and system calls.


def test_a_warm_call_makes_no_segment_and_sends_a_message_a_partition(own_pool):
    frame = frame_of(400_000)
    warm(frame, workers.height, own_pool)
    with counted((os, "memfd_create"), (mmap, "mmap")) as made, messages_counted() as messages:
        call(frame, workers.height, own_pool)
    assert not made
    assert messages == {"to workers": PARTS, "back": PARTS}


def test_of_large_partitions_one_more_than_there_are_workers_is_in_memory(own_pool):
    pmap.shutdown()
    with counted((os, "memfd_create")) as counts:
        call(frame_of(PARTS * 600_000), workers.height, own_pool)
    # Each has a segment, and another for its reply; and there is the board.
    assert counts["memfd_create"] <= 2 * (2 + 1) + 1


def test_of_partitions_that_are_copied_no_more_are_in_memory_however_brief(own_pool):
    pmap.shutdown()
    with counted((os, "memfd_create")) as counts:
        call(frame_of(200 * 10_000), workers.height, own_pool, 200)
    assert counts["memfd_create"] <= 2 * IN_FLIGHT + 1


@pytest.mark.skipif(no_system_calls_are_counted(), reason="the kernel counts no system calls here")
@pytest.mark.parametrize(("n_partitions", "in_flight"), [(8, IN_FLIGHT), (200, MANY_IN_FLIGHT)])
def test_a_small_partition_is_a_message_and_writes_nothing(own_pool, n_partitions, in_flight):
    frame = frame_of(2_000)
    warm(frame, workers.same, own_pool, n_partitions)
    before = system_calls_that_write()
    with messages_counted() as messages:
        call(frame, workers.same, own_pool, n_partitions)
    # But, once for each that is in flight at the same time, the name of the segment that its reply may
    # fill. That the thread that listens at rest has heard something, until it leaves that to the call,
    # is said too.
    writes = system_calls_that_write() - before
    assert messages == {"to workers": n_partitions, "back": n_partitions}
    assert 0 <= writes - in_flight <= SAID_BY_THREAD


@pytest.mark.skipif(no_system_calls_are_counted(), reason="the kernel counts no system calls here")
def test_a_large_partition_is_written_once_for_each_column(own_pool):
    frame = frame_of(400_000)
    warm(frame, workers.height, own_pool)
    before = system_calls_that_write()
    call(frame, workers.height, own_pool)
    writes = system_calls_that_write() - before
    # Its own segment has a name, too.
    assert 0 <= writes - (1 + COLUMNS) * PARTS - IN_FLIGHT <= SAID_BY_THREAD


# Pickles.


def names_looked_up(pickled):
    """Of classes and functions, each of which takes as long as many fields."""
    return sum(code.name == "STACK_GLOBAL" for code, _, _ in pickletools.genops(pickled))


def test_a_message_of_a_small_partition_names_no_class(own_pool):
    warm(frame_of(2_000), workers.same, own_pool)
    messages, send, receive = [], Link.send, Link.receive

    def sent(link, task, number):
        messages.append(task)
        return send(link, task, number)

    def received(link):
        messages.append(receive(link))
        return messages[-1]

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Link, "send", sent))
        stack.enter_context(mock.patch.object(Link, "receive", received))
        call(frame_of(2_000), workers.same, own_pool)
    assert len(messages) >= 2 * PARTS
    assert not any(map(names_looked_up, messages))


class Counting:
    """A function that counts how often it is pickled."""

    pickled = 0

    def __call__(self, part):
        return part

    def __reduce__(self):
        Counting.pickled += 1
        return Counting, ()


@pytest.mark.parametrize("n_partitions", [2, 50])
def test_the_function_is_pickled_once_a_call(process_backend, n_partitions):
    warm(frame_of(1_000), workers.same, process_backend, n_partitions)  # else it is tried first
    Counting.pickled = 0
    call(frame_of(1_000), Counting(), process_backend, n_partitions)
    assert Counting.pickled == 1


def wrapped(function):
    def wrapper(part):
        return function(part)

    return wrapper


@pytest.mark.parametrize("make", [partial, wrapped])
def test_a_function_that_stays_in_the_caller_is_pickled_once(make):
    """To know that it could go elsewhere; not again in later calls."""
    Counting.pickled, function = 0, make(Counting())
    for _ in range(3):
        call(frame_of(1_000), function, "auto")
    assert Counting.pickled == 1


# Calls of the function.


@pytest.mark.parametrize("backend", ["auto", "spawn"])
def test_the_function_is_called_once_a_partition(backend, tmp_path):
    """Wherever it runs: each call writes the first of its rows."""
    calls = tmp_path / "calls"
    pmap.map_partitions(
        frame_of(1_000),
        partial(workers.noted, str(calls)),
        n_partitions=PARTS,
        backend=backend,
        n_jobs=2,
    )
    firsts = sorted(int(line) for line in calls.read_text().split())
    assert firsts == [125 * index for index in range(PARTS)]


def test_workers_go_on_while_the_caller_is_elsewhere(process_backend, tmp_path):
    """A call that waits listens to its workers itself; while it does not, somebody else does."""
    calls, window = tmp_path / "calls", 5
    function = partial(workers.noted, str(calls))
    outcomes = pmap.iter_partitions(
        frame_of(1_000), function, n_partitions=window, backend=process_backend, n_jobs=2
    )
    next(outcomes)
    deadline = time.monotonic() + programs.SOON
    while len(calls.read_text().split()) < window:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    outcomes.close()


# Imports.

#: What is imported between `import pmap` and the start of the first worker, which waits for it.
BEFORE_WORKERS = """
    pmap pmap._access pmap._allocator pmap._api pmap._arguments pmap._background pmap._clocks pmap._cloudpickled pmap._config
    pmap._context pmap._dtypes pmap._figures pmap._forkguard pmap._function pmap._interrupts pmap._partition pmap._plan
    pmap._pools pmap._registry pmap._resources pmap._size pmap._standard pmap._warn pmap._work pmap.backend
    pmap.errors
    pmap_backends pmap_backends._child pmap_backends._item pmap_backends._launch pmap_backends._life
    pmap_backends._link pmap_backends._listen pmap_backends._processes pmap_backends._worker
"""

#: What workers import, before their first task.
IN_WORKERS = """
    pmap pmap._allocator pmap._apply pmap._background pmap._board pmap._clocks pmap._cloudpickled pmap._context pmap._dtypes pmap._function
    pmap._gauge pmap._imported pmap._interrupts pmap._looker pmap._output pmap._pages pmap._plain pmap._resources pmap._segment pmap._size
    pmap._standard pmap._transport pmap._transport._closure pmap._transport._columns pmap._transport._files
    pmap._transport._needed pmap._transport._nodes pmap._transport._parcel pmap._transport._places
    pmap._transport._receive pmap._transport._send pmap._transport._shelf pmap._transport._touched
    pmap._transport._views pmap._wire pmap._worker pmap.errors
    pmap_backends pmap_backends._child pmap_backends._life pmap_backends._link
"""

#: Modules of pmap's own that most programs never import, and those that send frames to workers.
LATER = {
    *("pmap._allocator", "pmap._board", "pmap._carry_away", "pmap._output", "pmap._pages"),
    *("pmap._plain", "pmap._segment", "pmap._standard", "pmap._transport", "pmap._worker"),
    *("pmap._explain_api", "pmap._share", "pmap.__main__", "pmap.testing"),
    *(
        "pmap._advice",
        "pmap._bench",
        "pmap._checkpoint",
        "pmap._conformance",
        "pmap._demo",
        "pmap._joblib",
    ),
}


def modules_after(code):
    program = f"import polars, sys; before = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


def test_import_brings_nothing():
    assert modules_after("import pmap") == {"pmap"}


def test_its_names_bring_nothing_but_pmap():
    """numpy, pyarrow, cloudpickle, joblib, loky, tqdm and distributed wait until they are needed."""
    found = {name.partition(".")[0] for name in modules_after("from pmap import *")}
    assert found - set(sys.stdlib_module_names) == {"pmap"}


START = """
import sys
import polars as pl
import pmap

def imported(_=None):
    return sorted(name for name in sys.modules if name.partition(".")[0] in {"pmap", "pmap_backends"})

def note(event, _):
    if event == "subprocess.Popen" and not before:
        before.extend(imported())

def of_worker(part):
    return pl.DataFrame({"name": imported()})

before = []
sys.addaudithook(note)
frame = pl.DataFrame({"x": range(100)})
out = pmap.map_partitions(frame, of_worker, n_partitions=1, backend=sys.argv[1], n_jobs=1)
print(*before)
print(*out["name"])
"""


def test_workers_start_before_all_else_is_imported_and_import_what_they_need(own_pool):
    done = subprocess.run(
        [sys.executable, "-c", START, own_pool], check=True, capture_output=True, text=True
    )
    before, in_worker = (set(line.split()) for line in done.stdout.splitlines())
    assert before == set(BEFORE_WORKERS.split())
    assert in_worker == set(IN_WORKERS.split())


SMALL_CALL = """
import pmap
pmap.map_partitions(polars.DataFrame({"x": [1]}), lambda part: part)
"""


def test_a_small_call_leaves_out_what_only_some_calls_need():
    found = modules_after(SMALL_CALL)
    folder = Path(pmap.__file__).parent
    ours = {
        ".".join(("pmap", *path.relative_to(folder).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        for path in folder.rglob("*.py")
    }
    waiting = {".".join(name.split(".")[:2]) for name in ours - found}
    assert waiting == LATER


LARGE_LIBRARIES = """
import sys
import polars as pl
import pmap

def imported(names=("numpy", "pyarrow")):
    return [name for name in names if name in sys.modules]

def of_worker(part):
    return pl.DataFrame({"name": imported()}, schema={"name": pl.String})

frame = pl.DataFrame({"x": range(100), "s": ["a"] * 100})
out = pmap.map_partitions(frame, of_worker, n_partitions=1, backend=sys.argv[1], n_jobs=1)
print(imported(), out["name"].to_list())
"""


@pytest.mark.parametrize(
    ("before", "caller", "forked"),
    [("", [], []), ("import pyarrow", ["numpy", "pyarrow"], ["numpy", "pyarrow"])],
    ids=["without", "with"],
)
def test_a_small_frame_imports_no_large_library_anywhere(own_pool, before, caller, forked):
    """They take 0.1 s; a fork server has those that the caller has, for its forks to share."""
    done = subprocess.run(
        [sys.executable, "-c", before + LARGE_LIBRARIES, own_pool],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == f"{caller} {forked if own_pool == 'forkserver' else []}"


#: Of a column that is made in a worker: rows, and bytes.
MADE, MADE_BYTES = 2_000_000, 2_000_000 * 8

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Polars has another allocator there"
)


def made_in_workers(n, backend):
    """So many columns, one after the other: pages that came for them, and memory held before."""

    def make(part):
        def so_far():
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

        held, before = own_memory(psutil.Process()), so_far()
        for i in range(n):
            pl.int_range(MADE, eager=True, dtype=pl.Int64) + i
        return so_far() - before, held

    return zip(*pmap.iter_partitions(frame_of(2), make, backend=backend, n_jobs=2), strict=True)


@linux
def test_workers_reuse_large_pieces_of_memory(own_pool):
    """Each page that comes anew from the system is a fault; of ten columns, most are those of the first."""
    faults, _ = made_in_workers(10, own_pool)
    assert max(faults) < 10 / 2 * MADE_BYTES // mmap.PAGESIZE


@linux
def test_workers_at_rest_give_large_pieces_of_memory_back(own_pool):
    _, held = made_in_workers(10, own_pool)
    if "muzzy_decay_ms:-1" in os.environ["_RJEM_MALLOC_CONF"]:
        pytest.skip("this Polars leaves to the kernel when to take what was given back")
    most = MADE_BYTES + min(held)  # of who had made none yet
    at_work = [psutil.Process(stats.worker) for stats in pmap.last_report().stats]
    programs.wait_until(lambda: all(own_memory(worker) < most for worker in at_work))


def own_memory(process):
    memory = process.memory_info()
    return memory.rss - memory.shared
