"""The probe on modules that are not ours: a small convolution net, a multilayer perceptron, a regression, a GAN."""

import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import LIGHTNINGS_WARNINGS
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, TensorDataset

from callbacks.health.data_reading import read_contrast
from callbacks.health.probe import TrainingProbe

pytestmark = [*LIGHTNINGS_WARNINGS, pytest.mark.filterwarnings("ignore:The `srun` command")]
CLASSES = 4
SEED = torch.Generator().manual_seed(3)


def pictures(rows):
    """Four kinds of bars in noise, 1×6×6, from 0 to 1."""
    y = torch.arange(rows) % CLASSES
    x = 0.2 * torch.rand(rows, 1, 6, 6, generator=SEED)
    for kind in range(CLASSES):
        x[y == kind, 0, kind if kind < 2 else slice(None), slice(None) if kind < 2 else kind] += 0.7
    order = torch.randperm(rows, generator=SEED)
    return x[order], y[order]


X, Y = pictures(480)
VAL = pictures(160)
TARGET, VAL_TARGET = (x.mean((1, 2, 3)) * 20 - 4.5 for x in (X, VAL[0]))


class Watched(pl.Callback):
    """Calls the probe as a monitor would."""

    def __init__(self):
        self.probe = TrainingProbe()

    def on_fit_start(self, trainer, pl_module):
        self.probe.begin(trainer, pl_module, pytest.fail)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.probe.before_batch(trainer, pl_module, batch, batch_idx)

    def on_before_backward(self, trainer, pl_module, loss):
        self.probe.before_backward(trainer, pl_module, loss)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.probe.after_batch(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if not trainer.sanity_checking:
            self.probe.validation_batch(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer, pl_module):
        self.probe.epoch_end(trainer, pl_module)

    def on_exception(self, trainer, pl_module, exception):
        self.probe.failed(trainer, pl_module, exception)
        self.probe.end()

    def on_fit_end(self, trainer, pl_module):
        self.probe.end()


class Net(pl.LightningModule):
    """Knows nothing of us; `after` and `loss` are what a case spoils."""

    def __init__(self, outputs=CLASSES, loss=F.cross_entropy, body=None):
        super().__init__()
        self.body = body or nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, outputs)
        )
        self.loss = loss

    def batch_loss(self, batch):
        return self.loss(self.body(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        return self.batch_loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.batch_loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class Transformed(Dataset):
    def __init__(self, x, y, transform):
        self.x, self.y, self.transform = x, y, transform

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.transform(self.x[row]), self.y[row]


def batches(x=X, y=Y, *, shuffle=True, transform=None, batch_size=24):
    rows = Transformed(x, y, transform) if transform else TensorDataset(x, y)
    return DataLoader(rows, batch_size=batch_size, shuffle=shuffle)


def held(x, y):
    return batches(x, y, shuffle=False)


def fit(module, train=None, val=None, *, epochs=1, watched=None, **flags):
    watched = watched or Watched()
    pl.seed_everything(5, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watched],
        **flags,
    )
    trainer.fit(module(), train or batches(), val or held(*VAL))
    return getattr(watched, "probe", None)


def names(probe):
    return list(dict.fromkeys(str(finding.fault) for finding in probe.new))


def regression(out, y):
    return F.mse_loss(out[:, 0], y)


def sorted_rows(x, y):
    order = y.argsort(stable=True)
    return x[order], y[order]


def noisy(x):
    return x + 3 * torch.randn_like(x)


def nudge(x):
    shift = int(torch.randint(-1, 2, ()))
    return torch.roll(x, shift, -1) * (0.9 + 0.2 * torch.rand(())) + 0.02 * torch.randn_like(x)


NUMBERS = held(VAL[0], VAL_TARGET)
ONE_KIND = X[Y == 0], Y[Y == 0]
FEW_LABELS = torch.where(torch.arange(480) % 8 > 0, -1, Y)
ALIKE = X[:1].expand(480, 1, 6, 6).clone()


def rebuilds(out, y):
    """An autoencoder's loss by hand, which needs no label."""
    return (out[:, :36] - out[:, 36:].detach()).square().mean()


class Pairs(nn.Module):
    """A reconstruction beside what is to be reconstructed."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 36))

    def forward(self, x):
        return torch.cat([self.net(x.flatten(1)), x.flatten(1)], 1)


def unlabelled(out, y):
    return F.cross_entropy(out, y, ignore_index=-1)


def advantage(out, y):
    """A policy that is told what each action costs, so its loss has the other sign."""
    return (out.log_softmax(1).gather(1, y[:, None])[:, 0] * (1.0 + y)).mean()


SILENT = {
    "pictures from 0 to 1": (Net, {}),
    "not shuffled, in no order": (Net, {"train": batches(shuffle=False)}),
    "gently augmented": (Net, {"train": batches(transform=nudge)}),
    "validation sorted by class": (Net, {"val": held(*sorted_rows(*VAL))}),
    "an autoencoder of one class": (
        lambda: Net(loss=rebuilds, body=Pairs()),
        {"train": batches(*ONE_KIND), "val": held(*ONE_KIND)},
    ),
    "costs of a policy": (lambda: Net(loss=advantage), {}),
    "mostly without a label": (lambda: Net(loss=unlabelled), {"train": batches(X, FEW_LABELS)}),
    "some imbalance": (
        Net,
        {"train": batches(X[(Y != 1) | (torch.arange(480) < 160)], Y[(Y != 1) | (torch.arange(480) < 160)])},
    ),
    "a regression": (lambda: Net(1, regression), {"train": batches(X, TARGET), "val": NUMBERS}),
}
ONLY_FEW = torch.cat([torch.nonzero(Y == 0)[:, 0], torch.nonzero(Y == 1)[:3, 0]])
SPOILT = {
    "pixels from 0 to 255": ("inputs_unscaled", Net, {"train": batches(255 * X)}),
    "divided twice": ("inputs_too_small", Net, {"train": batches(X / 255), "val": held(VAL[0] / 255, VAL[1])}),
    "all rows alike": ("inputs_constant", Net, {"train": batches(ALIKE), "val": held(*VAL)}),
    "sorted by class": ("unshuffled", Net, {"train": held(*sorted_rows(X, Y))}),
    "one class": ("labels_one_class", Net, {"train": batches(X, torch.zeros_like(Y))}),
    "hardly any but one class": ("labels_unbalanced", Net, {"train": batches(X[ONLY_FEW], Y[ONLY_FEW], batch_size=8)}),
    "noise in training": ("wrong_augmentation", Net, {"train": batches(transform=noisy)}),
    "negatives in training": ("wrong_augmentation", Net, {"train": batches(transform=lambda x: 1 - x)}),
    "sorted by target": (
        "unshuffled", lambda: Net(1, regression), {"train": held(*sorted_rows(X, TARGET)), "val": NUMBERS}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SILENT)
def test_nothing_is_said_of_a_healthy_run(case):
    module, data = SILENT[case]
    assert names(fit(module, **data)) == []


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_data_is_named(case):
    fault, module, data = SPOILT[case]
    found = fit(module, **data)
    assert fault in names(found)
    assert all(finding.why and finding.advice for finding in found.new)


class NamesItOtherwise(Net):
    def validation_step(self, batch, batch_idx):
        self.log("loss/dev", self.batch_loss(batch))


@pytest.mark.parametrize("module", [Net, NamesItOtherwise])
def test_labels_that_have_nothing_to_do_with_the_inputs_are_named(module):
    y, val_y = (labels[torch.randperm(len(labels), generator=SEED)] for labels in (Y, VAL[1]))
    assert names(fit(module, batches(X, y), held(VAL[0], val_y), epochs=6)) == ["labels_wrong"]


def test_targets_that_happen_to_vary_less_in_validation_hide_no_wrong_labels():
    val = held(VAL[0], TARGET.mean() + 0.7 * (VAL_TARGET - TARGET.mean()))
    shuffled = TARGET[torch.randperm(len(TARGET), generator=SEED)]
    assert names(fit(lambda: Net(1, regression), batches(X, shuffled), val, epochs=6)) == ["labels_wrong"]
    assert names(fit(lambda: Net(1, regression), batches(X, TARGET), val, epochs=6)) == []


def test_labels_that_are_partly_wrong_are_named_from_the_neighbours():
    wrong = torch.where(torch.rand(480, generator=SEED) < 0.5, torch.randint(0, 4, (480,), generator=SEED), Y)
    assert names(fit(Net, batches(X, wrong), held(*VAL), epochs=2)) == ["labels_wrong"]
    assert names(fit(Net, batches(X, wrong, transform=nudge), held(*VAL), epochs=2)) == []  # it may be the nudge


def test_a_class_without_an_output_is_named_before_the_loss_refuses_it():
    late = Y.clone()
    late[-5] = CLASSES
    watched = Watched()
    with pytest.raises(IndexError, match="out of bounds"):
        fit(Net, held(X, late), watched=watched)
    first, *again = watched.probe.new
    assert (str(first.fault), first.where) == ("labels_out_of_range", "training data")
    assert "class 4 of a batch has no output" in first.why
    assert {found.fault for found in again} <= {first.fault}


def test_what_the_loss_refuses_in_the_first_batch_is_said_in_plain_words():
    watched = Watched()
    with pytest.raises(IndexError):
        fit(Net, batches(X, Y + 1), watched=watched)
    assert names(watched.probe) == ["labels_out_of_range"]


class TrainsInValidation(Net):
    def validation_step(self, batch, batch_idx):
        self.body.train()
        super().validation_step(batch, batch_idx)


class StaysInEvaluation(Net):
    def on_train_epoch_start(self):
        if self.current_epoch:
            self.eval()


class FrozenNorm(Net):
    """Fine-tunes: the norm keeps what it learnt elsewhere."""

    def on_train_epoch_start(self):
        self.body[1].eval().requires_grad_(False)
        self.body[1].running_mean.fill_(0.3)


@pytest.mark.parametrize(
    ("module", "said"), [(TrainsInValidation, True), (StaysInEvaluation, True), (FrozenNorm, False), (Net, False)]
)
def test_the_mode_of_batch_norms_is_watched(module, said):
    assert names(fit(module, epochs=2)) == ["batch_norm_mode"] * said


class Checkpointed(Net):
    """Computes its body again in the backward pass."""

    def batch_loss(self, batch):
        if not self.training:
            return super().batch_loss(batch)
        return self.loss(checkpoint(self.body, batch[0], use_reentrant=False), batch[1])


class CheckpointedToTheEnd(Checkpointed):
    """Its last activation is computed again too."""

    def __init__(self):
        super().__init__(1, lambda out, y: F.mse_loss(out[:, 0], y / CLASSES))
        self.body = nn.Sequential(*self.body, nn.Sigmoid())


class Gan(pl.LightningModule):
    """The generator minimises minus what the discriminator minimises, rightly."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.maker, self.judge = nn.Linear(4, 36), nn.Sequential(nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 1))

    def training_step(self, batch, batch_idx):
        real, fake = batch[0].flatten(1), self.maker(torch.randn(len(batch[0]), 4)).sigmoid()
        scores = F.binary_cross_entropy_with_logits
        for optimizer, sign, shown in zip(self.optimizers(), (-1, 1), (fake, fake.detach()), strict=True):
            loss = sign * scores(self.judge(shown), torch.zeros(len(real), 1))
            if sign > 0:
                loss = loss + scores(self.judge(real), torch.ones(len(real), 1))
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (self.maker, self.judge)]


class DictBatch(Net):
    def batch_loss(self, batch):
        return self.loss(self.body(batch["image"]), batch["label"])

    def training_step(self, batch, batch_idx):
        return None if batch_idx == 1 else {"loss": self.batch_loss(batch)}


def dicts(x, y):
    return DataLoader([{"image": a, "label": b} for a, b in zip(x, y, strict=True)], batch_size=24)


HABITS = {
    "plain": (Net, {}),
    "checkpointed": (Checkpointed, {}),
    "checkpointed to the end": (CheckpointedToTheEnd, {}),
    "a GAN": (Gan, {}),
    "batches of dicts": (DictBatch, {"train": dicts(X, Y), "val": dicts(*VAL)}),
    "half precision": (Net, {"precision": "bf16-mixed"}),
    "accumulated and clipped": (Net, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}),
    "no validation": (Net, {"limit_val_batches": 0}),
}


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("case", HABITS)
def test_the_weights_are_those_without_it_and_no_hook_stays(case):
    module, settings = HABITS[case]
    made = []

    def make():
        pl.seed_everything(7, verbose=False)
        made.append(module())
        return made[-1]

    fit(make, **settings, watched=pl.Callback())
    probe = fit(make, **settings)
    alone, watched = made
    same = zip(alone.state_dict().values(), watched.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert names(probe) == []
    assert not any(layer._forward_pre_hooks for layer in watched.modules())


def test_inputs_that_are_not_scaled_are_named_and_so_is_a_validation_that_is():
    assert names(fit(Net, batches(255 * X))) == ["inputs_unscaled", "wrong_augmentation"]


def test_one_step_says_what_a_head_alone_shows():
    found = fit(lambda: Net(loss=lambda out, y: F.cross_entropy(out.softmax(1), y)), fast_dev_run=True)
    assert names(found) == ["redundant_softmax"]


def test_rows_are_compared_where_torch_computes_in_float64():
    torch.set_default_dtype(torch.float64)
    try:
        train, val = torch.rand(2, 40, 3).float()
        assert read_contrast(train, val + 9, None).effects
    finally:
        torch.set_default_dtype(torch.float32)
