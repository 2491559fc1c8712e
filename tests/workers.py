"""Functions that workers import; a worker finds this module as the test does, by `sys.path`."""

from __future__ import annotations

import os

import polars as pl

import pmap


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
