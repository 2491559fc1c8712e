"""Backends that need what is not installed everywhere."""

from __future__ import annotations

import pytest

import pmap
from pmap.errors import MissingDependencyError


def need(name: str) -> str:
    """The backend's name, where what it needs is installed; elsewhere the test is skipped."""
    try:
        pmap.get_backend(name)
    except MissingDependencyError as exc:
        pytest.skip(str(exc))
    return name


def is_installed(name: str) -> bool:
    """Whether all that the backend needs is there."""
    try:
        pmap.get_backend(name)
    except MissingDependencyError:
        return False
    return True
