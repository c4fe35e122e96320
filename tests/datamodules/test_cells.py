"""Cells read as numbers and as names, whatever type the file gives them."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from datamodules.columns.cells import as_labels, as_numbers, kind_of, label_of


def names_of(array):
    read = as_labels(array)
    return [read.names[c] if c >= 0 else None for c in read.codes]


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([1, 2]), "number"),
        (pa.array([1.5]), "number"),
        (pa.array([Decimal("1.5")]), "number"),
        (pa.array([True]), "bool"),
        (pa.array(["a"]), "text"),
        (pa.array(["a"], pa.large_string()), "text"),
        (pa.array([None], pa.null()), "text"),
        (pa.array(["a"]).dictionary_encode(), "category"),
        (pa.array([1, 1]).dictionary_encode(), "category"),
        (pa.array([0], pa.timestamp("us")), "time"),
        (pa.array([0], pa.date32()), "time"),
        (pa.array([[1]]), "other"),
        (pa.array([b"x"]), "other"),
    ],
)
def test_the_kind_follows_the_type(array, kind):
    assert kind_of(array.type) == kind


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1.0, "1"),
        ("1.0", "1"),
        ("01", "01"),
        (1.5, "1.5"),
        (-0.0, "0"),
        (2**60 + 1, str(2**60 + 1)),
        (True, "True"),
        (" a b ", "a b"),
        ("", None),
        ("  ", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_one_category_has_one_name_in_every_file(value, name):
    assert label_of(value) == name


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1.0, None, 3.0]),
        pa.array([1, None, 3]),
        pa.array([1, None, 3], pa.uint8()),
        pa.array([Decimal(1), None, Decimal(3)]),
        pa.array(["1", None, "3"]),
        pa.array(["1", "", "3e0"]),
        pa.array([" 1", None, "3 "]),
        pa.array(["1", None, "3"]).dictionary_encode(),
        pa.array([1.0, float("nan"), 3.0], pa.float32()),
        pa.array(["1", "nan", "3"]),
    ],
)
def test_numbers_come_out_the_same_from_every_type(array):
    read = as_numbers(array)
    np.testing.assert_array_equal(read.values, [1.0, np.nan, 3.0])
    assert (read.n_junk, read.example) == (0, None)


def test_booleans_read_as_numbers_are_0_and_1():
    np.testing.assert_array_equal(as_numbers(pa.array([True, None, False])).values, [1, np.nan, 0])


def test_junk_among_numbers_is_counted_and_shown():
    read = as_numbers(pa.array(["1", "?", "?", None, "2.5", "1_000"]))
    np.testing.assert_array_equal(read.values, [1, np.nan, np.nan, np.nan, 2.5, np.nan])
    assert (read.n_junk, read.example) == (3, "?")


def test_a_blank_cell_among_numbers_is_junk_that_can_be_shown():
    read = as_numbers(pa.array(["1", " ", "2"]))
    assert (read.n_junk, read.example) == (1, " ")


def test_infinities_stay_infinite():
    assert np.isposinf(as_numbers(pa.array(["inf", "1"])).values[0])


@pytest.mark.parametrize(
    ("array", "names"),
    [
        (pa.array(["a", None, " a", "b", ""]), ["a", None, "a", "b", None]),
        (pa.array([1.0, 2.0, None]), ["1", "2", None]),
        (pa.array([1, 2, None]), ["1", "2", None]),
        (pa.array([Decimal("1.5"), None]), ["1.5", None]),
        (pa.array([True, False, None]), ["True", "False", None]),
        (pa.array(["x", "y", None]).dictionary_encode(), ["x", "y", None]),
        (pa.array([None, None], pa.null()), [None, None]),
    ],
)
def test_names_come_out_of_every_type(array, names):
    assert names_of(array) == names


def test_a_slice_of_a_longer_array_reads_its_own_rows():
    assert names_of(pa.array(["a", "b", "c"]).slice(1, 1)) == ["b"]
    assert as_numbers(pa.array([1.0, 2.0, 3.0]).slice(2)).values.tolist() == [3.0]
