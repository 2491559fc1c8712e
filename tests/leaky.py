"""A program that maps, in health and in trouble, and looks what is left each time.

    python leaky.py BACKEND maps COUNT | BACKEND faults

After each kind of use it has as much as before: processes, threads, descriptors, mappings,
segments and their bytes, objects of pmap's. First with warm pools, then without any. Ends
with status 1 and what has grown.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections import Counter

import polars as pl
import psutil

import pmap
from pmap import _pages
from pmap.errors import PartitionTimeoutError, TransportError, WorkerDiedError

SMALL = pl.DataFrame({"x": range(64)})
LARGE = pl.DataFrame({"x": range(200_000)}).with_columns(y=pl.col("x") * 2)
#: Seconds in which happens, in threads and workers, what is to happen in the end.
SOON = 15.0
#: Mappings that Python's and Polars' allocators may make meanwhile, and lines for guard pages.
SOME_MAPPINGS = 40
#: Bytes of shared memory that may be there: less than one column of LARGE.
SOME_BYTES = 1_000_000


def is_ours(kind):
    return str(kind.__module__).startswith(("pmap.", "pmap_backends."))


def segments(pid):
    """Bytes of each file without a name that a process holds."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        with contextlib.suppress(OSError):  # closed just now
            if re.match(r"/memfd:pmap|.*/(pmap-|#\d+ \(deleted\))", os.readlink(path)):
                found[name] = os.stat(path).st_blocks * 512
    return found


def mapped(pid):
    """Bytes of segments that a process has in its memory, and how many mappings it has."""
    with open(f"/proc/{pid}/maps") as file:
        lines = file.read().splitlines()
    extents = (line.split()[0].split("-") for line in lines if "/memfd:pmap" in line)
    return sum(int(end, 16) - int(start, 16) for start, end in extents), len(lines)


def objects():
    """Of pmap's classes, by name."""
    return Counter(type(thing).__name__ for thing in gc.get_objects() if is_ours(type(thing)))


def held():
    """What there is now, by name; the first four are exact, the others within bounds."""
    pids = [process.pid for process in psutil.Process().children(recursive=True)]
    shared = [0]
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended just now
            shared.append(mapped(pid)[0])
    return {
        "processes": len(pids),
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")) - len(segments("self")),
        "objects": objects().total(),
        "segments": sum(segments("self").values()) + mapped("self")[0],
        "segments in workers": sum(shared),
        "mappings": mapped("self")[1],
    }


#: More than there can be.
MUCH = 1 << 40
#: Entries for frames that are gone stay until the next frame comes.
SOME_OBJECTS = 100
BOUNDS = {
    "objects": SOME_OBJECTS,
    "mappings": SOME_MAPPINGS,
    "segments": SOME_BYTES,
    "segments in workers": SOME_BYTES,
}


def grown(before):
    """What there is more of than before, by more than its bound, as soon as that is settled."""
    deadline = time.monotonic() + SOON
    while True:
        gc.collect()
        _pages.trim(0)  # what is kept for the next call
        now = held()
        more = {
            name: (before[name], now[name])
            for name in now
            if now[name] > before[name] + BOUNDS.get(name, 0)
        }
        if not more or time.monotonic() > deadline:
            return more
        time.sleep(0.02)


class Maps:
    """Ways to map, with one backend."""

    def __init__(self, backend):
        self.call = {"backend": backend, "n_jobs": 2, "n_partitions": 4}

    def map(self, frame, function, **more):
        return pmap.map_partitions(frame, function, **{**self.call, **more})

    def iterate(self, frame, function, **more):
        return pmap.iter_partitions(frame, function, **{**self.call, **more})

    # In health.

    def small(self):
        assert self.map(SMALL, lambda part: part * 2).height == 64
        assert pmap.last_report().timings.height == 4

    def large(self):
        assert self.map(LARGE, lambda part: part + 1)["x"][0] == 1

    def shared(self):
        frame = pmap.share(LARGE)
        assert self.map(frame, lambda part: part.tail(1)).height == 4

    def closure(self):
        table = LARGE.head(100_000)
        found = self.iterate(SMALL, lambda part: part.height + table.height)
        assert list(found) == [100_016] * 4

    def results(self):
        assert [frame.height for frame in self.iterate(LARGE, lambda part: part)] == [50_000] * 4

    def stream(self):
        assert list(self.iterate((SMALL for _ in range(3)), len)) == [64] * 3

    def retried(self):
        def fail_first(part):
            if pmap.current_partition().attempt == 0:
                raise OSError("again")
            return part

        assert self.map(SMALL, fail_first, retries=1).equals(SMALL)

    # In trouble.

    def fails(self, function, expected, frame=LARGE, **more):
        try:
            self.map(frame, function, **more)
        except expected:
            return
        sys.exit(f"no {expected}")

    def exception(self):
        def fail(part):
            raise ValueError("no")

        self.fails(fail, ValueError)

    def kept_exception(self):
        def fail(part):
            raise ValueError("no")

        assert self.map(LARGE, fail, on_error="return", schema=LARGE.schema).is_empty()
        assert len(pmap.last_report().failures) == 4

    def exit(self):
        self.fails(lambda part: os._exit(3), WorkerDiedError)

    def segfault(self):
        def crash(part):
            faulthandler.disable()
            ctypes.string_at(0)

        self.fails(crash, WorkerDiedError)

    def kill(self):
        self.fails(lambda part: os.kill(os.getpid(), signal.SIGKILL), WorkerDiedError)

    def timeout(self):
        self.fails(lambda part: time.sleep(60), PartitionTimeoutError, timeout=0.3)

    def unpicklable(self):
        with contextlib.suppress(TypeError):
            list(self.iterate(LARGE, lambda part: threading.Lock()))
            sys.exit("it was pickled")

    def abandoned(self):
        results = self.iterate(LARGE, lambda part: part, n_partitions=16)
        assert next(results).height == 12_500

    def closed(self):
        def hang(part):
            time.sleep(60 * pmap.current_partition().index)
            return part

        with contextlib.closing(self.iterate(LARGE, hang)) as results:
            assert next(results).height == 50_000

    def full_segment(self):
        """No file of this process, a segment for one, may become as large as the frame."""
        import resource

        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
        try:
            self.fails(lambda part: part, TransportError)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)

    def interrupt(self):
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        self.fails(lambda part: time.sleep(60), KeyboardInterrupt)
        timer.join()


HEALTH = ["small", "large", "shared", "closure", "results", "stream", "retried"]
TROUBLE = ["exception", "kept_exception", "exit", "segfault", "kill", "timeout", "unpicklable"]
TROUBLE += ["abandoned", "closed", "full_segment", "interrupt"]


def check(before, what):
    more = grown(before)
    if more:
        sys.exit(f"after {what}: {more}; objects: {objects()}")


def main(backend, what, count):
    maps = Maps(backend)
    warnings.simplefilter("error")
    pmap.map_partitions(SMALL, lambda part: part, backend="serial")
    maps.large()
    pmap.shutdown()
    maps.fails(lambda part: os._exit(3), WorkerDiedError)  # what is made only then, is made now
    pmap.shutdown()
    gc.collect()
    cold = {**held(), "segments": 0}
    for name in HEALTH:
        getattr(maps, name)()
    gc.collect()
    warm = {**held(), "segments": 0, "segments in workers": 0}
    for name in TROUBLE if what == "faults" else []:
        getattr(maps, name)()
        maps.small()  # the pool goes on, and has all its workers
        check({**warm, "segments in workers": MUCH}, name)  # these they let go after a second
    for number in range(count):
        getattr(maps, HEALTH[number % 10] if number % 10 < len(HEALTH) else "small")()
    check(warm, f"{count} maps")
    pmap.shutdown()
    check(cold, "the shutdown")
    print("the same as before")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
