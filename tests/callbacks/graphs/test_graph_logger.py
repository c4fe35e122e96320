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
)
from graph_models import MODELS, train
from graph_runs import board, of, said, unhurried, written
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader
from two_ranks import run_ranks

from callbacks import GraphLogger
from callbacks.graphs import backward_graph
from lightning_mods import MLPClassifier

pytestmark = [*LIGHTNINGS_WARNINGS, pytest.mark.filterwarnings("ignore:.*TensorBoardLogger. expects")]
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", MODELS)
def test_both_graphs_are_two_tags_of_one_run(tmp_path, capsys, name):
    _, module = train(name, tmp_path, unhurried(), logger=board(tmp_path))
    graphs = written(tmp_path)
    assert set(graphs) == {"Default", "backward"}
    with_gradient = [p for p in module.parameters() if p.grad is not None or name != "branch"]
    assert len(of(graphs["backward"], "AccumulateGrad")) == len(with_gradient)
    assert len(of(graphs["Default"], "Parameter")) == len(with_gradient)
    assert "loss" in of(graphs["Default"], "Output")
    assert of(graphs["backward"], "Loss") == ["loss"]
    lines = said(capsys)
    assert len(lines) == (name == "branch")  # it is said how, where torch.export did not do it alone
    assert all("depends on the data" in line for line in lines)


@pytest.mark.parametrize("module", [Plain, DictOutputs, TwoOptimizers, SometimesNone, NoValidation, LogsBySteps])
@pytest.mark.parametrize("flags", [{}, {"precision": "bf16-mixed"}], ids=["32", "bf16"])
def test_the_weights_are_those_without_it(tmp_path, module, flags):
    _, alone = fit(tmp_path / "a", module, epochs=1, **flags)
    _, watched = fit(tmp_path / "b", module, unhurried(), epochs=1, logger=board(tmp_path), **flags)
    same = zip(alone.state_dict().values(), watched.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    both = {"backward/0", "backward/1"} if module is TwoOptimizers else {"backward"}
    assert set(written(tmp_path)) == {"Default"} | both
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in watched.modules())


@pytest.mark.parametrize("flags", [{"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.1}], ids=str)
def test_accumulating_and_clipping_stay_what_they_are(tmp_path, flags):
    _, alone = fit(tmp_path / "a", Plain, epochs=1, **flags)
    _, watched = fit(tmp_path / "b", Plain, unhurried(), epochs=1, logger=board(tmp_path), **flags)
    same = zip(alone.state_dict().values(), watched.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_a_gan_has_a_backward_graph_for_each_loss(tmp_path):
    fit(tmp_path, TwoOptimizers, unhurried(), epochs=1, logger=board(tmp_path))
    graphs = written(tmp_path)
    assert {name.split("/")[0] for name in of(graphs["backward/0"], "AccumulateGrad")} == {"net"}
    assert of(graphs["backward/1"], "AccumulateGrad") == ["other/bias", "other/weight"]
    assert {"net", "other"} <= {node.name.split("/")[0] for node in graphs["Default"].node}


class NoneFirst(Plain):
    def training_step(self, batch, batch_idx):
        return None if batch_idx < 2 else super().training_step(batch, batch_idx)


def test_a_skipped_first_batch_is_waited_out(tmp_path):
    fit(tmp_path, NoneFirst, unhurried(), epochs=1, logger=board(tmp_path))
    assert set(written(tmp_path)) == {"Default", "backward"}


class StepsAgain(Plain):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), max_iter=3)


def test_an_optimizer_that_repeats_the_step_gives_one_graph(tmp_path):
    fit(tmp_path, StepsAgain, unhurried(), epochs=1, logger=board(tmp_path))
    graphs = written(tmp_path)
    assert set(graphs) == {"Default", "backward"}
    assert len([name for name in of(graphs["Default"], "linear") if "net" in name]) == 2


class OwnBackward(TwoOptimizers):
    def manual_backward(self, loss, *args, **kwargs):
        loss.backward()


def test_losses_that_lightning_does_not_see_are_spoken_of(tmp_path, capsys):
    fit(tmp_path, OwnBackward, unhurried(), epochs=1, logger=board(tmp_path))
    assert set(written(tmp_path)) == {"Default"}
    (line,) = said(capsys)
    assert "manual_backward" in line


# ------------------------------------------------------------------ where to


@pytest.mark.parametrize("logger", ["csv", "none"])
def test_without_tensorboard_there_are_pictures_in_the_log_folder(tmp_path, capsys, logger):
    kept = CSVLogger(tmp_path, name="run", version="") if logger == "csv" else False
    fit(tmp_path, Plain, unhurried(), epochs=1, logger=kept)
    folder = (tmp_path / "run" if logger == "csv" else tmp_path) / "graphs"
    assert sorted(path.name for path in folder.iterdir()) == ["backward.svg", "forward.svg"]
    assert "BatchNorm1d" in (folder / "forward.svg").read_text()
    (line,) = said(capsys)
    assert str(folder) in line


def test_a_trial_run_writes_nothing(tmp_path):
    fit(tmp_path, Plain, unhurried(svg=True), epochs=1, fast_dev_run=True)
    assert not list(tmp_path.rglob("*.svg"))


def test_one_of_the_two_can_be_left_out(tmp_path):
    fit(tmp_path, Plain, unhurried(forward=False), epochs=1, logger=board(tmp_path))
    assert set(written(tmp_path)) == {"backward"}
    fit(tmp_path / "b", Plain, unhurried(backward=False), epochs=1, logger=board(tmp_path / "b"))
    assert set(written(tmp_path / "b")) == {"Default"}


def test_a_resumed_run_is_not_drawn_again(tmp_path):
    def go(folder, **flags):
        saver = ModelCheckpoint(tmp_path, "end", save_on_train_epoch_end=True, enable_version_counter=False)
        fit(tmp_path, Plain, unhurried(), callbacks=[saver], logger=board(folder), **flags)
        return written(folder)

    assert set(go(tmp_path, epochs=1)) == {"Default", "backward"}
    assert set(go(tmp_path, epochs=2, ckpt_path=tmp_path / "end.ckpt")) == {"Default", "backward"}  # one event a tag
    elsewhere = tmp_path / "elsewhere"
    assert set(go(elsewhere, epochs=3, ckpt_path=tmp_path / "end.ckpt")) == {"Default", "backward"}


# ------------------------------------------------------------------ what it can see


class CompiledStep(Plain):
    def __init__(self):
        super().__init__()
        self.example_input_array = torch.zeros(5, 3)
        self.net.compile(backend="eager")

    def forward(self, x):
        return self.net(x)


def test_where_no_call_is_seen_the_example_is_traced(tmp_path):
    fit(tmp_path, CompiledStep, unhurried(), epochs=1, logger=board(tmp_path))
    (shape,) = [n.attr["_output_shapes"].list.shape[0] for n in written(tmp_path)["Default"].node if n.op == "Input"]
    assert [dim.size for dim in shape.dim] == [5, 3]


class NoModules(Plain):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 1))

    def batch_loss(self, batch):
        return (batch[0] @ self.weight).square().mean()


def test_a_step_without_modules_is_drawn_from_autograd(tmp_path, capsys):
    fit(tmp_path, NoModules, unhurried(), epochs=1, logger=board(tmp_path))
    assert {"weight", "training_step/mm", "loss"} <= {node.name for node in written(tmp_path)["Default"].node}
    (line,) = said(capsys)
    assert "autograd" in line


def test_our_classifier_is_drawn(tmp_path):
    module = MLPClassifier(in_features=3, num_classes=2, hidden_sizes=[4])
    batches = DataLoader([(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))] * 2, batch_size=None)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=board(tmp_path),
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[unhurried()],
    )
    trainer.fit(module, batches)
    names = {dict(n.attr)["parameter"].s.decode() for n in written(tmp_path)["Default"].node if n.op == "Parameter"}
    assert names == {name for name, _ in module.named_parameters()}


# ------------------------------------------------------------------ failures


def test_a_failure_of_its_own_is_one_line_and_training_goes_on(tmp_path, capsys, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("callbacks.graphs.logger.write_graphs", broken)
    trainer, _ = fit(tmp_path, Plain, unhurried(), epochs=2, logger=board(tmp_path))
    assert trainer.current_epoch == 2
    assert said(capsys) == ["GraphLogger: drawing the graphs failed (OSError: disk full); training goes on."]


@pytest.mark.parametrize(("flags", "word"), [({"patience": 0}, "patience"), ({"depth": 0}, "depth")])
def test_a_number_that_cannot_be_is_refused(flags, word):
    with pytest.raises(ValueError, match=f"{word} must be .*, not 0"):
        GraphLogger(**flags)


def test_a_loss_of_nothing_has_an_empty_graph():
    graph = backward_graph(torch.zeros(()), nn.Linear(2, 2))
    assert graph.nodes == ()


SCRIPT = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from callbacks import GraphLogger
from foreign_modules import Plain, fit

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for which in ("alone", "watched"):
        logger = TensorBoardLogger(folder, name="run", version="") if which == "watched" else False
        drawing = GraphLogger(patience=60) if logger else None
        trainer, module = fit(folder, Plain, drawing, epochs=1, devices=2, strategy="ddp", logger=logger)
        torch.save(module.state_dict(), folder / f"{which}{trainer.global_rank}.pt")
"""


def test_of_two_ranks_one_writes_and_none_hangs(tmp_path):
    run_ranks(tmp_path, SCRIPT, tmp_path)
    graphs = written(tmp_path)
    assert set(graphs) == {"Default", "backward"}
    assert "net/Linear[0]/linear" in of(graphs["Default"], "linear")
    for rank in (0, 1):
        alone, watched = (torch.load(tmp_path / f"{which}{rank}.pt") for which in ("alone", "watched"))
        assert all(torch.equal(alone[key], watched[key]) for key in alone)
