"""Files that are large, or become large when they are read: said in time, within memory, and with a line meanwhile."""

import gzip
import io
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from datamodules import TabularDataModule, preparation
from datamodules.errors import DataError, nearest
from datamodules.readers import limits, open_table
from datamodules.readers import table as tables
from datamodules.rows import cache


def bomb(path, start, block, n):
    with gzip.open(path, "wb", 1) as stream:
        stream.write(start)
        for _ in range(n):
            stream.write(block)
    return str(path)


def read(path, **kwargs):
    opened = open_table(path, **kwargs)
    return sum(chunk.num_rows for chunk in opened.chunks(opened.names))


@pytest.fixture
def harmless(monkeypatch):
    # Bytes that may be unpacked in any case, far fewer here, so that a bomb need not be large.
    monkeypatch.setattr(limits, "_HARMLESS", 1 << 20)


@pytest.mark.parametrize("block", [b"1,2\n" * 250_000, b"\n" * 1_000_000])
def test_a_small_gz_that_unpacks_to_much_is_refused_unless_the_flag_says_otherwise(tmp_path, harmless, block):
    path = bomb(tmp_path / "t.csv.gz", b"x,y\n1,2\n", block, 12)
    with pytest.raises(DataError, match=r"t.csv.gz.* unpacks to more than 100 times .*--data.max_expansion=0"):
        read(path)
    assert read(path, max_expansion=0) >= 1


def test_a_small_npz_that_unpacks_to_much_is_refused_before_it_is(tmp_path, harmless):
    np.savez_compressed(tmp_path / "t.npz", x=np.zeros(1_000_000))
    path = str(tmp_path / "t.npz")
    with pytest.raises(DataError, match=r"t.npz.* unpacks to more than 100 times"):
        read(path)
    assert read(path, max_expansion=0) == 1_000_000


def test_the_flag_reaches_the_reader_and_a_checkpoint_keeps_it_only_where_it_was_said(tmp_path, harmless):
    path = bomb(tmp_path / "t.csv.gz", b"x,y\n", b"1,2\n3,4\n" * 100_000, 10)
    with pytest.raises(DataError, match="unpacks"):
        _ = TabularDataModule(path, "y").task
    dm = TabularDataModule(path, "y", max_expansion=0)
    assert dm.task == "classification"
    assert dm.like(batch_size=4).max_expansion == 0
    assert "max_expansion" not in TabularDataModule(path, "y").hparams


@pytest.mark.parametrize("most", [-1.0, float("nan")])
def test_a_limit_that_is_no_number_of_times_is_refused(most):
    with pytest.raises(DataError, match=r"--data\.max_expansion must be at least 0"):
        TabularDataModule("iris", max_expansion=most)


def test_a_table_that_will_not_fit_is_said_before_it_is_read(mixed, monkeypatch):
    monkeypatch.setattr(limits, "available_memory", lambda: 1000)
    path = mixed()
    with pytest.raises(DataError, match=r"GB of memory.*--data.memory_map=true"):
        _ = TabularDataModule(path, "kind", memory_map=False).task
    mapped = TabularDataModule(path, "kind", memory_map=True, predict_path=path)
    mapped.setup("fit")
    assert sum(len(x) for x in mapped.predict_dataloader()) == mapped.learned.n_rows  # read in parts


def test_features_that_will_not_fit_are_said_before_they_are_made(mixed, monkeypatch):
    dm = TabularDataModule(mixed(), "kind", memory_map=False)
    _ = dm.learned
    monkeypatch.setattr(limits, "available_memory", lambda: 1000)
    with pytest.raises(DataError, match=r"24 numbers a row; --data.memory_map=true"):
        dm.setup("fit")


def test_a_limit_on_the_address_space_counts_as_memory(monkeypatch):
    import resource

    limit = 2**46
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    free = limits.available_memory()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limits._kilobytes("/proc/self/status", "VmSize:")[0],) * 2)
    assert limits.available_memory() < free
    assert limits.available_memory() < 2**20


def test_an_archive_that_unpacks_to_more_than_memory_is_said_before_it_is_read(tmp_path, monkeypatch):
    np.savez(tmp_path / "t.npz", x=np.zeros(1000))
    monkeypatch.setattr(limits, "available_memory", lambda: 1000)
    with pytest.raises(DataError, match=r"t.npz.*GB of memory"):
        open_table(str(tmp_path / "t.npz"))


def test_ten_million_empty_lines_are_no_rows(write):
    assert read(write("t.csv", b"x,y\n" + b"\n" * 10_000_000 + b"1,2\n")) == 1
    with pytest.raises(DataError, match="no header line"):
        read(write("u.csv", b"\n" * 10_000_000))


@pytest.mark.parametrize("before", ["x,y\n1,", 'x,y\n1,"', 'x,"'])
def test_a_cell_of_a_hundred_megabytes_is_one_line(write, before):
    path = write("t.csv", before.encode() + b"a" * 100_000_000 + b"\n3,4\n")
    with pytest.raises(DataError, match=r"t\.csv") as caught:
        read(path)
    assert len(str(caught.value)) < 500


def test_a_long_reading_says_how_far_it_is(write, monkeypatch, capsys):
    path = write("t\x1b.csv", "x,y\n" + "1,2\n" * 1000)
    monkeypatch.setattr(tables, "_PROGRESS", 0.0)
    assert read(path) == 1000
    assert f"{path[:-5]}\\x1b.csv: 1,000 rows so far\n" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    read(path)
    assert not capsys.readouterr().err


def test_a_short_reading_says_nothing(write, capsys):
    read(write("t.csv", "x,y\n1,2\n"))
    assert not capsys.readouterr().err


def test_ctrl_c_while_a_map_is_written_leaves_no_part_of_it(mixed, monkeypatch):
    dm = TabularDataModule(mixed(), "kind", memory_map=True)
    _ = dm.learned

    def interrupted(*args):
        raise KeyboardInterrupt

    before = sorted(cache.cache_root().rglob("*"))
    monkeypatch.setattr(cache.ArrayFile, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dm.setup("fit")
    assert sorted(cache.cache_root().rglob("*")) == before
    assert preparation.open_table is open_table


def test_the_nearest_of_many_names_is_still_found():
    names = [f"c{i}" for i in range(50_000)]
    names[40_000] = "target"
    assert nearest("targte", names).startswith("'target'")
    assert nearest("targte", names).endswith("49988 more")


def test_a_zip_of_many_small_members_counts_them_all(tmp_path, harmless):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(20):
            archive.writestr(f"a{i}.npy", bytes(100_000))
    (tmp_path / "t.npz").write_bytes(whole.getvalue())
    with pytest.raises(DataError, match="unpacks to more than"):
        open_table(str(tmp_path / "t.npz"))


@pytest.mark.parametrize(("most", "message"), [(100, "unpacks to more than"), (0, "claims 10,000,000,000 rows")])
def test_rows_that_take_no_bytes_of_a_file_are_counted_before_they_take_memory(tmp_path, most, message):
    n = 10_000_000_000
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([n], pa.int64()), pa.array([1.5]))
    batch = pa.record_batch({"x": runs, "y": runs})
    options = pa.ipc.IpcWriteOptions(allow_64bit=True)
    with pa.ipc.new_file(str(tmp_path / "t.feather"), batch.schema, options=options) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / "t.feather"), max_expansion=most)


def test_a_parquet_file_of_one_value_is_read_up_to_a_size_that_the_flag_lifts(tmp_path, harmless):
    path = str(tmp_path / "t.parquet")
    table = pa.table({"x": np.zeros(5_000_000, np.int8), "y": np.zeros(5_000_000, bool)})
    pa.parquet.write_table(table, path, row_group_size=5_000_000)
    with pytest.raises(DataError, match="unpacks to more than"):
        read(path, max_expansion=50)
    assert read(path, max_expansion=0) == 5_000_000
