"""How joblib learns the name `pmap`."""

from __future__ import annotations

__all__ = ["NAME", "register_joblib_backend"]

NAME = "pmap"


def register_joblib_backend() -> None:
    """Have joblib, and what is built on it, run on pmap's pools where ``backend="pmap"`` is asked for.

    From then on ``joblib.parallel_config(backend="pmap", n_jobs=...)`` and
    ``joblib.Parallel(backend="pmap", ...)`` work with all that joblib has; scikit-learn's
    ``n_jobs=`` inside such a block too. Frames, Series, Arrow tables and numpy arrays that
    occur in many tasks are written to shared memory once and mapped by the workers. Polars,
    BLAS and OpenMP get CPUs ÷ `n_jobs` threads in each worker, or `inner_max_num_threads`.

    Options of `parallel_config` and of `Parallel` beside joblib's own:

    ``start``
        How workers start: ``"forkserver"`` (Linux, where it is the default), ``"spawn"``
        (elsewhere) or ``"loky"``.
    ``initializer``, ``initargs``
        Called once in each worker before its first task; as with joblib's loky.
    ``idle_timeout``
        Seconds after which workers that nobody uses are stopped; joblib's
        ``idle_worker_timeout`` is the same.
    ``max_tasks_per_child``
        Replace a worker after so many batches.

    joblib has no entry points for backends, so that it knows the name in those processes only
    that have called this; workers see to it themselves. To call it again changes nothing.

    Examples
    --------
    >>> import joblib, polars as pl, pmap
    >>> pmap.register_joblib_backend()
    >>> frame = pl.DataFrame({"x": range(4)})
    >>> with joblib.parallel_config(backend="pmap", n_jobs=2):
    ...     joblib.Parallel()(joblib.delayed(frame["x"].gather_every)(n) for n in (2, 3))[1].to_list()
    [0, 3]
    """
    from joblib import parallel  # noqa: PLC0415  150 ms, for those who use it

    from pmap._joblib._backend import PmapBackend  # noqa: PLC0415  imports joblib

    parallel.register_parallel_backend(NAME, PmapBackend)
