import contextlib
import errno
import pickle
import random

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_mods.models.fused.lightning_internals import epochs_done
from lightning_mods.runs import RunError
from lightning_mods.runs.checkpoints import (
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    metrics_in,
    read_checkpoint,
)

CHECKPOINT = {"state_dict": {"w": torch.ones(3)}, "pytorch-lightning_version": "2.6.6"}


def test_a_failed_write_leaves_the_earlier_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, path)
    before = path.read_bytes()

    def full(checkpoint, file):
        file.write(b"half")
        raise RuntimeError("torch says little") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint({}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_write_left_is_written_over(tmp_path):
    (tmp_path / ".a.ckpt.0123abcd.partial").write_bytes(b"half")
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, tmp_path / "a.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]
    assert torch.equal(read_checkpoint(tmp_path / "a.ckpt")["state_dict"]["w"], torch.ones(3))


class Evil:
    def __reduce__(self):
        return (eval, ("1 + 1",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "damaged or no checkpoint"),
        (b"not a checkpoint at all", "no checkpoint that loads weights-only"),
        (pickle.dumps(Evil()), "no checkpoint that loads weights-only"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content, says):
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises(RunError, match=says) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_a_bit_that_flipped_in_the_weights_is_found(tmp_path):
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({**CHECKPOINT, "state_dict": {"w": torch.full((64,), 1.25)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((64,), 1.25).numpy().tobytes()) + 9] ^= 4
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["state_dict"]["w"], torch.full((64,), 1.25))
    for read in (read_checkpoint, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(RunError, match=r"a\.ckpt is damaged.* is not as it was written; `--ckpt_path best`"):
            read(path)


def test_whatever_bit_flips_nothing_else_is_read_than_was_written(tmp_path):
    path, weights = tmp_path / "a.ckpt", torch.arange(24.0)
    AtomicCheckpointIO().save_checkpoint({**CHECKPOINT, "state_dict": {"w": weights}}, path)
    whole = path.read_bytes()
    draw = random.Random(0)
    for at in draw.sample(range(len(whole)), 150):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with contextlib.suppress(RunError):  # the only error that may come
            assert torch.equal(read_checkpoint(path)["state_dict"]["w"], weights)


def test_a_truncated_checkpoint_is_damaged(tmp_path):
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match="damaged"):
        read_checkpoint(path)


def test_objects_that_need_code_are_refused_by_name(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({**CHECKPOINT, "more": Evil()}, path)
    with pytest.raises(RunError, match=r"holds `[a-z.]*eval`, which only code could rebuild"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [{"weights": torch.ones(1)}, [1, 2], torch.ones(2)])
def test_a_foreign_checkpoint_is_named_as_such(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(RunError, match="no checkpoint of a Lightning run"):
        read_checkpoint(tmp_path / "a.ckpt")


class Foreign(pl.LightningModule):
    """Somebody else's module: torch's own dropout, a plateau scheduler, its own names."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.net(batch[0]).square().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class Stop(pl.Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (self.epoch, 2):
            raise RuntimeError("killed")


def fit(root, *, module=None, stop_in=None, ckpt_path=None, epochs=6):
    pl.seed_everything(1)
    model = (module or Foreign)()
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[BestCheckpoint(), LastCheckpoint(), *([Stop(stop_in)] if stop_in is not None else [])],
        plugins=[AtomicCheckpointIO()],
    )
    loader = DataLoader(TensorDataset(x), batch_size=8, generator=torch.Generator())
    trainer.fit(model, loader, loader, ckpt_path=ckpt_path, weights_only=True)
    return trainer, model


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("epoch", [0, 1, 3, 5])
def test_a_foreign_module_resumes_bit_for_bit_from_the_last_checkpoint(tmp_path, epoch):
    whole, expected = fit(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "cut", stop_in=epoch)
    resumed, model = fit(tmp_path / "cut", ckpt_path=tmp_path / "cut" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert resumed.global_step == whole.global_step
    assert resumed.optimizers[0].param_groups[0]["lr"] == whole.optimizers[0].param_groups[0]["lr"] < 0.1


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_finished_run_goes_on_when_there_are_more_epochs(tmp_path):
    _, expected = fit(tmp_path / "whole", epochs=6)
    fit(tmp_path / "short", epochs=3)
    _, model = fit(tmp_path / "short", epochs=6, ckpt_path=tmp_path / "short" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_best_holds_the_metrics_of_its_epoch_and_last_is_the_end(tmp_path):
    trainer, _ = fit(tmp_path)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    best, last = read_checkpoint(folder / "best.ckpt"), read_checkpoint(folder / "last.ckpt")
    assert metrics_in(best)["val_loss"] == pytest.approx(float(trainer.checkpoint_callback.best_model_score))
    assert epochs_done(last) == 6
    assert 1 <= epochs_done(best) <= 6
    assert metrics_in(CHECKPOINT) == {}


class NamesItOtherwise(Foreign):
    """Is best in its first epoch, and logs its validation loss under another name."""

    def validation_step(self, batch, batch_idx):
        self.log_dict({"valid/loss": 1.0 + self.current_epoch, "val_loss_weight": -1.0})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_best_is_found_under_another_name_and_stays_when_the_run_goes_on(tmp_path):
    fit(tmp_path, module=NamesItOtherwise, epochs=3)
    folder = tmp_path / "checkpoints"
    assert epochs_done(read_checkpoint(folder / "best.ckpt")) == 1
    fit(tmp_path, module=NamesItOtherwise, epochs=6, ckpt_path=folder / "last.ckpt")
    assert epochs_done(read_checkpoint(folder / "best.ckpt")) == 1
