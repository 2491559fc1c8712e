"""How frames travel: exactly, only what is needed, and nothing twice, on every road."""

from __future__ import annotations

import functools
import operator
import os
import resource
import threading
from pathlib import Path

import numpy as np
import polars as pl
import programs
import pyarrow as pa
import pyarrow.ipc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from strategies import frames, many

import pmap
from pmap import _pages, _segment, _transport
from pmap._carry_away import RemoteCarrier
from pmap._partition import Partition
from pmap._transport import _columns, _receive, _send

ROADS = ["memory", "file"]
ROWS = 200_000


@pytest.fixture(params=ROADS)
def road(request):
    """Each way in which large frames reach a worker."""
    with pmap.config(transport=request.param, backend="spawn", n_jobs=2):
        yield request.param


@pytest.fixture
def workers():
    with pmap.config(backend="spawn", n_jobs=2):
        yield


def large(rows=ROWS):
    """Some of everything, with nulls."""
    n = pl.int_range(rows, eager=True)
    long = pl.format("a string that no view holds itself: {}", n)
    return pl.select(
        number=pl.when(n % 7 == 0).then(None).otherwise(n),
        real=n / 3,
        flag=n % 2 == 0,
        short=n.cast(pl.String),
        long=pl.when(n % 5 == 0).then(None).otherwise(long),
        kind=pl.format("kind {}", n % 10).cast(pl.Categorical),
        list=pl.when(n % 3 == 0).then(None).otherwise(pl.concat_list(n, n + 1)),
        words=pl.concat_list(long, n.cast(pl.String)),
        struct=pl.when(n % 11 == 0).then(None).otherwise(pl.struct(a=n, b=long)),
        pair=pl.concat_arr(n, n + 1),
        when=pl.datetime_range(pl.datetime(2020, 1, 1), None, "1h", eager=False).head(0)
        if rows == 0
        else pl.from_epoch(n * 3600).dt.replace_time_zone(
            "Europe/Paris", ambiguous="earliest", non_existent="null"
        ),
        exact=n.cast(pl.Decimal(20, 2)),
        wide=n.cast(pl.Int128),
    )


def mapped(frame):
    """The columns that this Polars hands over without a copy; of 1.34 not slices of structs."""
    return frame.select(
        column
        for column in frame.drop("wide", "kind").iter_columns()
        if hands_over(column.slice(3).to_frame())
    )


def hands_over(frame):
    """Whether it travels by its buffers, and not as a stream."""
    return _columns.to_trees(frame, lambda _: None).rest is None


def rows_of(part):
    return pl.DataFrame({"rows": [part.height]})


def same(part):
    return part


def renewed(part):
    """As many bytes as came, none of them where they were."""
    return part.select(pl.all().gather(pl.int_range(pl.len())))


def moved():
    """Bytes that the last call copied: to workers, and back."""
    timings = pmap.last_report().timings
    return int(timings["bytes_in"].sum()), int(timings["bytes_out"].sum())


def buffers(frame):
    """Where they lie: first and last address of each."""
    return [
        (buffer.address, buffer.address + buffer.size)
        for column in frame.to_arrow(compat_level=pl.CompatLevel.newest()).columns
        for chunk in column.chunks
        for buffer in chunk.buffers()
        if buffer is not None and buffer.size > 0
    ]


def n_buffers(frame):
    chunks = frame.to_arrow(compat_level=pl.CompatLevel.newest()).column(0).chunks
    return pl.DataFrame({"n": [sum(len(chunk.buffers()) for chunk in chunks)]})


def lies_in(frame, other):
    """Whether all that `frame` consists of are parts of `other`."""
    return all(
        any(low <= start and end <= high for low, high in buffers(other))
        for start, end in buffers(frame)
    )


def segments():
    """Bytes of the segments that this process has open, each once."""
    sizes = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.pread(int(fd), 8, 0) == b"pmap-seg":
                stat = os.fstat(int(fd))
                sizes[stat.st_ino] = stat.st_blocks * 512
        except OSError:
            continue  # of the listing itself
    return sum(sizes.values())


# Faithful -------------------------------------------------------------------------


@pytest.mark.parametrize("function", [same, renewed])
@pytest.mark.parametrize("offset", [0, 3, 1001])
def test_large_frames_of_all_kinds_come_back_exactly(road, function, offset):
    frame = large().slice(offset)
    result = pmap.map_partitions(frame, function, n_partitions=5)
    assert_frame_equal(result, frame, check_exact=True)
    assert_frame_equal(pmap.map_partitions(result, function, n_partitions=3), frame)


def test_many_chunks_and_many_columns(road):
    frame = pl.concat([large(2_000)] * 50, rechunk=False)
    assert_frame_equal(pmap.map_partitions(frame, renewed, n_partitions=7), frame)
    wide = pl.DataFrame({f"c{i}": np.arange(5_000) for i in range(300)})
    assert_frame_equal(pmap.map_partitions(wide, renewed, n_partitions=3), wide)


def test_sortedness_is_kept(road):
    frame = pl.DataFrame({"x": range(ROWS), "y": range(ROWS, 0, -1)}).select(
        pl.col("x").set_sorted(), pl.col("y").set_sorted(descending=True)
    )
    flags = next(
        pmap.iter_partitions(frame, lambda p: (p["x"].flags, p["y"].flags), n_partitions=2)
    )
    assert flags[0]["SORTED_ASC"]
    assert flags[1]["SORTED_DESC"]


def carried(frame, *, cut, transport):
    """There and back by the large frames' road, without a process between."""
    kind = _segment.kind_for(transport)
    sender = _send.Sender(shared=True, kind=kind)
    start, rows = cut
    parcel, lent = sender.parcel(Partition(0, start, rows, frame, 1e9))
    part, received = _transport.unpack(parcel)
    results = [part]
    for origin in (received, None):
        reply = _segment.Segment(kind)
        results.append(
            _transport.open_reply(_transport.pack(part, reply.shared, origin), reply, lent)
        )
        if not reply.lent:
            reply.close()
    lent.close(released=False)
    _transport.forget_mapped()  # as a worker does when it rests
    return results


@pytest.mark.parametrize("transport", ROADS)
@settings(many, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(frame=frames(min_size=1, excluded_dtypes=[pl.Object]), data=st.data())
def test_frames_of_every_dtype_survive_every_road(monkeypatch, transport, frame, data):
    frame = pl.concat([frame] * data.draw(st.integers(1, 3)), rechunk=data.draw(st.booleans()))
    if frame.width == 0:
        return
    start = data.draw(st.integers(0, frame.height - 1))
    rows = data.draw(st.integers(1, frame.height - start))
    with monkeypatch.context() as patch:  # however small they are
        for module in (_send, _receive):
            patch.setattr(module, "INLINE_BYTES", -1)
            patch.setattr(module, "COLUMN_BYTES", 0)
        results = carried(frame, cut=(start, rows), transport=transport)
    for result in results:
        assert result.schema == frame.schema
        assert_frame_equal(
            result, frame.slice(start, rows), check_exact=True, categorical_as_str=True
        )


def test_bits_of_floats_are_kept(road):
    odd = np.array([0x7FF8000000000001, 0xFFF8000000000002, 1 << 63], np.uint64)
    bits = np.tile(odd, ROWS)
    frame = pl.DataFrame({"x": bits.view(np.float64)})
    result = pmap.map_partitions(frame, renewed, n_partitions=3)
    assert (result["x"].to_numpy().view(np.uint64) == bits).all()


# Nothing twice --------------------------------------------------------------------


def test_what_a_function_passes_through_is_not_sent_back(road):
    frame = mapped(large())
    more = pmap.map_partitions(
        frame, lambda p: p.with_columns(new=pl.col("real") * 2), n_partitions=4
    )
    assert_frame_equal(more.drop("new"), frame)
    new = more["new"].estimated_size()
    assert new <= moved()[1] <= 2 * new
    less = pmap.map_partitions(frame, lambda p: p.select("real", "short"), n_partitions=4)
    assert moved()[1] == 0
    assert lies_in(less, frame)  # a part alone would keep the whole segment


def test_a_result_is_sent_again_by_reference(road):
    first = pmap.map_partitions(mapped(large()), renewed, n_partitions=4)
    ways = {
        "whole": first,
        "slice": first.slice(ROWS // 3, ROWS // 2),
        "columns": first.select("long", "number", "pair"),
        "head and tail": pl.concat([first.head(ROWS // 4), first.tail(ROWS // 4)]),
        "a new column": first.select("real", "words", zero=pl.lit(0, pl.Int8)),
    }
    for name, frame in ways.items():
        result = pmap.map_partitions(frame, same, n_partitions=3)
        assert_frame_equal(result, frame)
        # Polars moves bitmaps of slices to whole bytes; the new column is a byte a row.
        assert moved()[0] <= frame.height * (2 if name == "a new column" else 1), name


def test_the_memory_of_a_result_outlives_the_workers(road):
    frame = large()
    result = pmap.map_partitions(frame, renewed, n_partitions=4)
    pmap.shutdown()
    assert_frame_equal(result, frame)


def test_shared_frames_are_not_sent(road):
    frame = large()
    shared = pmap.share(frame)
    assert_frame_equal(shared, frame)
    plain = mapped(shared)
    assert pmap.share(plain.slice(10, 1000)).height == 1000
    for part in (plain, plain.slice(ROWS // 2), plain.select("words")):
        assert_frame_equal(pmap.map_partitions(part, same, n_partitions=3), part)
        assert moved()[0] <= part.height  # bitmaps, which Polars moves to whole bytes


def test_share_takes_frames_alone():
    with pytest.raises(pmap.errors.ArgumentError, match="not a LazyFrame"):
        pmap.share(pl.LazyFrame({"x": [1]}))
    empty = pl.DataFrame(schema={"x": pl.Int64})
    assert_frame_equal(pmap.share(empty), empty)


def test_a_frame_mapped_from_a_file_travels_as_the_file(workers, tmp_path):
    path = tmp_path / "frame.arrow"
    large(400_000).select("real", "number").write_ipc(path)
    frame = pl.from_arrow(pa.ipc.open_file(pa.memory_map(str(path))).read_all(), rechunk=False)
    maps = lambda part: str(path) in Path("/proc/self/maps").read_text()  # noqa: E731
    assert all(pmap.iter_partitions(frame, maps, n_partitions=2))
    assert moved()[0] < 400_000  # bitmaps may be copied
    assert_frame_equal(pmap.map_partitions(frame, same, n_partitions=2), frame)


# Only what is needed ---------------------------------------------------------------


def test_of_a_slice_its_rows_travel_alone(road):
    frame = mapped(large(400_000)).slice(200_001, 20_000)
    result = pmap.map_partitions(frame, rows_of, n_partitions=2)
    assert result["rows"].sum() == 20_000
    assert moved()[0] < 2 * frame.estimated_size()


def test_of_a_frame_in_many_segments_a_worker_maps_those_of_its_rows(workers):
    def n_mapped(part):
        maps = Path("/proc/self/maps").read_text().splitlines()
        return len({line.split()[4] for line in maps if "memfd:pmap" in line})

    frame = pmap.map_partitions(pl.DataFrame({"x": range(800_000)}), renewed, n_partitions=8)
    pmap.shutdown()
    seen = list(pmap.iter_partitions(frame, n_mapped, n_partitions=8, n_jobs=1))
    assert [n - seen[0] for n in seen] == list(range(8))


def test_of_scattered_strings_their_bytes_travel_alone(road):
    everything = large(400_000).select("long")
    few = everything.sample(5_000, seed=1)
    result = pmap.map_partitions(few, same, n_partitions=1)
    assert_frame_equal(result, few)
    one = pmap.map_partitions(
        few, lambda p: p.select(pl.col("long").gather(range(3_000))), n_partitions=1
    )
    assert_frame_equal(one, few.head(3_000))
    assert moved()[1] < everything.estimated_size() / 2


def test_strings_that_were_python_objects_travel_in_few_buffers(road):
    """Polars has a buffer for every few of them, and a slice has those of the whole."""
    frame = pl.DataFrame(
        {"words": [[{"word": f"a word that no view holds itself: {i}"}] * 2 for i in range(20_000)]}
    )
    assert n_buffers(frame)["n"].item() > 1_000
    result = pmap.map_partitions(frame, n_buffers, n_partitions=2)
    assert result["n"].max() < 10
    assert_frame_equal(pmap.map_partitions(frame, same, n_partitions=2), frame)


def test_a_slice_of_a_large_result_does_not_bring_the_rest(road):
    def top(part):
        return pl.DataFrame({"x": np.arange(2_000_000)}).slice(999_999, 20_000)

    result = pmap.map_partitions(pl.DataFrame({"x": [1, 2]}), top, n_partitions=2)
    assert result["x"].to_list() == [*range(999_999, 1_019_999)] * 2
    assert moved()[1] < 500_000


# Inside the function ----------------------------------------------------------------

LOOKUP = pl.DataFrame({"key": range(300_000), "value": pl.int_range(300_000, eager=True) * 2})


class Holder:
    def __init__(self, data):
        self.data = data

    def __call__(self, part):
        return part.select(total=pl.lit(sum_of(self.data)))


def sum_of(data):
    if isinstance(data, pl.DataFrame):
        return data["value"].sum()
    if isinstance(data, pa.Table):
        return pl.from_arrow(data)["value"].sum()
    return int(data.sum())


@pytest.mark.parametrize(
    "data",
    [LOOKUP, LOOKUP["value"], LOOKUP.to_arrow(), LOOKUP["value"].to_numpy().copy()],
    ids=["frame", "series", "table", "array"],
)
def test_large_data_in_the_function_is_not_in_its_pickle(workers, data, monkeypatch):
    sizes = []
    dump = _transport.Closure.dump
    monkeypatch.setattr(
        _transport.Closure,
        "dump",
        lambda self, function: (pickled := dump(self, function), sizes.append(len(pickled.data)))[
            0
        ],
    )
    frame = pl.DataFrame({"x": range(8)})
    ways = {
        "closure": lambda p: p.select(total=pl.lit(sum_of(data))),
        "default": lambda p, data=data: p.select(total=pl.lit(sum_of(data))),
        "partial": functools.partial(
            lambda p, data: p.select(total=pl.lit(sum_of(data))), data=data
        ),
        "attribute": Holder(data),
    }
    for name, function in ways.items():
        result = pmap.map_partitions(frame, function, n_partitions=8)
        assert result["total"].to_list() == [sum_of(LOOKUP)] * 8, name
    assert len(sizes) == len(ways)
    assert max(sizes) < 20_000


def test_workers_keep_a_function_as_long_as_nothing_changed(workers):
    array = np.zeros(100_000)
    frame = pl.DataFrame({"x": range(4)})
    loads = functools.partial(_count_calls, array=array, calls=Calls())
    seen = [list(pmap.iter_partitions(frame, loads, n_partitions=4)) for _ in range(3)]
    totals = {
        pid: max(n for p, n, _ in functools.reduce(operator.iadd, seen, []) if p == pid)
        for pid, *_ in functools.reduce(operator.iadd, seen, [])
    }
    assert sum(totals.values()) == 12  # not begun anew
    array[0] = 5
    assert {value for _, _, value in pmap.iter_partitions(frame, loads, n_partitions=4)} == {5}


class Calls:
    def __init__(self):
        self.n = 0


def _count_calls(part, array, calls):
    calls.n += 1
    return os.getpid(), calls.n, array[0]


def test_writing_into_an_array_changes_no_one_elses(workers):
    array = np.zeros(100_000)

    def scribble(part):
        before = array.max()
        array[:] = os.getpid()
        return before, (array == os.getpid()).all()

    frame = pl.DataFrame({"x": range(2)})
    results = list(pmap.iter_partitions(frame, scribble, n_partitions=2))
    assert all((ok and before in {0, os.getpid()}) or ok for before, ok in results)
    assert array.max() == 0


# Safe -------------------------------------------------------------------------------


def test_inputs_are_read_only(road):
    def write(part):
        part["real"].to_numpy()[0] = 1

    with pytest.raises(ValueError, match="read-only"):
        pmap.map_partitions(large(), write, n_partitions=2)


def test_frames_that_a_function_keeps_never_change(road):
    kept = []

    def keep(part):
        kept.append((part, part["number"].sum(), part["long"].str.len_bytes().sum()))
        return all(
            p["number"].sum() == n and p["long"].str.len_bytes().sum() == length
            for p, n, length in kept
        )

    frame = large()
    for _ in range(3):
        assert all(pmap.iter_partitions(frame, keep, n_partitions=6))
    chained = pmap.map_partitions(frame, renewed, n_partitions=6)
    assert all(pmap.iter_partitions(chained, keep, n_partitions=6))
    del chained
    assert all(pmap.iter_partitions(frame, keep, n_partitions=6))


@pytest.mark.parametrize("transport", ROADS)
def test_memory_goes_when_the_frame_goes_and_pages_are_used_again(transport):
    done = programs.run("-c", MEMORY, cwd=Path(__file__).parent, PMAP_TRANSPORT=transport)
    assert done.returncode == 0, done.stderr


#: A program of its own, so that nothing else has segments.
MEMORY = """
import pmap
from programs import wait_until
from test_transport import large, renewed, segments

frame = large()
with pmap.config(backend="spawn", n_jobs=2):
    result = pmap.map_partitions(frame, renewed, n_partitions=4)
    part = result.slice(10, 20)
    assert segments() > result.estimated_size() / 3
    del result
    assert part.height == 20
    del part
    wait_until(lambda: (pmap.shutdown(), segments())[1] == 0)
    for _ in range(6):
        pmap.map_partitions(frame, renewed, n_partitions=4)
    assert segments() < 8 * frame.estimated_size()  # four in flight, both ways
"""


def test_named_files_serve_where_nothing_better_is_granted(workers, monkeypatch, tmp_path):
    monkeypatch.setattr(_segment, "default_kind", lambda: "named")
    monkeypatch.setattr(_segment, "_roomiest", lambda: str(tmp_path))
    frame = large()
    result = pmap.map_partitions(frame, renewed, n_partitions=4)
    assert_frame_equal(result, frame)
    assert list(tmp_path.glob("pmap-*/segment"))
    del result
    programs.wait_until(lambda: (pmap.shutdown(), not list(tmp_path.iterdir()))[1])


def test_a_segment_cut_short_or_replaced_is_an_error():
    segment = _segment.Segment()
    segment.write([(b"x" * 100_000, _segment.START)])
    with pytest.raises(pmap.errors.TransportError, match="holds"):
        _segment.map_shared(segment.shared, 1_000_000)
    other = segment.shared._replace(token=-5)
    with pytest.raises(pmap.errors.TransportError, match="not the segment"):
        _segment.map_shared(other)
    path = segment.shared
    segment.close()
    with pytest.raises(pmap.errors.TransportError, match=r"gone|not the segment"):
        _segment.map_shared(path)


def test_no_room_is_an_error_with_figures():
    program = """
import resource, polars as pl, pmap
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
frame = pl.DataFrame({"x": range(1_000_000)})
for function in (lambda p: p, lambda p: p + 1):
    try:
        with pmap.config(transport="memory"):
            pmap.map_partitions(frame, function, backend="spawn", n_jobs=2, n_partitions=2)
    except pmap.errors.TransportError as error:
        print(error)
print(pmap.map_partitions(frame.head(5_000), lambda p: p, backend="spawn", n_jobs=2).height)
"""
    done = programs.run("-c", program)
    assert done.returncode == 0, done.stderr
    *errors, last = done.stdout.splitlines()
    assert last == "5000"
    assert len(errors) == 2
    assert all("bytes" in error and "ulimit -f" in error for error in errors)


def test_too_little_memory_is_an_error_before_the_kernel_kills(workers, monkeypatch):
    monkeypatch.setattr(_segment, "available_memory", lambda: 1_000_000)
    pmap.shutdown()  # with all pages that are kept
    frame = pl.DataFrame({"x": np.arange(10_000_000)})
    with pytest.raises(pmap.errors.TransportError, match=r"1,000,000 are left.*transport='file'"):
        pmap.map_partitions(frame, same, n_partitions=2)
    with pmap.config(transport="file"):
        assert pmap.map_partitions(frame, rows_of, n_partitions=2)["rows"].sum() == frame.height


@pytest.mark.usefixtures("workers")
def test_threads_that_end_a_call_at_the_same_time_give_a_segment_back_once(monkeypatch):
    """One that is given back twice would be two calls' at once."""
    carriers, returned = [], []
    opened, give_back = RemoteCarrier.open, _pages.give_back

    def note(carrier):
        carriers.append(carrier)
        opened(carrier)

    def give_back_while_another_ends_it_too(segment):
        returned.append(segment)
        if len(returned) == 1:
            end_it_too = threading.Thread(target=carriers[0].close)
            end_it_too.start()
            end_it_too.join()
        give_back(segment)

    monkeypatch.setattr(RemoteCarrier, "open", note)
    monkeypatch.setattr(_pages, "give_back", give_back_while_another_ends_it_too)
    pmap.map_partitions(pl.DataFrame({"x": range(4)}), same, n_partitions=4, n_jobs=1)
    assert returned
    assert len(set(map(id, returned))) == len(returned)


def test_open_files_stay_few():
    program = """
import os, resource, numpy as np, polars as pl, pmap
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
frame = pl.DataFrame({"x": np.arange(6_000_000)})
out = pmap.map_partitions(frame, lambda p: p + 1, backend="spawn", n_jobs=2, n_partitions=600)
assert (out["x"] == frame["x"] + 1).all()
again = pmap.map_partitions(out, lambda p: p + 1, backend="spawn", n_jobs=2, n_partitions=600)
assert (again["x"] == frame["x"] + 2).all()
print(len(os.listdir("/proc/self/fd")))
"""
    done = programs.run("-c", program)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200


def test_wrong_transport_is_named():
    with pytest.raises(pmap.errors.ArgumentError, match="'memory' or 'file'"):
        pmap.config.set(transport="pigeon")
    assert resource.getrlimit(resource.RLIMIT_NOFILE)
