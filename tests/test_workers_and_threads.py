"""How many workers, and how many threads in each: by what this process may use, and told why."""

from __future__ import annotations

import os
import re
import shutil

import groups
import polars as pl
import programs
import pytest
import workers
from installed import need

import pmap
from pmap import _plan, _resources
from pmap.backend import THREAD_VARIABLES
from pmap.errors import ArgumentError, ConfigError

pytestmark = pytest.mark.once  # costly, and the same on every Python

DF = pl.DataFrame({"x": range(16)})
PRINT_CPUS = "import pmap; print(pmap.cpu_count())"
#: As a user meets it: CPUs, and what a call makes of them.
PRINT_ALL = """
import os, pmap, polars as pl
def threads(part):
    return pl.thread_pool_size()
def look(backend):
    sizes = set(pmap.iter_partitions(pl.DataFrame({"x": range(8)}), threads, backend=backend))
    return pmap.cpu_count(), pmap.last_report().plan.n_workers, *sizes
print(look("spawn"), look("forkserver"))
"""


def printed(code, *before, **variables):
    """What a fresh Python prints; `before` are words in front of its command."""
    done = programs.run("-c", code, before=before, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def plan(**arguments):
    """The plan of a call on as many partitions as nobody asks for."""
    arguments = {"backend": "threads", "n_partitions": 16, **arguments}
    pmap.map_partitions(DF, lambda part: part, **arguments)
    return pmap.last_report().plan


class TestAffinity:
    @pytest.mark.skipif(shutil.which("taskset") is None, reason="taskset is not installed")
    def test_of_taskset(self):
        cpu = min(os.sched_getaffinity(0))
        assert printed(PRINT_ALL, "taskset", "-c", str(cpu)) == "(1, 1, 1) (1, 1, 1)"

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
    def test_set_by_the_program_itself(self):
        code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        assert printed(code + PRINT_ALL) == "(1, 1, 1) (1, 1, 1)"

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
    def test_that_changes_is_seen_by_the_next_call(self):
        code = """
import os, pmap
before = pmap.cpu_count()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(before, pmap.cpu_count())
"""
        assert printed(code) == f"{pmap.cpu_count()} 1"

    def test_is_what_there_is_without_any_limit(self, monkeypatch):
        monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
        monkeypatch.setattr(_resources, "_quotas", list)
        assert pmap.cpu_count() == len(os.sched_getaffinity(0))


def own_group(*quotas):
    """A chain of cgroups below the root, each with a quota in microseconds or none; the inmost."""
    name, text = ("cpu.max", "{} 100000") if groups.is_v2("cpu") else ("cpu.cfs_quota_us", "{}")
    return groups.chain(
        "cpu", *({} if quota is None else {name: text.format(quota)} for quota in quotas)
    )


class TestRealQuotas:
    """In cgroups of this machine, where root may make some."""

    @pytest.mark.parametrize(
        "limits",
        [(100_000,), (50_000,), (100_000, None), (None, 100_000), (400_000, 100_000)],
        ids=["one CPU", "half a CPU", "of the group above", "of the own group", "of both"],
    )
    def test_of_one_cpu(self, limits):
        with own_group(*limits) as group:
            assert printed(groups.enter(group) + PRINT_CPUS) == "1"

    def test_reach_workers_and_threads(self):
        with own_group(100_000) as group:
            assert printed(groups.enter(group) + PRINT_ALL) == "(1, 1, 1) (1, 1, 1)"

    @pytest.mark.parametrize("limits", [(None,), (6_400_000,), (150_000,)])
    def test_that_are_wide_enough_limit_nothing(self, limits):
        wide = 2 if limits == (150_000,) else 64  # one and a half count as two
        with own_group(*limits) as group:
            assert printed(groups.enter(group) + PRINT_CPUS) == str(min(wide, pmap.cpu_count()))


def forget_groups():
    """Of what is read once in a process."""
    for value in vars(_resources).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


class TestQuotas:
    """In a made-up tree."""

    @pytest.fixture
    def tree(self, tmp_path, monkeypatch):
        """A function that lays out /sys/fs/cgroup and /proc/self/cgroup for a machine of 64 CPUs."""

        def lay_out(own, files):
            for name, text in files.items():
                path = tmp_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            (tmp_path / "self").write_text(own)
            lines = _resources._lines
            monkeypatch.setattr(_resources, "_CGROUPS", str(tmp_path))
            monkeypatch.setattr(_resources, "_affinity", lambda: 64)
            monkeypatch.setattr(
                _resources,
                "_lines",
                lambda path: lines(str(tmp_path / "self") if path == "/proc/self/cgroup" else path),
            )
            forget_groups()

        monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
        yield lay_out
        forget_groups()

    @pytest.mark.parametrize(
        ("text", "cpus"),
        [
            ("max 100000\n", 64),
            ("200000 100000\n", 2),
            ("150000 100000\n", 2),  # rounded up
            ("100 100000\n", 1),
            ("300000 50000\n", 6),
            ("9000000 100000\n", 64),  # not more than there are
        ],
    )
    def test_of_version_2(self, tree, text, cpus):
        tree("0::/a/b\n", {"a/b/cpu.max": text})
        assert pmap.cpu_count() == cpus

    @pytest.mark.parametrize("holder", ["a/b/c", "a/b", "a", "."])
    def test_of_version_2_of_any_group_above(self, tree, holder):
        """The root's own file is there where a container sees its group as the root."""
        tree(
            "0::/a/b/c\n", {"a/b/c/cpu.max": "max 100000\n", f"{holder}/cpu.max": "300000 100000\n"}
        )
        assert pmap.cpu_count() == 3

    def test_of_version_2_the_least_counts(self, tree):
        files = {"a/cpu.max": "800000 100000\n", "a/b/cpu.max": "500000 100000\n"}
        tree("0::/a/b\n", files)
        assert pmap.cpu_count() == 5

    def test_of_version_2_of_other_groups_do_not(self, tree):
        tree(
            "0::/a\n",
            {
                "a/cpu.max": "max 100000\n",
                "a/b/cpu.max": "100000 100000\n",
                "c/cpu.max": "100000 100000\n",
            },
        )
        assert pmap.cpu_count() == 64

    def test_of_version_2_in_a_container_that_names_its_group_as_the_host_does(self, tree):
        tree("0::/docker/0123456789\n", {"cpu.max": "400000 100000\n"})
        assert pmap.cpu_count() == 4

    @pytest.mark.parametrize(
        ("own", "folder"),
        [
            ("4:cpu,cpuacct:/a\n", "cpu,cpuacct/a"),
            ("4:cpu:/a\n3:cpuacct:/\n", "cpu/a"),
            ("4:cpu,cpuacct:/docker/0123\n", "cpu,cpuacct"),
            ("4:cpu,cpuacct:/a/b\n", "cpu,cpuacct/a"),
        ],
        ids=["shared", "alone", "in a container", "of the group above"],
    )
    @pytest.mark.parametrize(("quota", "cpus"), [("-1", 64), ("250000", 3), ("0", 64)])
    def test_of_version_1(self, tree, own, folder, quota, cpus):
        files = {"cpu.cfs_quota_us": f"{quota}\n", "cpu.cfs_period_us": "100000\n"}
        tree(f"{own}0::/\n", {f"{folder}/{name}": text for name, text in files.items()})
        assert pmap.cpu_count() == cpus

    def test_of_version_1_in_a_folder_named_in_another_order(self, tree):
        tree("4:cpuacct,cpu:/a\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n"})
        assert pmap.cpu_count() == 3

    @pytest.mark.parametrize("text", ["", "max 100000", "max 100000\n\n"])
    def test_of_version_2_are_none_where_nothing_is_said(self, tree, text):
        tree("0::/a\n", {"a/cpu.max": text})
        assert pmap.cpu_count() == 64

    @pytest.mark.parametrize(
        ("own", "text"),
        [("0::/a\n", "max\n"), ("0::/a\n", "200000\n"), ("nothing\n", "max 100000\n")],
    )
    def test_that_can_not_be_read_limit_nothing(self, tree, own, text):
        tree(own, {"a/cpu.max": text})
        assert pmap.cpu_count() <= 64

    @pytest.mark.parametrize("own", ["", "0::\n", "1:name=systemd:/x\n", "0::/a:b\n"])
    def test_without_groups_there_are_none(self, tree, own):
        tree(own, {})
        assert pmap.cpu_count() == 64

    def test_of_memory(self, tree):
        tree(
            "0::/a\n",
            {"a/memory.max": "1000000\n", "a/memory.current": "400000\n", "memory.max": "max\n"},
        )
        assert _resources.available_memory() == 600_000

    def test_of_memory_of_version_1(self, tree):
        tree(
            "4:memory:/a\n",
            {
                "memory/a/memory.limit_in_bytes": "1000000\n",
                "memory/a/memory.usage_in_bytes": "1400000\n",
            },
        )
        assert _resources.available_memory() == 0

    def test_of_memory_counts_cached_files_as_free(self, tree):
        tree(
            "0::/a\n",
            {
                "a/memory.max": "1000000\n",
                "a/memory.current": "900000\n",
                "a/memory.stat": "anon 100000\nfile 800000\nactive_file 100000\ninactive_file 700000\n",
            },
        )
        assert _resources.available_memory() >= 800_000


class TestTheVariableOfLoky:
    @pytest.mark.parametrize(
        ("text", "number"),
        [("1", 1), ("3", 3), ("64", 4), ("0", 1), ("-3", 1), ("many", 4), ("", 4)],
    )
    def test_limits_too(self, cpus, monkeypatch, text, number):
        cpus(4)
        monkeypatch.setenv("LOKY_MAX_CPU_COUNT", text)
        assert pmap.cpu_count() == number
        assert plan().n_workers == number


class TestWorkers:
    @pytest.mark.parametrize(
        ("n_jobs", "workers"),
        [(None, 8), (-1, 8), (-2, 7), (-8, 1), (-100, 1), (1, 1), (3, 3), (12, 12)],
    )
    def test_are_as_many_as_in_joblib(self, cpus, n_jobs, workers):
        cpus(8)
        assert plan(n_jobs=n_jobs).n_workers == workers

    def test_zero_is_refused(self):
        with pytest.raises(ArgumentError, match="n_jobs=0"):
            plan(n_jobs=0)

    def test_none_inherits(self, cpus, monkeypatch):
        cpus(8)
        monkeypatch.setenv("PMAP_N_JOBS", "5")
        assert [plan().n_workers, plan(n_jobs=None).n_workers] == [5, 5]
        pmap.config.set(n_jobs=4)
        try:
            assert [plan().n_workers, plan(n_jobs=None).n_workers] == [4, 4]
            with pmap.config(n_jobs=-2):
                assert [plan().n_workers, plan(n_jobs=None).n_workers] == [7, 7]
                assert plan(n_jobs=2).n_workers == 2
        finally:
            pmap.config.reset()
        assert plan(n_jobs=None).n_workers == 5

    @pytest.mark.parametrize("text", ["-1", "None", ""])
    def test_all_by_the_variable(self, cpus, monkeypatch, text):
        cpus(8)
        monkeypatch.setenv("PMAP_N_JOBS", text)
        assert plan().n_workers == 8

    @pytest.mark.parametrize("text", ["all", "1.5"])
    def test_a_variable_that_is_no_number(self, monkeypatch, text):
        monkeypatch.setenv("PMAP_N_JOBS", text)
        with pytest.raises(ConfigError, match="PMAP_N_JOBS="):
            plan()

    @pytest.mark.parametrize("n_partitions", [1, 3, 8])
    def test_are_not_more_than_partitions(self, cpus, n_partitions):
        cpus(8)
        made = plan(n_partitions=n_partitions)
        assert made.n_workers == n_partitions
        assert f"not more than the {n_partitions} partition" in str(made) or n_partitions == 8

    def test_are_not_more_than_rows(self, cpus):
        cpus(8)
        pmap.map_partitions(DF.head(2), lambda part: part, backend="threads", n_jobs=8)
        assert pmap.last_report().plan.n_workers == 2

    @pytest.mark.parametrize(
        ("mib", "workers"), [(0, 1), (100, 1), (400, 2), (800, 5), (100_000, 8)]
    )
    def test_are_not_more_than_memory_allows(self, cpus, monkeypatch, mib, workers):
        cpus(8)
        monkeypatch.setattr(_plan, "available_memory", lambda: mib * 1024**2)
        made = plan(n_jobs=8)
        assert made.n_workers == workers
        assert (f"memory allows {workers}" in str(made)) == (workers < 8)

    def test_memory_counts_the_partitions_too(self, cpus, monkeypatch):
        cpus(8)
        monkeypatch.setattr(_plan, "available_memory", lambda: 1024**3)
        big = pl.DataFrame({"x": pl.repeat(0, 64 * 1024**2 // 8, eager=True)})
        pmap.map_partitions(
            big, lambda part: part.head(1), backend="threads", n_partitions=2, n_jobs=2
        )
        assert pmap.last_report().plan.n_workers == 2
        pmap.map_partitions(
            iter([big, big]), lambda part: part.head(1), backend="threads", n_jobs=8
        )
        assert pmap.last_report().plan.n_workers == 6  # of a stream, nothing is known before
        spec, _ = _plan.plan_workers(pmap._config.Options(n_jobs=8), 8, 512 * 1024**2)
        assert spec.n_workers == 1


class TestPartitions:
    @pytest.mark.parametrize(
        ("workers", "rows", "wanted"),
        [
            (2, 16_000, [*2 * [1000], *4 * [3000], *2 * [1000]]),
            (4, 320, [*4 * [10], *8 * [30], *4 * [10]]),
            (1, 16_000, 4 * [4000]),
            (2, 15, [1, *7 * [2]]),
            (2, 3, [1, 1, 1]),
        ],
    )
    def test_are_smaller_at_both_ends_if_nobody_says_how_many(self, workers, rows, wanted):
        frame = pl.DataFrame({"x": range(rows)})
        heights = pmap.iter_partitions(frame, lambda p: p.height, backend="serial", n_jobs=workers)
        assert list(heights) == wanted


def sizes(backend, **arguments):
    """Sizes of Polars' thread pool in the workers."""
    call = {"n_partitions": 4, **arguments}
    return set(
        pmap.iter_partitions(DF, lambda part: pl.thread_pool_size(), backend=backend, **call)
    )


def variables(backend, **arguments):
    """What stands in the workers' environment."""

    def environment(part):
        return {name: os.environ.get(name) for name in THREAD_VARIABLES}

    found = list(
        pmap.iter_partitions(DF, environment, backend=backend, n_partitions=2, **arguments)
    )
    assert found[0] == found[1]
    return found[0]


@pytest.fixture
def fresh(monkeypatch):
    """Pools are made under this test's environment, in which nobody has set any threads."""
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    pmap.shutdown()
    yield monkeypatch
    pmap.shutdown()


@pytest.fixture(params=["spawn", "forkserver", "loky", "dask"])
def starter(request):
    """Each backend that starts its workers itself."""
    return need(request.param)


#: Where only the core has a part in it, one will do.
one = pytest.mark.parametrize("starter", ["forkserver"], indirect=True)


@pytest.mark.usefixtures("fresh")
class TestThreads:
    def test_are_cpus_by_workers(self, starter):
        """On this machine as it is, and for each number of workers in turn, in one process."""
        cpus = pmap.cpu_count()
        for n_jobs in (1, 2, 1):
            assert sizes(starter, n_jobs=n_jobs) == {max(1, cpus // n_jobs)}
            assert pmap.last_report().plan.threads_per_worker == max(1, cpus // n_jobs)

    @pytest.mark.parametrize("starter", ["spawn", "forkserver", "loky"], indirect=True)
    def test_change_with_the_workers(self, starter, cpus):
        cpus(6)
        assert [sizes(starter, n_jobs=n_jobs) for n_jobs in (1, 2, 4)] == [{6}, {3}, {1}]

    @one
    def test_are_never_none(self, starter, cpus):
        cpus(1)
        assert sizes(starter, n_jobs=2) == {1}

    @one
    def test_count_the_workers_that_are_there(self, starter, cpus):
        """Two partitions keep two workers busy, whatever `n_jobs` says."""
        cpus(6)
        assert sizes(starter, n_jobs=6, n_partitions=2) == {3}

    @one
    def test_as_configured(self, starter, cpus):
        cpus(6)
        with pmap.config(inner_max_num_threads=5):
            assert sizes(starter, n_jobs=2) == {5}
            assert "(inner_max_num_threads)" in str(pmap.last_report().plan)
        assert sizes(starter, n_jobs=2) == {3}

    @one
    def test_as_configured_by_the_variable(self, fresh, starter):
        fresh.setenv("PMAP_INNER_MAX_NUM_THREADS", "3")
        assert sizes(starter, n_jobs=1) == {3}

    def test_of_other_libraries_are_capped_too(self, starter, cpus):
        cpus(6)
        assert variables(starter, n_jobs=2) == dict.fromkeys(THREAD_VARIABLES, "3")

    def test_a_smaller_number_of_the_users_stays(self, fresh, starter, cpus):
        cpus(6)
        fresh.setenv("OMP_NUM_THREADS", "1")
        fresh.setenv("POLARS_MAX_THREADS", "2")
        fresh.setenv("MKL_NUM_THREADS", "64")
        fresh.setenv("OPENBLAS_NUM_THREADS", "many")
        wanted = {
            **dict.fromkeys(THREAD_VARIABLES, "3"),
            "OMP_NUM_THREADS": "1",
            "POLARS_MAX_THREADS": "2",
        }
        assert variables(starter, n_jobs=2) == wanted
        assert sizes(starter, n_jobs=2) == {2}

    @pytest.mark.parametrize(
        ("option", "value"), [("oversize_threshold", "1024"), ("narenas", "3")]
    )
    def test_what_was_said_to_the_allocator_stays(self, fresh, starter, option, value):
        def settings(part):
            return os.environ["_RJEM_MALLOC_CONF"].split(",")

        fresh.setenv("_RJEM_MALLOC_CONF", f"{option}:{value}")
        for found in pmap.iter_partitions(DF, settings, backend=starter, n_partitions=2, n_jobs=2):
            assert [one for one in found if one.startswith(option)] == [f"{option}:{value}"]

    def test_leave_the_callers_environment_alone(self, starter):
        before = dict(os.environ)
        sizes(starter, n_jobs=2)
        assert dict(os.environ) == before
        assert pl.thread_pool_size() >= 1

    def test_of_threads_are_the_callers(self, cpus):
        cpus(4)
        assert sizes("threads", n_jobs=2) == {pl.thread_pool_size()}
        assert pmap.last_report().plan.threads_per_worker is None


class TestThePlan:
    def test_says_what_and_why(self, cpus):
        cpus(6)
        pmap.map_partitions(DF, lambda part: part, backend="forkserver", n_jobs=-4, n_partitions=12)
        lines = str(pmap.last_report().plan).splitlines()
        assert lines == [
            "12 partitions on backend 'forkserver', 3 workers with 2 threads each",
            "  - backend: as asked",
            "  - workers: n_jobs=-4 of 6 usable CPUs",
            "  - threads of Polars, BLAS and OpenMP in each worker process: 2 (6 CPUs / 3)",
        ]

    def test_names_each_limit(self, cpus, monkeypatch):
        cpus(8)
        monkeypatch.setattr(_plan, "available_memory", lambda: 350 * 1024**2)
        text = repr(plan(n_partitions=4))
        for reason in ("8 usable CPUs", "not more than the 4 partitions", "memory allows 2"):
            assert reason in text

    def test_of_one_is_in_the_singular(self, cpus):
        cpus(1)
        text = str(plan(n_partitions=1))
        assert text.startswith("1 partition on backend 'threads', 1 worker\n")
        assert "1 usable CPU\n" in text

    def test_of_auto_says_why_it_stayed(self):
        pmap.shutdown()  # with a warm pool, milliseconds that the caller is held up would tip it
        pmap.map_partitions(DF, lambda part: part)
        assert "auto stayed in the caller" in repr(pmap.last_report().plan)

    def test_of_auto_says_why_it_left(self, cpus):
        cpus(2)

        pmap.map_partitions(DF, workers.spin, n_partitions=8)
        made = pmap.last_report().plan
        assert made.backend == _plan.default_process_backend()[0]
        assert (made.n_workers, made.threads_per_worker) == (2, 1)
        assert re.search(
            r"took \d\.\d+ s .*left: \d\.\d+ s in the caller, .*\d s in forkserver workers",
            str(made),
        )

    def test_of_a_stream(self):
        pmap.map_partitions(iter([DF, DF]), lambda part: part, backend="threads", n_jobs=2)
        assert str(pmap.last_report().plan).startswith(
            "a stream of partitions on backend 'threads', 2 workers\n"
        )

    def test_stands_above_the_report(self):
        pmap.map_partitions(DF, lambda part: part, backend="serial")
        report = pmap.last_report()
        assert str(report).startswith(str(report.plan))
