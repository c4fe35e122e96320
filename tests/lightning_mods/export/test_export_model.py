"""The preprocessing inside an exported model gives the numbers that the data module gives."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.columns.encoding import CategoryColumn, Encoding, InfinityCount, NumericColumn, raw_rows
from lightning_mods import MLPClassifier, MLPRegressor
from lightning_mods.export.comparison import made_rows, never_seen
from lightning_mods.export.model import TableModel

CATEGORIES = [
    CategoryColumn("plain", ("a", "b")),
    CategoryColumn("pooled", ("a", "b"), infrequent=True),
    CategoryColumn("gappy", ("1", "2", "never seen"), missing=True),
    CategoryColumn("both", ("x",), infrequent=True, missing=True),
]
NUMBERS = [
    NumericColumn("time", 1.6e9, 3e3),
    NumericColumn("gaps", -2.5, 1e-9, indicator=True),
    NumericColumn("always 5", 5.0, 1.0, indicator=True, constant=True),
]
BINNED = [
    NumericColumn("time", 1.6e9, 3e3, edges=(1.6e9 - 3e3, 1.6e9, 1.6e9 + 1, 1.6e9 + 5e3), bin_means=(0.7, 0.5, 0.2)),
    NumericColumn("gaps", -2.5, 1e-9, indicator=True, edges=(-2.5 - 1e-9, -2.5, -2.5 + 1e-9), bin_means=(0.6, 0.1)),
    NumericColumn("huge", 0.0, 1e307, edges=(-8e307, 0.0, 5e-324, 8e307), bin_means=(0.5, 0.5, 0.3)),
]


def both(columns, table):
    """What the model makes of encoded rows, and the table's model of raw ones."""
    encoding = Encoding(tuple(columns))
    torch.manual_seed(0)
    model = MLPRegressor(len(encoding.feature_names), 10.0, 3.0, hidden_sizes=[8]).eval()
    raw = raw_rows(encoding, table, 0, InfinityCount("t.csv"))
    encoded = torch.from_numpy(encoding.encode(table, 0, InfinityCount("t.csv")))
    with torch.no_grad():
        return model(encoded), TableModel(encoding, model).eval()(*map(torch.from_numpy, raw.arrays))


@pytest.mark.parametrize(
    "columns",
    [
        CATEGORIES,
        NUMBERS,
        [NUMBERS[2], CATEGORIES[3], NUMBERS[0], *CATEGORIES[:3], NUMBERS[1]],
        BINNED,
        [BINNED[1], CATEGORIES[3], NUMBERS[2], BINNED[0], CATEGORIES[0]],
    ],
)
def test_rows_with_gaps_and_unknown_names_come_out_as_from_the_data_module(columns):
    wanted, found = both(columns, made_rows(Encoding(tuple(columns))))
    assert len(set(wanted.tolist())) > 3
    assert torch.equal(found, wanted)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=False), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_any_finite_number_comes_out_as_from_the_data_module(cells):
    for column in [*NUMBERS[:2], *BINNED]:
        wanted, found = both([column], pa.table({column.name: cells}))
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_a_code_that_nobody_has_counts_as_unknown():
    encoding = Encoding(tuple(CATEGORIES))
    model = MLPClassifier(len(encoding.feature_names), 3, hidden_sizes=[8]).eval()
    unknown = torch.tensor([[column.unknown_code for column in CATEGORIES]])
    table = TableModel(encoding, model).eval()
    for wrong in (-1, 99):
        assert torch.equal(table(torch.full_like(unknown, wrong)), table(unknown))
    assert not torch.equal(table(torch.zeros_like(unknown)), table(unknown))


def test_seconds_are_told_apart_in_a_time_stamp():
    column = NumericColumn("time", 1.7e9, 10.0)
    wanted, found = both([column], pa.table({"time": np.arange(1.7e9, 1.7e9 + 20)}))
    assert len(set(found.tolist())) == 20
    assert torch.equal(found, wanted)


def test_a_name_never_seen_is_none_of_the_categories():
    assert never_seen(["never seen", "never seen!"]) == "never seen!!"
