"""Functions that workers import; a worker finds this module as the test does, by `sys.path`."""

from __future__ import annotations

import hashlib
import os
import time

import polars as pl

import pmap

_MEGABYTES = bytes(3_000_000)


def double(part):
    return part.with_columns(pl.all() * 2)


def pid(part):
    return os.getpid()


def index(part):
    return pmap.current_partition().index


class Model:
    """Costly to make, in spirit."""

    def __init__(self):
        self.factor = 2

    def __call__(self, part):
        return part.with_columns(pl.all() * self.factor)


def call(part, inner):
    return inner(part)


class Calls:
    """What some decorators make of a function."""

    def __init__(self, function):
        self.function = function

    def __call__(self, part):
        return self.function(part)

    def once(self, part):
        return self(part)


def spin(part):
    """Python, and nothing else, for about a third of a second of CPU time."""
    end = time.thread_time() + 0.3
    while time.thread_time() < end:
        sum(range(1000))
    return part


def nap(part):
    time.sleep(0.1)
    return part


def digest(part):
    """Computes for about a seventh of a second, without the GIL."""
    end = time.thread_time() + 0.15
    while time.thread_time() < end:
        hashlib.sha256(_MEGABYTES).digest()
    return part


def polish(part):
    """Polars, and nothing else."""
    x = pl.col("x")
    return part.select(*((x + i).sin().cos().sort().alias(f"s{i}") for i in range(4))).head(3)


def same(part):
    return part


def height(part):
    return pl.DataFrame({"rows": [part.height]})


def one_new_column(part):
    return part.with_columns(c=pl.col("a") + 1)


def noted(path, part):
    with open(path, "a") as file:  # one short write, which no other can break apart
        file.write(f"{part['b'][0]}\n")
    return part
