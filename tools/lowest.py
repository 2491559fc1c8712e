"""Print pip constraints that pin every direct dependency to its lower bound in pyproject.toml."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[.*?\])?>=(?P<lowest>[\w.]+)[^;]*(?P<marker>;.*)?")


def constraint(requirement: str) -> str:
    """``name==lowest`` of ``name>=lowest``; exits if there is no lower bound."""
    match = REQUIREMENT.fullmatch(requirement)
    if match is None:
        sys.exit(f"pyproject.toml: {requirement!r} has no lower bound (name>=version)")
    return f"{match['name']}=={match['lowest']}{match['marker'] or ''}"


def main() -> None:
    """Print one line a dependency, those of the extras too."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(each for extra in extras for each in extra)]
    for requirement in requirements:
        if not requirement.startswith(f"{project['name']}["):  # an extra made of extras
            print(constraint(requirement))


if __name__ == "__main__":
    main()
