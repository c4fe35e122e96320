"""The bar: few drawings, and the right end."""

import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import pytorch_lightning as pl

from datamodules import TabularDataModule
from lightning_mods import MLPClassifier
from lightning_mods.loggers import progress
from lightning_mods.loggers.progress import ProgressLines, TimedBar, in_notebook, progress_callbacks


def fit(tmp_path, capsys, **given):
    data = TabularDataModule(path="iris", batch_size=16)
    module = MLPClassifier(data.in_features, data.num_classes, lr=0.1)
    bar = TimedBar()
    trainer = pl.Trainer(
        **{"max_epochs": 4, "logger": False, **given},
        default_root_dir=tmp_path,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[bar],
    )
    trainer.fit(module, datamodule=data)
    return [line for line in re.split(r"[\r\n]+", capsys.readouterr().out) if "Epoch" in line]


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TQDM_NCOLS", "100")


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_it_ends_with_the_last_batch_of_the_last_epoch(tmp_path, capsys, monkeypatch, seconds):
    monkeypatch.setattr(progress, "DRAWING", seconds)
    drawn = fit(tmp_path, capsys)
    assert "Epoch 3" in drawn[-1]
    assert "7/7" in drawn[-1]
    shown = {int(epoch) for line in drawn for epoch in re.findall(r"Epoch (\d+)", line)}
    assert shown == ({0, 1, 2, 3} if seconds == 0 else {3}) or shown == {0, 3}


def test_a_fit_that_is_limited_ends_where_it_was(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "DRAWING", 3600.0)
    drawn = fit(tmp_path, capsys, max_steps=10, max_epochs=-1)
    assert "Epoch 1" in drawn[-1]
    assert "3/3" in drawn[-1]


def test_a_second_fit_begins_anew(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "DRAWING", 0.0)
    assert "Epoch 0" in fit(tmp_path, capsys, max_epochs=1)[-1]
    assert "Epoch 1" in fit(tmp_path, capsys, max_epochs=2)[-1]


@pytest.mark.parametrize(("found", "shown", "lines"), [(object(), TimedBar, 0), (None, ProgressLines, 1)])
def test_a_notebook_gets_the_bar_and_without_ipywidgets_lines_and_the_command(monkeypatch, capsys, found, shown, lines):
    assert not in_notebook()
    kernel = ModuleType("ipykernel.kernelapp")
    kernel.IPKernelApp = SimpleNamespace(initialized=lambda: True)
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", kernel)
    monkeypatch.setattr(progress, "find_spec", lambda name: found)
    assert [type(callback) for callback in progress_callbacks([])] == [shown]
    assert capsys.readouterr().err.count("pip install 'lightning-mods[notebook]'\n") == lines
    kernel.IPKernelApp = SimpleNamespace(initialized=lambda: False)  # imported, but this process is none
    assert [type(callback) for callback in progress_callbacks([])] == [ProgressLines]
    assert capsys.readouterr().err == ""
