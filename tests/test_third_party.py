"""Another distribution's backend takes the same road as the built-in ones: it is installed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import programs
import pytest

pytestmark = pytest.mark.once  # costly, and the same on every Python

FOLDER = Path(__file__).with_name("third_party")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return shutil.copytree(FOLDER, tmp_path_factory.mktemp("acme") / "source")


@pytest.fixture(scope="module")
def site(source):
    """A folder into which pip has installed `acme-pmap`, offline."""
    pytest.importorskip("hatchling", reason="acme-pmap is built by hatchling, not installed here")
    site = source.with_name("site")
    options = "--quiet --no-index --no-deps --no-build-isolation --disable-pip-version-check"
    done = programs.run("-m", "pip", "install", *options.split(), "--target", site, source)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def run(site, source, tmp_path):
    """Run Python where `acme-pmap` is installed, and its client is, too, or is not."""

    def run(*arguments, with_client=True):
        path = [site, source / "client"] if with_client else [site]
        paths = os.pathsep.join(map(str, path))
        return programs.run("-W", "error", *arguments, cwd=tmp_path, PYTHONPATH=paths)

    return run


def test_it_is_really_installed(site):
    (entry_points,) = site.glob("acme_pmap-1.0.dist-info/entry_points.txt")
    assert "acme = acme_pmap:AcmeBackend" in entry_points.read_text()


def test_it_is_listed_with_its_client_and_without(run):
    code = "import pmap; print('acme' in pmap.available_backends())"
    assert run("-c", code).stdout == "True\n"
    assert run("-c", code, with_client=False).stdout == "True\n"


def test_it_is_used_by_name(run):
    done = run(
        "-c",
        "import os, polars as pl, pmap\n"
        "df = pl.DataFrame({'x': range(10)})\n"
        "out = pmap.map_partitions(df, lambda p: p.with_columns(y=pl.lit(os.getpid())), \n"
        "                          backend='acme', n_partitions=4)\n"
        "print(out.drop('y').equals(df), os.getpid() in out['y'], pmap.last_report().plan.backend)\n",
    )
    assert (done.stdout, done.stderr) == ("True False acme\n", "")


def test_what_it_needs_is_named(run):
    done = run(
        "-c",
        "import polars as pl, pmap\n"
        "try:\n"
        "    pmap.map_partitions(pl.DataFrame({'x': [1]}), lambda p: p, backend='acme')\n"
        "except pmap.errors.MissingDependencyError as exc:\n"
        "    print(exc)\n",
        with_client=False,
    )
    assert done.stdout == (
        "backend 'acme' needs what is not installed (No module named 'acme_client'): "
        'pip install "acme-pmap[acme]"\n'
    )


@pytest.mark.parametrize("name", ["acmee", "acm"])
def test_a_name_that_is_nearly_its(run, name):
    code = f"import pmap\ntry: pmap.get_backend({name!r})\nexcept LookupError as exc: print(exc)"
    assert "did you mean acme?" in run("-c", code).stdout


PYTEST = ("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-rs")


@pytest.mark.once
def test_it_passes_the_conformance_suite(run, source):
    done = run(*PYTEST, str(source / "conformance.py"))
    assert done.returncode == 0, done.stdout
    summary = done.stdout.splitlines()[-1]
    assert " passed in " in summary, done.stdout  # nothing is skipped: it claims everything


def test_the_suite_says_what_keeps_it_from_running(run, source):
    done = run(*PYTEST, str(source / "conformance.py"), with_client=False)
    assert done.returncode == 0, done.stdout
    assert 'pip install "acme-pmap[acme]"' in done.stdout
    assert " passed" not in done.stdout


def test_without_pytest_the_suite_says_so(run):
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "try: import pmap.testing\nexcept ImportError as exc: print(exc)"
    )
    assert run("-c", code).stdout == (
        "pmap.testing needs pytest, which is not installed: pip install pytest\n"
    )
