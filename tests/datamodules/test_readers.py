"""Every kind of file gives the same table, and what is no table gives one line."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
from sklearn.datasets import load_digits

from datamodules.errors import DataError
from datamodules.readers import BUNDLED, columnar, open_table
from datamodules.readers.table import CHUNK_ROWS, Table

COLUMNS = {"a b": [1.5, 2.0, -3.0], "ü.x": ["p", "q,r", 'say "s"\nthen t'], "n": [1, 2, 3]}


def save(path: Path) -> str:
    table = pa.table(COLUMNS)
    name = path.name.lower()
    if name.endswith(".parquet"):
        pa.parquet.write_table(table, path)
    elif name.endswith(".feather"):
        pa.feather.write_feather(table, path)
    elif name.endswith(".npz"):
        np.savez(path, **{k: np.array(v) for k, v in COLUMNS.items()})
    else:
        options = pa.csv.WriteOptions(delimiter="\t" if ".tsv" in name else ",")
        plain = path.with_name("plain")
        pa.csv.write_csv(table, plain, options)
        path.write_bytes(gzip.compress(plain.read_bytes()) if name.endswith(".gz") else plain.read_bytes())
    return str(path)


def cells(table, columns=None):
    columns = list(columns or table.names)
    return {c: [str(v) for chunk in table.chunks(columns) for v in chunk.column(c).to_pylist()] for c in columns}


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "T.TSV.GZ", "t.parquet", "t.feather", "t.npz"])
def test_every_format_gives_the_same_columns_and_cells(tmp_path, name):
    table = open_table(save(tmp_path / name))
    assert table.names == tuple(COLUMNS)
    found = cells(table)
    assert [float(v) for v in found["a b"]] == COLUMNS["a b"]
    assert found["ü.x"] == COLUMNS["ü.x"]
    assert cells(table.in_memory()) == found
    assert list(cells(table, ["n", "a b"])) == ["n", "a b"]


@pytest.mark.parametrize(("name", "rows", "columns"), [("iris", 150, 5), ("digits", 1797, 65), ("diabetes", 442, 11)])
def test_bundled_tables_have_their_target_under_that_name(name, rows, columns):
    table = open_table(name)
    assert len(table.names) == columns
    assert table.default_target == table.names[-1] == "target"
    assert sum(c.num_rows for c in table.chunks(["target"])) == rows


def test_the_digits_are_those_of_scikit_learn_without_loading_it():
    there = load_digits()
    table = open_table("digits")
    read = [np.concatenate([c.column(name).to_numpy() for c in table.chunks([name])]) for name in table.names[:-1]]
    assert np.array_equal(np.stack(read, axis=1), there.data)
    assert list(table.names[:-1]) == there.feature_names
    assert cells(table, ["target"])["target"] == [str(name) for name in there.target_names[there.target]]
    code = "import sys; from datamodules.readers import open_table; open_table('digits')\n"
    code += "sys.exit(bool({'sklearn', 'scipy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits_that_scikit_learn_keeps_elsewhere_are_still_found(monkeypatch):
    here = cells(open_table("digits"))
    monkeypatch.setattr(columnar, "_digits_file", lambda: None)
    assert cells(open_table("digits")) == here


def test_bundled_classes_have_the_names_of_the_set():
    assert set(cells(open_table("iris"), ["target"])["target"]) == {"setosa", "versicolor", "virginica"}


def test_a_bundled_name_wins_over_a_file_of_that_name_unless_it_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("iris").write_text("a\n1\n")
    Path("iris.csv").write_text("a\n1\n")
    assert len(open_table("iris").names) == 5
    assert open_table("iris.csv").names == ("a",)


@pytest.mark.parametrize("lengths", [[CHUNK_ROWS + 5], [3, CHUNK_ROWS, 2], [10] * 7, []])
def test_chunks_have_the_same_edges_however_a_file_is_cut(lengths):
    def batches(columns):
        first = 0
        for n in lengths:
            yield pa.record_batch({"i": np.arange(first, first + n)})
            first += n

    chunks = list(Table("t", ("i",), batches).chunks(["i"]))
    assert all(c.num_rows == CHUNK_ROWS for c in chunks[:-1])
    together = np.concatenate([c.column("i").to_numpy() for c in chunks]) if chunks else np.zeros(0)
    assert together.tolist() == list(range(sum(lengths)))


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [("a,b;c,d", ","), ("a;b;c,d", ";"), ("a\tb", "\t"), ("a|b", "|"), ("a", ","), ('"x;y;z",b', ",")],
)
def test_the_delimiter_is_read_off_the_header(write, header, delimiter):
    from datamodules.readers.layout import sniffed

    assert sniffed(header) == delimiter


def test_a_byte_order_mark_is_no_part_of_the_first_name(write):
    assert open_table(write("t.csv", "\ufeffa;b\n1;2\n".encode())).names == ("a", "b")


def test_windows_line_ends_and_blank_lines_do_no_harm(write):
    table = open_table(write("t.csv", "\r\na,b\r\n1,2\r\n\r\n3,4\r\n"))
    assert cells(table) == {"a": ["1", "3"], "b": ["2", "4"]}


def test_a_header_with_a_line_break_inside_quotes_is_one_header(write):
    table = open_table(write("t.csv", '"a\nb",c\n1,2\n'))
    assert cells(table) == {"a\nb": ["1"], "c": ["2"]}


def test_a_nameless_column_gets_its_number_for_a_name(write):
    assert open_table(write("t.csv", ",b\n1,2\n")).names == ("column_1", "b")


def test_missing_cells_are_missing_and_none_is_a_word(write):
    table = open_table(write("t.csv", 'a,b\n,NA\nnan,None\n"",x\n'))
    assert cells(table) == {"a": ["None"] * 3, "b": ["None", "None", "x"]}
    assert next(table.chunks(["b"])).column("b").null_count == 1


def test_a_two_dimensional_array_becomes_numbered_columns(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.arange(6, dtype=">f4").reshape(3, 2), y=np.array([b"p", b"q", b"p"]))
    table = open_table(str(tmp_path / "t.npz"))
    assert cells(table) == {"X_0": ["0.0", "2.0", "4.0"], "X_1": ["1.0", "3.0", "5.0"], "y": ["p", "q", "p"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "is empty; a header line"),
        ("t.csv", "a,b\n1,2\n3\n", "line 3: 2 fields are needed as in the header, 1 came"),
        ("t.csv", 'a,b\n"x\ny",2\n3,4,5\n', "line 4: 2 fields are needed as in the header, 3 came: '3 4 5'"),
        ("t.csv", "a,b,a\n1,2,3\n", "columns of the same name: 'a'"),
        ("t.csv", b"a\nn\xe9e and more of it\x00\n", "is no text: it is not UTF-8 and holds control characters"),
        ("t.csv", b"a\n\xc3\xa9\xc3\xa9\n\xe9\n", "is UTF-8 for the most part, and .* line 3; mend it"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16")[:-1], "is not utf-16-le text"),
        ("t.csv.gz", b"no gzip at all", "cannot be read as delimited text"),
        (
            "t.csv.gz",
            gzip.compress(b"a,b\n" + os.urandom(9999).hex().encode())[:-2000],
            "cannot be read|fields are needed",
        ),
        ("t.parquet", b"junk" * 20, "cannot be read as Parquet"),
        ("t.parquet", b"", "cannot be read as Parquet"),
        ("t.feather", b"junk" * 20, "cannot be read as Feather"),
        ("t.feather", b"FEA1" * 20, "Feather version 1"),
        ("t.npz", b"junk" * 20, "cannot be read as NPZ: File is not a zip file"),
        ("t.npz", b"PK\x03\x04junk", "cannot be read as NPZ"),
        ("t.xlsx", b"junk", "cannot be read as a spreadsheet"),
        ("t.pkl", b"junk", "none of the known suffixes .csv, .tsv"),
    ],
)
def test_a_file_that_is_no_table_is_an_error_of_one_line(write, name, content, message):
    path = write(name, content)
    with pytest.raises(DataError, match=message) as caught:
        cells(open_table(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.array([1, "x"], dtype=object)}, "pickled Python objects"),
        ({"a": np.zeros((2, 2, 2))}, r"shape \(2, 2, 2\)"),
        ({"a": np.zeros(2, dtype=complex)}, "complex128"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "same number of rows; found a: 2, b: 3"),
        ({"a_0": np.zeros(2), "a": np.zeros((2, 1))}, "two columns named 'a_0'"),
    ],
)
def test_arrays_that_are_no_columns_are_an_error(tmp_path, arrays, message):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_table(str(tmp_path / "t.npz"))


def test_a_single_array_is_no_table(tmp_path):
    with (tmp_path / "t.npz").open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(DataError, match="cannot be read as NPZ"):
        open_table(str(tmp_path / "t.npz"))


def test_a_header_alone_is_a_table_without_rows(write):
    assert cells(open_table(write("t.csv", "a,b"))) == {"a": [], "b": []}
    assert cells(open_table(write("u.csv", "a,b\n")).in_memory()) == {"a": [], "b": []}


def test_a_directory_a_missing_file_and_an_unknown_name_are_errors(tmp_path):
    (tmp_path / "churn.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match="is a directory"):
        open_table(str(tmp_path))
    with pytest.raises(DataError, match=r"no file .*chrun.csv.* Files there: 'churn.csv'"):
        open_table(str(tmp_path / "chrun.csv"))
    with pytest.raises(DataError, match="none of the bundled tables 'iris'"):
        open_table("irsi")
    with pytest.raises(DataError, match="the path is empty"):
        open_table("")


def test_all_bundled_names_open():
    assert all(open_table(name).names for name in BUNDLED)
