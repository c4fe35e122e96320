import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import (
    LIGHTNINGS_WARNINGS,
    DictOutputs,
    LogsNothing,
    Memory,
    NoValidation,
    Plain,
    SometimesNone,
    TwoLoaders,
    TwoOptimizers,
    fit,
)
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from two_ranks import run_ranks

from callbacks import GradientLogger

pytestmark = LIGHTNINGS_WARNINGS


class Compiled(Plain):
    def __init__(self):
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")


CASES = [
    (Plain, {}),
    (DictOutputs, {}),
    (NoValidation, {}),
    (LogsNothing, {}),
    (SometimesNone, {}),
    (TwoLoaders, {}),
    (TwoOptimizers, {}),
    (Compiled, {}),
    (Plain, {"accumulate_grad_batches": 4}),
    (Plain, {"gradient_clip_val": 0.1}),
    (Plain, {"precision": "bf16-mixed"}),
    (Plain, {"precision": "bf16-true"}),
]


@pytest.mark.parametrize(("module", "flags"), CASES)
def test_the_weights_are_those_without_it_bit_for_bit(tmp_path, capsys, module, flags):
    memory = Memory()
    ours = GradientLogger(every=1, histograms_every=2, updates_every=2, write_every=5, flow_every=3)
    _, alone = fit(tmp_path / "a", module, epochs=2, **flags)
    random = torch.rand(1)
    _, seen = fit(tmp_path / "b", module, ours, epochs=2, logger=[memory, TensorBoardLogger(tmp_path)], **flags)
    assert torch.equal(torch.rand(1), random)
    same = zip(alone.state_dict().values(), seen.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert "GradientLogger" not in capsys.readouterr().err
    layers = {tag.partition("/")[2] for row in memory.rows.values() for tag in row if tag.startswith("grad_norm/")}
    assert {"net.0", "net.1", "net.3"} <= layers


class Kill(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (4, 2):
            raise RuntimeError("killed")


def saver(folder):
    return ModelCheckpoint(folder / "checkpoints", "end", save_on_train_epoch_end=True, enable_version_counter=False)


@pytest.mark.parametrize("module", [Plain, TwoOptimizers])
def test_an_interrupted_run_ends_with_the_same_history(tmp_path, module):
    whole, killed, resumed = (GradientLogger(every=4, write_every=1, flow_every=0) for _ in range(3))
    all_rows, first_rows, last_rows = Memory(), Memory(), Memory()
    fit(tmp_path / "whole", module, whole, logger=all_rows)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, module, killed, callbacks=[saver(tmp_path), Kill()], logger=first_rows)
    checkpoint = tmp_path / "checkpoints" / "end.ckpt"
    fit(tmp_path, module, resumed, callbacks=[saver(tmp_path)], ckpt_path=checkpoint, logger=last_rows)
    steps, later = (
        [step for step, row in rows.rows.items() if any("grad_norm" in tag for tag in row)]
        for rows in (all_rows, last_rows)
    )
    assert steps[-len(later) :] == later
    assert resumed.state_dict()["counts"] == whole.state_dict()["counts"]
    spans = [[column[:2] for column in ours.state_dict()["flow"]["columns"]] for ours in (whole, resumed)]
    assert spans[0] == spans[1]


def test_fast_dev_run_writes_nothing(tmp_path, capsys):
    ours = GradientLogger(every=1)
    fit(tmp_path, Plain, ours, fast_dev_run=True)
    assert "GradientLogger" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    fit(tmp_path, Plain, ours, fast_dev_run=True, logger=Memory())
    assert ours.state_dict()["counts"] == [1]
    assert not list(tmp_path.rglob("*.png"))


def test_a_second_fit_of_another_trainer_begins_anew(tmp_path):
    ours = GradientLogger(every=1, write_every=1, flow_every=0)
    rows = [Memory(), Memory()]
    for memory in rows:
        fit(tmp_path, Plain, ours, epochs=1, logger=memory)
    assert rows[0].named("grad_norm/total") == rows[1].named("grad_norm/total")
    assert len(rows[1].named("grad_norm/total")) == 6


def test_a_sharded_parameter_is_named_and_left_out(tmp_path, capsys, monkeypatch):
    class Part(torch.nn.Parameter):
        """Stands for a DTensor: making a true one needs a process group."""

    class Sharded(Plain):
        def __init__(self):
            super().__init__()
            self.net[0].weight = Part(self.net[0].weight.data)

    import torch.distributed.tensor as distributed

    monkeypatch.setattr(distributed, "DTensor", Part)
    memory = Memory()
    fit(tmp_path, Sharded, GradientLogger(every=1, flow_every=0), epochs=1, logger=memory)
    said = [line for line in capsys.readouterr().err.splitlines() if "GradientLogger" in line]
    assert said == ["GradientLogger: net.0.weight left out: sharded, so that no rank has the whole gradient."]
    assert memory.named("grad_norm/net.0")


SCRIPT = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from callbacks import GradientLogger
from foreign_modules import Plain, loader
from gradient_hand import Hand, norm

if __name__ == "__main__":
    pl.seed_everything(1)
    folder, hand = Path(sys.argv[1]), Hand()
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=CSVLogger(folder),
                         default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
                         callbacks=[GradientLogger(every=1, write_every=1), hand])
    trainer.fit(Plain(), loader(shuffle=True), loader())
    totals = [norm(grads.values()) for grads, *_ in hand.steps]
    (folder / f"rank{trainer.global_rank}.txt").write_text(" ".join(map(str, totals)))
"""


def test_of_two_ranks_one_writes_the_averaged_gradient(tmp_path):
    run_ranks(tmp_path, SCRIPT, tmp_path)
    zero, one = ((tmp_path / f"rank{rank}.txt").read_text().split() for rank in (0, 1))
    assert zero == one
    (table,) = tmp_path.rglob("metrics.csv")
    lines = [line.split(",") for line in table.read_text().splitlines()]
    total = lines[0].index("grad_norm/total")
    written = [float(line[total]) for line in lines[1:] if line[total]]
    assert written == pytest.approx([float(value) for value in zero], rel=2e-6)
    assert len(written) == 6
    assert len(list(tmp_path.rglob("gradient_flow.png"))) == 1
