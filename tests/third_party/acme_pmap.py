"""A backend of somebody else's: it moves the bytes of tasks through an engine of its own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import acme_client

from pmap.backend import Capabilities, Locality
from pmap.errors import WorkerDiedError


class AcmeBackend:
    def __init__(self, spec):
        self.capabilities = Capabilities(
            locality=Locality.MACHINE,
            n_workers=spec.n_workers,
            killable=True,
            owns_workers=True,
        )
        self._environment = spec.environment()
        self._of_thread = threading.local()
        self._engines = set()
        self._threads = ThreadPoolExecutor(spec.n_workers)

    def submit(self, task):
        return self._threads.submit(self._call, task.payload)

    def _call(self, payload):
        engine = self._engine()
        try:
            return engine.call("pmap.backend:execute", payload)
        except acme_client.EngineGone as gone:
            del self._of_thread.engine
            self._engines.discard(engine)
            raise WorkerDiedError(exitcode=gone.exitcode, pid=engine.pid) from gone

    def _engine(self):
        if not hasattr(self._of_thread, "engine"):
            self._of_thread.engine = acme_client.Engine(self._environment)
            self._engines.add(self._of_thread.engine)
        return self._of_thread.engine

    def close(self):
        self._threads.shutdown(wait=False, cancel_futures=True)
        for engine in list(self._engines):
            engine.kill()
        self._threads.shutdown(wait=True)
        while self._engines:
            self._engines.pop().close()
