"""What a function does to its worker harms neither other partitions nor later calls."""

from __future__ import annotations

import enum
import logging
import os
import resource
import signal
import sys
import time

import polars as pl
import programs
import psutil
import pytest

import pmap
from pmap import errors

pytestmark = pytest.mark.once  # costly, and the same on every Python

DF = pl.DataFrame({"x": range(200_000)})  # a quarter of it travels in a segment


def on_second(do):
    """A function that does it on partition 1, and gives each partition back."""

    def function(part):
        if pmap.current_partition().index == 1:
            do()
        return part.with_columns(y=pl.col("x") + 1)

    return function


WANTED = DF.with_columns(y=pl.col("x") + 1)


def mapped(backend, do, **options):
    return pmap.map_partitions(
        DF, on_second(do), n_partitions=4, n_jobs=2, backend=backend, **options
    )


class TestAForkThatTheFunctionMakes:
    """A copy of the worker, its pipe and segments included."""

    def test_does_not_hide_its_workers_death(self, process_backend, tmp_path):
        def fork_and_die():
            child = os.fork()
            if child == 0:
                time.sleep(50)
                os._exit(0)
            (tmp_path / "child").write_text(str(child))
            os._exit(3)

        begun = time.monotonic()
        with pytest.raises(errors.WorkerDiedError, match=r"partition 1 of 4 .*exit code 3"):
            mapped(process_backend, fork_and_die)
        assert time.monotonic() - begun < 30
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)

    @pytest.mark.parametrize("exits", [False, True], ids=["returns", "exits"])
    def test_does_not_answer_in_its_workers_place(self, process_backend, exits):
        def fork():
            child = os.fork()
            if child == 0 and exits:
                sys.exit(7)
            if child != 0:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7 * exits

        assert mapped(process_backend, fork).equals(WANTED)
        assert mapped(process_backend, lambda: None).equals(WANTED)

    def test_says_what_it_raises(self, process_backend, capfd):
        def fork():
            child = os.fork()
            if child == 0:
                raise LookupError("in the child")
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1

        pmap.shutdown()  # workers write where their start found the streams
        assert mapped(process_backend, fork).equals(WANTED)
        assert "LookupError: in the child" in capfd.readouterr().err


def no_more_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def no_more_memory():
    resource.setrlimit(resource.RLIMIT_AS, (1, 1))


class TestAWorkerThatIsOfNoMoreUse:
    @pytest.mark.parametrize("harm", [no_more_files, no_more_memory])
    def test_is_replaced(self, process_backend, harm):
        kept = pl.DataFrame({"x": range(100)})
        mapped(process_backend, harm, on_error="return")
        failures = pmap.last_report().failures
        assert {errors.failed_partition(error).index for error in failures} <= {1}
        for frame in (DF, kept):
            assert pmap.map_partitions(frame, len_of, n_partitions=4, backend=process_backend)[
                "rows"
            ].sum() == len(frame)


def len_of(part):
    return pl.DataFrame({"rows": [part.height]})


def test_a_signal_to_the_group_is_the_workers_alone(process_backend):
    with pytest.raises(errors.WorkerDiedError, match=r"partition 1 of 4 .*SIGTERM"):
        mapped(process_backend, lambda: os.killpg(0, signal.SIGTERM))
    assert mapped(process_backend, lambda: None).equals(WANTED)


class TestAForkServerThatIsKilled:
    def servers(self):
        children = psutil.Process().children()
        return [child for child in children if "'server'" in programs.command(child)]

    def kill(self):
        for server in self.servers():
            server.kill()

    def test_at_rest_is_replaced_when_it_is_needed(self):
        assert mapped("forkserver", lambda: None).equals(WANTED)
        self.kill()
        codes = set()
        for _ in range(3):  # of two workers that were the old server's, the new one knows nothing
            with pytest.raises(errors.WorkerDiedError, match="partition 1 of 4") as caught:
                mapped("forkserver", lambda: os._exit(3))
            codes.add(caught.value.exitcode)
        assert 3 in codes <= {3, None}

    def test_takes_no_worker_along(self, capfd):
        pmap.shutdown()  # workers write where their start found the streams
        call = {"n_partitions": 8, "n_jobs": 2, "backend": "forkserver"}
        for rows in pmap.iter_partitions(DF, lambda part: part.height, **call):
            assert rows == 25_000
            self.kill()
        assert mapped("forkserver", lambda: os._exit(3), on_error="return").height == 150_000
        pmap.shutdown()
        assert capfd.readouterr().err == ""
        assert self.servers() == []


class TestWhatItWrites:
    """Is plain text and numbers when it comes out of the caller's streams."""

    def test_may_be_of_its_own_classes(self, process_backend, capsys, caplog):
        def write(part):
            class Kind(enum.StrEnum):
                A = "a"

            class Level(enum.IntEnum):
                HIGH = 45

            class Text(str):
                __slots__ = ()

            sys.stdout.write(Text("written\n"))
            logging.getLogger("mine").log(Level.HIGH, "logged", extra={"kind": Kind.A})
            return part

        pmap.map_partitions(DF, write, n_partitions=1, n_jobs=2, backend=process_backend)
        assert capsys.readouterr().out == "written\n"
        (record,) = caplog.records
        assert (record.levelno, record.kind, record.getMessage()) == (45, "a", "logged")
        assert type(record.kind) is str

    def test_must_be_text(self, process_backend):
        with pytest.raises(TypeError):
            mapped(process_backend, lambda: sys.stdout.write(b"bytes"))

    def test_may_be_what_logging_can_not_format(self, process_backend):
        assert mapped(process_backend, lambda: logging.getLogger().error("%d", "x")).equals(WANTED)

    def test_fails_the_partition_where_the_caller_can_not_write_it(self, process_backend, capfd):
        with capfd.disabled(), open(os.devnull, "w", encoding="ascii") as narrow:
            usual, sys.stdout = sys.stdout, narrow
            try:
                out = mapped(process_backend, lambda: print("\xe4"), on_error="return")
            finally:
                sys.stdout = usual
        (error,) = pmap.last_report().failures
        assert isinstance(error, UnicodeEncodeError)
        assert errors.failed_partition(error).index == 1
        assert out.height == 150_000


class Ends(BaseException):
    """What is raised where nobody expects it."""


class TextEnds(Exception):
    def __str__(self):
        raise Ends


class PicklingEnds(Exception):
    def __reduce__(self):
        raise SystemExit(3)


class OpeningEnds(Exception):
    """In the caller alone: workers have another pid than is in it."""

    def __reduce__(self):
        return open_in_worker, (os.getpid(),)


class NoAttributes(Exception):
    def __getattribute__(self, name):
        if name == "__dict__":
            raise LookupError(name)
        return super().__getattribute__(name)


class StrangeNotes(Exception):
    __notes__ = None

    def __init__(self, *args):
        super().__init__(*args)
        self.__notes__ = 7


def open_in_worker(pid):
    if os.getpid() != pid:
        raise SystemExit(pid)
    return OpeningEnds()


class TestAnException:
    @pytest.mark.parametrize(
        "kind", [TextEnds, PicklingEnds, OpeningEnds, NoAttributes, StrangeNotes]
    )
    def test_may_be_as_strange_as_it_likes(self, process_backend, kind):
        def fail():
            raise kind("boom")

        out = mapped(process_backend, fail, on_error="return")
        assert out.height == 150_000
        (error,) = pmap.last_report().failures
        assert isinstance(error, kind | errors.RemoteError)
        assert object.__getattribute__(error, "__dict__")["pmap_failed"].index == 1

    def test_of_a_result_that_does_not_open_is_its_partitions(self, process_backend):
        def strange(part):
            return OpeningEnds() if pmap.current_partition().index == 1 else 0

        out = list(
            pmap.iter_partitions(
                DF, strange, n_partitions=4, backend=process_backend, on_error="return"
            )
        )
        assert isinstance(out.pop(1), errors.FunctionExitError)
        assert out == [0, 0, 0]
