"""Time grows with the columns of a table, not with their square."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from datamodules import DataError, TabularDataModule, readers
from datamodules.columns.encoding import Encoding, NumericColumn

COLUMNS = 3000
MANY = 150_000


@pytest.fixture(params=["csv", "parquet"])
def wide(tmp_path, request):
    rng = np.random.default_rng(0)
    names = [f"column_{i}" for i in range(COLUMNS)]
    rows = rng.normal(size=(20, COLUMNS)).round(3)
    file = tmp_path / f"wide.{request.param}"
    if request.param == "csv":
        lines = [",".join([*names, "y"]), *(",".join([*map(str, row), "ab"[i % 2]]) for i, row in enumerate(rows))]
        file.write_text("\n".join(lines) + "\n")
    else:
        pq.write_table(pa.table([*map(pa.array, rows.T), pa.array(["a", "b"] * 10)], names=[*names, "y"]), file)
    return str(file)


def test_a_short_table_of_many_columns_is_read_once(wide, monkeypatch):
    reads = []
    real = readers.table.Table.guarded

    def counted(self, *args):
        table = real(self, *args)
        return replace(table, batches=lambda columns: reads.append(len(columns)) or table.batches(columns))

    monkeypatch.setattr(readers.table.Table, "guarded", counted)
    dm = TabularDataModule(wide, "y")
    dm.setup("fit")
    assert dm.in_features == COLUMNS
    assert reads == [COLUMNS + 1]


@pytest.mark.timeout(60)  # seconds; a search of each among all takes minutes
def test_a_file_that_lacks_one_of_many_columns_is_told_so_at_once():
    encoding = Encoding(tuple(NumericColumn(f"c{i}", 0.0, 1.0) for i in range(MANY)))
    encoding.check_columns(tuple(f"c{i}" for i in range(MANY)), "t.csv")
    with pytest.raises(DataError, match="lacks the column 'c149999', used in training"):
        encoding.check_columns(tuple(f"c{i}" for i in range(MANY - 1)), "t.csv")


def test_what_a_column_is_by_default_is_not_kept(tmp_path):
    columns = NumericColumn("a", 1.5, 2.0), NumericColumn("b", 0.0, 1.0, indicator=True, junk=True)
    plain = Encoding(columns).to_plain()
    assert plain["columns"][0] == {"kind": "numeric", "name": "a", "mean": 1.5, "scale": 2.0}
    torch.save(plain, tmp_path / "state")
    assert Encoding.from_plain(torch.load(tmp_path / "state", weights_only=True)) == Encoding(columns)
