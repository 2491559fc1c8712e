"""joblib's own tests, as they are installed, with pmap's backend in loky's place."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from pathlib import Path

import programs
import pytest

pytestmark = [pytest.mark.once, pytest.mark.timeout(600)]  # it is joblib's whole suite of backends

FOLDER = Path(__file__).with_name("joblib_suite")
LEFT_OUT = FOLDER / "not_applicable.toml"
MODULES = ("test_parallel", "test_memmapping", "test_config")


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A folder with the copies."""
    folder = tmp_path_factory.mktemp("joblibs")
    code = "import pathlib, sys, prepare; prepare.write_suite(pathlib.Path(sys.argv[1]))"
    done = programs.run("-c", code, folder, cwd=FOLDER)
    assert done.returncode == 0, done.stderr
    shutil.copy(FOLDER / "plugin.py", folder / "conftest.py")
    return folder


def run(suite, module, **variables):
    command = ("-m", "pytest", f"{module}.py", "-q", "-p", "no:cacheprovider", "--tb=short")
    limits = ("--timeout", "60", "--rootdir", suite)
    return programs.run(
        *command,
        *limits,
        cwd=suite,
        PYTHONPATH=str(suite),
        NOT_APPLICABLE=str(LEFT_OUT),
        patience=500.0,
        **variables,
    )


#: Under a minute together; but CI has them run by themselves, before the suite.
SHORT = [pytest.param(module, marks=pytest.mark.slow) for module in MODULES[:2]] + [MODULES[2]]


@pytest.mark.parametrize("module", SHORT)
def test_what_joblib_expects_of_a_backend(suite, module):
    done = run(suite, module, SHORT="1")
    assert done.returncode == 0, done.stdout[-8000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert int(passed[1]) >= {"test_parallel": 90, "test_memmapping": 7, "test_config": 5}[module]


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_what_joblib_expects_of_a_backend_in_all_its_variants(suite, module):
    done = run(suite, module)
    assert done.returncode == 0, done.stdout[-8000:]


@pytest.mark.parametrize("module", MODULES)
def test_what_is_left_out_is_there_and_has_a_reason(suite, module):
    source = (suite / f"{module}.py").read_text()
    for name, reason in tomllib.loads(LEFT_OUT.read_text())[module].items():
        assert f"def {name.partition('[')[0]}(" in source
        assert len(reason.split()) > 3


def test_the_copies_are_about_this_backend(suite):
    code = "import joblib.parallel as p; print(p.DEFAULT_BACKEND, 'loky' in p.BACKENDS)"
    done = programs.run("-c", code, cwd=suite, PYTHONPATH=str(suite))
    assert done.stdout == "pmap False\n", (sys.version, done.stderr)
