"""Raw rows are what an exported model takes: numbers as they stand, a code for each category."""

import numpy as np
import pyarrow as pa
import pytest

from datamodules import DataError
from datamodules.columns.encoding import CategoryColumn, Encoding, InfinityCount, NumericColumn, raw_rows

ENCODING = Encoding((CategoryColumn("colour", ("blue", "red")), NumericColumn("size", 0.0, 1.0)))


def rows_of(**columns):
    return raw_rows(ENCODING, pa.table(columns), 0, InfinityCount("t.csv"))


def test_a_category_becomes_its_place_and_unknown_and_missing_the_codes_behind():
    rows = rows_of(colour=["red", "blue", "green", None, " "], size=["1"] * 5)
    assert rows.codes[:, 0].tolist() == [1, 0, 2, 3, 3]
    column = ENCODING.columns[0]
    assert (column.unknown_code, column.missing_code) == (2, 3)


def test_numbers_keep_all_their_digits_and_gaps_are_nan():
    rows = rows_of(colour=["red"] * 3, size=["1700000000.25", None, "-2e-9"])
    np.testing.assert_array_equal(rows.numbers[:, 0], [1700000000.25, np.nan, -2e-9])


def test_text_among_numbers_is_refused_by_name():
    with pytest.raises(DataError, match=r"'t\.csv': column 'size' held numbers"):
        rows_of(colour=["red"], size=["tall"])


def test_a_table_of_categories_alone_makes_one_array():
    encoding = Encoding((CategoryColumn("colour", ("blue", "red")),))
    rows = raw_rows(encoding, pa.table({"colour": ["red", "blue"]}), 0, InfinityCount("t.csv"))
    assert [array.tolist() for array in rows.arrays] == [[[1], [0]]]
    assert len(rows) == 2
    assert rows[1:].codes.tolist() == [[0]]
