"""What the callbacks show of themselves in a notebook."""

import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import LIGHTNINGS_WARNINGS, Plain, loader
from matplotlib.figure import Figure
from pytorch_lightning.loggers import CSVLogger

from callbacks import FitMonitor, GradientLogger, OptunaSearch

pytestmark = LIGHTNINGS_WARNINGS
PNG = b"\x89PNG\r\n\x1a\n"


class WithRate(Plain):
    def __init__(self):
        super().__init__()
        self.lr = 0.1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Rows(pl.LightningDataModule):
    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return loader()


@pytest.fixture(scope="module")
def watchers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    every = [FitMonitor(), GradientLogger(every=1), OptunaSearch(n_trials=2, max_epochs=1, batch_size=None)]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_epochs=4, accelerator="cpu", logger=CSVLogger(folder), callbacks=every, **quiet)
    trainer.fit(WithRate(), datamodule=Rows())
    return every


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_callback_shows_its_picture(watchers, which):
    assert isinstance(watchers[which].figure(), Figure)
    assert watchers[which]._repr_png_().startswith(PNG)  # the name that IPython asks for


@pytest.mark.parametrize("kind", [FitMonitor, GradientLogger, OptunaSearch])
def test_there_is_no_picture_before_a_fit(kind):
    assert kind().figure() is None
    assert kind()._repr_png_() is None


def test_a_monitor_that_begins_anew_shows_no_old_verdict(watchers):
    monitor = watchers[0]
    epochs = len(monitor.figure().axes[1].lines[0].get_xdata())
    assert epochs == 4
    trainer = pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False)
    monitor.setup(trainer, Plain(), "fit")
    assert monitor.figure() is None
