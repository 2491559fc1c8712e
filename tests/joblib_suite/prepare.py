"""Copies of joblib's own tests in which the backend under test is pmap's in loky's place.

`write_suite` takes them from the joblib that is installed, whichever version that is.
"""

from __future__ import annotations

import re
from pathlib import Path

import joblib.test

MODULES = ("test_parallel", "test_memmapping", "test_config")

#: What each copy and each program that it starts needs first: `site` imports it.
_SITE = """
import sys

# Not the workers: that they know the backend by themselves is what is tested.
if not any("pmap_backends._child" in argument for argument in sys.orig_argv):
    import joblib.parallel
    import pmap
    from pmap._joblib._backend import PmapBackend

    pmap.register_joblib_backend()
    joblib.parallel.register_parallel_backend("pmap", PmapBackend, make_default=True)
    joblib.parallel.DEFAULT_PROCESS_BACKEND = "pmap"
    del joblib.parallel.BACKENDS["loky"]
"""


#: joblib tests loky's executor by itself too: in its place, one Parallel object.
_EXECUTOR = """
from types import SimpleNamespace

from joblib import Parallel, delayed


class Executor:
    def __init__(self, n_jobs, **options):
        self._parallel = Parallel(n_jobs, backend="pmap", **options).__enter__()

    def map(self, function, items):
        return self._parallel(delayed(function)(item) for item in items)

    def apply_async(self, function, args):
        (value,) = self._parallel([delayed(function)(*args)])
        return SimpleNamespace(get=lambda: value)

    def terminate(self):
        self._parallel.__exit__(None, None, None)
"""

#: What is expected of loky for a reason that is loky's own, and of pmap instead.
_EXPECTED = (
    # The second of two generators breaks when the first is dropped, since both have one executor:
    # each has a lease of its own, and the second goes on.
    (r"""^( +\(['"]pmap['"], )True""", r"\1False"),
    # A warning that from threads no processes are started: they are.
    (r"""(['"]threading['"], ['"]pmap['"], )True""", r"\1False"),
    # The name of its processes in its log: they are other processes.
    (r"""stderr_regex=r(['"])LokyProcess\1""", 'stderr_regex=""'),
)


def on_pmap(source: str) -> str:
    """A test module with pmap's backend wherever it says loky's."""
    source = re.sub(r"""(["'])loky\1""", r"\1pmap\1", source)
    imported = r"^(from \S+ import |    )LokyBackend(,?)$"
    source = re.sub(imported, r"\1LokyBackend as _Loky\2", source, flags=re.MULTILINE)
    source = source.replace("_parallel_backends.LokyBackend", "parallel.BACKENDS['pmap']")
    source = source.replace("joblib.test.test_", "test_")
    source = source.replace(
        "TestExecutor.get_memmapping_executor", "__import__('executor').Executor"
    )
    for lokys, ours in _EXPECTED:
        source = re.sub(lokys, ours, source, flags=re.MULTILINE)
    return re.sub(r"\bLokyBackend\b(?! as)", "joblib.parallel.BACKENDS['pmap']", source)


def write_suite(folder: Path) -> None:
    """Write the copies, and what makes Python use pmap's backend there."""
    tests = Path(joblib.test.__file__).parent
    (folder / "sitecustomize.py").write_text(_SITE)
    (folder / "executor.py").write_text(_EXECUTOR)
    (folder / "testutils.py").write_text((tests / "testutils.py").read_text())
    for name in MODULES:
        source = on_pmap((tests / f"{name}.py").read_text())
        (folder / f"{name}.py").write_text(f"import joblib\n{source}")
