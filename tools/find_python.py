"""Print the path of a Python of the version given, such as 3.12; exit with 1 if there is none.

Looked for on PATH and among pyenv's versions. A candidate counts if it runs, is that version and
can make virtual environments: a pyenv shim may be there without its Python, and Linux distributions
ship Pythons without ensurepip.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROBE = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"


def candidates(version: str) -> Iterator[Path]:
    """Where a Python of this version may be, likeliest first."""
    yield Path(sys.executable)
    folders = [Path(entry) for entry in os.get_exec_path()]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for folder in (*folders, *sorted(pyenv.glob("*/bin"), reverse=True)):
        yield folder / f"python{version}"


def is_usable(python: Path, version: str) -> bool:
    """Whether it runs, is that version and can make virtual environments."""
    try:
        probe = [python, "-c", PROBE]
        done = subprocess.run(probe, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == version


def main() -> int:
    """Print the first usable one."""
    version = sys.argv[1]
    found = next((each for each in candidates(version) if is_usable(each, version)), None)
    if found is None:
        return 1
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
