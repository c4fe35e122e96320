"""Mapped tables hold the same numbers as tables in memory, are made once, and never half."""

import errno
from pathlib import Path

import pytest
import torch

from datamodules import DataError, TabularDataModule, preparation
from datamodules.readers import table
from datamodules.rows import cache
from datamodules.rows.cache import all_or_nothing, cache_root


def sets(dm):
    dm.prepare_data()
    dm.setup("fit")
    return {s: dm._work.rows(s) for s in ("train", "val", "test")}


def files():
    return sorted(p for p in cache_root().rglob("*") if p.is_file())


@pytest.mark.parametrize("target", ["kind", "amount"])
@pytest.mark.parametrize("chunk_rows", [7, 64, 10_000])
def test_mapped_and_in_memory_are_identical(mixed, monkeypatch, target, chunk_rows):
    monkeypatch.setattr(table, "CHUNK_ROWS", chunk_rows)
    path = mixed()
    in_memory = TabularDataModule(path, target, memory_map=False)
    mapped = TabularDataModule(path, target, memory_map=True)
    for stage, rows in sets(in_memory).items():
        other = sets(mapped)[stage]
        assert torch.equal(rows.x, other.x)
        assert torch.equal(rows.y, other.y)
        assert rows.y.dtype == other.y.dtype
    assert in_memory.learned == mapped.learned


def test_the_map_is_made_once_and_reused(mixed, monkeypatch):
    path = mixed()
    first = sets(TabularDataModule(path, "kind", memory_map=True))
    made = {f: f.stat().st_mtime_ns for f in files()}
    assert len(made) == 11  # what was learned, x and y of three sets, and the sums of each
    monkeypatch.setattr(cache, "encode_rows", None)
    monkeypatch.setattr(preparation, "learn", None)
    again = TabularDataModule(path, "kind", memory_map=True)
    assert all(torch.equal(rows.x, first[s].x) for s, rows in sets(again).items())
    assert {f: f.stat().st_mtime_ns for f in files()} == made


def test_another_seed_option_or_file_makes_another_map(mixed):
    path = mixed()
    counts = []
    for kwargs in ({}, {"seed": 1}, {"drop": ["size"]}, {"val_fraction": 0.3}):
        sets(TabularDataModule(path, "kind", memory_map=True, **kwargs))
        counts.append(len(files()))
    mixed(seed=9)
    sets(TabularDataModule(path, "kind", memory_map=True))
    counts.append(len(files()))
    assert counts == [11, 22, 33, 44, 55]


def test_a_batch_may_be_changed_without_touching_the_file(mixed):
    path = mixed()
    rows = sets(TabularDataModule(path, "kind", memory_map=True))["train"]
    before = rows.x.clone()
    rows.x.zero_()
    assert torch.equal(sets(TabularDataModule(path, "kind", memory_map=True))["train"].x, before)


@pytest.mark.parametrize("memory_map", [True, "auto"])
def test_a_table_larger_than_half_the_free_memory_is_mapped_by_itself(mixed, monkeypatch, memory_map):
    monkeypatch.setattr(preparation, "available_memory", lambda: 1000)
    sets(TabularDataModule(mixed(), "kind", memory_map=memory_map))
    assert files()


@pytest.mark.parametrize("memory_map", [False, "auto"])
def test_a_small_table_stays_in_memory(mixed, memory_map):
    sets(TabularDataModule(mixed(), "kind", memory_map=memory_map))
    assert not cache_root().exists()


def test_files_to_validate_on_are_mapped_too_and_empty_sets_are_no_trouble(mixed):
    kwargs = {"val_path": mixed("v.csv", 50, 1), "test_fraction": 0}
    one = TabularDataModule(mixed(), "kind", memory_map=True, **kwargs)
    other = TabularDataModule(mixed(), "kind", memory_map=False, **kwargs)
    one.setup("fit")
    other.setup("fit")
    assert torch.equal(one._work.rows("val").x, other._work.rows("val").x)
    assert one.test_dataloader() == []


@pytest.mark.parametrize("when", ["at once", "half way"])
def test_a_full_disk_is_one_line_and_leaves_nothing_behind(mixed, monkeypatch, when):
    dm = TabularDataModule(mixed(), "kind", memory_map=True)
    _ = dm.in_features
    before = files()
    real = cache.ArrayFile.append
    calls = []

    def append(self, values):
        calls.append(1)
        if when == "at once" or len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, values)

    monkeypatch.setattr(cache.ArrayFile, "append", append)
    monkeypatch.setattr(table, "CHUNK_ROWS", 50)
    with pytest.raises(DataError, match=r"cannot be written.*No space left.*set XDG_CACHE_HOME") as caught:
        dm.prepare_data()
    assert "\n" not in str(caught.value)
    assert files() == before
    assert not list(cache_root().glob(".draft-*"))


def test_a_disk_known_to_be_too_small_is_not_even_tried(tmp_path):
    with pytest.raises(DataError, match="GB are needed"), all_or_nothing(tmp_path / "a" / "b", 10**18):
        pass


def test_an_error_inside_leaves_no_folder(tmp_path):
    def interrupted():
        with all_or_nothing(tmp_path / "b", 1) as draft:
            (draft / "x").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_who_comes_second_keeps_what_the_first_made(tmp_path):
    with all_or_nothing(tmp_path / "b", 1) as draft:
        (draft / "x").write_text("second")
        with all_or_nothing(tmp_path / "b", 1) as other:
            (other / "x").write_text("first")
    assert (tmp_path / "b" / "x").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_the_cache_is_where_xdg_says(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_root() == Path("/somewhere/lightning_mods")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "lightning_mods"
