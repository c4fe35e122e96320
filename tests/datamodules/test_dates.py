"""Dates read whatever way they are written."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.columns.dates import DateCounts, as_times

MOMENTS = st.lists(st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2068, 12, 31)), min_size=1, max_size=20)
EPOCH = dt.datetime(1970, 1, 1)


def seconds(moments):
    return [(moment - EPOCH).total_seconds() for moment in moments]


@pytest.mark.parametrize(
    ("written", "style"),
    [
        ("%Y-%m-%d", "ymd"),
        ("%Y/%m/%d", "ymd"),
        ("%d.%m.%Y", "dmy"),
        ("%d/%m/%Y", "dmy"),
        ("%m/%d/%y", "mdy"),
        ("%b %d, %Y", "ymd"),
        ("%d %B %Y", "ymd"),
        ("%d%b%Y", "ymd"),
        ("%Y%m%d", "compact"),
        ("%a, %d %b %Y %H:%M:%S GMT", "ymd"),
        ("%d.%m.%Y %H:%M:%S", "dmy"),
        ("%m/%d/%Y %I:%M:%S %p", "mdy"),
        ("%Y-%m-%dT%H:%M:%S.%fZ", "ymd"),
        ("%Y-%m", "ymd"),
        ("%Y/%m", "dmy"),
        ("%m/%Y", "mdy"),
        ("%b %Y", "ymd"),
        ("%B %Y", "mdy"),
        ("%b%Y", "ymd"),
        ("%Y %b", "ymd"),
        ("%YM%m", "ymd"),
    ],
)
@settings(max_examples=25, deadline=None)
@given(moments=MOMENTS)
def test_what_strftime_writes_is_read_as_pythons_datetime_has_it(written, style, moments):
    meant = [dt.datetime.strptime(moment.strftime(written), written) for moment in moments]
    found = as_times(pa.array([moment.strftime(written) for moment in moments]), style)
    np.testing.assert_allclose(found, seconds(meant), rtol=0, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(moments=MOMENTS, unit=st.sampled_from(["s", "ms", "us"]), zone=st.sampled_from([None, "Europe/Berlin"]))
def test_arrows_own_types_are_read_as_pythons_datetime_has_it(moments, unit, zone):
    moments = [moment.replace(microsecond=0) for moment in moments]
    array = pa.array(seconds(moments)).cast(pa.int64()).cast(pa.timestamp("s")).cast(pa.timestamp(unit, zone))
    assert as_times(array).tolist() == seconds(moments)
    assert as_times(pa.array([m.date() for m in moments])).tolist() == [s - s % 86400 for s in seconds(moments)]


@pytest.mark.parametrize(
    ("cells", "style", "ambiguous"),
    [
        (["01/02/2003", "13/02/2003"], "dmy", False),
        (["01/02/2003", "02/13/2003"], "mdy", False),
        (["01/02/2003", "03/04/2003"], "mdy", True),
        (["01.02.2003", "03.04.2003"], "dmy", True),
        (["99-12-31", "01-02-03"], "ymd", False),
        (["10:30", "23:59"], "clock", False),
        (["10:30", "36:15:00"], "duration", False),
        (["1.2.3", "hello"], None, False),
        (["2020.03", "2021.11"], None, False),
        (["2020", "2021"], None, False),
        (["2003-04", "2009-10"], None, False),
        (["2003-04", "2009-12"], "ymd", False),
        (["2012-13", "2009-10"], None, False),
        (["1234-05", "8812-11"], None, False),
        (["1/2", "3/4"], None, False),
        (["2000-1", "2001-2"], None, False),
    ],
)
def test_cells_that_can_only_be_one_thing_tell_what_the_others_are(cells, style, ambiguous):
    counts = DateCounts()
    for cell in cells:
        counts.add(pa.array([cell, None, " "]))
    assert (counts.style, counts.ambiguous, counts.n) == (style, ambiguous, len(cells))


@settings(max_examples=50, deadline=None)
@given(moments=MOMENTS, quarter=st.sampled_from(["{}Q{}", "{} Q{}", "{}-q{}", "Q{1} {0}", "Q{1}/{0}"]))
def test_quarters_and_weeks_are_their_first_day(moments, quarter):
    days = [m.date() for m in moments]
    firsts = [dt.date(d.year, (d.month - 1) // 3 * 3 + 1, 1) for d in days]
    found = as_times(pa.array([quarter.format(d.year, (d.month + 2) // 3) for d in firsts]))
    assert found.tolist() == [(d - EPOCH.date()).days * 86400.0 for d in firsts]
    mondays = [d - dt.timedelta(d.weekday()) for d in days]
    found = as_times(pa.array([f"{year}-W{week:02d}" for year, week, _ in (d.isocalendar() for d in days)]))
    assert found.tolist() == [(d - EPOCH.date()).days * 86400.0 for d in mondays]


def test_no_month_quarter_or_week_is_nan():
    cells = ["2020-13", "2020-00", "2020Q5", "2021-W53", "2020-W00", "13/2020", "2020-1-", "1500-01", "2020-W53"]
    assert np.isfinite(as_times(pa.array(cells), "ymd")).tolist() == [False] * 8 + [True]


def test_no_date_is_nan():
    array = pa.array(["30.02.2020", "x", None, "", "1/2-2003", "2020-12-31T25:00", "24.12.2020"])
    assert np.isfinite(as_times(array, "dmy")).tolist() == [False] * 6 + [True]
    assert np.isnan(as_times(pa.array([True, None]))).all()
    assert as_times(pa.array([], pa.string())).tolist() == []


def test_zones_are_taken_off():
    found = as_times(pa.array(["2020-12-31T12:00:00+02:00", "2020-12-31T10:00:00Z", "2020-12-31 04:30:00-0530"]))
    assert found.tolist() == [dt.datetime(2020, 12, 31, 10, tzinfo=dt.UTC).timestamp()] * 3


def test_a_dictionary_of_texts_is_read_too():
    array = pa.array(["2020-01-02", None, "2020-01-02"]).dictionary_encode()
    assert as_times(array).tolist()[::2] == [18263 * 86400.0] * 2
