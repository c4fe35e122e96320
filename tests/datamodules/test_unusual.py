"""Rows to predict: read while they are handed out, and counted where they hold what training rows did not."""

import sqlite3
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest

from datamodules import TabularDataModule
from datamodules.columns.encoding import CategoryColumn, Encoding, NumericColumn
from datamodules.columns.unusual import UnusualCells
from datamodules.readers import open_table
from datamodules.readers.table import Table
from datamodules.rows.stream import RowStream


def said(columns, n_train=1000, **cells):
    encoding = Encoding(tuple(columns))
    unusual = UnusualCells("t.csv", n_train=n_train)
    table = pa.table(cells)
    encoding.encode(table, 0, unusual)
    unusual.rows = table.num_rows
    return unusual.lines()


def number(scale=2.0, low=0.0, high=10.0):
    return NumericColumn("size", 5.0, scale, low=low, high=high)


def test_a_number_is_far_outside_when_it_is_beyond_the_range_by_more_than_the_range():
    assert not said([number()], size=[-10.0, 20.0, None, 5.0])
    (line,) = said([number()], size=[-10.1, 5.0, 20.1, None])
    assert line == "size: 2 of 4 cells lie far outside those of training (0 to 10): -10.1"


def test_a_checkpoint_that_kept_no_range_says_nothing():
    assert not said([NumericColumn("size", 5.0, 2.0)], size=[1e9])


@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_a_heavy_tail_is_healthy(n):
    # of a Cauchy distribution a third of all new tables has a number far beyond the largest of the old one
    told = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        old, new = draw.standard_cauchy(n), draw.standard_cauchy(n)
        scale = max(old.std(), (old.max() - old.min()) / 10)
        column = NumericColumn("size", old.mean(), scale, low=old.min(), high=old.max())
        told += bool(said([column], n, size=new))
    assert told <= 1


def test_many_cells_beyond_a_heavy_tail_are_told():
    assert said([number(scale=1.0)], size=[-999.0] * 12 + [5.0] * 1000)
    assert not said([number(scale=1.0)], size=[-999.0] * 2 + [5.0] * 1000)


def test_names_are_counted_as_never_seen_only_where_all_were_kept():
    color = CategoryColumn("color", ("red",), missing=True)
    assert said([color], color=["red", "teal", None, "teal"]) == [
        "color: 2 of 4 cells hold names that training never saw, such as 'teal'"
    ]
    town = CategoryColumn("town", ("a",), infrequent=True, rare=0.1)
    assert not said([town], town=["a"] * 90 + ["b"] * 10)
    (line,) = said([town], town=["a"] * 60 + ["b"] * 40)
    assert line.startswith("town: 40 of 100 cells hold names that training saw rarely or never, such as 'b'; of rows")
    assert not said([CategoryColumn("town", ("a",), infrequent=True)], town=["b"] * 100)  # of an older checkpoint


def test_the_share_of_rare_names_is_that_of_further_rows():
    draw = np.random.default_rng(0)
    names, shares = [f"n{i}" for i in range(500)], 1 / np.arange(1, 501)

    def drawn(rows):
        return draw.choice(names, rows, p=shares / shares.sum())

    data = TabularDataModule(data={"town": drawn(2000), "y": draw.normal(size=2000)}, target="y", test_fraction=0.0)
    (column,) = data.learned.encoding.columns
    assert column.infrequent
    further = np.mean([name not in column.categories for name in drawn(20_000)])
    assert column.rare == pytest.approx(further, rel=0.15)
    assert not said([column], town=drawn(5000))


def test_at_most_five_columns_have_a_line():
    columns = [CategoryColumn(f"c{i}", ("a",)) for i in range(9)]
    lines = said(columns, **{f"c{i}": ["b"] * (i + 1) + ["a"] * (9 - i) for i in range(9)})
    assert [line.partition(":")[0] for line in lines] == ["c8", "c7", "c6", "c5", "c4"]
    assert lines[-1].endswith("; 4 more columns have unusual cells")


def test_a_stream_reads_no_further_than_it_has_to_and_starts_anew():
    read = []

    def batches(columns):
        for start in range(0, 1_000_000, 65_536):
            read.append(start)
            yield pa.record_batch({"size": np.arange(start, min(start + 65_536, 1_000_000), dtype=float)})

    stream = RowStream(
        Table("t", ("size",), batches), Encoding((number(),)), batch_size=4096, n_train=1000, keep=("size",)
    )
    rows = iter(stream)
    for _ in range(17):
        next(rows)
    assert len(read) == 2
    assert [len(cells) for cells in stream.kept] == [4096] * 17
    assert sum(map(len, stream)) == 1_000_000
    assert stream.unusual.rows == 1_000_000
    assert pa.concat_tables(stream.kept).column("size").to_pylist() == [*range(1_000_000)]


@pytest.mark.parametrize("name", ["t", "v"])
def test_the_columns_of_a_database_come_in_one_order_whatever_indices_it_has(name, tmp_path):
    numbers = [(i, i * 7 % 100) for i in range(100)]
    with closing(sqlite3.connect(tmp_path / "t.db")) as database, database:
        database.execute("CREATE TABLE t (a, b, c)")
        database.executemany(f"INSERT INTO t VALUES (?, ?, '{'long' * 50}')", numbers)
        database.execute("CREATE INDEX i ON t (b)")
        database.execute("CREATE VIEW v AS SELECT * FROM t")
    table = open_table(f"sqlite:///{tmp_path}/t.db?table={name}")
    alone = [[row for chunk in table.chunks([c]) for row in chunk.column(c).to_pylist()] for c in "ab"]
    assert [*zip(*alone, strict=True)] == numbers
