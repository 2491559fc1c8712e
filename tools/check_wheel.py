"""Check what the wheel given puts into site-packages: two packages, typed, and every backend."""

from __future__ import annotations

import configparser
import sys
import zipfile

PACKAGES = {"pmap", "pmap_backends"}
MARKERS = {"pmap/py.typed", "pmap_backends/py.typed"}


def problems(wheel: zipfile.ZipFile) -> list[str]:
    """What is wrong, a sentence each; empty if nothing is."""
    files = set(wheel.namelist())
    metadata = next(name.split("/")[0] for name in files if name.endswith(".dist-info/METADATA"))
    found = {name.split("/")[0] for name in files} - {metadata}
    wrong = [] if found == PACKAGES else [f"top level: {sorted(found)}, not {sorted(PACKAGES)}"]
    wrong += [f"{name} is missing" for name in sorted(MARKERS - files)]
    entry_points = configparser.ConfigParser(delimiters="=")
    entry_points.read_string(wheel.read(f"{metadata}/entry_points.txt").decode())
    for name, target in entry_points["pmap.backends"].items():
        module = target.partition(":")[0].replace(".", "/") + ".py"
        if module not in files:
            wrong.append(f"backend {name!r}: {module} is missing")
    return wrong


def main() -> int:
    """Print what is wrong; the exit code is 1 if something is."""
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        wrong = problems(wheel)
    print("\n".join(wrong) or f"{sys.argv[1]}: OK")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
