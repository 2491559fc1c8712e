"""Foreign surroundings: a map is right in them, or says what is in the way and what to do.

Real programs under real mounts, limits and filters. One maps on every process backend in turn,
and nothing of it may be left behind.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import zipapp
from typing import TYPE_CHECKING

import pytest
from programs import PATIENCE, Family, run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="mounts and limits of Linux")

#: Writes what came of a map on each backend into the file that is its first argument.
PROGRAM = """
import json, os, sys
# first
import polars as pl
import pmap
# then

def double(part):
    return part.select(pl.col("x") * 2)

def attempt(backend):
    global out  # frames are held at exit
    try:
        for _ in range(2):
            out = pmap.map_partitions(df, FUNCTION, backend=backend, n_jobs=2, n_partitions=4)
    except pmap.errors.PmapError as exc:
        return f"{type(exc).__name__}: {exc}"
    return "right" if out.equals(expected) else f"wrong: {out}"

df = pl.DataFrame({"x": range(200_000)})
expected = df.select(pl.col("x") * 2)
found = {backend: attempt(backend) for backend in "spawn forkserver loky".split()}
with open(sys.argv[1], "w") as file:
    json.dump(found, file)
"""

#: After it, Polars has all the threads and files that it ever opens.
QUERY = "pl.DataFrame({'x': [1]}).lazy().filter(pl.col('x') > 0).collect()"
RIGHT = dict.fromkeys(["spawn", "forkserver", "loky"], "right")
#: A user that owns nothing here.
NOBODY = 54321


def program(first="", then="", function="double"):
    """Its text, with what comes before pmap is imported, what after, and what is mapped."""
    text = PROGRAM.replace("# first", first).replace("# then", then)
    return text.replace("FUNCTION", function)


class Place:
    """A folder in which programs run, and their temporary files lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.found = folder / "found"
        self.found.touch()

    def give_to_nobody(self) -> None:
        for path in (self.temporary, self.found):
            os.chown(path, NOBODY, NOBODY)

    def outcomes(self, *arguments, text=None, before=(), stdin="", **variables):
        """Of a program, by backend; nothing of it is left."""
        if text is not None:
            (self.folder / "program.py").write_text(text)
            arguments = (*arguments, self.folder / "program.py")
        family = Family()
        ended = run(
            *arguments,
            self.found,
            before=before,
            stdin=stdin,
            cwd=self.folder,
            family=family,
            TMPDIR=str(self.temporary),
            **variables,
        )
        assert ended.returncode == 0, ended.stderr
        assert family.left() == []
        assert list(self.temporary.iterdir()) == []
        return json.loads(self.found.read_text())


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def granted(*words):
    """Words to put before a program; the test is skipped where the system does not grant them."""
    try:
        ended = subprocess.run(
            [*words, "true"], capture_output=True, check=False, text=True, timeout=PATIENCE
        )
    except FileNotFoundError as exc:
        pytest.skip(str(exc))
    if ended.returncode:
        pytest.skip(f"{words[0]} is not granted: {ended.stderr}")
    return words


def mounted(commands, *, processes=False):
    """A program with a view of its own of the file system, and perhaps of processes."""
    user = () if os.geteuid() == 0 else ("--map-root-user",)
    forked = ("--pid", "--fork") if processes else ()
    shell = ("sh", "-ec", f'{commands}; exec "$@"', "sh")
    return granted("unshare", *user, *forked, "--mount", "--propagation", "private", *shell)


def as_nobody():
    """A program of another user, who may read all files, as that of this Python."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    may_read = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    who = ("--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
    return granted("setpriv", *who, *may_read)


class TestSharedMemory:
    """Segments have no names, so nothing of pmap's needs ``/dev/shm``; semaphores of loky's do."""

    def test_without_its_folder(self, place):
        devices = "null zero random urandom full"
        words = mounted(
            f"mount -t tmpfs none /mnt; for n in {devices}; do touch /mnt/$n; "
            "mount --bind /dev/$n /mnt/$n; done; ln -s /proc/self/fd /mnt/fd; mount --move /mnt /dev"
        )
        self.check(
            place.outcomes(text=program("assert not os.path.exists('/dev/shm')"), before=words)
        )

    def test_read_only(self, place):
        words = mounted("mount -t tmpfs -o ro none /dev/shm")
        self.check(place.outcomes(text=program(), before=words))

    def check(self, found):
        loky = found.pop("loky")
        assert found == {"spawn": "right", "forkserver": "right"}
        assert loky.startswith("WorkerStartError: loky's workers can not be started: [Errno ")
        assert "loky needs a /dev/shm that can be written to" in loky
        assert "use backend='forkserver' or 'spawn'" in loky

    def test_of_8_mb(self, place):
        larger = "df = pl.DataFrame({'x': range(4_000_000)})"
        text = program().replace("df = pl.DataFrame({'x': range(200_000)})", larger)
        words = mounted("mount -t tmpfs -o size=8m none /dev/shm")
        assert place.outcomes(text=text, before=words) == RIGHT


class TestProcesses:
    def test_that_users_do_not_see_of_each_other(self, place):
        place.give_to_nobody()
        words = mounted("mount -t proc -o hidepid=2 none /proc", processes=True)
        words = (*words, "sh", "-c", '"$@"; exit $?', "sh", *as_nobody())  # the shell is root's
        text = program("assert not os.path.exists('/proc/1')")
        assert place.outcomes(text=text, before=words) == RIGHT

    def test_that_nobody_sees(self, place):
        words = mounted("mount -t tmpfs none /proc")
        text = program("assert not os.path.exists('/proc/self')")
        assert place.outcomes(text=text, before=words) == RIGHT

    @pytest.mark.slow
    def test_with_other_numbers(self, place):
        """A container whose ``/proc`` is that of its host."""
        words = mounted("true", processes=True)
        assert place.outcomes(text=program("assert os.getpid() == 1"), before=words) == RIGHT

    def test_that_hide_themselves(self, place):
        place.give_to_nobody()
        hide = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)"
        assert place.outcomes(text=program(hide), before=as_nobody()) == RIGHT

    def test_that_hide_themselves_while_they_map(self, place):
        """Workers can not say that they have begun: an error, and never rows that are missing."""
        place.give_to_nobody()
        then = """
import ctypes
set_dumpable = lambda whether: ctypes.CDLL(None).prctl(4, whether, 0, 0, 0)

def frames():
    set_dumpable(0)
    yield df[:100_000]
    yield df[100_000:]
"""
        text = program(then=then).replace("map_partitions(df", "map_partitions(frames()")
        text = text.replace(", n_partitions=4", "").replace(
            "    try:", "    set_dumpable(1)\n    try:"
        )
        for outcome in place.outcomes(text=text, before=as_nobody()).values():
            assert outcome.startswith(
                "TransportError: a worker can not open a shared segment of its caller: [Errno 13]"
            )


class TestDescriptors:
    """Standard ones; what is opened in their place would take what is printed."""

    def test_stdin_is_closed(self, place):
        assert place.outcomes(text=program(), before=("sh", "-c", 'exec "$@" <&-', "sh")) == RIGHT

    def test_all_are_closed_before_the_program_starts(self, place):
        words = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
        found = place.outcomes(text=program("assert sys.stderr is None"), before=words)
        assert "loky needs sys.stdout and sys.stderr, which are None" in found.pop("loky")
        assert found == {"spawn": "right", "forkserver": "right"}

    def test_the_program_closes_them(self, place):
        """What it prints afterwards goes nowhere, and above all not into a frame."""
        then = f"""
{QUERY}
os.closerange(0, 3)

def written():
    for fd in range(3):
        os.write(fd, b"x" * 1_000_000)
    return double
"""
        text = program("", then, "double if _ == 0 else written()")
        assert place.outcomes(text=text) == RIGHT

    def test_the_function_closes_them(self, place):
        """Then a program that it starts, whose output is the worker's, writes into no frame."""
        function = """
import subprocess

def closing(part):
    if "CLOSED" in os.environ:
        for fd in range(3):
            os.write(fd, b"x" * 1_000_000)
        subprocess.run(["sh", "-c", "printf %1000000s x; printf %1000000s x >&2"], check=False)
    os.environ["CLOSED"] = "yes"
    result = double(part)  # Polars opens files of its own first
    os.closerange(0, 3)
    sys.stdout.close()
    return result
"""
        assert place.outcomes(text=program(then=function, function="closing")) == RIGHT

    def test_ten_megabytes_of_prints(self, place):
        function = """
def talking(part):
    for line in range(50_000):
        print("x" * 49)
    sys.stderr.write("e" * 100)
    return double(part)
"""
        talk = program(then=function, function="talking").replace("range(2)", "range(1)")
        ended = self.captured(place, talk)
        assert ended.stdout == ("x" * 49 + "\n") * 50_000 * 4 * 3
        assert ended.stderr == "e" * 100 * 4 * 3
        assert json.loads(place.found.read_text()) == RIGHT

    def captured(self, place, text):
        (place.folder / "program.py").write_text(text)
        return run(place.folder / "program.py", place.found, TMPDIR=str(place.temporary))


class TestLimits:
    def test_64_open_files(self, place):
        limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
        assert place.outcomes(text=program(limit)) == RIGHT

    def test_a_time_out_for_new_sockets(self, place):
        """Which a program sets for its requests: a worker may rest for longer."""
        assert (
            place.outcomes(text=program("import socket; socket.setdefaulttimeout(0.05)")) == RIGHT
        )

    def test_too_few_open_files(self, place):
        """Not even one worker can be started: one error says so, and what to raise."""
        limit = f"""
import loky, numpy, pyarrow, resource
import pmap._call
{QUERY}
[pmap.get_backend(name) for name in ("spawn", "forkserver", "loky")]
sys.argv[1] = os.open(sys.argv[1], os.O_WRONLY)
used = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, used + 1))
"""
        found = place.outcomes(text=program(then=limit))
        for backend, outcome in found.items():
            assert outcome.startswith(("WorkerStartError", "TransportError")), (backend, outcome)
            assert "Too many open files" in outcome
            assert "ulimit -n" in outcome

    def test_processes_and_threads(self, place):
        """What Polars itself says when it gets no thread is the function's own exception."""
        place.give_to_nobody()
        limit = f"""
import loky, numpy, pyarrow, resource
{QUERY}
used = len(os.listdir("/proc/self/task"))
resource.setrlimit(resource.RLIMIT_NPROC, (used + 1, used + 1))
"""
        found = place.outcomes(text=program(then=limit), before=as_nobody())
        for backend, outcome in found.items():
            assert outcome.startswith("WorkerStartError: "), (backend, outcome)
            assert "processes and threads of this user (`ulimit -u`)" in outcome

    def test_addresses(self, place):
        """What a function does not get is its own error, and nobody else's."""
        function = """
import numpy, resource

def greedy(part):
    try:
        numpy.ones(1 << 33)
    except MemoryError:
        return double(part)
"""
        size = "int(open('/proc/self/statm').read().split()[0]) * 4096 + (3 << 30)"
        limit = f"{function}\nresource.setrlimit(resource.RLIMIT_AS, ({size},) * 2)"
        assert place.outcomes(text=program(then=limit, function="greedy")) == RIGHT


#: Numbers of `memfd_create`.
MEMFD = {"x86_64": 319, "aarch64": 279}
#: A filter of the kernel's that forbids one system call, to a program and all that it starts.
FORBID = """
import ctypes, struct
step = struct.Struct("=HBBI").pack
code = ctypes.create_string_buffer(
    step(0x20, 0, 0, 0) + step(0x15, 0, 1, NUMBER) + step(6, 0, 0, 0x50000 | ERRNO) + step(6, 0, 0, 0x7FFF0000)
)
prctl = ctypes.CDLL(None, use_errno=True).prctl
prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
assert prctl(38, 1, 0, 0, 0) == 0
pointer = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(code)))
if prctl(22, 2, ctypes.addressof(pointer), 0, 0):
    sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
try:
    os.memfd_create("forbidden")
except OSError as exc:
    assert exc.errno == ERRNO
else:
    raise AssertionError("it is allowed")
"""


def forbidding(error):
    """What forbids `memfd_create`."""
    if platform.machine() not in MEMFD:
        pytest.skip("the number of memfd_create is not known here")
    text = FORBID.replace("NUMBER", str(MEMFD[platform.machine()]))
    return text.replace("ERRNO", str(error))


class TestWithoutAnonymousMemory:
    @pytest.mark.parametrize(
        "error",
        [pytest.param(1, id="EPERM", marks=pytest.mark.slow), pytest.param(38, id="ENOSYS")],
    )
    def test_frames_lie_in_files_without_names(self, place, error):
        assert place.outcomes(text=program(forbidding(error))) == RIGHT

    def test_and_no_room_in_any_folder(self, place):
        small = "; ".join(
            f"mount -t tmpfs -o size=600k none {folder}" for folder in ("/var/tmp", "/dev/shm")
        )
        words = mounted(f"{small}; mount -t tmpfs -o size=600k none {place.temporary}")
        for outcome in place.outcomes(text=program(forbidding(38)), before=words).values():
            assert outcome.startswith("TransportError: could not write 400,000 bytes: [Errno 28]")
            assert "set TMPDIR to a folder with more room" in outcome

    def test_and_no_folder_that_can_be_written_to(self, place):
        place.give_to_nobody()
        forbid = f"{forbidding(38)}\nos.environ['TMPDIR'] = '/proc'; os.chdir('/proc')"
        nothing = "mount -t tmpfs -o ro none"
        words = mounted(f"mount --bind {place.folder} /mnt; {nothing} /dev/shm; {nothing} /var/tmp")
        # Its own folder stays to be read: the interpreter may lie there.
        words = (*words, *mounted("mount --bind /tmp /tmp; mount -o remount,bind,ro /tmp"))
        text = program(then=forbid).replace("sys.argv[1]", "'/mnt/found'")
        (place.folder / "program.py").write_text(text)
        found = place.outcomes("/mnt/program.py", before=words)
        for outcome in found.values():
            assert outcome.startswith("TransportError: could not make a shared memory segment: ")
            assert "set TMPDIR to a folder that can be written to" in outcome


class TestFoldersAndPaths:
    def test_the_working_folder_was_deleted(self, place):
        """Before the program began; and once more while its workers wait."""
        gone = "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')"
        found = place.outcomes(text=program(gone))
        assert "loky needs a working folder, and this one was deleted" in found.pop("loky")
        assert found == {"spawn": "right", "forkserver": "right"}

    def test_a_warm_pool_sees_what_is_new(self, place):
        """Folders that came to the path, and modules written, after its workers had started."""
        then = """
import importlib
count = 0

def write(module, folder):
    with open(f"{folder}/{module}.py", "w") as file:
        file.write("FACTOR = 1")

def new_function():
    global count
    count += 1
    folder, known, new = os.path.abspath(f"folder{count}"), f"known{count}", f"new{count}"
    os.mkdir(folder)
    write(known, os.path.dirname(os.path.abspath(__file__)))
    write(new, folder)
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = folder

    def function(part):
        factors = [importlib.import_module(name).FACTOR for name in (known, new)]
        return part.select(pl.col("x") * 2 * min(factors))

    return function
"""
        text = program(then=then, function="new_function()").replace("range(2)", "range(3)")
        assert place.outcomes(text=text) == RIGHT


class TestWaysToRun:
    """The function is of ``__main__``, which no worker imports, and calls a neighbour of it."""

    NEIGHBOUR = (
        "import polars as pl\n\ndef double(part):\n    return part.select(pl.col('x') * 2)\n"
    )
    MAIN = program(
        then="import neighbour", function="lambda part: neighbour.double(part.select('x'))"
    )

    def test_isolated_and_optimized(self, place):
        text = program("assert False, 'not optimized'; assert sys.flags.isolated")
        assert place.outcomes("-I", "-O", text=text) == RIGHT

    @pytest.mark.slow
    def test_without_the_environment(self, place):
        text = program("assert sys.flags.ignore_environment")
        assert place.outcomes("-E", text=text, PYTHONOPTIMIZE="2") == RIGHT

    @pytest.mark.slow
    def test_from_stdin(self, place):
        assert place.outcomes("-", stdin=program()) == RIGHT

    @pytest.mark.slow
    def test_as_a_package(self, place):
        package = place.folder / "package"
        package.mkdir()
        (package / "neighbour.py").write_text(self.NEIGHBOUR)
        main = self.MAIN.replace("import neighbour", "from package import neighbour")
        (package / "__main__.py").write_text(main)
        assert place.outcomes("-m", "package") == RIGHT

    def test_as_an_archive(self, place):
        source = place.folder / "source"
        source.mkdir()
        (source / "neighbour.py").write_text(self.NEIGHBOUR)
        (source / "__main__.py").write_text(self.MAIN)
        zipapp.create_archive(source, place.folder / "app.pyz")
        assert place.outcomes("app.pyz") == RIGHT

    def test_frozen(self, place):
        """Its executable is the program itself: to start workers with it would never end."""
        for outcome in place.outcomes(text=program("sys.frozen = True")).values():
            assert "this program is frozen" in outcome
            assert "backend='threads'" in outcome
            assert "multiprocessing.set_executable" in outcome

    @pytest.mark.slow
    def test_frozen_with_a_python_beside_it(self, place):
        first = (
            "import multiprocessing; multiprocessing.set_executable(sys.executable); "
            "sys.frozen, sys.executable = True, '/usr/bin/app'"
        )
        found = place.outcomes(text=program(first))
        assert {name: found[name] for name in ("spawn", "forkserver")} == dict.fromkeys(
            ["spawn", "forkserver"], "right"
        )

    def test_frozen_and_auto_stays_in_the_caller(self, place):
        text = program(
            "import time; sys.frozen = True",
            function="lambda part: time.sleep(0.4) or double(part)",
        )
        text = text.replace('"spawn forkserver loky".split()', '["auto", "threads"]')
        assert place.outcomes(text=text) == {"auto": "right", "threads": "right"}
