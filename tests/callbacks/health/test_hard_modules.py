"""Modules that are hard to watch: odd inputs, weights that are computed, batches of nothing, copies amid a step."""

import copy
import io
import pickle
from collections import namedtuple
from dataclasses import dataclass

import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import LIGHTNINGS_WARNINGS, Plain, fit
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from callbacks import FitMonitor, GradientLogger, GradientMonitor, GraphLogger, TensorBoardLayout, TrialPruning

pytestmark = [
    *LIGHTNINGS_WARNINGS,
    pytest.mark.filterwarnings("ignore:.*nested tensors"),
    pytest.mark.filterwarnings("ignore:train_dataloader yielded None"),
    pytest.mark.filterwarnings("ignore:val_dataloader yielded None"),
    pytest.mark.filterwarnings("ignore:Sparse CSR"),
    pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`"),
    pytest.mark.filterwarnings("ignore:.*[Dd]ropout option"),
]


class Rows(Plain):
    """Trains on whatever `given` makes of a batch, through `layer`."""

    def __init__(self, layer=None):
        super().__init__()
        self.layer = layer or nn.Linear(3, 4)

    def batch_loss(self, batch):
        return self.given(batch[0])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        pass


class Nested(Rows):
    layout = torch.strided

    def given(self, x):
        rows = torch.nested.nested_tensor([x[:1], x[1:]], layout=self.layout)
        return sum(part.square().mean() for part in self.layer(rows).unbind())


class Jagged(Nested):
    layout = torch.jagged


class Sparse(Rows):
    def given(self, x):
        return self.layer(x.relu().to_sparse()).square().mean()


class Csr(Rows):
    def given(self, x):
        return self.layer(x.relu().to_sparse_csr()).square().mean()


class ByName(Rows):
    def given(self, x):
        return self.layer(input=x).square().mean()


class Whole(nn.Module):
    """Takes objects, and gives them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, given):
        return [row * self.weight for row in given["rows"]]


class Objects(Rows):
    def __init__(self):
        super().__init__(Whole())

    def given(self, x):
        return sum(row.square().mean() for row in self.layer({"rows": list(x)}))


class Hostile(torch.Tensor):
    """Refuses all that is not arithmetic."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("detach", "std", "float", "data_ptr", "untyped_storage"):
            raise RuntimeError("not this")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class Refuses(Rows):
    def given(self, x):
        return self.layer(x.as_subclass(Hostile)).square().mean()


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


class Counts(nn.Module):
    """Changes a buffer whenever its weight is asked for, and draws a random number."""

    def __init__(self):
        super().__init__()
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, weight):
        self.asked += 1
        return weight + 0.01 * torch.randn_like(weight)


def parametrized(kind):
    layer = nn.Linear(3, 4)
    if kind == "counts":
        parametrize.register_parametrization(layer, "weight", Counts(), unsafe=True)
    elif kind == "norm":
        layer = nn.Sequential(layer, nn.BatchNorm1d(4))
        parametrize.register_parametrization(layer[1], "weight", Counts(), unsafe=True)
    else:
        getattr(parametrizations, kind)(layer)
    return layer


class Parametrized(Rows):
    kind = ""

    def __init__(self):
        super().__init__(parametrized(self.kind))

    def given(self, x):
        return self.layer(x).square().mean()


class Checkpointed(Rows):
    """Computes a block anew in its backward pass, running statistics and all."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()))
        self.out = nn.Linear(8, 1)

    def given(self, x):
        return self.out(checkpoint(self.layer, x, use_reentrant=False)).square().mean()


COMPUTED = [type(kind, (Parametrized,), {"kind": kind}) for kind in ("spectral_norm", "weight_norm", "counts", "norm")]
COMPUTED.append(type("orthogonal", (Parametrized,), {"kind": "orthogonal"}))
ODD_INPUTS = [Nested, Jagged, Sparse, Csr, ByName, Objects]


def ours():
    return [GradientMonitor(every=2), GradientLogger(every=2, updates_every=2, histograms_every=3, write_every=1)]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", [*ODD_INPUTS, *COMPUTED, Checkpointed], ids=lambda kind: kind.__name__)
def test_the_fit_is_the_one_without_us_and_nothing_is_said(tmp_path, capsys, kind):
    _, alone = fit(tmp_path / "a", kind)
    random = torch.random.get_rng_state()
    trainer, watched = fit(tmp_path / "b", kind, callbacks=ours())
    assert trainer.current_epoch == 6
    assert equal(alone, watched)
    assert torch.equal(random, torch.random.get_rng_state())
    said = [line for line in capsys.readouterr().err.splitlines() if "Gradient" in line]
    assert said == ["GradientMonitor: nothing wrong over 36 steps."]


def test_a_hook_of_ours_that_fails_costs_one_line_and_the_fit_goes_on(tmp_path, capsys):
    _, alone = fit(tmp_path / "a", Refuses)
    trainer, watched = fit(tmp_path / "b", Refuses, callbacks=ours())
    assert trainer.current_epoch == 6
    assert equal(alone, watched)
    said = capsys.readouterr().err
    assert said.count("looking at a layer's input failed (RuntimeError: not this); training goes on.") == 1
    assert said.count("failed (") == 1


@dataclass
class Both:
    x: torch.Tensor
    name: str


class Opaque:
    """Holds tensors where nobody looks for them, and raises for what it doesn't know."""

    def __init__(self, x):
        self.__dict__["x"] = x

    def __getattr__(self, name):
        raise KeyError(name)


Pair = namedtuple("Pair", "x rest")
DRAWN = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
BATCHES = {
    "none": None,
    "text": "a row of text",
    "texts": ["one", "two"],
    "a number": 3,
    "nothing": [],
    "no rows": torch.zeros(0, 3),
    "a scalar": torch.tensor(2.0),
    "dicts of dicts": {"a": {"b": {"c": {"d": {"e": DRAWN}}}}, "n": None, "s": {1, 2}},
    "a dataclass": Both(DRAWN, "row"),
    "a named tuple": Pair(DRAWN, [None, "text"]),
    "an object": Opaque(DRAWN),
    "whole, boolean and complex": [DRAWN.long(), DRAWN > 0, DRAWN.to(torch.complex64), DRAWN.half()],
    "nested": [torch.nested.nested_tensor([DRAWN[:1], DRAWN], layout=torch.jagged), DRAWN.to_sparse()],
}


class AnyBatch(Rows):
    """Makes its own rows, whatever comes, and leaves every third batch out."""

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch

    def training_step(self, batch, batch_idx):
        return None if batch_idx % 3 == 2 else self.layer(DRAWN + batch_idx).square().mean()


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_a_batch_may_be_anything(tmp_path, capsys, batch):
    loader = DataLoader([batch] * 6, batch_size=None, collate_fn=lambda given: given)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=ours(),
    )
    trainer.fit(AnyBatch(), loader, loader)
    assert trainer.current_epoch == 3
    said = [line for line in capsys.readouterr().err.splitlines() if "Gradient" in line]
    assert len(said) == 1
    assert said[0].startswith("GradientMonitor: nothing wrong over ")


def unpickled(data):
    return pickle.loads(data)  # noqa: S301  # written here


class Copies(pl.Callback):
    """Copies the module amid its first steps, in all the ways there are."""

    def __init__(self):
        self.copies = []

    def on_after_backward(self, trainer, pl_module):
        file = io.BytesIO()
        torch.save(pl_module, file)
        file.seek(0)
        pickled = pickle.dumps(pl_module)
        assert b"callbacks.health" not in pickled  # whoever loads it need not have us
        copy.deepcopy(trainer.callbacks)
        self.copies += [copy.deepcopy(pl_module), unpickled(pickled), torch.load(file, weights_only=False)]


def test_a_module_is_copied_amid_its_first_steps_and_the_copy_is_not_watched(tmp_path, capsys):
    copies = Copies()
    fit(tmp_path, Plain, epochs=1, callbacks=[GradientMonitor(), GraphLogger(), copies])
    assert len(copies.copies) == 18
    x = torch.ones(2, 3)
    for each in copies.copies:
        each.train()
        assert each.net(x).shape == (2, 1)
    assert "failed (" not in capsys.readouterr().err


def test_a_callback_is_pickled_before_a_fit_and_after_it(tmp_path):
    callbacks = ours()
    before = [len(pickle.dumps(each)) for each in callbacks]
    fit(tmp_path, Plain, epochs=1, callbacks=callbacks)
    after = [pickle.dumps(each) for each in callbacks]
    assert [type(unpickled(each)) for each in after] == [GradientMonitor, GradientLogger]
    assert max(map(len, after)) < 30_000 > max(before)  # without the trainer


def test_two_that_are_alike_stop_no_fit(tmp_path):
    pairs = [FitMonitor(), FitMonitor(), TrialPruning(None), TrialPruning(None), GraphLogger(), GraphLogger()]
    saver = ModelCheckpoint(tmp_path / "kept", "end", save_on_train_epoch_end=True)
    fit(tmp_path, Plain, callbacks=[*pairs, FitMonitor(val_loss="val_score"), saver], epochs=1)
    kept = torch.load(tmp_path / "kept" / "end.ckpt", weights_only=True)["callbacks"]
    fits = [
        "FitMonitor[train_loss, val_loss]",
        "FitMonitor[train_loss, val_loss][1]",
        "FitMonitor[train_loss, val_score]",
    ]
    assert [name for name in kept if name.startswith("FitMonitor")] == fits


def test_two_of_a_kind_stand_in_one_trainer_and_keep_their_states_apart(tmp_path):
    def two():
        return [GradientMonitor(), GradientLogger(), GradientMonitor(), GradientLogger(), TensorBoardLayout()]

    saver = ModelCheckpoint(tmp_path / "kept", "end", save_on_train_epoch_end=True, enable_version_counter=False)
    fit(tmp_path, Plain, callbacks=[*two(), TensorBoardLayout("val_score"), saver], epochs=2)
    end = tmp_path / "kept" / "end.ckpt"
    kept = torch.load(end, weights_only=True)["callbacks"]
    names = ["GradientLogger", "GradientLogger[1]", "GradientMonitor", "GradientMonitor[1]"]
    assert sorted(name for name in kept if name.startswith("Gradient")) == names
    resumed = [GradientMonitor(every=7), GradientMonitor(), GradientLogger(every=3), GradientLogger()]
    layouts = [TensorBoardLayout(), TensorBoardLayout("val_score")]
    fit(tmp_path, Plain, callbacks=[*resumed, *layouts], epochs=3, ckpt_path=end, enable_checkpointing=False)
    assert [each.state_dict()["steps"] for each in resumed[:2]] == [18, 18]
    assert [each.state_dict()["counts"] for each in resumed[2:]] == [[18], [18]]


class SecondOrder(Plain):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=20)


def test_a_step_that_looks_at_its_batch_twenty_times_is_one_step(tmp_path, capsys):
    monitor, logger = ours()
    fit(tmp_path, SecondOrder, callbacks=[monitor, logger], epochs=4)
    assert monitor.state_dict()["steps"] == 24
    assert logger.state_dict()["counts"] == [24]
    assert monitor.state_dict()["watch"]["course"]["count"] == 24
    assert "over 24 steps." in capsys.readouterr().err
