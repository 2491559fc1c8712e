"""A made-up engine: a process that calls functions, by name, with bytes."""

from __future__ import annotations

import importlib
import os
import struct
import subprocess
import sys

_SIZE = struct.Struct("!q")


class EngineGone(Exception):
    def __init__(self, exitcode):
        super().__init__(f"the engine ended with {exitcode}")
        self.exitcode = exitcode


class Engine:
    def __init__(self, environment):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "acme_client"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid

    def call(self, name, data):
        try:
            _send(self._process.stdin, name.encode())
            _send(self._process.stdin, data)
            return _receive(self._process.stdout)
        except (EOFError, BrokenPipeError):
            raise EngineGone(self.close()) from None

    def kill(self):
        self._process.kill()

    def close(self):
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # what was to be flushed is for nobody
        return self._process.wait()


def _send(pipe, data):
    pipe.write(_SIZE.pack(len(data)) + data)
    pipe.flush()


def _receive(pipe):
    (size,) = _SIZE.unpack(_exactly(pipe, _SIZE.size))
    return _exactly(pipe, size)


def _exactly(pipe, size):
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _serve(calls, answers):
    while True:
        try:
            module, _, function = _receive(calls).decode().partition(":")
        except EOFError:
            return
        run = getattr(importlib.import_module(module), function)
        _send(answers, run(_receive(calls)))


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed is not an answer
    _serve(sys.stdin.buffer, answers)
