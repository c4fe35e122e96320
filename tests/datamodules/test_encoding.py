"""Encoded rows: standardised, one-hot, the same from every file, and kept as plain values."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from datamodules.columns.cells import kind_of
from datamodules.columns.choosing import choose_encoding
from datamodules.columns.encoding import TAIL, CategoryColumn, Encoding, InfinityCount, NumericColumn
from datamodules.columns.summary import ColumnSummary
from datamodules.errors import DataError


def learned(**columns):
    table = pa.table(columns)
    found = []
    for name in columns:
        array = table.column(name).chunk(0)
        found.append(ColumnSummary(name, kind_of(array.type)))
        found[-1].add(array, np.arange(len(array)), 0)
    return choose_encoding(found, {}, label="t.csv", n_rows=table.num_rows)


def encode(encoding, **columns):
    return encoding.encode(pa.table(columns), 0, InfinityCount("t.csv"))


@given(st.lists(st.floats(-1e12, 1e12), min_size=3, max_size=80), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_encoded_training_rows_have_mean_0_and_deviation_1(values, shift, scale):
    numbers = np.array(values) * scale + shift
    # what cannot be told apart in float64 once shifted is no test of the arithmetic
    assume(np.ptp(numbers) > max(1e-3 * np.abs(numbers).max(), 1e-100))
    x = encode(learned(c=numbers), c=numbers).astype(np.float64)
    assert abs(x.mean()) < 1e-4
    assert x.std() == pytest.approx(1, abs=1e-3)


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=12, max_size=60))
def test_every_training_row_of_a_category_has_exactly_one_1(names):
    names = [*names, "a", "a", "b", "b"]
    encoding = learned(c=names)
    x = encode(encoding, c=names)
    assert (x.sum(axis=1) == 1).all()
    assert x.shape[1] == len(encoding.feature_names)


def test_a_missing_number_is_0_and_marked():
    encoding = learned(c=[1.0, None, 3.0, 5.0])
    np.testing.assert_allclose(encode(encoding, c=[3.0, None]), [[0, 0], [0, 1]])
    assert encoding.feature_names == ["c", "c is missing"]


def test_a_gap_that_training_never_saw_is_the_mean():
    assert encode(learned(c=[1.0, 3.0]), c=[None, 2.0]).tolist() == [[0.0], [0.0]]


def test_a_column_of_nothing_but_gaps_can_be_encoded():
    assert encode(learned(c=[1.0, None, 4.0]), c=pa.nulls(2)).tolist() == [[0.0, 1.0]] * 2


def test_a_name_never_seen_joins_the_infrequent_if_there_are_any():
    with_rare = learned(c=["a", "a", "b", "b", "odd"])
    assert encode(with_rare, c=["new", "odd", None, "a"]).tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 1], [1, 0, 0]]
    without = learned(c=["a", "a", "b", "b"])
    assert encode(without, c=["new", None, "b"]).tolist() == [[0, 0], [0, 0], [0, 1]]


def test_one_category_reads_the_same_from_text_numbers_and_floats():
    encoding = Encoding((CategoryColumn("c", ("1", "2")),))
    for cells in (["1", "2"], ["1.0", "2.0"], [1, 2], [1.0, 2.0], pa.array(["1", "2"]).dictionary_encode()):
        assert encode(encoding, c=cells).tolist() == [[1, 0], [0, 1]]


def test_a_number_column_reads_the_same_from_text():
    encoding = learned(c=[1.0, 2.0, 4.0])
    assert encode(encoding, c=["1", "2", "4"]).tolist() == encode(encoding, c=[1, 2, 4]).tolist()


def test_heavy_tails_stay_linear_and_monstrous_cells_do_not_grow_on():
    encoding = Encoding((NumericColumn("c", 0.0, 1.0),))
    x = encode(encoding, c=[1.0, TAIL, -TAIL, 1e9, -1e9, 1.7e308])[:, 0]
    np.testing.assert_allclose(x[:3], [1, TAIL, -TAIL], rtol=1e-6)
    np.testing.assert_allclose(x[3], TAIL + np.log1p(1e9 - TAIL), rtol=1e-6)
    assert x[4] == -x[3]
    assert np.isfinite(x).all()


def test_text_in_a_number_column_is_an_error_unless_training_had_some():
    with pytest.raises(DataError, match=r"'c' held numbers.*2 cells are text, such as 'oops'"):
        encode(learned(c=[1.0, 4.0]), c=["oops", "3", "oops"])
    tolerant = learned(c=["?"] + [str(i % 5) for i in range(20)])
    assert encode(tolerant, c=["oops"]).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("cells", [pa.array([0], pa.timestamp("s")), pa.array([[1]])])
def test_a_number_column_that_comes_as_dates_or_lists_is_an_error(cells):
    with pytest.raises(DataError, match="was numeric in training"):
        encode(learned(c=[1.0, 4.0]), c=cells)


def test_infinities_are_counted_over_all_chunks():
    encoding, infinities = learned(c=[1.0, 4.0]), InfinityCount("t.csv")
    encoding.encode(pa.table({"c": [1.0, float("inf")]}), 0, infinities)
    encoding.encode(pa.table({"c": [float("-inf"), 1.0]}), 2, infinities)
    with pytest.raises(DataError, match=r"'c' has 2 infinite values, the first in row 2 "):
        infinities.check()


def test_extra_columns_are_ignored_and_lacking_ones_named_with_the_nearest():
    encoding = learned(height=[1.0, 4.0], width=[1.0, 3.0])
    assert encode(encoding, more=["x"], width=[1.0], height=[2.0]).shape == (1, 2)
    with pytest.raises(DataError, match=r"lacks the column 'height', used in training; it has 'heigth'"):
        encoding.check_columns(("zebra", "heigth", "width"), "new.csv")


def test_an_encoding_survives_json_and_encodes_the_same():
    encoding = learned(c=[1.5, None, 3.25, 9.0], d=["é", "b", "é", None], e=[True, False, None, True])
    again = Encoding.from_plain(json.loads(json.dumps(encoding.to_plain())))
    assert again == encoding
    row = {"c": [0.1], "d": ["é"], "e": [None]}
    assert encode(again, **row).tobytes() == encode(encoding, **row).tobytes()
