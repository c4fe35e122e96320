"""A memory map that is damaged is made anew; drafts of killed fits go; a table that changes under way is told of."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
import torch

from datamodules import DataError, TabularDataModule
from datamodules.readers import open_table
from datamodules.rows.cache import all_or_nothing, cache_root, folder_for


def sets(path, **kwargs):
    dm = TabularDataModule(path, "kind", memory_map=True, **kwargs)
    dm.prepare_data()
    dm.setup("fit")
    return {s: dm._work.rows(s) for s in ("train", "val", "test")}


def files(name):
    return sorted(cache_root().glob(f"*/{name}"))


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def zeroed(file):
    file.write_bytes(bytes(file.stat().st_size))


def zeroed_at_the_end(file):
    content = file.read_bytes()
    file.write_bytes(content[:-64] + bytes(64))


@pytest.mark.parametrize("name", ["x.npy", "y.npy", "learned.json", "sums.json"])
@pytest.mark.parametrize("damage", [cut, zeroed, zeroed_at_the_end, Path.unlink])
def test_a_damaged_map_is_made_anew(mixed, name, damage):
    path = mixed()
    whole = {stage: (rows.x.clone(), rows.y.clone()) for stage, rows in sets(path).items()}
    for file in files(name):
        damage(file)
    for stage, rows in sets(path).items():
        assert torch.equal(rows.x, whole[stage][0])
        assert torch.equal(rows.y, whole[stage][1])
    made = {f: f.stat().st_mtime_ns for f in cache_root().rglob("*.npy")}
    sets(path)
    assert {f: f.stat().st_mtime_ns for f in cache_root().rglob("*.npy")} == made
    assert not list(cache_root().glob(".draft-*"))


KILLED = """
import os, pathlib, sys
from datamodules.rows.cache import all_or_nothing
with all_or_nothing(pathlib.Path(sys.argv[1]), 1) as draft:
    (draft / "x.npy").write_text("half")
    print(draft, flush=True)
    sys.stdin.read()
    os._exit(9)
"""


def test_the_draft_of_a_killed_fit_goes_and_that_of_a_running_one_stays(tmp_path):
    def started(name):
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    with started("one") as killed, started("two") as running:
        left, used = (Path(each.stdout.readline().decode().strip()) for each in (killed, running))
        killed.communicate()
        for draft in (left, used):
            os.utime(draft, (time.time() - 3600,) * 2)
        with all_or_nothing(tmp_path / "three", 1):
            pass
        assert not left.exists()
        assert (used / "x.npy").read_text() == "half"
        running.communicate()


def test_fits_that_fill_one_map_at_once_read_the_same_rows(mixed):
    path = mixed(rows=3000)
    begin = threading.Barrier(3)

    def fit(_):
        dm = TabularDataModule(path, "kind", memory_map=True)
        _ = dm.learned
        begin.wait()
        dm.setup("fit")
        return torch.cat([dm._work.rows(stage).x for stage in ("train", "val", "test")])

    with ThreadPoolExecutor(3) as pool:
        filled = list(pool.map(fit, range(3)))
    alone = torch.cat([rows.x for rows in sets(path).values()])
    assert all(torch.equal(rows, alone) for rows in filled)
    assert len(files("x.npy")) == 3
    assert not list(cache_root().glob(".draft-*"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_that_changes_before_it_is_encoded_is_one_line_and_fills_no_map(mixed, suffix):
    path = mixed()
    if suffix == "parquet":
        pq.write_table(pc.read_csv(path), path := path.replace(".csv", ".parquet"))
    dm = TabularDataModule(path, "kind", memory_map=True)
    _ = dm.learned
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="has changed since it was opened; start again"):
        dm.setup("fit")
    assert list(cache_root().rglob("*.npy")) == []
    assert set(sets(path)) == {"train", "val", "test"}


def test_a_table_that_grows_while_it_is_read_is_one_line(mixed):
    path = mixed()
    batches = open_table(path).batches(["kind"])
    next(batches)
    with Path(path).open("a") as file:
        file.write("401,1,2,3,red,True,2024-01-01,n,7,1.0,big\n")
    with pytest.raises(DataError, match="has changed since it was opened; start again"):
        list(batches)


def test_a_map_is_named_after_the_table_that_was_read_not_the_one_that_is_there_now(mixed):
    first = TabularDataModule(mixed(), "kind", memory_map=True)._work.table
    before = folder_for("train", first, {})
    mixed(seed=9)
    assert folder_for("train", first, {}) == before
