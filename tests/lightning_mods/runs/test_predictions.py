"""What `predict` writes: which columns, in which format, and that all of it or nothing of it is there."""

import gzip
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch

from lightning_mods.runs import RunError
from lightning_mods.runs.predictions import (
    as_array,
    check_format,
    prediction_columns,
    write_predictions,
    writing_predictions,
)

CLASSES = ["no", "yes, really"]
SHARES = torch.tensor([[0.25, 0.75], [1, 0], [math.nan, 0.5]])


def written(path, batches=(SHARES,), names=CLASSES, kept=None):
    with writing_predictions(path, "model") as file:
        file.class_names = names
        for start, batch in enumerate(batches):
            file.add(batch, kept and kept.slice(start * len(batch), len(batch)))
    return path


def test_probabilities_become_the_name_of_the_likeliest_class_and_a_column_each(tmp_path):
    batches = [torch.tensor([[0.25, 0.75], [1, 0]]), torch.tensor([[0.5, 0.5]])]
    lines = written(tmp_path / "out.csv", batches).read_text().splitlines()
    assert lines[0] == 'prediction,probability_no,"probability_yes, really"'
    assert lines[1:] == ['"yes, really",0.25,0.75', "no,1,0", "no,0.5,0.5"]


def test_numbers_are_written_so_that_float32_reads_back(tmp_path):
    values = torch.rand(50) * 10.0 ** torch.arange(50).sub(25).float()
    header, *lines = written(tmp_path / "out.csv", [values], None).read_text().splitlines()
    assert header == "prediction"
    assert torch.equal(torch.tensor([*map(float, lines)]), values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64])
def test_a_tensor_of_any_type_is_read_as_it_is(dtype):
    values = torch.tensor([1.5, -3.0, 2.0**-10]).to(dtype)
    found = as_array(values)
    assert found.tolist() == values.tolist()
    assert found.dtype == (np.float32 if dtype.is_floating_point and dtype != torch.float64 else as_array(values).dtype)


def test_a_foreign_module_that_predicts_a_matrix_gets_numbered_columns():
    columns = prediction_columns(np.zeros((2, 3)), None)
    assert {name: len(values) for name, values in columns.items()} == dict.fromkeys(
        ["prediction_0", "prediction_1", "prediction_2"], 2
    )


@pytest.mark.parametrize(
    "batches", [[], [{"a": 1}], [torch.zeros(2, 3, 4)], [torch.tensor(1.0)], [torch.zeros(2, 3), torch.zeros(2)]]
)
def test_what_is_no_table_is_refused_and_nothing_is_left(batches, tmp_path):
    with pytest.raises(RunError, match="predict_step must return a"):
        write_predictions(tmp_path / "out.csv", batches, None, "model")
    assert not [*tmp_path.iterdir()]


def test_what_is_no_tensor_among_tensors_is_left_out(tmp_path):
    assert (
        write_predictions(tmp_path / "o.csv", [None, torch.zeros(2)], None, "m") == f"2 predictions in {tmp_path}/o.csv"
    )


def test_predictions_that_are_no_numbers_are_counted_and_have_no_class(tmp_path):
    shares = [[0.1, 0.9], [math.nan, math.nan], [0.8, 0.2]]
    said = write_predictions(tmp_path / "out.csv", [torch.tensor(shares)], ["nan", "b"], "model")
    assert said == f"3 predictions in {tmp_path / 'out.csv'}; 1 of them are no numbers (NaN or infinite)"
    assert (tmp_path / "out.csv").read_text().splitlines()[1:] == [
        "b,0.100000001,0.899999976",
        ",nan,nan",
        "nan,0.800000012,0.200000003",
    ]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet", "arrow", "jsonl"])
def test_predictions_without_a_number_are_an_error_and_leave_what_was_there(suffix, tmp_path):
    out = tmp_path / f"out.{suffix}"
    out.write_text("mine")
    for batch in (torch.full((3,), math.nan), torch.full((3, 2), math.inf)):
        with pytest.raises(RunError, match="model predicts no number for any of 3 rows"):
            write_predictions(out, [batch], None, "model")
    assert out.read_text() == "mine"
    assert [*tmp_path.iterdir()] == [out]


def tables(path):
    """Read what was written with the type's own reader."""
    if path.name.endswith(".gz"):
        return gzip.decompress(path.read_bytes()).decode()
    if path.suffix == ".parquet":
        return pq.read_table(path)
    return pa.feather.read_table(path)


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "feather"])
def test_a_typed_file_holds_numbers_as_numbers_and_labels_as_text(suffix, tmp_path):
    table = tables(written(tmp_path / f"out.{suffix}"))
    assert table.schema.types == [pa.string(), pa.float32(), pa.float32()]
    assert table.column(0).to_pylist() == ["yes, really", "no", None]
    assert table.column(2).to_pylist()[:2] == [0.75, 0.0]
    table = tables(written(tmp_path / f"more.{suffix}", [torch.zeros(2).double()], None))
    assert table.schema.types == [pa.float64()]


KEPT = pa.table(
    {
        "id": ["007", "a,b", None],
        "n": pa.array([1, None, 3], pa.int16()),
        "size": [0.1, math.nan, 1e20],
        "is": [True, None, False],
        "day": pa.array([0, 86_400_000_000, None], pa.timestamp("us")),
        "kind": pa.array(["u", "v", "u"]).dictionary_encode(),
        "parts": [[1, 2], [], None],
        "raw": pa.array([b"\xff", None, b"ok"]),
    }
)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_what_is_kept_keeps_its_type_from_chunk_to_chunk(suffix, tmp_path):
    n = 70_000  # more than a row group holds
    kinds = [pa.array([name] * n).dictionary_encode() for name in "uv"]
    kept = pa.table({"kind": pa.chunked_array(kinds), "row": pa.array(range(2 * n), pa.int32())})
    with writing_predictions(tmp_path / f"out.{suffix}", "model") as file:
        for start in range(0, 2 * n, 4096):
            part = kept.slice(start, 4096)
            file.add(torch.arange(start, start + len(part)).float(), part)
    table = tables(tmp_path / f"out.{suffix}")
    assert table.column_names == ["kind", "row", "prediction"]
    assert table.schema.types == [pa.string(), pa.int32(), pa.float32()]
    assert table.column("row").to_pylist() == table.column("prediction").to_pylist() == [*range(2 * n)]
    assert table.column("kind").to_pylist() == ["u"] * n + ["v"] * n


def test_what_is_kept_of_a_typed_table_is_text_in_a_csv(tmp_path):
    lines = written(tmp_path / "out.tsv", [torch.zeros(3)], None, KEPT).read_text().splitlines()
    assert [line.split("\t") for line in lines] == [
        ["id", "n", "size", "is", "day", "kind", "parts", "raw", "prediction"],
        ["007", "1", "0.1", "true", "1970-01-01 00:00:00", "u", "[1, 2]", "b'\\xff'", "0"],
        ["a,b", "", "nan", "", "1970-01-02 00:00:00", "v", "[]", "", "0"],
        ["", "3", "1e+20", "false", "", "u", "", "b'ok'", "0"],
    ]


def test_json_lines_have_types_too_and_no_numbers_are_null(tmp_path):
    path = written(tmp_path / "out.jsonl", [torch.tensor([0.1, math.nan, 2.0])], None, KEPT)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0] == {
        **{"id": "007", "n": 1, "size": 0.1, "is": True, "day": "1970-01-01 00:00:00", "kind": "u"},
        **{"parts": "[1, 2]", "raw": "b'\\xff'", "prediction": 0.100000001},
    }
    assert rows[1]["size"] is rows[1]["prediction"] is rows[1]["n"] is None
    assert np.float32(rows[0]["prediction"]) == np.float32(0.1)


@pytest.mark.parametrize("suffix", ["csv.gz", "tsv.gz", "jsonl.gz"])
def test_a_packed_file_is_the_plain_one_packed_and_the_same_each_time(suffix, tmp_path):
    packed, again = (written(tmp_path / f"{name}.{suffix}") for name in "ab")
    plain = written(tmp_path / f"c.{suffix}".removesuffix(".gz"))
    assert tables(packed) == plain.read_text()
    assert packed.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("name", ["out", "out.CSV", "out.txt", "out.predictions", "out.gz"])
def test_any_other_suffix_is_csv(name, tmp_path):
    check_format(tmp_path / name)
    path = written(tmp_path / name)
    text = tables(path) if name.endswith(".gz") else path.read_text()
    assert text.startswith("prediction,probability_no,")


@pytest.mark.parametrize("name", ["a.xlsx", "a.XLS", "a.json", "a.json.gz", "a.npz", "a.db", "a.parquet.gz", "a.ods"])
def test_a_kind_that_is_read_but_not_written_is_one_line(name, tmp_path):
    with pytest.raises(RunError, match=rf"--output is written as \.csv.* or \.feather; {name} would be another kind"):
        check_format(tmp_path / name)


def test_a_kept_column_that_is_called_as_a_prediction_is_refused(tmp_path):
    kept = pa.table({"id": [1, 2], "prediction": ["a", "b"]})
    with pytest.raises(RunError, match=r"--keep has the column 'prediction', .* called too; --keep=id\."):
        written(tmp_path / "out.csv", [torch.zeros(2)], None, kept)
    with pytest.raises(RunError, match="leave it out of --keep"):
        written(tmp_path / "out.csv", [torch.zeros(2)], None, kept.select(["prediction"]))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("outputs", [torch.zeros(3), None, {"a": 1}])
def test_rows_are_kept_beside_a_prediction_each_or_not_at_all(outputs, tmp_path):
    with (
        pytest.raises(RunError, match="--keep needs a prediction for each row"),
        writing_predictions(tmp_path / "out.csv", "model") as file,
    ):
        file.add(outputs, pa.table({"id": [1, 2]}))


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet", "arrow", "jsonl"])
def test_an_error_half_way_leaves_the_earlier_file_and_nothing_beside_it(suffix, tmp_path):
    out = written(tmp_path / f"out.{suffix}")
    before = out.read_bytes()

    def batches():
        yield torch.zeros(100_000, 2)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_predictions(out, batches(), None, "model")
    assert out.read_bytes() == before
    assert [*tmp_path.iterdir()] == [out]
