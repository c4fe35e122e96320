"""Piecewise-linear bins beside the standardised number: learned on training rows, exact, and the same everywhere."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules import TabularDataModule, learned
from datamodules.columns.cells import kind_of
from datamodules.columns.choosing import bin_means, choose_encoding, quantile_edges
from datamodules.columns.encoding import InfinityCount, NumericColumn
from datamodules.columns.summary import ColumnSummary
from datamodules.learned import Learned
from datamodules.readers import table
from datamodules.rows import cache
from datamodules.rows.cache import cache_root
from lightning_mods import MLPClassifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


def chosen(bins, **columns):
    rows = pa.table(columns)
    found = []
    for name in columns:
        array = rows.column(name).chunk(0)
        found.append(ColumnSummary(name, kind_of(array.type), sampled=np.arange(len(array))))
        found[-1].add(array, np.arange(len(array)), 0)
    return choose_encoding(found, {}, label="t.csv", n_rows=rows.num_rows, bins=bins)


def encode(encoding, **columns):
    return encoding.encode(pa.table(columns), 0, InfinityCount("t.csv"))


def by_hand(edges, cells, training):
    """Clip((x - e_t) / (e_{t+1} - e_t), 0, 1) minus its training mean, in plain Python; 0 for None."""

    def raw(x):
        return [min(max((x - low) / (high - low), 0.0), 1.0) for low, high in pairwise(edges)]

    present = [raw(x) for x in training if x is not None]
    means = [sum(each) / len(present) for each in zip(*present, strict=True)]
    return [[0.0] * len(means) if x is None else [r - m for r, m in zip(raw(x), means, strict=True)] for x in cells]


def test_bins_are_those_of_the_formula():
    training = [0.0, 1.0, 2.0, None, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
    encoding = chosen(4, c=training)
    assert encoding.columns[0].edges == (0.0, 2.0, 8.0, 32.0, 128.0)  # at ranks 0, 2, 4, 6 and 8
    cells = [-5.0, 0.0, 1.0, 2.0, 5.0, 100.0, 128.0, 1e9, None]
    x = encode(encoding, c=cells)
    np.testing.assert_allclose(x[:, 2:], by_hand(encoding.columns[0].edges, cells, training), atol=1e-6)
    assert encoding.feature_names == ["c", "c is missing", "c bin 1", "c bin 2", "c bin 3", "c bin 4"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=60), st.integers(2, 16), st.floats(-2e6, 2e6))
@settings(deadline=None)
def test_bins_of_any_numbers_rise_with_the_number_and_have_mean_0(values, bins, cell):
    assume(len(set(values)) > 2)
    encoding = chosen(bins, c=np.array(values))
    assume(isinstance(encoding.columns[0], NumericColumn) and encoding.columns[0].edges)
    edges = encoding.columns[0].edges
    x = encode(encoding, c=np.array([*values, cell]))
    np.testing.assert_allclose(x[:, 1:], by_hand(edges, [*values, cell], values), atol=2e-5)
    assert (np.abs(x[:-1, 1:].astype(np.float64).mean(axis=0)) < 1e-5).all()
    order = np.argsort([*values, cell], kind="stable")
    assert (np.diff(x[order, 1:], axis=0) >= 0).all()


def test_equal_edges_are_merged():
    many_zeros = [0.0] * 60 + [float(i) for i in range(1, 41)]
    assert chosen(10, c=many_zeros).columns[0].edges == (0.0, 10.0, 20.0, 30.0, 40.0)


@pytest.mark.parametrize(
    "cells", [[0.0, 1.0] * 20, [3.0] * 20 + [None], [0.0] * 99 + [1.0, 2.0], [-1.7e308, 0, 1.7e308]]
)
def test_a_column_that_says_no_more_in_bins_has_none(cells):
    plain = chosen(0, c=cells, d=[i / 2 for i in range(5, 5 + len(cells))][::-1])
    binned = chosen(8, c=cells, d=[i / 2 for i in range(5, 5 + len(cells))][::-1])
    assert binned.columns[0] == plain.columns[0]
    assert binned.columns[1].edges


@pytest.mark.parametrize(("columns", "bins"), [(2, 16), (128, 16), (129, 15), (1000, 2), (1025, 0)])
def test_wide_tables_have_fewer_bins_and_the_widest_none(columns, bins):
    drawn = np.random.default_rng(0).normal(size=(columns, 50))
    encoding = chosen(16, **{f"c{i}": row for i, row in enumerate(drawn)}, flag=[0.0, 1.0] * 25)
    assert {len(c.bin_means) for c in encoding.columns[:-1]} == {bins}
    assert encoding.columns[-1].bin_means == ()


def test_training_rows_alone_decide(mixed, write):
    path = mixed()
    plain = TabularDataModule(path, "kind", bins=8, drop=["amount"])
    lines = Path(path).read_text().splitlines()
    held = {*plain._work.splits.val.tolist(), *plain._work.splits.test.tolist()}
    cells = [line.split(",") for line in lines]
    changed = [",".join([c[0], "1e5", *c[2:]]) if i - 1 in held else ",".join(c) for i, c in enumerate(cells)]
    other = TabularDataModule(write("changed.csv", "\n".join(changed) + "\n"), "kind", bins=8, drop=["amount"])
    assert other.learned.encoding == plain.learned.encoding
    sizes = np.sort([float(cells[i + 1][1]) for i in plain._work.splits.train])
    edges = quantile_edges(sizes, 8)
    assert plain.learned.encoding.columns[0].edges == edges
    assert plain.learned.encoding.columns[0].bin_means == bin_means(sizes, edges)


@pytest.mark.parametrize("rows", [50, 100_000])
def test_mapped_and_in_memory_are_identical_and_the_map_grows_by_one_number_a_column(mixed, monkeypatch, rows):
    monkeypatch.setattr(table, "CHUNK_ROWS", 64)
    monkeypatch.setattr(learned, "SAMPLED_ROWS", rows)
    path = mixed()
    made = {}
    for memory_map in (False, True):
        dm = made[memory_map] = TabularDataModule(path, "kind", bins=8, memory_map=memory_map, predict_path=path)
        dm.prepare_data()
        dm.setup("fit")
    assert made[True].learned == made[False].learned
    for stage in ("train", "val", "test"):
        mine, other = (made[m]._work.rows(stage) for m in (True, False))
        assert mine.x.shape[1] == len(TabularDataModule(path, "kind").feature_names) + 4
        assert torch.equal(mine[:][0], other.x)
        assert torch.equal(mine[3][0], other.x[3])
        assert torch.equal(mine.__getitems__([5, 2])[0], other.x[[5, 2]])
    for mine, other in zip(made[True].train_dataloader(), made[False].train_dataloader(), strict=True):
        assert torch.equal(mine[0], other[0])
    gathered = [[*dm.train_dataloader().gather_each(_first_batches(dm), torch.device("cpu"))] for dm in made.values()]
    for (mine, _), (other, _) in zip(*gathered, strict=True):
        assert torch.equal(mine, other)
    assert len(list(cache_root().rglob("x.npy"))) == 3


def _first_batches(dm):
    loader = dm.train_dataloader()
    next(iter(loader))
    return loader.coming(4)


def test_a_large_table_in_memory_keeps_one_number_for_the_bins_of_a_column(mixed, monkeypatch):
    path, made = mixed(), {}
    for most in (cache.EXPANDED, 0):
        monkeypatch.setattr(cache, "EXPANDED", most)
        dm = made[most] = TabularDataModule(path, "kind", bins=8)
        dm.setup("fit")
    small, large = made.values()
    for stage in ("train", "val", "test"):
        mine, other = large._work.rows(stage), small._work.rows(stage)
        assert mine.x.shape[1] == len(TabularDataModule(path, "kind").feature_names) + 4 < other.x.shape[1]
        assert torch.equal(mine[:][0], other.x)
    for one, two in zip(large.train_dataloader(), small.train_dataloader(), strict=True):
        assert all(map(torch.equal, one, two))


def test_edges_are_plain_numbers_and_come_back_exactly(mixed):
    dm = TabularDataModule(mixed(), "kind", bins=8)
    plain = dm.learned.to_plain()
    assert type(plain["encoding"]["columns"][0]["edges"]) is list
    assert Learned.from_plain(json.loads(json.dumps(plain))) == dm.learned


def test_a_state_without_bins_is_as_it_was_before_there_were_any(mixed):
    plain = TabularDataModule(mixed(), "kind").learned.to_plain()
    before = {"kind", "name", "mean", "scale", "indicator", "junk", "constant", "low", "high"}
    assert set().union(*(c for c in plain["encoding"]["columns"] if c["kind"] == "numeric")) <= before
    loaded = TabularDataModule(mixed(), "kind", bins=8)
    loaded.load_state_dict(plain)
    assert loaded.learned.encoding.expansion is None
    assert loaded.in_features == TabularDataModule(mixed(), "kind").in_features


def test_the_description_tells_how_many_features_are_bins(mixed):
    told = TabularDataModule(mixed(), "kind", bins=8).description.replace("\n    ", " ")
    assert "32 are bins of 4 number columns, at most 8 of one" in told
    assert "bins" not in TabularDataModule(mixed(), "kind").description


def trainer(**kwargs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**{**quiet, "max_epochs": 2, "enable_checkpointing": "callbacks" in kwargs, **kwargs})


@pytest.mark.parametrize("memory_map", [False, True])
def test_a_fit_with_bins_resumes_bit_for_bit_and_predicts_a_file(tmp_path, mixed, memory_map):
    path = mixed()

    def data(**kwargs):
        return TabularDataModule(path, "kind", bins=8, batch_size=32, memory_map=memory_map, **kwargs)

    def model():
        torch.manual_seed(0)
        dm = data()
        return MLPClassifier(dm.in_features, 2, hidden_sizes=[8], class_counts=dm.class_counts)

    straight, resumed = model(), model()
    keep = ModelCheckpoint(tmp_path / "kept", filename="{step}", every_n_train_steps=4, save_top_k=-1)
    trainer(callbacks=[keep]).fit(straight, datamodule=data())
    checkpoint = tmp_path / "kept" / "step=4.ckpt"
    torch.load(checkpoint, weights_only=True)
    trainer().fit(resumed, datamodule=data(), ckpt_path=checkpoint)
    for mine, other in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(mine, other)
    loaded = TabularDataModule.load_from_checkpoint(checkpoint, predict_path=path)
    features = torch.cat([*loaded.predict_dataloader()])
    assert features.shape == (400, data().in_features)
    found = torch.cat([resumed(batch) for batch in loaded.predict_dataloader()])
    assert torch.equal(found, resumed(features))
