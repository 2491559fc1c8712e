"""What is being measured, on one line of a terminal; where there is none, nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Bar"]


class Bar:
    """A bar that goes when its block ends.

    Parameters
    ----------
    what
        Stands before it.
    total
        Steps of it; ``None`` if nobody knows.
    """

    def __init__(self, what: str, total: int | None) -> None:
        from tqdm import tqdm  # noqa: PLC0415  as in pmap: only who sees a bar pays for it

        self._bar: Any = tqdm(total=total, desc=what, unit="step", leave=False, disable=None)
        self._over = 0  #: steps: none before the first is told

    def __enter__(self) -> Self:
        """As it is."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Take it off the terminal."""
        self._bar.close()

    def step(self, doing: str) -> None:
        """Tell what comes next, the one before being over."""
        self._bar.set_postfix_str(doing, refresh=False)
        self._bar.update(self._over)
        self._bar.refresh()
        self._over = 1
