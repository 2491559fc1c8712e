"""What `docs/security.md` says: who gets at frames, and what is unpickled."""

from __future__ import annotations

import ast
import contextlib
import os
import pickle
import stat
import subprocess
from pathlib import Path

import polars as pl
import psutil
import pytest

import pmap
import pmap_backends
from pmap import _segment, _worker
from pmap._plain import dump_task, load_reply
from pmap._segment import Segment, Shared, open_shared
from pmap._transport import Blob
from pmap._transport._parcel import Inline
from pmap._wire import CallTerms, JobRef, TaskMessage, digest_of
from pmap.errors import TransportError

ROOT = Path(__file__).parent.parent
PACKAGES = [Path(package.__file__).parent for package in (pmap, pmap_backends)]
KINDS = list(_segment.KINDS)
#: A user that owns nothing here.
NOBODY = 65534
SECRET = "6b5d-the-users-own-data"
DF = pl.DataFrame({"text": [f"{SECRET} {number}" for number in range(50_000)]})


@pytest.fixture(params=KINDS)
def segment(request):
    """One of each kind, made under the most generous umask."""
    before = os.umask(0)
    made = Segment(request.param)
    os.umask(before)
    yield made
    made.close()


def mode(path_or_fd):
    return stat.S_IMODE(os.stat(path_or_fd).st_mode)


def may(command, path, user=None):
    """Whether a shell command on a path goes well."""
    ended = subprocess.run(
        ["sh", "-c", command, "sh", path],
        capture_output=True,
        check=False,
        **({} if user is None else {"user": user, "group": user, "extra_groups": []}),
    )
    return ended.returncode == 0


READ = 'cat "$1" > /dev/null'
WRITE = 'printf x 1<>"$1"'


class TestSegments:
    def test_are_their_owners_alone(self, segment):
        assert mode(segment._fd) == 0o600
        assert os.fstat(segment._fd).st_uid == os.geteuid()

    def test_have_no_name_or_one_in_a_folder_of_the_owners(self, segment):
        path = segment.shared.path
        if segment.kind == "named":
            assert mode(os.path.dirname(path)) == 0o700
        else:
            assert os.fstat(segment._fd).st_nlink == 0
            assert path.startswith("/proc/")

    def test_have_names_that_nobody_can_guess(self):
        made = [Segment("named") for _ in range(3)]
        folders = {os.path.basename(os.path.dirname(each.shared.path)) for each in made}
        tokens = [each.shared.token for each in made]
        for each in made:
            each.close()
        assert len({folder.removeprefix("pmap-") for folder in folders}) == 3
        assert all(len(folder.removeprefix("pmap-")) >= 8 for folder in folders)
        assert all(token > 1 << 40 for token in tokens)  # but for one process in four million

    def test_are_not_made_where_something_lies(self, tmp_path, monkeypatch):
        """A link that somebody has put there is not followed, a file not written into."""
        theirs = tmp_path / "theirs"
        theirs.write_text("intact")
        (tmp_path / "segment").symlink_to(theirs)
        monkeypatch.setattr(_segment.tempfile, "mkdtemp", lambda **_: str(tmp_path))
        with pytest.raises(TransportError, match="could not make a shared memory segment"):
            Segment("named")
        assert theirs.read_text() == "intact"

    def test_are_not_opened_through_links(self, tmp_path):
        segment = Segment("named")
        link = tmp_path / "link"
        link.symlink_to(segment.shared.path)
        try:
            with open_shared(segment.shared) as fd:
                assert fd > 2
            with (
                pytest.raises(TransportError, match="can not open"),
                open_shared(Shared(str(link), segment.shared.token)),
            ):
                pass
        finally:
            segment.close()

    def test_are_opened_by_who_knows_their_token(self, segment):
        path, token = segment.shared
        with (
            pytest.raises(TransportError, match="is not the segment"),
            open_shared(Shared(path, token + 1)),
        ):
            pass


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else"
)
class TestAnotherUser:
    @pytest.mark.slow_elsewhere
    @pytest.mark.parametrize("kind", KINDS)
    def test_gets_at_no_segment(self, kind, monkeypatch, process_backend):
        """Neither of the caller's nor through a worker's; root, for whom it is no secret, does."""
        pmap.shutdown()
        others = set(segments_of(os.getpid()))  # of other tests, which may be many
        monkeypatch.setattr(_segment, "default_kind", lambda: kind)
        monkeypatch.setattr("pmap._carry_away.kind_for", lambda _: kind)
        shared = pmap.share(DF)
        out = pmap.map_partitions(
            shared, lambda part: part + "!", backend=process_backend, n_partitions=2, n_jobs=2
        )
        workers = set(pmap.last_report().timings["worker"])
        paths = [path for pid in {os.getpid(), *workers} for path in segments_of(pid)]
        paths = [path for path in paths if path not in others]
        assert out.height == DF.height
        for path in paths:
            assert not may(READ, path, NOBODY), path
            assert not may(WRITE, path, NOBODY), path
        # Root reads those that are still there: the input and the result, at least.
        assert sum(may(READ, path) for path in paths) >= 2

    def test_sees_no_data_in_command_lines(self, process_backend):
        out = pmap.map_partitions(
            DF,
            lambda part: part.with_columns(more=pl.lit(SECRET)),
            backend=process_backend,
            n_partitions=2,
            n_jobs=2,
        )
        assert out["more"][0] == SECRET
        children = psutil.Process().children(recursive=True)
        assert children
        for process in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                assert "with_columns" not in line
                assert SECRET not in line


def segments_of(pid):
    """The segments that a process has open or mapped, by paths that another could try."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            path = f"/proc/{pid}/fd/{name}"
            if is_segment(path):
                has_name = os.stat(path).st_nlink > 0
                found += [path, os.readlink(path)] if has_name else [path]
    return found


def is_segment(path):
    if stat.S_ISREG(os.stat(path).st_mode) and os.stat(path).st_size >= 64:
        with open(path, "rb") as file:
            return file.read(8) == b"pmap-seg"
    return False


class TestPipes:
    def test_nothing_listens(self, process_backend):
        """No port and no socket with a name, in the caller or its workers: nobody can come in."""
        before = listening([psutil.Process()])
        family = pmap.iter_partitions(
            DF, lambda part: os.getpid(), backend=process_backend, n_partitions=4, n_jobs=2
        )
        next(family)
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        assert len(processes) > 1
        assert listening(processes) - before == set()
        family.close()


def listening(processes):
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections(kind="all"):
                has_name = connection.family.name == "AF_UNIX" and bool(connection.laddr)
                if connection.status == psutil.CONN_LISTEN or has_name:
                    found.add((connection.family.name, connection.laddr))
    return found


class Bomb:
    """What does something when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


#: Where bytes become objects, and where those bytes come from.
UNPICKLED = {
    (
        "pmap/_carry_away.py",
        "_value",
    ): "a result: in that answer, or in a segment of the caller's own",
    ("pmap/_joblib/_batch.py", "open_answer"): "a result, in a segment of the caller's own",
    ("pmap/_joblib/_batch.py", "run"): "a batch, by `load`",
    ("pmap/_joblib/_body.py", "load"): "in the message, or its digest is",
    (
        "pmap/_joblib/_opened.py",
        "_open",
    ): "how shared data are opened, whose digest came in a batch",
    ("pmap/_joblib/_opened.py", "open"): "a plan or a table, whose digest came with that",
    ("pmap/_joblib/_session.py", "_open"): "the worker's answer, from its pipe",
    (
        "pmap/_joblib/_workers.py",
        "prepare",
    ): "what a worker does first, whose digest came in a batch",
    ("pmap/_transport/_closure.py", "load_pickled"): "the function, inside a job",
    ("pmap/_wire.py", "_rebuild"): "an exception, inside an answer",
    ("pmap/_wire.py", "_dump_exception"): "what was pickled on the line before, to see if it opens",
    ("pmap/_plain.py", "load_message"): "the caller's message, from the pipe",
    ("pmap/_plain.py", "load_reply"): "the worker's answer, from its pipe",
    ("pmap/_worker.py", "_load"): "a job, whose digest came through the pipe",
    ("pmap/_worker.py", "_terms"): "what a call's messages have in common, in each of them",
}


class TestUnpickling:
    def test_is_done_where_the_page_says(self):
        found = {
            (file.relative_to(folder.parent).as_posix(), where)
            for folder in PACKAGES
            for file in sorted(folder.rglob("*.py"))
            for where in unpickling(ast.parse(file.read_text()))
        }
        assert found == set(UNPICKLED)

    @pytest.mark.parametrize("inline", [True, False])
    def test_of_a_function_needs_the_digest_that_came_through_the_pipe(self, inline, tmp_path):
        mark = tmp_path / "unpickled"
        bomb = pickle.dumps(Bomb(mark))
        segment = Segment()
        segment.write([(bomb, _segment.START)], _segment.START + len(bomb))
        blob = Blob(bomb) if inline else Blob(None, segment.shared, len(bomb))
        reply = load_reply(_worker.execute(message(JobRef(digest_of(b"another"), blob))))
        segment.close()
        assert "changed on its way" in reply.error.message
        assert not mark.exists()

    def test_of_what_lies_in_a_segment_that_is_another_by_now(self, tmp_path):
        mark = tmp_path / "unpickled"
        bomb = pickle.dumps(Bomb(mark))
        segment = Segment()
        old = segment.shared
        segment.renew()
        segment.write([(bomb, _segment.START)], _segment.START + len(bomb))
        job = JobRef(digest_of(bomb), Blob(None, old, len(bomb)))
        reply = load_reply(_worker.execute(message(job)))
        segment.close()
        assert "is not the segment that was meant" in reply.error.message
        assert not mark.exists()


def message(job):
    """To a worker, as through its pipe."""
    terms = CallTerms(
        job, n_partitions=1, seed=None, want_frame=False, exclusive=False, log_level=30
    )
    return dump_task(
        TaskMessage(
            pickle.dumps(terms),
            Inline(b""),
            number=0,
            attempt=0,
            rows=1,
            reply=None,
            slot=None,
        )
    )


def unpickling(tree):
    """The functions in which something of `pickle` makes objects of bytes."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and is_unpickling(call.func):
                    yield function.name


def is_unpickling(called):
    names = {"load", "loads", "Unpickler"}
    owners = {"pickle", "cloudpickle", "marshal", "dill", "joblib", "numpy", "np"}
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        return called.attr in names and called.value.id in owners
    return isinstance(called, ast.Name) and called.id in names


class TestThePage:
    @pytest.fixture
    def page(self):
        return (ROOT / "docs" / "security.md").read_text()

    def test_is_found_from_the_readme(self):
        assert "(docs/security.md)" in (ROOT / "README.md").read_text()

    def test_names_every_kind_of_segment_and_every_backend_of_processes(self, page):
        for word in (*KINDS, "spawn", "forkserver", "loky", "dask", "checkpoint"):
            assert word in page
