"""The doors to Lightning that are not public: these fail when Lightning changes behind them."""

import pytest
import pytorch_lightning as pl
import torch

from datamodules import TabularDataModule
from lightning_mods import MLPClassifier
from lightning_mods.models.fused import lightning_internals as internals
from lightning_mods.models.fused import steps
from lightning_mods.runs import checkpoints
from lightning_mods.runs.checkpoints import LastCheckpoint


class Passes(pl.Callback):
    """Notes what Lightning has counted when an epoch ends, and how many mini-batches its loop was handed."""

    def __init__(self):
        self.counts, self.handed, self.known = [], 0, []

    def steps_free(self, trainer):
        return float("inf")

    def steps_taken(self, trainer, pl_module, taken):
        pass

    def on_train_batch_end(self, trainer, *args):
        self.handed += 1

    def on_train_epoch_end(self, trainer, pl_module):
        self.known.append(internals.is_known(trainer))
        progress = trainer.fit_loop.state_dict()
        # The last mini-batch of an epoch that is passed through the loop is the only one that hooks see begin.
        self.counts.append((trainer.global_step, internals.batches_done(trainer, in_all=True), progress))


def fit(folder, steps_per_execution="auto", *, epochs=3, checkpoint=None, more=()):
    pl.seed_everything(0)
    data = TabularDataModule("iris", batch_size=8, seed=0)
    module = MLPClassifier(4, 3, hidden_sizes=[8], dropout=0.2, lr=0.1)
    module.steps_per_execution = steps_per_execution
    passes = Passes()
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=epochs, logger=False, enable_progress_bar=False, enable_checkpointing=True,
        enable_model_summary=False, accelerator="cpu", callbacks=[passes, LastCheckpoint(), *more],
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module.state_dict(), passes, trainer


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*")
def test_steps_without_the_loop_are_counted_as_the_loop_counts_them(tmp_path):
    slow, counted, _ = fit(tmp_path / "slow", 1)
    fast, taken, _ = fit(tmp_path / "fast")
    assert all(counted.known)
    assert taken.handed < counted.handed / 2
    assert taken.counts == counted.counts
    assert same(slow, fast)


def test_a_trainer_that_counts_elsewhere_is_not_known(tmp_path):
    _, _, trainer = fit(tmp_path, 1, epochs=1)
    assert internals.is_known(trainer)
    trainer.fit_loop.epoch_loop.on_save_checkpoint = dict
    assert not internals.is_known(trainer)
    del trainer.fit_loop.epoch_loop.batch_progress
    assert not internals.is_known(trainer)


def test_a_lightning_that_looks_different_gets_every_batch_and_resumes_from_ends_of_epochs(tmp_path, monkeypatch):
    whole, _, _ = fit(tmp_path / "whole", 1, epochs=4)
    for module in (steps, checkpoints):
        monkeypatch.setattr(module, "is_known", lambda trainer: False)

    class Kill(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                raise KeyError("killed")

    with pytest.raises(KeyError):
        fit(tmp_path / "cut", epochs=4, more=[Kill()])
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    resumed, passes, _ = fit(tmp_path / "cut", epochs=4, checkpoint=str(last))
    assert passes.handed == 2 * 14  # of the two epochs that were left, each mini-batch
    assert same(whole, resumed)


def test_the_steps_between_two_checkpoints_are_read(tmp_path):
    for every in (0, 5):
        found = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=every or None)
        assert internals.every_n_train_steps(found) == every
