"""`checkpoint=`: what is finished stays, so that a job that was killed goes on where it was.

A folder belongs to one job. What the job is stands in its manifest: the function, part by part,
the seed, and how the frame was cut. What each finished partition was made of stands beside its
result. All of that must be the same again; what differs is told in words::

    manifest.json      the job                    written before the first partition
    part-00012.arrow   the result of partition 12
    finished.jsonl     a line a finished partition: its rows, digests of input and result
    lock               held while a job runs
"""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, Any, NoReturn, cast

import polars as pl

from pmap._checkpoint._content import digest_of_frame, dtype_text
from pmap._checkpoint._digest import digest_of_function
from pmap._checkpoint._finished import FILES, Entry, Finished
from pmap._checkpoint._folder import Folder
from pmap._function import name_of
from pmap.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pmap._config import Options
    from pmap._partition import Partition

__all__ = ["Checkpoint"]

_MANIFEST = "manifest.json"
_VERSION = 1
_FOREIGN = f"{_MANIFEST} is not as this version of pmap writes it"


class Checkpoint:
    """The kept results of one job; open from the beginning of a call to its end.

    Parameters
    ----------
    path
        The folder.
    """

    def __init__(self, path: str) -> None:
        self._folder = Folder(path, (_MANIFEST, *FILES))
        self._finished: Finished
        self._checked: set[int] = set()  # whose input is known to be the same
        self._inputs: dict[int, str] = {}  # digests of what has been loaded

    def open(
        self,
        function: Callable[..., Any],
        options: Options,
        partitions: Sequence[Partition] | None,
    ) -> None:
        """See what is finished; to be closed even if that fails.

        Parameters
        ----------
        function
            Of the user.
        options
            Of the call.
        partitions
            All there are; ``None`` for a stream.

        Raises
        ------
        CheckpointError
            When the folder is in use, or another job's, or not what was written.
        UnsupportedDtypeError
            For a frame with `Object` columns.
        """
        job = _job(function, options, partitions)
        if partitions:
            digest_of_frame(partitions[0].source.clear())  # or raises, before anything has run
        self._folder.open()
        self._finished = Finished(self._folder)
        if self._finished.entries:
            self._adopt(job)
        else:  # nothing would be lost
            self._folder.write(_MANIFEST, json.dumps(job, indent=1).encode())
        self._check(partitions or ())

    def _adopt(self, job: dict[str, Any]) -> None:
        """Take what is there for ours, if it is."""
        try:
            text = self._folder.read(_MANIFEST)
        except FileNotFoundError:
            self._refuse([f"{_MANIFEST} is missing"])
        then = self._parsed(text)
        try:
            differences = _differences(then, json.loads(json.dumps(job)))
        except (TypeError, ValueError, AttributeError):  # what should be a list is a number, say
            self._refuse([_FOREIGN])
        if differences:
            self._refuse(differences)

    def _parsed(self, text: bytes) -> dict[str, Any]:
        try:
            found = json.loads(text)
            known = found["format"], found["version"]
        except (ValueError, TypeError, KeyError):
            known = None
            found = {}
        if known != ("pmap checkpoint", _VERSION):
            self._refuse([_FOREIGN])
        return cast("dict[str, Any]", found)

    def _check(self, partitions: Sequence[Partition]) -> None:
        """Before anything runs, whether what is finished was made of the same rows."""
        differences = [what for part in partitions if (what := self._difference(part))]
        if differences:
            self._refuse(differences)

    def _difference(self, partition: Partition) -> str | None:
        entry = self._finished.entries.get(partition.index)
        if entry is None or partition.index in self._checked:
            return None
        if (entry.start, entry.rows) != (partition.start, partition.rows):
            return f"it was cut otherwise: {entry.where} begins at row {partition.start} now, with {partition.rows} rows"
        if entry.input != digest_of_frame(partition.frame()):
            return f"{entry.where} holds other data"
        self._checked.add(partition.index)
        return None

    def _refuse(self, differences: list[str]) -> NoReturn:
        more = f"; and {len(differences) - _TOLD} more" if len(differences) > _TOLD else ""
        raise CheckpointError(
            f"the checkpoint {self._folder.path} is of another job: {'; '.join(differences[:_TOLD])}{more}. "
            "A checkpoint is for one call: give another path, or delete the folder to begin anew"
        )

    @property
    def rows(self) -> int:
        """How many rows are finished."""
        return sum(entry.rows for entry in self._finished.entries.values())

    @property
    def n_finished(self) -> int:
        """How many partitions are finished."""
        return len(self._finished.entries)

    @property
    def reason(self) -> str:
        """Where the job begins, in a sentence."""
        n = self.n_finished
        return f"checkpoint: {n} partition{' was' if n == 1 else 's were'} finished before"

    def has(self, partition: Partition) -> bool:
        """Whether it is finished.

        Raises
        ------
        CheckpointError
            When another is, in its place: of a stream that is seen only now.
        """
        entry = self._finished.entries.get(partition.index)
        if entry is None:
            return False
        self._check((partition,))
        return True

    def read(self, partition: Partition) -> pl.DataFrame | None:
        """The result of a finished partition."""
        return self._finished.result(self._finished.entries[partition.index])

    def note(self, partition: Partition) -> None:
        """Look at the rows of a partition before the function may change the frame in place."""
        if partition.index not in self._inputs:  # else it is tried again, or a piece of it
            self._inputs[partition.index] = digest_of_frame(partition.frame())

    def keep(self, partition: Partition, value: object) -> None:
        """Write down what a partition gave; when this returns it is on the disk.

        Raises
        ------
        CheckpointError
            When there is no room, or the value is no frame.
        """
        if partition.index in self._finished.entries:
            return  # it was just read
        entry = Entry(
            partition.index,
            partition.start,
            partition.rows,
            self._inputs.pop(partition.index),
            None,
        )
        if value is not None and not isinstance(value, pl.DataFrame):
            remedy = ": collect it" if isinstance(value, pl.LazyFrame) else ""
            raise CheckpointError(
                f"the function returned a {type(value).__qualname__} for {entry.where}: a checkpoint keeps "
                f"DataFrames and None alone{remedy}"
            )
        self._checked.add(partition.index)
        self._finished.add(entry, value)

    def close(self) -> None:
        """Let another job have it."""
        self._folder.close()


#: Differences that a message names.
_TOLD = 3


def _job(
    function: Callable[..., Any], options: Options, partitions: Sequence[Partition] | None
) -> dict[str, Any]:
    parts = digest_of_function(function)
    if options.initializer is not None:
        parts |= digest_of_function(options.initializer)
    job = {
        "format": "pmap checkpoint",
        "version": _VERSION,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "polars": pl.__version__,
        "name": name_of(function),
        "function": parts,
        "initializer": None if options.initializer is None else name_of(options.initializer),
        "seed": options.seed,
    }
    return {**job, **_cut(options, partitions)}


def _cut(options: Options, partitions: Sequence[Partition] | None) -> dict[str, Any]:
    if partitions is None:
        return {"partitions": None, "chunk_size": None, "rows": None, "schema": None}
    schema = partitions[0].source.schema
    return {
        "partitions": len(partitions),
        "chunk_size": options.chunk_size,
        "rows": sum(part.rows for part in partitions),
        "schema": [[name, dtype_text(dtype)] for name, dtype in schema.items()],
    }


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two jobs, in words."""
    found: list[str] = []
    if then.get("name") != now["name"]:
        found.append(f"it is of the function {then.get('name')}, not of {now['name']}")
    else:
        found += _differing_parts(then, now)
    found += [
        f"{what} was {then.get(what)}, now it is {now[what]}"
        for what in ("initializer", "seed")
        if then.get(what) != now[what]
    ]
    return found + _differing_frames(then, now)


def _differing_parts(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    if then.get("function") == now["function"]:
        return []
    if then.get("python") != now["python"]:  # which compiles to other bytecode
        return [f"it was made by Python {then.get('python')}, this is {now['python']}"]
    old: dict[str, str] = then.get("function") or {}
    new: dict[str, str] = now["function"]
    changed = [name for name in new if name in old and old[name] != new[name]]
    versions = [name for name in changed if name.startswith("the version of ")]
    return [
        *(f"{name} was {old[name]}, now it is {new[name]}" for name in versions),
        *(f"{name} differs" for name in changed if name not in versions),
        *(f"{name} is new" for name in new if name not in old),
        *(f"{name} is gone" for name in old if name not in new),
    ]


def _differing_frames(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    if (then.get("partitions") is None) != (now["partitions"] is None):
        frame, stream = "one frame", "an iterable of frames"
        was, is_now = (stream, frame) if then.get("partitions") is None else (frame, stream)
        return [f"it was mapped over {was}, now over {is_now}"]
    if then.get("schema") != now["schema"]:
        return [_differing_columns(then.get("schema") or [], now["schema"] or [])]
    if then.get("rows") != now["rows"]:
        return [f"the frame had {then.get('rows')} rows, now it has {now['rows']}"]
    if then.get("partitions") == now["partitions"]:
        return []
    chunk = then.get("chunk_size")
    way = f"n_partitions={then.get('partitions')}" if chunk is None else f"chunk_size={chunk}"
    return [
        f"it was cut into {then.get('partitions')} partitions, now into {now['partitions']}: give {way}"
    ]


def _differing_columns(then: list[list[str]], now: list[list[str]]) -> str:
    old = {name: dtype for name, dtype in then}  # noqa: C416  pairs are lists in JSON
    new = {name: dtype for name, dtype in now}  # noqa: C416
    for name, dtype in old.items():
        if name not in new:
            return f"the frame had a column {name!r}, now it has none"
        if dtype != new[name]:
            return f"the column {name!r} was {dtype}, now it is {new[name]}"
    for name in new:
        if name not in old:
            return f"the column {name!r} is new"
    return "the columns have another order"
