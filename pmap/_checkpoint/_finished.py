"""Finished partitions on disk: Arrow files, and a journal that says which of them count.

A partition is finished when its line in the journal is there in whole. A job that is killed
before leaves at most a file that no line speaks of, or the beginning of a line.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import operator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from pmap._dtypes import refuse_unsupported
from pmap._transport._columns import restore_flags, sorted_flags
from pmap.errors import CheckpointError, UnsupportedDtypeError

if TYPE_CHECKING:
    from pmap._checkpoint._folder import Folder

__all__ = ["FILES", "JOURNAL", "Entry", "Finished"]

JOURNAL = "finished.jsonl"
#: How names of the files begin.
FILES = (JOURNAL, "part-")


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished partition.

    Attributes
    ----------
    index, start, rows
        Which it is.
    input
        The digest of its rows.
    output
        The digest of the file with its result; ``None`` for a result of None.
    sorted
        Columns of the result that Polars knows to be sorted, and whether they descend.
    """

    index: int
    start: int
    rows: int
    input: str
    output: str | None
    sorted: tuple[tuple[int, bool], ...] = ()

    @property
    def where(self) -> str:
        """It, in words."""
        rows = f"rows {self.start} to {self.start + self.rows - 1}" if self.rows else "no rows"
        return f"partition {self.index} ({rows})"

    @property
    def file(self) -> str:
        """The name of the file with its result."""
        return f"part-{self.index:05d}.arrow"


class Finished:
    """What is kept in a folder.

    Raises
    ------
    CheckpointError
        When the journal is not what was written.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.entries = {entry.index: entry for entry in self._load()}
        self._forget_missing()

    def _load(self) -> list[Entry]:
        try:
            journal = self._folder.read(JOURNAL)
        except FileNotFoundError:
            return []
        whole = journal[: journal.rfind(b"\n") + 1]
        if len(whole) < len(journal):  # the job was killed as it wrote the last line
            self._folder.cut(JOURNAL, len(whole))
        return [self._entry(n, line) for n, line in enumerate(whole.splitlines(), 1)]

    def _entry(self, number: int, line: bytes) -> Entry:
        try:
            return _parsed(line)
        except (ValueError, TypeError, KeyError) as exc:
            raise CheckpointError(
                f"line {number} of {self._folder.at(JOURNAL)} is not what pmap wrote: "
                f"delete the folder {self._folder.path} to begin anew"
            ) from exc

    def add(self, entry: Entry, frame: pl.DataFrame | None) -> None:
        """Keep a result; when this returns it is on the disk."""
        if frame is not None:
            data = _to_file(entry, frame)
            entry = Entry(
                entry.index,
                entry.start,
                entry.rows,
                entry.input,
                hashlib.sha256(data).hexdigest(),
                sorted_flags(frame.get_columns()),
            )
            self._folder.write(entry.file, data)
        self._folder.append(JOURNAL, json.dumps(asdict(entry)).encode() + b"\n")
        self.entries[entry.index] = entry

    def result(self, entry: Entry) -> pl.DataFrame | None:
        """Read a result back."""
        if entry.output is None:
            return None
        data = self._folder.read(entry.file)
        if hashlib.sha256(data).hexdigest() == entry.output:
            with contextlib.suppress(IndexError):  # of a column that is not there
                return _from_file(data, entry)
        raise CheckpointError(
            f"{self._folder.at(entry.file)}, the result of {entry.where}, is not what pmap wrote: "
            f"it was cut short or changed. Delete it, and only this partition will run again"
        )

    def _forget_missing(self) -> None:
        """A partition whose file was deleted is not finished."""
        there = set(self._folder.names())
        gone = [e.index for e in self.entries.values() if e.output and e.file not in there]
        for index in gone:
            del self.entries[index]


def _parsed(line: bytes) -> Entry:
    found: Any = json.loads(line)
    index, start, rows = (operator.index(found[name]) for name in ("index", "start", "rows"))
    output = found["output"]
    flags = tuple((int(column), bool(descending)) for column, descending in found["sorted"])
    return Entry(
        index, start, rows, str(found["input"]), None if output is None else str(output), flags
    )


def _to_file(entry: Entry, frame: pl.DataFrame) -> bytes:
    try:
        refuse_unsupported(frame.get_columns())
    except UnsupportedDtypeError as exc:
        raise CheckpointError(
            f"the result of {entry.where} can not be kept in a checkpoint: {exc}"
        ) from exc
    file = io.BytesIO()
    frame.write_ipc(file, compat_level=pl.CompatLevel.newest())
    return file.getvalue()


def _from_file(data: bytes, entry: Entry) -> pl.DataFrame:
    return restore_flags(pl.read_ipc(data), cast("Any", entry.sorted))
