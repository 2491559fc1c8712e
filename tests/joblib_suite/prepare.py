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


def on_pmap(source: str) -> str:
    """A test module with pmap's backend wherever it says loky's."""
    source = re.sub(r"""(["'])loky\1""", r"\1pmap\1", source)
    source = re.sub(r"^(    )LokyBackend,$", r"\1LokyBackend as _Loky,", source, flags=re.MULTILINE)
    source = source.replace("_parallel_backends.LokyBackend", "parallel.BACKENDS['pmap']")
    source = source.replace("joblib.test.test_", "test_")
    return re.sub(r"\bLokyBackend\b(?! as)", "joblib.parallel.BACKENDS['pmap']", source)


def write_suite(folder: Path) -> None:
    """Write the copies, and what makes Python use pmap's backend there."""
    tests = Path(joblib.test.__file__).parent
    (folder / "sitecustomize.py").write_text(_SITE)
    (folder / "testutils.py").write_text((tests / "testutils.py").read_text())
    for name in MODULES:
        source = on_pmap((tests / f"{name}.py").read_text())
        if "import joblib\n" not in source:
            source = source.replace("import pytest\n", "import pytest\nimport joblib\n", 1)
        (folder / f"{name}.py").write_text(source)
