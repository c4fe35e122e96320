"""Files that are damaged, or lie about what they hold: each is read rightly, or one line names it."""

import io
import os
import socket
import struct
import subprocess
import sys
import zipfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from datamodules import TabularDataModule
from datamodules.errors import DataError
from datamodules.readers import open_table

# Mutates a file again and again and reads all of it, as a child: what comes may be a segmentation fault.
_MUTATIONS = """
import random, sys
from pathlib import Path
from datamodules.columns.cells import as_labels, as_numbers, kind_of
from datamodules.errors import DataError
from datamodules.readers import open_table

source, path, n = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
whole, rng, refused = source.read_bytes(), random.Random(0), 0
for _ in range(n):
    data = bytearray(whole)
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(data))
        data[at : at + 4] = rng.choice([bytes([data[at] ^ 1 << rng.randrange(8)]), b"\\xff" * 4, bytes(4), b""])
    path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data)
    try:
        for chunk in (table := open_table(str(path))).chunks(table.names):
            for column in chunk.combine_chunks().itercolumns():
                array = column.chunk(0)
                if kind_of(array.type) not in ("time", "other"):
                    as_labels(array)
                    as_numbers(array)
    except DataError as error:
        refused += 1
        if path.name not in str(error) or not str(error).isprintable():
            raise
print(refused)
"""


def saved(path, kind):
    table = pa.table(
        {
            "x": np.arange(40) / 4,
            "s": ["red", None, "green", "blue"] * 10,
            "d": pa.array(["u", "v"] * 20).dictionary_encode(),
            "l": [[i] * (i % 3) for i in range(40)],
        }
    )
    if kind == "feather":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    elif kind == "parquet":
        pa.parquet.write_table(table, path, compression="none", store_schema=False)
    elif kind == "npz":
        np.savez_compressed(path, x=np.arange(40.0), s=np.array(["a", "b"] * 20), X=np.eye(40))
    else:
        path.write_text("x,s\n" + "".join(f'{i},"a{i % 3}"\n' for i in range(40)))
    return path


@pytest.mark.parametrize("kind", ["feather", "parquet", "npz", "csv"])
def test_a_file_with_any_bytes_changed_is_read_or_named_in_one_line(tmp_path, kind):
    source = saved(tmp_path / f"whole.{kind}", kind)
    command = [sys.executable, "-c", _MUTATIONS, str(source), str(tmp_path / f"t.{kind}"), "100"]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    assert int(child.stdout) > 10


def error_of(path, **kwargs):
    def read():
        table = open_table(path, **kwargs)
        return list(table.chunks(table.names))

    with pytest.raises(DataError) as caught:
        read()
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_text_that_is_no_utf8_in_a_parquet_file_is_named_when_it_is_read(write):
    table = pa.table({"s": pa.array([b"\xff\xfe"] * 3).view(pa.string())})
    sink = io.BytesIO()
    pa.parquet.write_table(table, sink)
    assert "t.parquet" in error_of(write("t.parquet", sink.getvalue()))


# ------------------------------------------------------------------ NPZ


def archive_of(shape, descr="<f8", data=bytes(80)):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive, archive.open("a.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
        stream.write(data)
    return whole.getvalue()


@pytest.mark.parametrize(
    ("shape", "descr", "message"),
    [
        ((10**12,), "<f8", "claims 8,000,000,000,000 bytes, 80 are there"),
        ((2**40, 2**40), "<f8", "80 are there"),
        ((-10,), "<f8", "80 are there"),
        ((10**12, 0), "<f8", "has shape"),
        ((10**12,), "<U0", "has shape"),
        ((10,), "|O", "pickled Python objects"),
        ((5,), [("a", "<f8"), ("b", "<f8")], "needed are one or two dimensions of numbers"),
        ((), "<f8", "needed are one or two dimensions of numbers"),
    ],
)
def test_an_array_that_claims_more_than_is_there_is_named_before_it_is_read(write, shape, descr, message):
    error = error_of(write("t.npz", archive_of(shape, descr)))
    assert "array 'a'" in error
    assert message in error


@pytest.mark.parametrize("flag", ["encrypted", "unknown method"])
def test_an_archive_that_cannot_be_unpacked_is_named(write, flag):
    at, bits = {"encrypted": (6, b"\x01\x00"), "unknown method": (8, b"\x63\x00")}[flag]
    data = bytearray(archive_of((10,)))
    for entry in (data.index(b"PK\x03\x04") + at, data.index(b"PK\x01\x02") + at + 2):
        data[entry : entry + 2] = bits
    assert "t.npz" in error_of(write("t.npz", bytes(data)))


def test_times_of_every_unit_in_any_byte_order_and_swapped_numbers_are_used(tmp_path):
    i = np.arange(60)
    units = [*"YMWDhms", "ms", "us", "ns", "ps", "fs", "as", "3D"]
    times = {f"{kind}{unit}": i.astype(f">{kind}8[{unit}]") for kind in "Mm" for unit in units}
    np.savez(tmp_path / "t.npz", x=(i % 7).astype(">f2"), y=np.array(["p", "q"] * 30, dtype=">U1"), **times)
    dm = TabularDataModule(str(tmp_path / "t.npz"), "y")
    used = {column.name for column in dm.learned.encoding.columns}
    assert used >= {"x", "Ms", "Mus", "Mns", "M3D", "ms", "mh"}
    assert used | {*dm.learned.encoding.dropped} == {"x", *times}


# ------------------------------------------------------------------ columns of all types


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_columns_of_types_that_are_no_cells_are_left_out_and_views_of_text_are_text(tmp_path, kind):
    i = range(60)
    columns = {
        "x": pa.array([k / 4 for k in i]),
        "view": pa.array([str(k % 5) for k in i], pa.string_view()),
        "words": pa.array([f"word {k % 3}" for k in i], pa.string_view()),
        "list": pa.array([[k] for k in i]),
        "struct": pa.array([{"a": k} for k in i]),
        "map": pa.array([[("k", k)] for k in i], pa.map_(pa.string(), pa.int64())),
        "bytes": pa.array([b"x"] * 60),
        "span": pa.array([timedelta(hours=k) for k in i]),
        "zone": pa.array(list(i), pa.timestamp("us", "Nowhere/City")),
        "y": pa.array(["p", "q"] * 30),
    }
    table = pa.table(columns)
    path = str(tmp_path / f"t.{kind}")
    if kind == "parquet":
        pa.parquet.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    dm = TabularDataModule(path, "y")
    assert {c.name for c in dm.learned.encoding.columns} == {"x", "view", "words", "span", "zone"}
    assert set(dm.learned.encoding.dropped) == {"list", "struct", "map", "bytes"}
    assert "left out" in dm.description


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("us", "Nowhere/City"), pa.timestamp("s"), pa.timestamp("s", "UTC"), pa.duration("s"), pa.date64()],
)
def test_times_that_no_calendar_has_may_still_be_categories(tmp_path, kind):
    far = [864 * 10**12, 2 * 864 * 10**12, None] * 20
    table = pa.table({"t": pa.array(far, pa.int64()).cast(kind), "y": ["p", "q"] * 30})
    with pa.ipc.new_file(str(tmp_path / "t.feather"), table.schema) as writer:
        writer.write_table(table)
    dm = TabularDataModule(str(tmp_path / "t.feather"), "y", categorical=["t"])
    assert len(dm.feature_names) == 3


# ------------------------------------------------------------------ names of files, and what is no file


@pytest.mark.parametrize(
    "path", ["~nobody-of-this-name/t.csv", "a\0b.csv", "\udc80.csv", "a" * 300 + ".csv", "a/" * 3000 + "t.csv"]
)
def test_a_name_that_cannot_be_one_of_a_file_is_one_line(path):
    assert ".csv" in error_of(path)


@pytest.mark.parametrize("what", ["pipe", "device", "socket"])
def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    if what == "pipe":
        os.mkfifo("t.csv")
    elif what == "device":
        Path("t.csv").symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as there:
            there.bind("t.csv")
    assert "'t.csv' is a pipe, a device or a socket" in error_of("t.csv")


# ------------------------------------------------------------------ text


def test_an_empty_line_of_a_file_of_one_column_is_a_missing_cell(write):
    table = open_table(write("t.csv", "x\n1\n\n3\n"))
    assert [c for chunk in table.chunks(["x"]) for c in chunk.column("x").to_pylist()] == ["1", None, "3"]


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_lines_may_end_in_any_way(write, end):
    table = open_table(write("t.csv", end.join(["", 'x,"z', 'z"', "1,2", "3,4"])))
    assert table.names == ("x", f"z{end}z")
    assert [chunk.column("x").to_pylist() for chunk in table.chunks(["x"])] == [["1", "3"]]


def test_a_quote_that_is_never_closed_does_not_swallow_the_rows_after_it(write):
    error = error_of(write("t.csv", 'x,y\n1,p\n2,"q\n3,r\n4,s\n'))
    assert "t.csv" in error
    assert "the quote before 'q' is never closed" in error


def test_a_quote_within_a_field_of_the_header_is_no_end_of_it(write):
    assert open_table(write("t.csv", 'size in ",b\n1,2\n')).names == ('size in "', "b")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf16_that_is_cut_short_is_named(write, encoding):
    path = write("t.csv", "x,y\n1,2\n".encode(encoding)[:-1])
    assert "is not utf-16-le text: " in error_of(path)


def test_control_characters_of_a_table_do_not_reach_the_terminal(write):
    rows = "".join(f"{i % 7},2024-01-0{i % 9 + 1},{'pq'[i % 2]}\x1b[31m\n" for i in range(60))
    path = write("t.csv", f"x\x1b]0;title\x07,day\x1b[2J,y\n{rows}")
    description = TabularDataModule(path, "y").description
    assert r"p\x1b[31m" in description
    assert r"day\x1b[2J" in description
    assert description.replace("\n", "").isprintable()
    assert str(DataError("a \x1b[31m cell \udc80")) == r"a \x1b[31m cell \udc80"


def test_a_message_about_a_cell_of_a_megabyte_is_short(write):
    rows = "".join(f"{i},{'?' * 1_000_000 if i == 30 else i / 4}\n" for i in range(60))
    with pytest.raises(DataError, match="numbers but for 1 cells") as caught:
        _ = TabularDataModule(write("t.csv", f"x,y\n{rows}"), "y").task
    assert len(str(caught.value)) < 2100
    dm = TabularDataModule(write("u.csv", f"y,x\n{rows}"), "y")
    assert len(dm.description) < 5000
    assert len(str(DataError("x" * 1_000_000))) < 2100


def test_a_parquet_footer_that_is_no_text_is_escaped(write):
    sink = io.BytesIO()
    pa.parquet.write_table(pa.table({"x": [1.0]}), sink)
    data = bytearray(sink.getvalue())
    (length,) = struct.unpack("<I", data[-8:-4])
    data[-8 - length : -8] = b"\x0e" * length  # no type that Thrift knows
    assert "t.parquet" in error_of(write("t.parquet", bytes(data)))
