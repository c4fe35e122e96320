import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import (
    LIGHTNINGS_WARNINGS,
    DictOutputs,
    LogsBySteps,
    NoValidation,
    Plain,
    SometimesNone,
    TwoOptimizers,
    fit,
    loader,
)
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader
from two_ranks import run_ranks

from callbacks import GradientMonitor

pytestmark = [
    *LIGHTNINGS_WARNINGS,
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
    pytest.mark.filterwarnings("ignore:The `fork_rng`"),
]
ROOT = Path(__file__).parents[3]


class DictBatches(Plain):
    """Takes and gives dicts, with text among the tensors."""

    def training_step(self, batch, batch_idx):
        return {"loss": (self.net(batch["x"]["a"]) - 1).square().mean()}

    def train_dataloader(self):
        rows = [{"x": {"a": torch.full((3,), i / 20)}, "name": f"row {i}"} for i in range(24)]
        return DataLoader(rows, batch_size=4, shuffle=True)

    def validation_step(self, batch, batch_idx):
        pass


class Momentum(Plain):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class RawByHand(Momentum):
    """Manual optimization past everything that Lightning wraps."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=False)
        for _ in range(2):
            optimizer.zero_grad()
            self.batch_loss(batch).backward()
            optimizer.step()


class SecondOrder(Plain):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


def run(root, module, monitor=None, **flags):
    if module is not DictBatches:
        return fit(root, module, monitor, **flags)
    pl.seed_everything(1)
    model = module()
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[monitor] if monitor else [],
    )
    trainer.fit(model)
    return trainer, model


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


CASES = [
    ("plain", Plain, {}),
    ("momentum and accumulation", Momentum, {"accumulate_grad_batches": 2}),
    ("clipping", Momentum, {"gradient_clip_val": 0.1}),
    ("bf16", Momentum, {"precision": "bf16-mixed"}),
    ("dict outputs", DictOutputs, {}),
    ("dict batches", DictBatches, {}),
    ("none returned", SometimesNone, {}),
    ("two optimizers by hand", TwoOptimizers, {}),
    ("a raw optimizer by hand", RawByHand, {}),
    ("second order", SecondOrder, {}),
    ("no validation", NoValidation, {}),
    ("logs by steps", LogsBySteps, {"val_check_interval": 0.5}),
]


@pytest.mark.parametrize(("module", "flags"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_the_weights_are_those_without_it_and_nothing_fails(tmp_path, capsys, module, flags):
    monitor = GradientMonitor(every=2)
    _, alone = run(tmp_path / "a", module, **flags)
    random = torch.random.get_rng_state()
    _, watched = run(tmp_path / "b", module, monitor, **flags)
    assert same(alone, watched)
    assert torch.equal(random, torch.random.get_rng_state())
    said = capsys.readouterr().err
    assert "failed (" not in said
    assert said.count("GradientMonitor: nothing wrong over") == 1


def test_no_hook_is_left_behind(tmp_path):
    for module in (Plain, RawByHand):
        trainer, model = fit(tmp_path, module, GradientMonitor(), epochs=1)
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
        assert not any(p._backward_hooks for p in model.parameters())
        assert not trainer.optimizers[0]._optimizer_step_pre_hooks


def test_a_trial_run_is_not_judged(tmp_path, capsys):
    monitor = GradientMonitor()
    fit(tmp_path, Plain, monitor, fast_dev_run=True)
    assert monitor.findings == []
    assert "GradientMonitor" not in capsys.readouterr().err


class Constant(Plain):
    """Has a fault that shows at once."""

    def __init__(self):
        super().__init__()
        for layer in (self.net[0], self.net[3]):
            torch.nn.init.constant_(layer.weight, 0.1)


def test_loggers_get_the_findings_as_text_where_they_take_text(tmp_path):
    fit(tmp_path, Constant, GradientMonitor(), epochs=1, logger=CSVLogger(tmp_path / "csv"))
    logger = TensorBoardLogger(tmp_path / "events")
    fit(tmp_path, Constant, GradientMonitor(), epochs=1, logger=logger)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    (text,) = events.Tensors("gradients/health/text_summary")
    assert "constant initialisation in `net.0`" in text.tensor_proto.string_val[0].decode()


def test_an_interrupted_run_remembers_what_was_found(tmp_path, capsys):
    saver = ModelCheckpoint(tmp_path / "checkpoints", "end", save_on_train_epoch_end=True, enable_version_counter=False)
    whole = GradientMonitor()
    fit(tmp_path, Constant, whole, epochs=2, callbacks=[saver])
    capsys.readouterr()
    resumed = GradientMonitor()
    fit(tmp_path, Constant, resumed, epochs=4, ckpt_path=tmp_path / "checkpoints" / "end.ckpt")
    assert resumed.findings == whole.findings
    assert resumed.state_dict()["watch"]["batches"] == 24
    assert "found over 24 steps" in capsys.readouterr().err


def test_a_second_fit_begins_anew_and_a_longer_one_goes_on(tmp_path):
    monitor = GradientMonitor()
    trainer, model = fit(tmp_path, Constant, monitor, epochs=2)
    found = list(monitor.findings)
    assert found
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, loader())
    assert monitor.findings == found
    other = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[monitor],
    )
    other.fit(Plain(), loader(), loader())
    assert monitor.findings == []


def test_a_failure_of_its_own_is_one_line_and_training_goes_on(tmp_path, capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such thing")

    monkeypatch.setattr("callbacks.health.training_watch.operations", broken)
    trainer, _ = fit(tmp_path, Plain, GradientMonitor())
    assert trainer.current_epoch == 6
    line = "GradientMonitor: looking at the loss failed (RuntimeError: no such thing); training goes on."
    assert capsys.readouterr().err.count(line) == 1


def test_an_error_before_the_fit_is_not_hidden(tmp_path):
    class Broken(Plain):
        def configure_optimizers(self):
            raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        fit(tmp_path, Broken, GradientMonitor())


def test_a_compiled_module_is_watched(tmp_path, capsys):
    class Compiled(Momentum):
        def __init__(self):
            super().__init__()
            self.net = torch.compile(self.net, backend="eager")

    monitor = GradientMonitor()
    fit(tmp_path, Compiled, monitor, epochs=2)
    assert monitor.findings == []
    assert "failed (" not in capsys.readouterr().err


# Rank 1 alone gets a NaN, and a constant layer is on both.
SCRIPT = """
import json, math, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import pytorch_lightning as pl, torch
from callbacks import GradientMonitor
from foreign_modules import Plain, loader

class Spoilt(Plain):
    def on_train_batch_start(self, batch, batch_idx):
        self.before = [p.detach().clone() for p in self.parameters()]
        if (self.current_epoch, batch_idx, self.global_rank) == (1, 2, 1):
            batch[0][0, 0] = math.nan

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    pl.seed_everything(1)
    monitor, model = GradientMonitor(), Spoilt()
    trainer = pl.Trainer(max_epochs=5, accelerator="cpu", devices=2, strategy="ddp", logger=False,
                         default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
                         enable_checkpointing=False, callbacks=[monitor])
    trainer.fit(model, loader(shuffle=True))
    kept = all(torch.equal(a, b) for a, b in zip(model.before, model.parameters()))
    state = {"epochs": trainer.current_epoch, "kept": kept, "found": [str(f.fault) for f in monitor.findings]}
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(state))
"""


def test_two_ranks_stop_together_when_one_of_them_has_a_nan(tmp_path):
    done = run_ranks(tmp_path, SCRIPT, tmp_path)
    zero, one = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert zero["kept"]
    assert one["kept"]
    assert zero["epochs"] == one["epochs"] == 2
    assert zero["found"] == one["found"] == ["non_finite"]
    assert done.stderr.count("GradientMonitor: non finite") == 1
