"""joblib, and with it scikit-learn, on pmap's pools.

A `joblib.Parallel` hands batches of calls to its backend. A batch is pickled; what is large in
it (frames, Series, Arrow tables, numpy arrays) is left out of the pickle, lies in one shared
segment for all batches that need it, and is mapped by the workers::

    caller                                             worker
    ──────                                             ──────
    the pickle of a batch, and where its data lie ──►  a pipe, or a segment if it is long
    frames and arrays, once for all batches ────────►  mapped, opened once, kept while in use
    frames and arrays of results ◄───────────────────  written to the segment of the reply

=============  ===================================================================
module         one idea
=============  ===================================================================
`_register`    joblib learns the name
`_backend`     what joblib calls, and nothing else
`_options`     which options there are, and the nearest to a wrong one
`_workers`     how many processes, how many threads each: a pool, and its lease
`_session`     one Parallel object's batches, from submit to result
`_batch`       what travels: a batch, and its answer
`_body`        a pickle, and its large buffers beside it
`_shares`      caller's side: what occurs in many batches, written once
`_opened`      worker's side: what was shared, mapped and kept
`_memmaps`     arrays in files of the user's
`_inside`      what joblib's Parallel has no public way for
=============  ===================================================================

Nothing here is imported before the first use: joblib is slow to import.
"""

from pmap._joblib._register import register_joblib_backend

__all__ = ["register_joblib_backend"]
