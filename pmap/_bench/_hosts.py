"""The caller's side of a host: orders out, answers in, and an end whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Any, Self

from pmap._bench._host import Order, command
from pmap._bench._processes import Family

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Host", "HostError", "surroundings"]

#: Seconds that a host may take to end by itself.
_PATIENCE = 15.0
#: Seconds after which workers may have ended for want of work: loky's do after ten.
_RESTED = 4.0
#: Of what it wrote to stderr, what is told: characters.
_TAIL = 400


class HostError(Exception):
    """A contender that failed, or gave no answer in time."""


class Host:
    """A process that runs one contender on one workload.

    Parameters
    ----------
    order
        What it runs.
    timeout
        Seconds that it may take for an answer.
    folder
        Where it puts its temporary files.
    """

    def __init__(self, order: Order, timeout: float, folder: str) -> None:
        self._timeout = timeout
        self._buffer = b""
        self._last = time.monotonic()  # when it was called
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the host
        # Workers of some pools would else fight for the terminal, or hear its Ctrl-C.
        self._process = subprocess.Popen(  # noqa: S603  our own module
            command(order),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env=surroundings(folder),
        )
        self.pid = self._process.pid
        self._family: Family | None = None  #: those to end with it, once that is told

    def __enter__(self) -> Self:
        """As it is."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """End it and all below it."""
        self.close()

    def ready(self) -> dict[str, Any]:
        """Wait until its data are there."""
        return self._answer()

    def call(self, n: int = 1) -> list[float]:
        """Seconds of each of `n` calls."""
        seconds: list[float] = self._ask("call", n)["seconds"]
        self._last = time.monotonic()
        return seconds

    def wake(self) -> None:
        """Let it work a little, untimed, if it has rested: some pools end workers that rest."""
        if time.monotonic() - self._last > _RESTED:
            self._ask("wake")

    def fingerprint(self) -> str:
        """Of its last result."""
        found: str = self._ask("fingerprint")["fingerprint"]
        return found

    def _ask(self, do: str, *arguments: int) -> dict[str, Any]:
        order = {"do": do, "with": arguments}
        if self._process.stdin is None:
            raise HostError("it has no input")
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as exc:
            raise HostError(self._last_words()) from exc
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        deadline = time.monotonic() + self._timeout
        while b"\n" not in self._buffer:
            self._buffer += self._read(deadline - time.monotonic())
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _read(self, seconds: float) -> bytes:
        if self._process.stdout is None:
            raise HostError("it has no output")
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, seconds)):
                raise HostError(f"no answer in {self._timeout:g} s")
        found = os.read(self._process.stdout.fileno(), 1 << 16)
        if not found:
            raise HostError(self._last_words())
        return found

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # it may not have said all
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:_TAIL] if lines else "it ended without a word"

    def dismiss(self) -> None:
        """Tell it to end, without waiting for it."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it has ended
                self._process.stdin.close()

    def kill(self) -> None:
        """End it and all below it at once, without waiting for that."""
        self._family = Family(self.pid)
        self._family.kill()

    def close(self) -> None:
        """End it; what does not go by itself is killed, with all below it."""
        self._family = self._family or Family(self.pid)
        self.dismiss()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._family.kill()
            self._process.wait(_PATIENCE)
        finally:
            self._family.end()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._errors.close()


def surroundings(folder: str) -> dict[str, str]:
    """The environment, but for temporary files: some libraries leave theirs behind.

    Texts have the same hashes in all processes, else one would be luckier with its dicts than another.
    """
    return {**os.environ, "TMPDIR": folder, "RAY_TMPDIR": folder, "PYTHONHASHSEED": "0"}
