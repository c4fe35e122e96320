import math

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import TensorBoardLayout


class Foreign(pl.LightningModule):
    def __init__(self, width: int = 3, values: tuple[float, ...] = (3.0, 1.0, math.nan, 2.0)):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(width, 1)
        self.values = values

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        value = 99.0 if self.trainer.sanity_checking else self.values[self.current_epoch]
        self.log("val_loss", value, batch_size=len(batch[0]))
        self.log("val_score", float(self.current_epoch), batch_size=len(batch[0]))

    def test_step(self, batch, batch_idx):
        self.log("test_score", 0.5, batch_size=len(batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(logger, *, ckpt_path=None, epochs=4, layout=None, module=Foreign, **kwargs):
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[layout or TensorBoardLayout(config="trainer:\n  max_epochs: 4\n")],
        **kwargs,
    )
    loader = DataLoader(TensorDataset(torch.zeros(4, 3)), batch_size=2)
    model = module()
    trainer.fit(model, loader, loader, ckpt_path=ckpt_path, weights_only=True)
    return trainer, model, loader


def events(folder):
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_the_tabs_show_both_losses_and_the_results_of_the_best_epoch(tmp_path):
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    trainer, model, loader = fit(logger)
    trainer.test(model, loader, verbose=False)
    logger.finalize("success")
    found = events(logger.log_dir)
    layout = Layout.FromString(found.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts == {"loss": ["train_loss", "val_loss"], "score": ["val_score"]}
    latest = {tag: found.Scalars(tag)[-1].value for tag in found.Tags()["scalars"] if tag.startswith("hp/")}
    assert latest == {"hp/val_loss": 1, "hp/val_score": 1, "hp/test_score": 0.5}
    session = found.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(session["_hparams_/session_start_info"]).session_start_info
    assert start.hparams["width"].number_value == 3
    assert start.hparams["optimizer"].string_value == "SGD"
    assert start.hparams["lr"].number_value == 0.1
    experiment = HParamsPluginData.FromString(session["_hparams_/experiment"]).experiment
    assert {info.name.tag for info in experiment.metric_infos} >= set(latest)
    assert b"max_epochs: 4" in found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]


class NamesThemOtherwise(Foreign):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        value = 99.0 if self.trainer.sanity_checking else self.values[self.current_epoch]
        self.log_dict({"valid/loss": value, "valid/acc": float(self.current_epoch)}, batch_size=len(batch[0]))


def test_both_losses_are_on_one_chart_under_a_strangers_names(tmp_path):
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    fit(logger, module=NamesThemOtherwise)
    logger.finalize("success")
    found = events(logger.log_dir)
    layout = Layout.FromString(found.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts == {"loss": ["train/loss_epoch", "valid/loss"], "acc": ["valid/acc"]}
    assert {"train/loss_epoch", "valid/loss", "valid/acc"} <= set(found.Tags()["scalars"])
    latest = {tag: found.Scalars(tag)[-1].value for tag in found.Tags()["scalars"] if tag.startswith("hp/")}
    assert latest == {"hp/valid/loss": 1, "hp/valid/acc": 1}


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # the resumed run has a folder of its own here
def test_the_best_value_goes_on_from_a_checkpoint(tmp_path):
    trainer, *_ = fit(TensorBoardLogger(tmp_path, default_hp_metric=False), epochs=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    fit(logger, ckpt_path=tmp_path / "a.ckpt")  # 2.0 in epoch 3 is no better than the 1.0 of epoch 1
    logger.finalize("success")
    assert "hp/val_loss" not in events(logger.log_dir).Tags()["scalars"]


def test_max_takes_the_highest():
    layout = TensorBoardLayout("val_score", mode="max")
    assert layout._improves(1.0)
    layout._best = 1.0
    assert layout._improves(2.0)
    assert not layout._improves(0.5)
    assert not layout._improves(math.nan)
    with pytest.raises(ValueError, match="mode must be `min` or `max`, not 'up'"):
        TensorBoardLayout(mode="up")


@pytest.mark.parametrize("make", [lambda path: False, lambda path: CSVLogger(path)])
def test_without_tensorboard_it_does_nothing(tmp_path, make, monkeypatch):
    monkeypatch.chdir(tmp_path)  # without a logger the files go into the trainer's root folder
    fit(make(tmp_path), enable_checkpointing=False)
    assert not list(tmp_path.rglob("events.*"))


class PutsAnything(Foreign):
    def on_validation_epoch_end(self):
        odd = {"val_wave": torch.tensor(1 + 2j), 3: torch.ones(()), "val_word": "good", "val_own": self.net.bias}
        self.trainer.callback_metrics.update(odd)


def test_what_is_no_number_among_the_metrics_is_passed_by(tmp_path):
    trainer, *_ = fit(False, module=PutsAnything, enable_checkpointing=False, default_root_dir=tmp_path)
    assert trainer.current_epoch == 4


def test_a_fast_dev_run_passes(tmp_path):
    fit(TensorBoardLogger(tmp_path), fast_dev_run=True)
