"""The benchmark of other people's modules: it sees a bit that changed, a fit that stopped, and what was said."""

import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks are scripts, no installed package

from benchmarks.foreign.data import trainer_arguments
from benchmarks.foreign.fit import fit
from benchmarks.foreign.recorder import digest, validation_losses
from benchmarks.foreign.table import compare, summary, write

PAGE = Path(__file__).parents[1] / "docs" / "foreign.md"


class Logs(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", super().validation_step(batch, batch_idx)["x"])


def healthy(callbacks, folder):
    pl.Trainer(**trainer_arguments(pl, callbacks, folder, epochs=2)).fit(Logs())


def stirred(callbacks, folder):
    model = Logs()
    if len(callbacks) > 1:
        torch.nn.init.constant_(model.layer.bias, 1e-7)
        random.random()
    pl.Trainer(**trainer_arguments(pl, callbacks, folder, epochs=1)).fit(model)


def stopped(callbacks, folder):
    if len(callbacks) > 1:
        raise ValueError("no")
    healthy(callbacks, folder)


@pytest.fixture
def row(tmp_path, monkeypatch, capfd):
    """Fits a function both ways and returns its row."""

    def fitted(function):
        module = SimpleNamespace(pl=pl, FITS={"it": function})
        runs = {"name": "it", "bare": [], "ours": []}
        for kind in ("bare", "ours"):
            folder = tmp_path / kind
            folder.mkdir()
            monkeypatch.chdir(folder)
            monkeypatch.setenv("PL_GLOBAL_SEED", "3")  # Lightning leaves it behind: this takes it away again
            capfd.readouterr()
            found = fit(module, "it", folder, with_ours=kind == "ours")
            runs[kind].append(found | {"said": capfd.readouterr().err})
        return compare(runs)

    return fitted


def test_a_fit_that_callbacks_only_watch_is_equal_bit_for_bit_and_its_curves_and_graphs_are_found(row):
    found = row(healthy)
    assert not found["error"]
    assert not found["changed"]
    assert found["curves"] == {"train_loss": "train_loss", "val_loss": "val_loss"}
    assert found["graphs"] == ["forward", "backward"]
    assert found["steps"] == 128


def test_a_change_in_the_last_bits_is_seen_where_it_happened(row):
    assert set(row(stirred)["changed"]) == {"weights", "python"}


def test_a_fit_that_stops_with_ours_alone_is_named(row):
    assert row(stopped)["error"] == "ValueError: no"


def test_what_differs_between_two_fits_without_ours_is_not_laid_to_ours():
    runs = [{"error": "", "digests": {"weights": mark}, "wall": 1, "cpu": 1} for mark in "abc"]
    ours = runs[2] | {
        "said": "GradientMonitor: dead units in `a` at step 3: no\nFitMonitor: epoch 1: fits\nGraphLogger: no"
    }
    ours |= {"graphs": [], "curves": {}}
    found = compare({"name": "it", "bare": [one | {"validation_losses": []} for one in runs[:2]], "ours": [ours]})
    assert (found["changed"], found["unstable"]) == ([], ["weights"])
    assert found["findings"] == ["GradientMonitor: dead units in `a` at step 3: no"]
    assert found["notes"] == ["GraphLogger: no"]


def test_digests_tell_types_shapes_and_bits_apart():
    values = [
        torch.zeros(2),
        torch.zeros(2, 1),
        torch.zeros(2).double(),
        -torch.zeros(2),
        [0.0],
        [0],
        {"a": 0},
        {"b": 0},
    ]
    assert len({digest(value) for value in values}) == len(values)
    assert digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)})


def test_a_validation_loss_is_known_by_its_words():
    known = ["valid_loss", "ptl/val_loss", "validation_loss", "val/loss/dataloader_idx_0", "dev-loss"]
    assert validation_losses([*known, "train_loss", "val_loss_step", "evaluate", "lossy_val"]) == known


def test_the_page_keeps_its_words_and_takes_the_tables(row, tmp_path):
    page = tmp_path / "foreign.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    head = {"distribution": "torch", "versions": {"torch": torch.__version__}, "host": "pytorch_lightning"}
    result = {"mine": {**head, "rows": [row(healthy)], "error": ""}, "absent": {"rows": [], "error": "ImportError: no"}}
    write(result, page)
    first = page.read_text(encoding="utf-8")
    assert all(line in first.splitlines() for line in summary(result))
    assert "mine/it" in first
    assert "* absent: ImportError: no" in first
    write(result, page)
    assert page.read_text(encoding="utf-8") == first
