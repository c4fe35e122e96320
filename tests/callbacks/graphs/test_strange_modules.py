import copy
import pickle
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import LIGHTNINGS_WARNINGS
from graph_runs import board, said, unhurried, written
from pytorch_lightning.tuner import Tuner
from strange_modules import STRANGE, Strange, batches
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from callbacks import GraphLogger, TensorBoardLayout

pytestmark = [
    *LIGHTNINGS_WARNINGS,
    pytest.mark.filterwarnings("ignore:.*TensorBoardLogger. expects"),
    pytest.mark.filterwarnings("ignore:.*itertools"),  # Python 3.12 on copying one; it is copied with an ear shut
]
BOTH = {"Default", "backward"}


def trainer_of(folder, *callbacks, logger=False, epochs=2, **flags):
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        callbacks=list(callbacks),
        **flags,
    )


def fit(folder, kind, *callbacks, logger=False, loader=None, **flags):
    pl.seed_everything(1)
    module, trainer = kind(), trainer_of(folder, *callbacks, logger=logger, **flags)
    trainer.fit(module, loader or batches())
    return trainer, module


def everything(trainer, module):
    """All that the next step would depend on."""
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    chance = [torch.get_rng_state(), repr(np.random.get_state()), repr(random.getstate())]
    return {"weights": dict(module.state_dict()), "optimizers": optimizers, "chance": chance, "own": module.state()}


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert_same(list(a.items()), list(b.items()))
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


@pytest.mark.parametrize("kind", STRANGE)
def test_a_fit_is_the_same_with_graphs_and_without(tmp_path, capsys, kind):
    alone = everything(*fit(tmp_path / "alone", kind))
    watched = everything(*fit(tmp_path, kind, unhurried(), logger=board(tmp_path)))
    assert_same(alone, watched)
    assert set(written(tmp_path)) == BOTH
    lines = said(capsys)
    assert len(lines) <= 1
    assert not any("training goes on" in line for line in lines)


def test_a_metric_has_no_scope_of_its_own(tmp_path):
    fit(tmp_path, STRANGE[0], unhurried(), logger=board(tmp_path))
    assert not [node.name for node in written(tmp_path)["Default"].node if "metrics" in node.name]


# ------------------------------------------------------------------ runs that begin otherwise


class Validates(Strange):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    test_step = validation_step

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.trainer.training:
            self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss


@pytest.mark.parametrize("before", ["validate", "test", "lr_find"])
@pytest.mark.parametrize("others", [(), (TensorBoardLayout,)], ids=["alone", "layout"])
def test_a_run_whose_file_was_closed_before_gets_its_graphs_too(tmp_path, capsys, before, others):
    pl.seed_everything(1)
    module = Validates()
    module.lr = 0.01
    trainer = trainer_of(tmp_path, *(other() for other in others), unhurried(), logger=board(tmp_path))
    if before == "lr_find":
        Tuner(trainer).lr_find(module, batches(), batches(), num_training=5, update_attr=False)
        capsys.readouterr()
    else:
        getattr(trainer, before)(module, batches(), verbose=False)
    trainer.fit(module, batches(), batches())
    assert set(written(tmp_path)) == BOTH
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert {"train_loss", "val_loss"} <= set(events.Tags()["scalars"])
    assert not others or events.PluginTagToContent("custom_scalars")
    assert not any("training goes on" in line for line in capsys.readouterr().err.splitlines())


@pytest.mark.parametrize("nones", [{0}, {1}, {0, 1, 2, 3}], ids=str)
@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")
def test_batches_of_none_are_passed_over(tmp_path, capsys, nones):
    loader = DataLoader([None if i in nones else batch for i, batch in enumerate(batches())], batch_size=None)
    alone = everything(*fit(tmp_path / "alone", Strange, loader=loader))
    watched = everything(*fit(tmp_path, Strange, unhurried(), logger=board(tmp_path), loader=loader))
    assert_same(alone, watched)
    assert set(written(tmp_path)) == (BOTH if len(nones) < 4 else set())
    assert said(capsys) == []


class Copies(pl.Callback):
    """Takes copies of a module while it is watched, as some callbacks do."""

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        if trainer.global_step < 1:
            torch.save(pl_module, f"{trainer.default_root_dir}/module.pt")
            self.taken = pickle.loads(pickle.dumps(pl_module)), copy.deepcopy(pl_module)  # noqa: S301
            for one in self.taken:
                one(torch.randn(4, 6))


def test_a_module_can_be_copied_and_pickled_while_it_is_watched(tmp_path, capsys):
    copies = Copies()
    alone = everything(*fit(tmp_path, Strange, Copies()))
    watched = everything(*fit(tmp_path, Strange, unhurried(), copies, logger=board(tmp_path)))
    assert_same(alone, watched)
    assert set(written(tmp_path)) == BOTH
    assert len([node for node in written(tmp_path)["Default"].node if node.op == "Input"]) == 1  # not the copies' calls
    code = f"import sys, torch; torch.load({str(tmp_path / 'module.pt')!r}, weights_only=False)(torch.randn(4, 6))\n"
    code += "assert not any(name.split('.')[0] == 'callbacks' for name in sys.modules)"
    where = {"PYTHONPATH": str(__file__).rpartition("/")[0]}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("second", [{}, {"svg": True}], ids=["alike", "other"])
def test_two_in_one_trainer_stop_no_fit(tmp_path, second):
    loggers = unhurried(), unhurried(**second)
    trainer, _ = fit(tmp_path, Strange, *loggers, logger=board(tmp_path))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    keys = torch.load(tmp_path / "two.ckpt", weights_only=True)["callbacks"]
    assert [key for key in keys if key.startswith("GraphLogger")] == ["GraphLogger", "GraphLogger[1]"]


def test_a_checkpoint_with_one_is_found_again_by_its_plain_name(tmp_path):
    trainer, _ = fit(tmp_path, Strange, unhurried(), logger=board(tmp_path))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    assert "GraphLogger" in torch.load(tmp_path / "one.ckpt", weights_only=True)["callbacks"]


# ------------------------------------------------------------------ time


class Looping(Strange):
    """Its export takes far longer than its steps do."""

    def factor(self, x):
        for _ in range(4000):
            x = torch.tanh(x) + 0.001
        return x


class Sleeping(Strange):
    def factor(self, x):
        if self.training and not self.trainer.global_step:
            time.sleep(3)
        return 1.0


class Deep(Strange):
    def remember(self):
        layers = [nn.TransformerEncoderLayer(6, 2, 8, batch_first=True) for _ in range(150)]
        self.blocks = nn.Sequential(*layers)

    def factor(self, x):
        return self.blocks(x[None])[0]


class ManyLists(Strange):
    def remember(self):
        self.kept = {number: [[i] for i in range(400)] for number in range(2000)}


def added_seconds(folder, kind, **flags):
    spent = []

    class Clock(GraphLogger):
        def on_train_batch_start(self, *args):
            start = time.monotonic()
            super().on_train_batch_start(*args)
            spent.append(time.monotonic() - start)

        def on_train_batch_end(self, *args):
            start = time.monotonic()
            super().on_train_batch_end(*args)
            spent.append(time.monotonic() - start)

    fit(folder, kind, Clock(svg=True, patience=2.0, **flags), logger=board(folder), epochs=1)
    return sum(spent)


@pytest.mark.parametrize("kind", [Looping, Sleeping, Deep, ManyLists])
def test_patience_is_a_promise(tmp_path, capsys, kind):
    fit(tmp_path / "first", Strange, unhurried(), logger=board(tmp_path / "first"))  # imports are no one module's fault
    capsys.readouterr()
    seconds = added_seconds(tmp_path, kind)
    assert seconds < 4.0  # two are the patience, and one more is for a machine with other work
    assert any("too long" in line for line in said(capsys)) or kind is ManyLists
    assert "Default" in written(tmp_path)


class CompiledWrites(Strange):
    """No call of it is seen; its forward changes weights."""

    def remember(self):
        self.example_input_array = torch.zeros(5, 6)
        self.net_of_names = nn.Linear(6, 6)

    def forward(self, x):
        with torch.no_grad():
            self.net_of_names.weight.clamp_(-0.1, 0.1)
        return self.net(self.net_of_names(x))

    def training_step(self, batch, batch_idx):
        return nn.functional.linear(batch[0], self.net_of_names.weight).square().mean()


def test_where_no_call_is_seen_forward_is_traced_and_not_run(tmp_path):
    alone = everything(*fit(tmp_path / "alone", CompiledWrites))
    watched = everything(*fit(tmp_path, CompiledWrites, unhurried(), logger=board(tmp_path)))
    assert_same(alone, watched)
    graph = written(tmp_path)["Default"]
    assert {"net/Linear[0]/linear", "output"} <= {node.name for node in graph.node}
