"""A program that is interrupted again and again while it maps, and looks what each left behind.

    python interrupted.py BACKEND line|time SEED COUNT

``line``: at a random line of pmap's own code; ``time``: at a random time, while pools start or
workers are at work. Ends with status 1 and what was wrong.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import polars as pl

import pmap
import pmap_backends
from pmap import _pages

LARGE = pl.DataFrame({"x": range(300_000)})
SMALL = LARGE.head(64)
FOLDERS = tuple(str(Path(package.__file__).parent) for package in (pmap, pmap_backends))
#: Seconds within which a call must end, and its workers be rid of the old job.
SOON = 1.0


class AtLine:
    """Traces this thread, and interrupts it at one of the lines of pmap that it comes to."""

    def __init__(self, number=0):
        self.seen, self.place = 0, None
        self._number = number

    def __call__(self, frame, event, argument):
        return self._step if frame.f_code.co_filename.startswith(FOLDERS) else None

    def _step(self, frame, event, argument):
        self.seen += event == "line"
        if self.seen == self._number and self.place is None:
            self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)
        return self._step

    def __enter__(self):
        sys.settrace(self)

    def __exit__(self, *_):
        sys.settrace(None)


class AtTime:
    """Interrupts this process after a while, as a terminal does; not if it has ended by then."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.place = f"after {seconds:.3f} s"
        self._timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))

    def __enter__(self):
        self._timer.start()

    def __exit__(self, *_):
        self._timer.cancel()


class Job:
    """A function that holds a lock as long as it runs, whatever becomes of its process."""

    def __init__(self, path, seconds):
        self.path, self.seconds = path, seconds

    def __call__(self, part):
        with open(self.path) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            end = time.monotonic() + self.seconds * pmap.current_partition().index
            while time.monotonic() < end:  # work, and no rest, which auto would leave to threads
                sum(range(1000))
        return part * 2

    def still_runs(self):
        deadline = time.monotonic() + SOON
        with open(self.path) as file:
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return False
                if time.monotonic() > deadline:
                    return True
                time.sleep(0.005)


def segments_left():
    """How many segments this process holds, though no call runs and no frame is left."""
    gc.collect()
    deadline = time.monotonic() + SOON
    while True:
        _pages.trim(0)  # those that are kept for the next call
        left = sum(map(is_segment, os.listdir("/proc/self/fd")))
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.005)


def is_segment(fd):
    with contextlib.suppress(FileNotFoundError):  # that of the listing itself
        return os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:pmap")
    return False


def ways(job, arguments):
    """The calls that are interrupted: a map, frames that travel in segments, results one by one."""

    def small():
        pmap.map_partitions(SMALL, job, progress=lambda counts: None, **arguments)

    def large():
        assert pmap.map_partitions(LARGE, job, **arguments)["x"].sum() == 2 * LARGE["x"].sum()

    def some():
        with contextlib.closing(pmap.iter_partitions(LARGE, job, **arguments)) as results:
            assert next(results).height == next(results).height == 300_000 // 4

    return [small, large, some]


class Trial:
    """One call that is interrupted, and one that is not."""

    def __init__(self, arguments, lock, how, choice):
        self.job = Job(lock, 0.0 if how == "line" else 10.0)
        short = ways(Job(lock, 0.0), arguments)
        self.call, self.usual = choice.choice(
            list(zip(ways(self.job, arguments), short, strict=True))
        )
        if choice.random() < (0.1 if how == "line" else 0.5):
            pmap.shutdown()
        if how == "line":
            counting = AtLine()
            with counting:
                self.usual()
            self.interrupt = AtLine(choice.randint(1, counting.seen))
        else:
            self.interrupt = AtTime(choice.uniform(0, 0.5))

    def run(self):
        with self.interrupt:
            self.call()

    def wrong(self):
        """What it has left behind."""
        if self.job.still_runs():
            return "its workers go on"
        self.usual()
        left = segments_left()
        return f"{left} segments are left" if left else None


def main(backend, how, seed, count):
    choice = random.Random(seed)
    arguments = {"backend": backend, "n_jobs": 2, "n_partitions": 4}
    n_hit, slowest = 0, 0.0
    with tempfile.NamedTemporaryFile() as lock:
        for _ in range(count):
            trial = Trial(arguments, lock.name, how, choice)
            begun, ending = time.monotonic(), "no interrupt"
            try:
                trial.run()
            except KeyboardInterrupt:
                n_hit, ending = n_hit + 1, None
            if how == "time":
                slowest = max(slowest, time.monotonic() - begun - trial.interrupt.seconds)
            else:
                ending = None  # it may have taken a shorter way
            wrong = ending or trial.wrong()
            if wrong or slowest > SOON:
                sys.exit(f"{trial.call.__name__}, {trial.interrupt.place}: {wrong or slowest}")
    print(f"{n_hit} of {count}, {slowest:.3f} s at most")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
