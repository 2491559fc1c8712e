"""Names that users bring along from other libraries, and what they are called here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmap._config import Options, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["refuse_foreign"]

_FOREIGN = {
    "n_jobs": "workers n_workers num_workers max_workers nworkers num_proc n_proc nproc processes n_processes "
    "num_processes nthreads n_threads num_threads threads cores n_cores num_cores ncpus n_cpus num_cpus jobs njobs "
    "nb_workers",
    "chunk_size": "chunksize batch_size batchsize chunk_rows rows_per_partition rows_per_chunk partition_size",
    "n_partitions": "npartitions num_partitions partitions n_chunks nchunks num_chunks n_splits n_batches",
    "schema": "meta output_schema return_schema result_schema return_dtype return_dtypes dtypes schema_out",
    "maintain_order": "ordered keep_order preserve_order order sort",
    "progress": "progress_bar show_progress progressbar verbose verbosity use_progress_bar pbar tqdm",
    "backend": "engine executor pool client scheduler method mp_context context start_method prefer mode",
    "retries": "max_retries retry n_retries max_attempts attempts",
    "on_error": "errors error_handling error on_errors",
    "timeout": "time_limit task_timeout timeout_seconds",
    "by": "groupby group_by keys key on partition_by",
}
_RENAMED = {foreign: name for name, words in _FOREIGN.items() for foreign in words.split()}
_POSITIONAL = {
    **dict.fromkeys(
        ("df", "data", "frame", "lf", "dataframe", "iterable"),
        "frame, function: the frame is the first",
    ),
    **dict.fromkeys(
        ("func", "fn", "f", "function", "callable"), "frame, function: the function is the second"
    ),
}


def refuse_foreign(caller: str, unknown: Mapping[str, object], known: tuple[str, ...]) -> None:
    """Raise for arguments that do not exist.

    Raises
    ------
    TypeError
        As for any unknown argument, with the name that was meant.
    """
    for name in unknown:
        raise TypeError(
            f"{caller}() got an unexpected keyword argument {name!r}{_meant(name, known)}"
        )


def _meant(name: str, known: tuple[str, ...]) -> str:
    if name in _POSITIONAL:
        return f"; arguments {_POSITIONAL[name]}, by position"
    if name in _RENAMED and _RENAMED[name] in known:
        return f": did you mean {_RENAMED[name]}=?"
    if name in Options.__dataclass_fields__:
        return f": it is set with pmap.config({name}=...)"
    near = nearest(name, known)
    return near.replace("?", "=?") if near else ""
