"""What is written for users runs: the README's blocks, and the examples of public docstrings."""

from __future__ import annotations

import ast
import doctest
import re
import types
from pathlib import Path

import pytest

import pmap
from pmap import backend, errors

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def readme() -> str:
    return README.read_text()


def test_the_readme_runs(readme, capsys):
    """All blocks in one namespace, as a reader would type them."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    blocks = BLOCK.findall(readme)
    assert len(blocks) >= 7
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "3000 rows; 1000 partitions failed" in printed
    assert re.search(r"in partition \d+ of 4000 \(rows (\d+) to \1\) on backend", printed)


def test_every_block_of_the_readme_is_one_that_runs(readme):
    assert set(re.findall(r"^```(\w+)", readme, re.MULTILINE)) == {"python"}


def test_the_readme_names_every_backend(readme):
    for name in pmap.available_backends():
        assert f'`"{name}"`' in readme


PUBLIC = [
    *(
        getattr(pmap, name)
        for name in pmap.__all__
        if not isinstance(getattr(pmap, name), types.ModuleType)
    ),
    backend,
    errors.failed_partition,
]


@pytest.mark.parametrize(
    "thing", PUBLIC, ids=lambda thing: getattr(thing, "__name__", type(thing).__name__)
)
def test_public_docstrings_have_examples_that_run(thing):
    documented = (
        thing if isinstance(thing, type | types.FunctionType | types.ModuleType) else type(thing)
    )
    tests = doctest.DocTestFinder(recurse=False).find(documented, "example", globs={})
    examples = [test for test in tests if test.examples]
    assert examples, f"{thing} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in examples:
        assert runner.run(test).failed == 0


def test_all_is_complete_and_sorted():
    """What is imported at the first use, and what type checkers and editors take for it."""
    (promised,) = (
        node
        for node in ast.parse(Path(pmap.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name)
    )
    names = {
        alias.name: (statement.module or "").removeprefix("pmap").removeprefix(".") or alias.name
        for statement in promised.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert names == pmap._HOMES
    assert sorted(names) == pmap.__all__
    assert set(pmap.__all__) < set(dir(pmap))
    with pytest.raises(AttributeError, match="map_partition'"):
        _ = pmap.map_partition


def test_the_tree_in_errors_is_complete():
    drawn = set(re.findall(r"\b(\w+(?:Error|Warning|Advice))\b(?! \()", errors.__doc__ or ""))
    kinds = {name: getattr(errors, name) for name in errors.__all__}
    for name, kind in kinds.items():
        if not isinstance(kind, type):
            continue  # a function
        assert (
            issubclass(kind, errors.PmapError | errors.PmapWarning | errors.PmapAdvice)
            or name == "RemoteTraceback"
        )
        assert name in drawn | {"RemoteTraceback"} or name in (errors.__doc__ or "")
