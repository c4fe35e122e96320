"""An interrupted run that goes on is judged as one that was left alone."""

import pytest
import pytorch_lightning as pl
import torch
from healthy_modules import BATCH, Healthy
from torch.utils.data import DataLoader, TensorDataset

from callbacks import GradientMonitor
from lightning_mods.runs.checkpoints import AtomicCheckpointIO, LastCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
EPOCHS = 24


class Settles(Healthy):
    """Learns fast and then rests, as its rate falls to zero: a fit like any other."""

    net_of = (8, 16, 3)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * 3 // 4)]


class Crawls(Healthy):
    """Never gets anywhere."""

    net_of, rate = (8, 16, 3), 1e-7


class Leaps(Healthy):
    """Is thrown about."""

    net_of, rate = (8, 16, 3), 3.0


class Stop(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (EPOCHS * 3 // 4, 2):
            raise RuntimeError("killed")


def fit(kind, root, *callbacks, ckpt_path=None):
    pl.seed_everything(0)
    monitor, data = GradientMonitor(closing=False), TensorDataset(*kind.tensors)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[monitor, LastCheckpoint(), *callbacks],
        plugins=[AtomicCheckpointIO()],
    )
    loader = DataLoader(data, batch_size=BATCH)
    trainer.fit(kind(), loader, loader, ckpt_path=ckpt_path, weights_only=True)
    return monitor


@pytest.mark.filterwarnings("ignore::UserWarning")  # few workers
@pytest.mark.parametrize("kind", [Settles, Crawls, Leaps])
def test_a_run_that_was_interrupted_is_judged_as_one_left_alone(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_mods.runs.checkpoints.WRITING", 1.0)  # at the beginning of each epoch
    whole = fit(kind, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        fit(kind, tmp_path / "cut", Stop())
    resumed = fit(kind, tmp_path / "cut", ckpt_path=tmp_path / "cut" / "checkpoints" / "last.ckpt")
    faults = {Settles: [], Crawls: ["learning_rate_too_low"], Leaps: ["learning_rate_too_high"]}
    assert [str(found.fault) for found in whole.findings if found.fault != "unshuffled"] == faults[kind]
    assert resumed.last_word == whole.last_word
    # As text, in which NaN is like NaN.
    assert repr(resumed.state_dict()["watch"]) == repr(whole.state_dict()["watch"])
