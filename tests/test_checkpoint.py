"""`checkpoint=`: a job that ended, however, goes on where it was, and no other job does.

What ran is counted in files. Kills are real, and so are full disks.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import stat
import subprocess
import tempfile

import polars as pl
import programs
import pyarrow as pa
import pyarrow.ipc
import pytest
from hypothesis import given
from polars.testing import assert_frame_equal
from strategies import few, frames

import pmap
from pmap._dtypes import refuse_unsupported
from pmap.errors import ArgumentError, CheckpointError

DF = pl.DataFrame({"x": range(100), "word": [f"word {n}" for n in range(100)]})
BACKENDS = ["serial", "auto", "threads", "spawn", "forkserver", "loky"]


@pytest.fixture
def folder(tmp_path):
    """Where the checkpoint is; `pmap` makes it."""
    with pmap.config(checkpoint=tmp_path / "checkpoint", n_jobs=2):
        yield tmp_path / "checkpoint"


@pytest.fixture
def ran(tmp_path):
    """Which partitions ran, each time that one did."""

    class Ran:
        path = tmp_path / "ran"

        def take(self):
            found = self.path.read_text().split() if self.path.exists() else []
            self.path.unlink(missing_ok=True)
            return sorted(map(int, found))

    return Ran()


@pytest.fixture
def work(tmp_path):
    """A function that leaves a trace, and fails at row 50 while a certain file is there."""
    path, broken = tmp_path / "ran", tmp_path / "broken"
    broken.touch()

    def work(part):
        with path.open("a") as file:
            file.write(f"{pmap.current_partition().index}\n")
        if part["x"][0] == 50 and broken.exists():
            raise ValueError("broken")
        return part.with_columns(y=pl.col("x") * 2)

    work.mend = broken.unlink
    return work


WANTED = DF.with_columns(y=pl.col("x") * 2)


def finished(folder):
    """The partitions that are kept."""
    lines = (folder / "finished.jsonl").read_text().splitlines()
    return sorted(json.loads(line)["index"] for line in lines)


class TestAJobThatIsRunAgain:
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("ordered", [True, False])
    def test_runs_only_what_is_left(self, folder, ran, work, backend, ordered):
        call = {"n_partitions": 8, "backend": backend, "maintain_order": ordered}
        with pytest.raises(ValueError, match="broken"):
            pmap.map_partitions(DF, work, **call)
        done = finished(folder)
        assert done
        assert 4 not in done
        assert set(ran.take()) >= {*done, 4}
        work.mend()
        out = pmap.map_partitions(DF, work, **call)
        assert_frame_equal(out.sort("x"), WANTED)
        assert ran.take() == sorted(set(range(8)) - set(done))
        why = " ".join(pmap.last_report().plan.why)
        assert f"checkpoint: {len(done)} partition" in why
        assert pmap.last_report().timings["index"].to_list() == sorted(set(range(8)) - set(done))

    def test_gives_its_result_at_once_when_nothing_is_left(self, folder, ran, work):
        work.mend()
        first = pmap.map_partitions(DF, work, backend="spawn")
        ran.take()
        assert_frame_equal(pmap.map_partitions(DF, work, backend="forkserver"), first)
        assert_frame_equal(pmap.map_partitions(DF, work), first)
        assert ran.take() == []

    def test_has_another_try_at_what_failed(self, folder, ran, work):
        with pmap.config(on_error="return", retries=1, backend="threads"):
            out = pmap.map_partitions(DF, work, n_partitions=4)
            assert out.height == 75
            assert ran.take() == [0, 1, 2, 2, 3]
            assert finished(folder) == [0, 1, 3]
            assert pmap.map_partitions(DF, work, n_partitions=4).height == 75
            assert ran.take() == [2, 2]
            work.mend()
            assert_frame_equal(pmap.map_partitions(DF, work, n_partitions=4), WANTED)
        assert ran.take() == [2]
        assert pmap.last_report().failures == []

    def test_keeps_that_there_is_nothing(self, folder, ran, work):
        def some(part):
            work(part)
            return None if part["x"][0] == 0 else part

        work.mend()
        for left in ([0, 1, 2, 3], []):
            values = list(pmap.iter_partitions(DF, some, n_partitions=4, backend="spawn"))
            assert values[0] is None
            assert_frame_equal(pl.concat(values[1:]), DF[25:])
            assert ran.take() == left

    @pytest.mark.parametrize("backend", ["serial", "threads", "forkserver"])
    def test_iterates_in_order_over_what_was_read_and_what_was_run(
        self, folder, ran, work, backend
    ):
        call = {"n_partitions": 8, "backend": backend}
        with pytest.raises(ValueError, match="broken"):
            list(pmap.iter_partitions(DF, work, **call))
        kept = finished(folder)
        gone = min(kept)
        (folder / f"part-{gone:05d}.arrow").unlink()  # which then is not finished
        ran.take()
        work.mend()
        firsts = [part["x"][0] for part in pmap.iter_partitions(DF, work, **call)]
        assert firsts == [100 * index // 8 for index in range(8)]
        assert ran.take() == sorted({*range(8)} - {*kept} | {gone})

    def test_goes_on_after_an_iteration_that_was_left(self, folder, ran, work):
        work.mend()
        results = pmap.iter_partitions(DF, work, n_partitions=8, backend="serial")
        next(results)
        next(results)
        results.close()
        kept = ran.take()
        assert finished(folder) == kept
        assert_frame_equal(pmap.map_partitions(DF, work, n_partitions=8), WANTED)
        assert ran.take() == [index for index in range(8) if index not in kept]

    @pytest.mark.parametrize("backend", ["serial", "spawn"])
    def test_goes_on_after_an_interrupt(self, folder, ran, work, backend):
        def interrupt(counts):
            if counts.partitions == 3:
                signal.raise_signal(signal.SIGINT)

        work.mend()
        with pytest.raises(KeyboardInterrupt):
            pmap.map_partitions(DF, work, n_partitions=8, backend=backend, progress=interrupt)
        kept = finished(folder)
        assert len(kept) >= 3
        ran.take()
        assert_frame_equal(pmap.map_partitions(DF, work, n_partitions=8, backend=backend), WANTED)
        assert ran.take() == sorted({*range(8)} - {*kept})

    def test_reads_a_stream_again(self, folder, ran, work):
        def stream():
            return (DF[start : start + 10] for start in range(0, 100, 10))

        with pytest.raises(ValueError, match="broken"):
            pmap.map_partitions(stream(), work, backend="threads")
        done = finished(folder)
        ran.take()
        work.mend()
        assert_frame_equal(pmap.map_partitions(stream(), work, backend="threads"), WANTED)
        assert ran.take() == sorted({*range(10)} - {*done})

    def test_keeps_a_partition_that_ran_in_pieces_as_one(self, folder, ran, work):
        work.mend()

        def hungry(part):
            work(part)
            held = bytearray(300_000_000 if part.height > 25 else 1)
            held[::4096] = b"x" * len(held[::4096])
            return part

        with pmap.config(memory_limit="200 MB", partition_wise=True, backend="forkserver"):
            out = pmap.map_partitions(DF, hungry, n_partitions=2)
            assert_frame_equal(out, DF)
            assert finished(folder) == [0, 1]
            ran.take()
            assert_frame_equal(pmap.map_partitions(DF, hungry, n_partitions=2), DF)
        assert ran.take() == []

    @pytest.mark.parametrize("backend", ["serial", "threads", "spawn"])
    def test_does_not_mind_a_function_that_changes_its_frame(self, folder, backend):
        def change(part):
            part.insert_column(0, pl.Series("new", [part.height] * part.height))
            return part

        for _ in range(2):
            out = pmap.map_partitions([DF.clone(), DF.clone()], change, backend=backend)
            assert out.columns == ["new", "x", "word"]

    def test_a_frame_without_rows(self, folder):
        for _ in range(2):
            assert pmap.map_partitions(DF.head(0), lambda part: part).schema == DF.schema

    def test_a_map_inside_a_map_keeps_nothing_of_its_own(self, folder):
        def outer(part):
            return pmap.map_partitions(part, lambda inner: inner, n_partitions=2)

        for backend in ("serial", "threads", "spawn"):
            assert_frame_equal(pmap.map_partitions(DF, outer, n_partitions=4, backend=backend), DF)
        assert finished(folder) == [0, 1, 2, 3]

    def test_may_be_asked_for_by_a_variable(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PMAP_CHECKPOINT", str(tmp_path / "checkpoint"))
        pmap.map_partitions(DF, lambda part: part, n_partitions=2)
        assert finished(tmp_path / "checkpoint") == [0, 1]

    @pytest.mark.parametrize("path", [3, b"bytes", ""])
    def test_wants_a_path(self, path):
        with (
            pytest.raises(ArgumentError, match="give the path of a folder"),
            pmap.config(checkpoint=path),
        ):
            pass


def same(part):
    return part


class TestWhatIsKept:
    @few
    @given(frame=frames(min_cols=1, max_size=8, excluded_dtypes=[pl.Object]))
    def test_comes_back_exactly(self, frame):
        try:
            refuse_unsupported(frame.get_columns())
        except pmap.errors.UnsupportedDtypeError:
            return
        for read_it in (False, True):
            with tempfile.TemporaryDirectory() as folder, pmap.config(checkpoint=folder):
                if read_it:
                    pmap.map_partitions(frame, same, n_partitions=2, backend="serial")
                out = pmap.map_partitions(frame, same, n_partitions=2, backend="serial")
                assert out.schema == frame.schema
                assert_frame_equal(out, frame, check_exact=True)

    def test_every_bit_of_a_float_counts(self, folder):
        numbers = [math.nan, -math.nan, -0.0, 0.0, math.inf, None, 5e-324]
        frame = pl.DataFrame({"x": numbers})
        bits = frame["x"].to_arrow().buffers()[1].to_pybytes()
        for _ in range(2):
            out = pmap.map_partitions(frame, same, n_partitions=1)
            assert out["x"].to_arrow().buffers()[1].to_pybytes()[:40] == bits[:40]

    def test_what_is_known_to_be_sorted_still_is(self, folder):
        frame = pl.DataFrame({"x": [1, 2, 3], "y": [3, 2, 1]}).with_columns(
            pl.col("x").set_sorted(), pl.col("y").set_sorted(descending=True)
        )
        for _ in range(2):
            (out,) = pmap.iter_partitions(frame, same, n_partitions=1)
            assert out["x"].flags["SORTED_ASC"]
            assert out["y"].flags["SORTED_DESC"]

    def test_is_arrow_and_json_and_the_owners_alone(self, folder):
        old = os.umask(0)
        try:
            pmap.map_partitions(DF, same, n_partitions=3, backend="spawn")
        finally:
            os.umask(old)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        files = {path.name: path for path in folder.iterdir()}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o600}
        assert files.pop("lock").read_bytes() == b""
        assert json.loads(files.pop("manifest.json").read_text())["partitions"] == 3
        for line in files.pop("finished.jsonl").read_text().splitlines():
            json.loads(line)
        assert sorted(files) == ["part-00000.arrow", "part-00001.arrow", "part-00002.arrow"]
        for path in files.values():
            with pa.ipc.open_file(path) as reader:
                assert reader.read_all().num_rows in {33, 34}
            assert path.read_bytes()[:6] == b"ARROW1"

    def test_no_link_is_followed(self, folder, tmp_path):
        target = tmp_path / "of somebody"
        target.write_text("precious")
        folder.mkdir(mode=0o700)
        for name in ("part-00000.arrow", "manifest.json"):
            (folder / name).symlink_to(target)
        pmap.map_partitions(DF, same, n_partitions=2)  # in the place of the links
        assert not any(path.is_symlink() for path in folder.iterdir())
        (folder / "part-00000.arrow").unlink()
        (folder / "part-00000.arrow").symlink_to(target)
        with pytest.raises(CheckpointError, match=r"part-00000\.arrow can not be read"):
            pmap.map_partitions(DF, same, n_partitions=2)
        (folder / "finished.jsonl").unlink()
        (folder / "finished.jsonl").symlink_to(target)
        with pytest.raises(CheckpointError, match=r"finished\.jsonl can not be read"):
            pmap.map_partitions(DF, same, n_partitions=2)
        assert target.read_text() == "precious"

    def test_results_that_are_no_frames_are_refused(self, folder):
        with pytest.raises(CheckpointError, match=r"returned a int for partition 0 \(rows 0 to 99"):
            list(pmap.iter_partitions(DF, lambda part: part.height, n_partitions=1))
        with pytest.raises(CheckpointError, match=r"returned a LazyFrame for .*: collect it"):
            list(pmap.iter_partitions(DF, lambda part: part.lazy(), n_partitions=1))

    def test_python_objects_are_refused(self, folder):
        def objects(part):
            return pl.DataFrame({"o": pl.Series([object()], dtype=pl.Object)})

        with pytest.raises(CheckpointError, match="'o' has dtype Object"):
            pmap.map_partitions(DF, objects, backend="threads")
        with pytest.raises(pmap.errors.UnsupportedDtypeError, match="'o' has dtype Object"):
            pmap.map_partitions(objects(None), rated, backend="threads")


RATES = {"a": 1}


def rated(part):
    return part.with_columns(y=RATES["a"])


class TestAnotherJob:
    def refused(self, folder, match, frame=DF, function=rated, **call):
        before = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(CheckpointError, match=match) as caught:
            pmap.map_partitions(frame, function, **({"n_partitions": 4} | call))
        assert str(folder) in str(caught.value)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before

    @pytest.fixture
    def folder(self, folder):
        pmap.map_partitions(DF, rated, n_partitions=4)
        return folder

    def test_is_told_by_its_function(self, folder, monkeypatch):
        self.refused(folder, "it is of the function rated, not of same", function=same)
        monkeypatch.setitem(RATES, "a", 2)
        self.refused(folder, "another job: the global RATES of rated differs. A checkpoint")

    def test_is_told_by_its_code(self, folder):
        namespace = {"RATES": RATES}
        exec("def rated(part): return part", namespace)
        self.refused(folder, "the code of rated differs", function=namespace["rated"])

    def test_is_told_by_its_rows(self, folder):
        other = DF.with_columns(pl.when(pl.col("x") == 80).then(-1).otherwise("x").alias("x"))
        self.refused(folder, r"job: partition 3 \(rows 75 to 99\) holds other data\.", other)
        other = DF.with_columns(-pl.col("x"))
        self.refused(folder, "partition 0 .*partition 1 .*partition 2 .*; and 1 more", other)
        self.refused(folder, "the frame had 100 rows, now it has 99", DF.tail(99))

    def test_is_told_by_its_columns(self, folder):
        self.refused(folder, "column 'x' was Int64, now it is Int32", DF.cast({"x": pl.Int32}))
        self.refused(folder, "had a column 'word', now it has none", DF.drop("word"))
        self.refused(folder, "column 'z' is new", DF.with_columns(z=1))
        self.refused(folder, "columns have another order", DF.select("word", "x"))

    def test_is_told_by_how_it_is_cut(self, folder):
        cut = "it was cut into 4 partitions, now into 5: give n_partitions=4"
        self.refused(folder, cut, n_partitions=5)
        uneven = r"cut otherwise: partition 1 \(rows 25 to 49\) begins at row 26 now, with 26 rows"
        self.refused(folder, uneven, n_partitions=None, chunk_size=26)
        self.refused(folder, "mapped over one frame, now over an iterable of frames", [DF])

    def test_is_told_by_its_seed_and_initializer(self, folder):
        with pmap.config(seed=1):
            self.refused(folder, "seed was None, now it is 1")
        with pmap.config(initializer=same):
            self.refused(folder, "initializer was None, now it is same")

    def test_is_told_by_a_frame_of_a_stream(self, tmp_path):
        with pmap.config(checkpoint=tmp_path / "stream"):
            pmap.map_partitions([DF, DF], same)
            with pytest.raises(CheckpointError, match=r"partition 1 .* holds other data"):
                pmap.map_partitions([DF, DF.reverse()], same)

    def test_may_have_a_folder_in_which_nothing_was_finished(self, tmp_path):
        def fails(part):
            raise ValueError("before it was mended")

        with pmap.config(checkpoint=tmp_path / "new"):
            with pytest.raises(ValueError, match="mended"):
                pmap.map_partitions(DF, fails)
            assert_frame_equal(pmap.map_partitions(DF, same), DF)
            self.refused(tmp_path / "new", "it is of the function same, not of rated")

    def test_in_the_same_folder_at_the_same_time(self, folder):
        shallow = pmap.iter_partitions(DF, rated, n_partitions=4)
        next(shallow)
        self.refused(folder, "another job is using the checkpoint")
        shallow.close()
        pmap.map_partitions(DF, rated, n_partitions=4)


class TestDamage:
    @pytest.fixture
    def folder(self, folder):
        pmap.map_partitions(DF, rated, n_partitions=4)
        return folder

    def again(self):
        return pmap.map_partitions(DF, rated, n_partitions=4)

    @pytest.mark.parametrize(
        "damage", [lambda data: data[:-20], lambda data: b"", lambda data: b"?" * 9]
    )
    def test_to_a_result_is_told_and_mended_by_deleting_it(self, folder, damage):
        part = folder / "part-00002.arrow"
        part.write_bytes(damage(part.read_bytes()))
        with pytest.raises(CheckpointError, match=r"part-00002\.arrow, .*partition 2 .*Delete it"):
            self.again()
        part.unlink()
        assert self.again().height == 100

    @pytest.mark.parametrize(
        "text", ["", "{", "[1]", "{}", '{"format": "pmap checkpoint", "version": 9}']
    )
    def test_to_the_manifest_is_told(self, folder, text):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(CheckpointError, match="not as this version of pmap writes it"):
            self.again()

    def test_to_the_kinds_of_what_is_in_the_manifest_is_told(self, folder):
        job = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**job, "function": 7}))
        with pytest.raises(CheckpointError, match="not as this version of pmap writes it"):
            self.again()

    def test_to_what_the_journal_says_of_a_result_is_told(self, folder):
        journal = folder / "finished.jsonl"
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        lines[0]["sorted"] = [[99, True]]
        journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(CheckpointError, match=rf"partition {lines[0]['index']} .*Delete it"):
            self.again()

    @pytest.mark.parametrize(
        "line", ["?", "[]", '{"index": 1}', '{"index": "../../x", "sorted": []}']
    )
    def test_to_the_journal_is_told(self, folder, line):
        with (folder / "finished.jsonl").open("a") as file:
            file.write(line + "\n")
        with pytest.raises(CheckpointError, match=r"line 5 of .*finished\.jsonl is not what pmap"):
            self.again()

    def test_a_line_that_was_never_finished_does_not_count(self, folder):
        with (folder / "finished.jsonl").open("r+") as file:
            file.truncate(len(file.read()) - 5)
        assert self.again().height == 100
        assert finished(folder) == [0, 1, 2, 3]

    def test_a_manifest_that_is_gone_is_told(self, folder):
        (folder / "manifest.json").unlink()
        with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
            self.again()

    def test_a_folder_of_somebody_else_is_left_alone(self, tmp_path):
        (tmp_path / "novel.txt").write_text("Chapter 1")
        with (
            pmap.config(checkpoint=tmp_path),
            pytest.raises(CheckpointError, match=r"is no checkpoint: novel\.txt is in it"),
        ):
            self.again()
        assert [path.name for path in tmp_path.iterdir() if path.name == "lock"] == []

    def test_a_folder_that_others_may_write_is_not_trusted(self, folder):
        folder.chmod(0o770)
        with pytest.raises(CheckpointError, match="others may write"):
            self.again()
        folder.chmod(0o700)
        assert self.again().height == 100

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
    def test_a_folder_of_another_user_is_not_trusted(self, folder):
        os.chown(folder, 65534, 65534)
        with pytest.raises(CheckpointError, match="belongs to another user"):
            self.again()

    def test_a_path_that_can_not_be_made_is_told(self, tmp_path):
        (tmp_path / "file").touch()
        with (
            pmap.config(checkpoint=tmp_path / "file" / "checkpoint"),
            pytest.raises(CheckpointError, match="could not be opened: Not a directory"),
        ):
            self.again()


LIMITED = """
import resource, sys
import polars as pl, pmap
from pmap.errors import CheckpointError

def grow(part):
    return part.select(pl.col("x").repeat_by(10_000).explode())

df = pl.DataFrame({"x": range(10)})
limit = int(sys.argv[2])
with pmap.config(checkpoint=sys.argv[1], backend=sys.argv[3], n_jobs=1):
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        out = pmap.map_partitions(df, grow, n_partitions=None, chunk_size=3)
    except CheckpointError as exc:
        print(exc.errno, exc)
    else:
        print(out.height, out["x"].sum(), pmap.last_report().timings.height)
"""


class TestAFullDisk:
    def test_that_takes_no_larger_file(self, tmp_path):
        full, whole = (
            programs.run("-c", LIMITED, tmp_path / "checkpoint", limit, "serial").stdout
            for limit in ("100000", "0")
        )
        assert full.startswith(str(errno.EFBIG))
        assert "make room, and run the same call again" in full
        assert whole.split() == ["100000", "450000", "4"]

    @pytest.fixture
    def small_disk(self, tmp_path):
        """A file system of 1 MB, of which a checkpoint has room for some partitions."""
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
        yield disk
        subprocess.run(["umount", str(disk)], check=True)

    @pytest.mark.parametrize("backend", ["serial", "forkserver"])
    def test_that_is_full_leaves_what_was_kept(self, small_disk, ran, work, backend):
        work.mend()

        def grow(part):
            return work(part).select(pl.col("x").repeat_by(20_000).explode())

        frame = DF.head(8)
        with pmap.config(checkpoint=small_disk / "checkpoint", backend=backend, n_jobs=1):
            filler = small_disk / "filler"
            filler.write_bytes(bytes(300_000))
            with pytest.raises(
                CheckpointError, match=r"No space left on device.*make room"
            ) as caught:
                pmap.map_partitions(frame, grow, chunk_size=1)
            assert caught.value.errno == errno.ENOSPC
            kept = finished(small_disk / "checkpoint")
            assert kept
            names = {path.name for path in (small_disk / "checkpoint").iterdir()}
            assert {name for name in names if name.startswith("part")} == {
                f"part-{index:05d}.arrow" for index in kept
            }
            assert not [name for name in names if name.endswith(".tmp")]
            ran.take()
            subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
            out = pmap.map_partitions(frame, grow, chunk_size=1)
        assert out["x"].to_list() == [n for n in range(8) for _ in range(20_000)]
        assert ran.take() == [index for index in range(8) if index not in kept]


JOB = """
import os, random, signal, sys, threading
import polars as pl, pmap

folder, backend, seed, here = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]

def work(part):
    with open(f"{here}/ran-{os.environ['RUN']}", "a") as file:
        file.write(f"{pmap.current_partition().index}\\n")
    return None if part["x"][0] == 4 else part.with_columns(
        y=pl.col("x") / 3, word=pl.format("a long word for number {}", "x"),
        kind=pl.when(pl.col("x") % 2 == 0).then(pl.lit("even")).cast(pl.Categorical),
    )

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def die_at_line(n):
    # Any line of the modules that write.
    def trace(frame, event, argument):
        nonlocal n
        if not frame.f_code.co_filename.endswith(("_folder.py", "_finished.py", "_checkpoint.py")):
            return None
        n -= event == "line"
        if n <= 0:
            die()
        return trace
    sys.settrace(trace)

def die_after(n_done, seconds):
    def look(counts):
        if counts.partitions == n_done:
            threading.Timer(seconds, die).start()
    return look

progress = None
if seed >= 0:
    dice = random.Random(seed)
    if backend in ("serial", "auto"):
        die_at_line(dice.randrange(1200))
    else:
        progress = die_after(dice.randrange(12), dice.uniform(0, 0.05))
df = pl.DataFrame({"x": range(24)})
with pmap.config(checkpoint=folder, backend=backend, n_jobs=2):
    out = pmap.map_partitions(df, work, n_partitions=12, progress=progress)
out.write_ipc(f"{here}/out.arrow")
"""


def killed_and_resumed(tmp_path, seed):
    """A job that is killed at a random point, twice, and run again to its end."""
    folder = tmp_path / "checkpoint"
    script = tmp_path / "job.py"
    script.write_text(JOB)
    backend = ["serial", "threads", "serial", "forkserver", "auto", "loky", "serial", "spawn"][
        seed % 8
    ]
    family = programs.Family()

    def run(number, seed):
        kept = finished(folder) if (folder / "finished.jsonl").exists() else []
        done = programs.run(
            script, folder, backend, str(seed), tmp_path, family=family, RUN=str(number)
        )
        trace = tmp_path / f"ran-{number}"
        again = trace.read_text().split() if trace.exists() else []
        assert not {*map(int, again)} & {*kept}
        assert len({*again}) == len(again)
        return done, {*map(int, again)} | {*kept}

    for number in range(2):
        done, _ = run(number, 2 * seed + number)
        assert done.returncode in {-9, 0}, done.stderr
    done, all_of_them = run(2, -1)
    assert done.returncode == 0, done.stderr
    assert all_of_them == {*range(12)}
    assert family.left() == []
    assert finished(folder) == [*range(12)]
    assert not [*folder.glob(".*")]
    x = pl.DataFrame({"x": [n for n in range(24) if n not in (4, 5)]})
    wanted = x.with_columns(
        y=pl.col("x") / 3,
        word=pl.format("a long word for number {}", "x"),
        kind=pl.when(pl.col("x") % 2 == 0).then(pl.lit("even")).cast(pl.Categorical),
    )
    assert_frame_equal(pl.read_ipc(tmp_path / "out.arrow"), wanted, check_exact=True)


class TestAJobThatIsKilled:
    @pytest.mark.parametrize("seed", [0, 1, 3, 4, 5, 7])
    def test_goes_on_and_gives_the_same(self, tmp_path, seed):
        killed_and_resumed(tmp_path, seed)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(50))
    def test_goes_on_wherever_it_was(self, tmp_path, seed):
        killed_and_resumed(tmp_path, seed)
