"""Dates in exported models: the calendar is part of the graph."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from verbs_here import succeed

from datamodules import DataError, TabularDataModule

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's CLI and jsonargparse warn of each other


@pytest.fixture
def trips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    n = 400
    when = pd.Timestamp("1969-05-01") + pd.to_timedelta(rng.integers(0, 3 * 365 * 24 * 60, n), "min")
    table = pd.DataFrame({"when": when.strftime("%d.%m.%Y %H:%M"), "clock": when.strftime("%H:%M:%S")})
    table["month"] = when.strftime("%Y-%m")
    table["quarter"] = [f"{day.year}Q{day.quarter}" for day in when]
    table["size"] = rng.normal(size=n)
    table["trips"] = table["size"] + 3 * (when.day_of_week >= 5) + np.sin(2 * np.pi * when.hour / 24)
    table.loc[::9, "when"] = None
    table.to_csv("trips.csv", index=False)
    table.drop(columns="trips").to_csv("new.csv", index=False)
    return table


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_an_exported_model_does_to_dates_what_the_checkpoint_does(trips, form):
    pytest.importorskip("onnxruntime")
    quick = ("--watch=[]", "--reference=false", "--trainer.max_epochs=3", "--trainer.logger=false")
    succeed("fit", "--data.path=trips.csv", "--data.target=trips", *quick)
    succeed("predict", "--data.predict_path=new.csv", "--output=a.csv")
    succeed("export", f"--format={form}", f"--output=model.{form}")
    succeed("predict", f"--exported=model.{form}", "--data.predict_path=new.csv", "--output=b.csv")
    one, other = pd.read_csv("a.csv")["prediction"], pd.read_csv("b.csv")["prediction"]
    assert len(one) == 400
    assert np.abs(one - other).max() < 1e-5
    columns = json.loads(Path(f"model.{form}.json").read_text())["inputs"][0]["columns"]
    assert [(c["name"], c["type"]) for c in columns] == [
        *((name, "date") for name in ("when", "clock", "month", "quarter")),
        ("size", "number"),
    ]
    assert columns[0]["unit"] == "seconds since 1970-01-01 UTC"


def test_days_of_the_week_lower_the_loss(trips):
    flags = ("--data.path=trips.csv", "--data.target=trips", "--watch=[]", "--reference=false", "--trainer.logger=csv")

    def r2(*more):
        out, _ = succeed("fit", *flags, *more)
        return float(next(line for line in out.splitlines() if line.startswith("r2")).split()[1])

    assert r2() > r2("--data.drop=[when,clock]") + 0.1


def test_a_file_whose_dates_are_none_is_one_line(trips):
    data = TabularDataModule("trips.csv", "trips", drop=["clock"], predict_path="bad.csv")
    _ = data.learned
    trips.assign(when="soon").to_csv("bad.csv", index=False)
    with pytest.raises(DataError, match=r"'when' held dates in the training rows; here 400 cells are none, .*'soon'"):
        list(data.predict_dataloader())
