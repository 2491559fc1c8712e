"""What is mapped: functions of a part, and of a value and a part. Workers import this module."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime

import numpy as np
import polars as pl
from polars import selectors as cs

_LINE = re.compile(r"(?P<when>\S+) (?P<level>[A-Z]+) (?P<name>\w+): (?P<rest>\{.*\})")


def parse_line(line: str) -> float:
    """Read a line of a log with a date and JSON in it: seconds and bytes, as one figure."""
    match = _LINE.fullmatch(line)
    if match is None:
        return -1.0
    fields = json.loads(match["rest"])
    when = datetime.fromisoformat(match["when"])
    return float(fields["bytes"]) + when.second + when.minute / 64 + len(match["name"])


def parse(part: pl.DataFrame) -> pl.DataFrame:
    """Read each line: Python at its most usual."""
    values = [parse_line(line) for line in part["line"]]
    return part.with_columns(value=pl.Series(values, dtype=pl.Float64))


def score(part: pl.DataFrame) -> pl.DataFrame:
    """Work on what `parse` found, in Python again."""
    values = [_digits(value) for value in part["value"]]
    return part.with_columns(score=pl.Series(values, dtype=pl.Int64))


def _digits(value: float) -> int:
    return sum(int(digit) for digit in f"{value:.3f}" if digit != ".")


def out(part: pl.DataFrame) -> pl.DataFrame:
    """Take the frame, and give next to nothing back."""
    return pl.DataFrame({"rows": [part.height]})


def through(part: pl.DataFrame) -> pl.DataFrame:
    """Give the frame back as it is."""
    return part


def new(part: pl.DataFrame) -> pl.DataFrame:
    """Give as many bytes as came, none of them where they were.

    Shifted columns, or strings in another order, would be parts of those that came.
    """
    return part.with_columns(cs.numeric() + 1, cs.string() + "!", cs.nested().reverse())


def double(part: pl.DataFrame) -> pl.DataFrame:
    """One more column; for small frames."""
    return part.with_columns(y=pl.col("x") * 2)


def is_palindrome(word: str) -> bool:
    """Whether it reads the same backwards."""
    return word == word[::-1]


def palindromes(part: pl.DataFrame) -> pl.DataFrame:
    """What an expression could say, in Python."""
    values = [is_palindrome(word) for word in part["word"]]
    return part.with_columns(value=pl.Series(values, dtype=pl.Boolean))


def palindromes_native(frame: pl.DataFrame) -> pl.DataFrame:
    """The expression that says it."""
    return frame.with_columns(value=pl.col("word") == pl.col("word").str.reverse())


def collatz_steps(number: int) -> int:
    """How many steps lead from it to 1."""
    steps = 0
    while number > 1:
        number = 3 * number + 1 if number % 2 else number // 2
        steps += 1
    return steps


def collatz(part: pl.DataFrame) -> pl.DataFrame:
    """Rows cost as much as they have rounds."""
    rows = part.select("number", "rounds").iter_rows()
    values = [sum(collatz_steps(number + i) for i in range(rounds)) for number, rounds in rows]
    return part.with_columns(value=pl.Series(values, dtype=pl.Int64))


def look_up(table: pl.DataFrame, part: pl.DataFrame) -> pl.DataFrame:
    """Find each key in a large table that came along."""
    return part.with_columns(value=table["value"].gather(part["key"]))


def count_near(table: pl.DataFrame, part: pl.DataFrame) -> pl.DataFrame:
    """For each key, count the rows of the table that lie near it."""
    values = table["value"].to_numpy()
    counts = [int(np.count_nonzero(np.abs(values - key) < 1e-3)) for key in part["at"]]
    return part.with_columns(near=pl.Series(counts, dtype=pl.Int64))


def waves(part: pl.DataFrame) -> pl.DataFrame:
    """Work on all columns as one array of numpy's, which lets other threads run."""
    array = part.to_numpy()
    for _ in range(20):
        array = np.tanh(np.sin(array) + np.sqrt(np.abs(array)))
    return pl.DataFrame({"value": array.sum(axis=1)})


def wait(part: pl.DataFrame) -> pl.DataFrame:
    """Wait for each row, as for an answer of a server."""
    for seconds in part["seconds"]:
        time.sleep(seconds)
    return part.with_columns(answer=pl.col("request") + 1)


def predict(model: object, part: pl.DataFrame) -> pl.DataFrame:
    """What a fitted model of scikit-learn's says about each row."""
    found = model.predict(part.to_numpy())  # type: ignore[attr-defined]
    return pl.DataFrame({"digit": np.asarray(found, np.int64)})
