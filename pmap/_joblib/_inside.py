"""What has to be reached inside of joblib's Parallel objects, since it has no public way."""

from __future__ import annotations

import contextlib
import queue
from typing import Any

__all__ = ["fail_call", "forget_batches"]


def forget_batches(parallel: Any) -> None:
    """Of a call that was aborted joblib would run them with the next, and give their results out."""
    ready = getattr(parallel, "_ready_batches", None)
    if isinstance(ready, queue.Queue):
        with contextlib.suppress(queue.Empty):
            while True:
                ready.get_nowait()


def fail_call(callback: Any, failure: BaseException) -> bool:
    """Have the call whose `callback` raised raise the same; whether it could be told.

    Of what the user's generator of tasks raises in there, joblib itself passes on no more than
    an `Exception`, and waits for ever after a `PanicException`.
    """
    parallel: Any = getattr(callback, "parallel", None)
    if not hasattr(parallel, "_jobs") or not hasattr(callback, "_register_outcome"):
        return False
    failed = type(callback)(0, 1, parallel)
    if hasattr(parallel, "_register_new_job"):
        parallel._register_new_job(failed)  # noqa: SLF001
    else:  # before joblib 1.5
        parallel._jobs.append(failed)  # noqa: SLF001
    failed._register_outcome({"result": failure, "status": "Error"})  # noqa: SLF001
    return True
