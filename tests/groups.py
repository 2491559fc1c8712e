"""Control groups of this machine's own, where root may make some."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import programs
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path("/sys/fs/cgroup")


def is_v2(controller: str) -> bool:
    """Whether a controller is in the unified tree of version 2."""
    unified = _ROOT / "cgroup.controllers"
    return unified.exists() and controller in unified.read_text().split()


@contextlib.contextmanager
def chain(controller: str, *limits: dict[str, str]) -> Iterator[Path]:
    """Groups below the root, one in the other, each with files to be written; the inmost."""
    root = _ROOT if is_v2(controller) else _ROOT / controller
    folder, made = root / f"pmap-test-{os.getpid()}", []
    try:
        for files in limits:
            folder.mkdir()
            made.append(folder)
            for name, text in files.items():
                (folder / name).write_text(text)
            if is_v2(controller) and len(made) < len(limits):
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")
            folder = folder / "inner"
    except OSError as exc:
        _remove(made)
        pytest.skip(f"no cgroup can be made here: {exc}")
    try:
        yield made[-1]
    finally:
        _remove(made)


def _remove(folders: list[Path]) -> None:
    """As soon as the last process of each has really gone."""
    patience = time.monotonic() + programs.SOON
    for folder in reversed(folders):
        while folder.exists():
            try:
                folder.rmdir()
            except OSError:
                assert time.monotonic() < patience
                time.sleep(0.01)


def enter(group: Path) -> str:
    """Code by which a program moves itself into a group."""
    return f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(__import__('os').getpid()))\n"


def memory(limit: int) -> contextlib.AbstractContextManager[Path]:
    """A group whose processes may hold so many bytes together; beyond, the kernel ends one."""
    name = "memory.max" if is_v2("memory") else "memory.limit_in_bytes"
    return chain("memory", {name: str(limit)})
