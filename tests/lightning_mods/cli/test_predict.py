"""`predict`: columns that are kept, formats, files that are read in parts, and what is said of unusual rows."""

import csv
import gzip
import json
import re
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from verbs_here import do, succeed

from datamodules import tabular
from datamodules.readers import table as tables

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's CLI and jsonargparse warn of each other
QUICK = ("--watch=[]", "--reference=false", "--trainer.max_epochs=2", "--trainer.logger=false")


MINE = """
import torch
from callbacks.host.packages import LightningDataModule, LightningModule

class Data(LightningDataModule):
    def predict_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(5, 2), batch_size=2)
    train_dataloader = predict_dataloader

class Two(Data):
    def predict_dataloader(self):
        return [super().predict_dataloader()] * 2

class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return self.layer(batch)[:, 0]
"""


def frame(rows, seed=0):
    draw = np.random.default_rng(seed)
    size, color = draw.normal(10, 3, rows), draw.choice(["red", "green", "blue"], rows)
    town = draw.choice(
        [f"town {i}" for i in range(8)] + [f"hamlet {i}" for i in range(60)], rows, p=[0.11] * 8 + [0.002] * 60
    )
    price = size + 5 * (color == "red") + draw.normal(size=rows)
    return pd.DataFrame(
        {
            "id": [f"{i:03d}" for i in range(rows)],
            "size": size.round(4),
            "color": color,
            "town": town,
            "price": price.round(4),
            "kind": np.where(price > 12, "dear", "cheap"),
        }
    )


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    """A folder with a run for each target."""
    folder = tmp_path_factory.mktemp("fits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        frame(1500).to_csv("train.csv", index=False)
        for target, other in (("kind", "price"), ("price", "kind")):
            where = f"--trainer.default_root_dir={target}"
            succeed(
                "fit", "--data.path=train.csv", f"--data.target={target}", f"--data.drop=[{other},id]", *QUICK, where
            )
    return folder


@pytest.fixture(autouse=True)
def here(fits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for target in ("kind", "price"):
        shutil.copy(fits / target / "lightning_logs/version_0/checkpoints/best.ckpt", f"{target}.ckpt")
    shutil.copy(fits / "train.csv", "train.csv")


def predict(rows, *flags, target="kind", output="out.csv"):
    """Predict a file; returns what was said."""
    asked = (f"--ckpt_path={target}.ckpt", f"--data.predict_path={rows}", f"--output={output}")
    return succeed("predict", *asked, *flags)[1]


def refused(rows, *flags, target="kind", output="out.csv"):
    asked = (f"--ckpt_path={target}.ckpt", f"--data.predict_path={rows}", f"--output={output}")
    code, _, said = do("predict", *asked, *flags)
    assert code == 2, said
    assert "Traceback" not in said
    return said.splitlines()[-1]


def rows_of(path="out.csv"):
    with Path(path).open(newline="") as file:
        return list(csv.reader(file))


# ------------------------------------------------------------------ columns that are kept


def test_columns_are_kept_before_the_predictions_as_the_file_has_them():
    odd = ["007", "NA", "", "1,5", 'say "so"', " padded ", "1.50", "two\nlines"]
    new = frame(len(odd), 1).assign(id=odd)
    new.to_csv("new.csv", index=False)
    predict("new.csv", output="plain.csv")
    predict("new.csv", "--keep=id,kind")  # with the target, whatever is in it
    header, *rows = rows_of()
    assert header == ["id", "kind", "prediction", "probability_cheap", "probability_dear"]
    assert [row[0] for row in rows] == odd
    assert [row[1] for row in rows] == [*new.kind]
    assert [row[2:] for row in rows] == rows_of("plain.csv")[1:]


def test_all_columns_can_be_kept_and_a_list_of_names_too():
    new = frame(5, 1).rename(columns={"id": "a,b"}).assign(**{"2020": range(5), "x.y": "z"})
    new.to_csv("new.csv", index=False)
    predict("new.csv", "--keep=all")
    assert rows_of()[0][: new.shape[1]] == [*new.columns]
    assert [row[: new.shape[1]] for row in rows_of()] == rows_of("new.csv")
    predict("new.csv", "--keep=[a\\,b,town]".replace("a\\,b", '"a,b"'))
    assert rows_of()[0][:2] == ["a,b", "town"]
    for name in ("a,b", "2020", "x.y"):
        predict("new.csv", f"--keep={name}", "--trust=false")
        assert rows_of()[0][:2] == [name, "prediction"]
    Path("keep.yaml").write_text("keep: [town, color]\n")
    predict("new.csv", "--config=keep.yaml")
    assert rows_of()[0][:2] == ["town", "color"]


def test_a_column_that_is_not_there_or_is_called_as_a_prediction_is_one_line_and_nothing_is_written():
    frame(5, 1).assign(prediction="x").to_csv("new.csv", index=False)
    Path("out.csv").write_text("mine")
    assert "--keep names 'colour'; 'new.csv' has 'color', " in refused("new.csv", "--keep=id,colour")
    assert "--keep has the column 'prediction', which" in refused("new.csv", "--keep=all")
    assert Path("out.csv").read_text() == "mine"


def as_excel(new):
    new.to_excel("new.xlsx", index=False)
    return "new.xlsx"


def as_sqlite(new):
    with sqlite3.connect("new.db") as database:
        new.to_sql("t", database, index=False)
        database.execute("CREATE INDEX i ON t (town)")  # in whose order that column would come alone
    database.close()
    return "sqlite:///new.db?table=t"


def as_json(new):
    new.to_json("new.json", orient="records")
    return "new.json"


def as_parquet(new):
    new.to_parquet("new.parquet", index=False, row_group_size=7)
    return "new.parquet"


@pytest.mark.parametrize("write", [as_excel, as_sqlite, as_json, as_parquet])
def test_a_file_of_any_kind_keeps_its_columns_with_their_types(write):
    new = frame(40, 1).assign(count=range(40), share=np.linspace(0, 1, 40))
    new.to_csv("new.csv", index=False)
    predict("new.csv", output="wanted.csv")
    path = write(new)
    predict(path, "--keep=id,count,town,share", output="out.parquet")
    found = pq.read_table("out.parquet")
    assert found.column("id").to_pylist() == [*new.id]
    assert found.column("town").to_pylist() == [*new.town]
    assert found.column("count").to_pylist() == [*range(40)]
    assert found.column("share").to_pylist() == pytest.approx([*new.share], rel=1e-8)  # as pandas writes JSON
    assert [*map(str, found.schema.types[4:])] == ["string", "float", "float"]
    wanted = pd.read_csv("wanted.csv")
    assert found.column("prediction").to_pylist() == [*wanted.prediction]
    np.testing.assert_allclose(found.column("probability_dear").to_numpy(), wanted.probability_dear, rtol=1e-6)
    predict(path, "--keep=id")
    assert [row[0] for row in rows_of()] == ["id", *new.id]


# ------------------------------------------------------------------ formats


@pytest.mark.parametrize("target", ["kind", "price"])
def test_every_format_holds_the_same_predictions(target):
    frame(300, 1).to_csv("new.csv", index=False)
    flags = ("--keep=id", *(["--interval=0.8"] if target == "price" else []))
    for suffix in ("csv", "csv.gz", "tsv", "parquet", "arrow", "feather", "jsonl"):
        assert f"300 predictions in out.{suffix}" in predict("new.csv", *flags, target=target, output=f"out.{suffix}")
    wanted = pd.read_csv("out.csv", dtype={"id": str})
    read = {
        "csv.gz": pd.read_csv("out.csv.gz", dtype={"id": str}),
        "tsv": pd.read_csv("out.tsv", sep="\t", dtype={"id": str}),
        "parquet": pd.read_parquet("out.parquet"),
        "arrow": pyarrow.feather.read_feather("out.arrow"),
        "feather": pd.read_feather("out.feather"),
        "jsonl": pd.DataFrame([json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]),
    }
    assert gzip.decompress(Path("out.csv.gz").read_bytes()) == Path("out.csv").read_bytes()
    for suffix, found in read.items():
        pd.testing.assert_frame_equal(found, wanted, check_dtype=False, rtol=1e-6, obj=suffix)


def test_what_cannot_be_written_is_said_before_anything_is_predicted():
    frame(5, 1).to_csv("new.csv", index=False)
    assert "--output is written as .csv" in refused("new.csv", output="out.xlsx")


def test_processes_that_hand_nothing_back_are_refused():
    frame(5, 1).to_csv("new.csv", index=False)
    flags = ("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp_spawn")
    assert "starts processes that hand no predictions back; ddp does" in refused("new.csv", *flags)
    assert not Path("out.csv").exists()


# ------------------------------------------------------------------ files that are read in parts


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_that_is_read_in_parts_is_predicted_as_one_that_is_not(kind, monkeypatch):
    new = frame(1000, 1)
    new.to_csv("new.csv", index=False)
    new.to_parquet("new.parquet", index=False)
    predict(f"new.{kind}", "--keep=all", output="whole.csv")
    monkeypatch.setattr(tables, "CHUNK_ROWS", 70)
    monkeypatch.setattr(tabular, "EVAL_ROWS", 64)  # so that batches are of two chunks, and the other way round
    predict(f"new.{kind}", "--keep=all")
    whole, parts = pd.read_csv("whole.csv"), pd.read_csv("out.csv")
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-4)
    assert [*parts.id] == [*whole.id] == [*range(1000)]


def test_an_error_in_the_last_part_leaves_the_earlier_predictions(monkeypatch):
    monkeypatch.setattr(tables, "CHUNK_ROWS", 50)
    monkeypatch.setattr(tabular, "EVAL_ROWS", 50)
    frame(200, 1).to_csv("new.csv", index=False)
    for output in ("out.csv", "out.csv.gz", "out.parquet", "out.jsonl"):
        predict("new.csv", output=output)
    before = {path: path.read_bytes() for path in Path().iterdir()}
    bad = frame(200, 1)
    bad["size"] = bad["size"].astype(object)
    bad.loc[[60, 190], "size"] = "inf"
    bad.to_csv("new.csv", index=False)
    before[Path("new.csv")] = Path("new.csv").read_bytes()
    for output in ("out.csv", "out.csv.gz", "out.parquet", "out.jsonl"):
        assert "column 'size' has 2 infinite values, the first in row 61" in refused("new.csv", output=output)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_a_file_with_a_header_alone_is_one_line():
    frame(0).to_csv("new.csv", index=False)
    assert "has a header but no rows" in refused("new.csv", "--keep=id")
    assert not Path("out.csv").exists()


# ------------------------------------------------------------------ what is said of unusual rows


@pytest.mark.parametrize("target", ["kind", "price"])
def test_rows_like_those_of_training_are_worth_no_line(target):
    for new, rows in (("train.csv", 1500), ("new.csv", 4000)):
        if new != "train.csv":
            frame(rows, 1).to_csv(new, index=False)
        assert predict(new, target=target) == f"{rows} predictions in out.csv\n"


def test_names_never_seen_and_numbers_far_outside_are_counted():
    new = frame(1000, 1)
    new.loc[:11, "color"] = "teal"
    new.loc[20:22, "size"] = -999
    new.loc[:299, "town"] = "elsewhere"
    new.to_csv("new.csv", index=False)
    said = predict("new.csv").splitlines()
    assert said[0] == "1000 predictions in out.csv"
    assert "warning: color: 12 of 1,000 cells hold names that training never saw, such as 'teal'" in said
    found = [
        line for line in said if line.startswith("warning: size: 3 of 1,000 cells lie far outside those of training (")
    ]
    assert len(found) == 1
    assert found[0].endswith("): -999")
    rare = [line for line in said if line.startswith("warning: town: ")]
    assert re.fullmatch(
        r"warning: town: 3\d\d of 1,000 cells hold names that training saw rarely or never, such as '\w+.*'; "
        r"of rows like those of training \d+\.\d% would",
        rare[0],
    )
    assert len(said) == 4


def test_a_column_that_is_not_there_is_an_error_that_names_the_flag_or_is_filled_and_counted():
    new = frame(1000, 1).drop(columns=["size", "town"])
    new.to_csv("new.csv", index=False)
    assert "lacks the columns 'size', 'town', used in training; it has" in refused("new.csv")
    assert "--allow_missing=true" in refused("new.csv")
    said = predict("new.csv", "--allow_missing=true", "--keep=id")
    assert said.splitlines() == [
        "1000 predictions in out.csv",
        "warning: the columns 'size', 'town', used in training, are not there: missing in all 1,000 rows",
    ]
    frame(1000, 1).assign(size="", town="").to_csv("empty.csv", index=False)
    predict("empty.csv", "--keep=id", output="empty.out")
    assert Path("empty.out").read_bytes() == Path("out.csv").read_bytes()
    new[["id"]].to_csv("other.csv", index=False)
    assert "'other.csv' lacks the columns" in refused("other.csv", "--allow_missing=true")


def test_the_flags_are_for_our_data_module(monkeypatch):
    monkeypatch.syspath_prepend(".")
    Path("mine.py").write_text(MINE)
    succeed("fit", "--model=mine.Net", "--data=mine.Data", *QUICK)
    how = ("--model=mine.Net", "--data=mine.Data")
    assert "5 predictions in predictions.csv" in succeed("predict", *how)[1]
    for flag in ("--keep=id", "--allow_missing=true"):
        code, _, said = do("predict", *how, flag)
        assert code == 2
        assert "is for the rows of a TabularDataModule" in said
    code, _, said = do("predict", how[0], "--data=mine.Two", "--output=two.csv")
    assert code == 2
    assert "this data module has several" in said
    assert not Path("two.csv").exists()


@pytest.mark.parametrize("flag", ["--keep=id", "--allow_missing=true", "--interval=0.9"])
def test_an_exported_model_knows_nothing_of_them(flag):
    code, _, said = do("predict", "--exported=model.onnx", flag)
    assert (code, said) == (
        2,
        f"predict: {flag.partition('=')[0]} is for a checkpoint; leave it out with --exported.\n",
    )


def test_the_help_lists_the_flags(capsys):
    said = " ".join(succeed("predict", "--help")[0].split())
    for part in ("--keep", "--allow_missing", ".parquet, .arrow or .feather", "may be larger than memory"):
        assert part in said
