import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import GradientMonitor
from callbacks.health.faults import Fault

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors"),
]
ROWS, CLASSES = 640, 4


def rows():
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, 12, generator=draw)
    labels = (x @ torch.randn(12, CLASSES, generator=draw)).argmax(1)
    return DataLoader(TensorDataset(x, labels), batch_size=32, shuffle=True)


def mlp(*, width=24, depth=2, activation=nn.ReLU):
    parts, inputs = [], 12
    for _ in range(depth):
        parts += [nn.Linear(inputs, width), activation()]
        inputs = width
    return nn.Sequential(*parts, nn.Linear(inputs, CLASSES))


class Classifier(pl.LightningModule):
    def __init__(self, net=None, **optimizer):
        super().__init__()
        self.net = net or mlp()
        self.kind = optimizer.pop("kind", torch.optim.Adam)
        self.optimizer = {"lr": 3e-3, **optimizer}

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.kind(self.parameters(), **self.optimizer)


@pytest.fixture(autouse=True)
def _folder_for_what_it_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def watch(module, *, epochs=4, **flags):
    pl.seed_everything(2, verbose=False)
    torch.manual_seed(2)
    monitor = GradientMonitor(**flags)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[monitor],
    )
    trainer.fit(module() if callable(module) and not isinstance(module, nn.Module) else module, rows())
    return monitor


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(12, 24), nn.Linear(24, 24), nn.Linear(24, CLASSES)

    def forward(self, x):
        return self.out(F.relu(self.second(F.relu(self.first(x)))))


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv1d(1, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.ReLU()
        )
        self.out = nn.Linear(80, CLASSES)

    def forward(self, x):
        return self.out(self.convs(x[:, None]).flatten(1))


def with_frozen_pretrained():
    net = mlp()
    nn.init.normal_(net[0].weight, std=0.25)
    net[0].requires_grad_(False)
    return net


def with_zero_head():
    net = mlp()
    nn.init.zeros_(net[-1].weight)
    return net


HEALTHY = {
    "adam": lambda: Classifier(),
    "momentum": lambda: Classifier(kind=torch.optim.SGD, lr=0.05, momentum=0.9),
    "weight decay": lambda: Classifier(kind=torch.optim.AdamW, weight_decay=0.1),
    "tanh": lambda: Classifier(mlp(activation=nn.Tanh)),
    "functional": lambda: Classifier(Functional()),
    "convolutions": lambda: Classifier(Convolution()),
    "a frozen backbone that was trained": lambda: Classifier(with_frozen_pretrained()),
    "a head that starts at zero": lambda: Classifier(with_zero_head()),
    "a low rate on the way to convergence": lambda: Classifier(lr=3e-4),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_hears_one_line_at_its_end(capsys, name):
    monitor = watch(HEALTHY[name])
    assert monitor.findings == []
    said = [line for line in capsys.readouterr().err.splitlines() if "GradientMonitor" in line]
    assert said == ["GradientMonitor: nothing wrong over 80 steps."]


def constant():
    net = mlp()
    for layer in net[::2]:
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
    return net


def wide():
    net = mlp(width=64)
    for layer in net[::2]:
        nn.init.normal_(layer.weight, std=2.0)
    return net


def dead():
    net = Functional()
    nn.init.constant_(net.second.bias, -10.0)
    return net


def saturated():
    net = mlp(activation=nn.Tanh)
    nn.init.constant_(net[2].bias, 9.0)
    return net


class Detached(Functional):
    def forward(self, x):
        return self.out(F.relu(self.second(F.relu(self.first(x)))).detach())


class Loud(Functional):
    def forward(self, x):
        return 100 * super().forward(x)


class LeftOut(Classifier):
    def configure_optimizers(self):
        return torch.optim.Adam([*self.net[0].parameters(), *self.net[4].parameters()], lr=3e-3)


class WithoutItsHead(Classifier):
    """Its head is drawn anew and never trained; the rest is."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.net[:4].parameters(), lr=3e-3)


class Forgetful(Classifier):
    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        pass


class ForgetfulByHand(Classifier):
    def __init__(self):
        super().__init__(kind=torch.optim.SGD, lr=1e-3)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))
        self.optimizers().step()


FAULTY = {
    "constant": (lambda: Classifier(constant()), Fault.CONSTANT_INITIALISATION, "net.0"),
    "wide": (lambda: Classifier(wide()), Fault.WRONG_INITIALISATION, "net.0"),
    "dead": (lambda: Classifier(dead()), Fault.DEAD_UNITS, "net.second"),
    "saturated": (lambda: Classifier(saturated()), Fault.SATURATED_UNITS, "net.2"),
    "without its head": (lambda: WithoutItsHead(mlp(width=48)), Fault.NOT_UPDATING, "net.4.weight"),
    "detached": (lambda: Classifier(Detached()), Fault.NOT_UPDATING, "net.first.weight"),
    "left out": (lambda: LeftOut(), Fault.NOT_UPDATING, "net.2.weight"),
    "forgetful": (lambda: Forgetful(), Fault.GRADIENTS_NOT_ZEROED, ""),
    "forgetful by hand": (lambda: ForgetfulByHand(), Fault.GRADIENTS_NOT_ZEROED, ""),
    "rate too high": (lambda: Classifier(kind=torch.optim.SGD, lr=30.0), Fault.LEARNING_RATE_TOO_HIGH, ""),
    "adam's rate too high": (lambda: Classifier(lr=1.0), Fault.LEARNING_RATE_TOO_HIGH, ""),
    "rate too low": (lambda: Classifier(kind=torch.optim.SGD, lr=1e-6), Fault.LEARNING_RATE_TOO_LOW, ""),
    "epsilon": (lambda: Classifier(eps=1e-16), Fault.OPTIMIZER_EPSILON, "Adam"),
    "decay": (lambda: Classifier(kind=torch.optim.SGD, lr=0.05, weight_decay=2.0), Fault.OVER_REGULARISED, ""),
    "loud": (lambda: Classifier(Loud(), lr=1e-3), Fault.OUTPUTS_OVERSCALED, ""),
}


class Compared(Classifier):
    """Knows what another model reaches, in units of its own."""

    reference_loss = 1e6

    def logged_loss(self, loss):
        return 1000 * loss


def test_a_decay_is_no_fault_where_another_model_does_no_better():
    decayed = {"kind": torch.optim.SGD, "lr": 0.05, "weight_decay": 2.0}
    assert [finding.fault for finding in watch(lambda: Compared(**decayed)).findings] == []
    assert [finding.fault for finding in watch(lambda: Classifier(**decayed)).findings] == [Fault.OVER_REGULARISED]


class InItsOwnUnits(Classifier):
    """Minimises a scaled loss and logs it a thousand times larger, validated on the rows it learns by heart."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", 1000 * loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", 1000 * super().training_step(batch, batch_idx))

    def val_dataloader(self):
        return DataLoader(rows().dataset, batch_size=64)


def test_a_loss_logged_in_units_of_its_own_is_not_held_for_a_gap():
    found = watch(lambda: InItsOwnUnits(mlp(width=64), lr=1e-2), epochs=20).findings
    assert Fault.UNDER_REGULARISED not in [f.fault for f in found]


class Memoriser(InItsOwnUnits):
    """Learns its rows by heart; what it logs of others is called as one likes."""

    def __init__(self, val, accuracy):
        super().__init__(mlp(width=64), lr=1e-2)
        self.val, self.accuracy = val, accuracy

    def training_step(self, batch, batch_idx):
        return Classifier.training_step(self, batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.log(self.val, 4.0)
        if self.accuracy:
            self.log(self.accuracy, 0.97)


@pytest.mark.parametrize(
    ("val", "accuracy", "said"),
    [("val/loss", "", True), ("loss/val", "", True), ("eval_loss", "", True), ("dev/loss", "dev/accuracy", False)],
)
def test_the_losses_are_found_under_a_strangers_names(val, accuracy, said):
    found = watch(lambda: Memoriser(val, accuracy), epochs=20).findings
    assert (Fault.UNDER_REGULARISED in [f.fault for f in found]) is said


class Attention(nn.Module):
    """As Hugging Face's BERT begins: small weights, so that queries and keys have next to no gradient at first."""

    def __init__(self, width=16):
        super().__init__()
        self.shades = nn.Embedding(8, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.project, self.up, self.down = nn.Linear(width, width), nn.Linear(width, 32), nn.Linear(32, width)
        self.out = nn.Linear(width, CLASSES)
        for weights in self.parameters():
            nn.init.normal_(weights, std=0.02)

    def forward(self, x):
        seen = self.shades((2 * x + 4).clamp(0, 7).long())
        seen = F.layer_norm(seen, seen.shape[-1:])
        seen = seen + self.project(F.scaled_dot_product_attention(self.query(seen), self.key(seen), self.value(seen)))
        seen = F.layer_norm(seen + self.down(F.gelu(self.up(seen))), seen.shape[-1:])
        return self.out(seen.mean(1))


def test_a_transformer_whose_attention_has_not_begun_to_look_anywhere_has_no_vanishing_gradient():
    found = watch(lambda: Classifier(Attention(), lr=1e-3)).findings
    assert Fault.VANISHING_GRADIENT not in [f.fault for f in found]


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_named_with_its_place(capsys, name):
    module, fault, where = FAULTY[name]
    monitor = watch(module)
    found = {f.fault: f.where for f in monitor.findings}
    assert found.get(fault) == where
    said = capsys.readouterr().err
    assert said.count(f"GradientMonitor: {fault.replace('_', ' ')}") == 1
    assert monitor.findings[0].advice in said


def test_faults_that_are_to_be_ignored_are(capsys):
    monitor = watch(lambda: Classifier(constant()), epochs=1, ignore=["constant_initialisation"])
    assert Fault.CONSTANT_INITIALISATION not in [f.fault for f in monitor.findings]
    assert "constant initialisation" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"on_nonfinite": "halt"}, "on_nonfinite must be one of stop, skip, raise, not 'halt'."),
        ({"every": 0}, "every must be at least 1, not 0."),
        ({"ignore": ["dead"]}, r"ignore must name faults \(vanishing_gradient, .*\), not 'dead'."),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, line):
    with pytest.raises(ValueError, match=line):
        GradientMonitor(**arguments)


def test_arguments_read_back_as_they_were_given():
    monitor = GradientMonitor("skip", 7, ignore=["unshuffled"])
    assert (monitor.on_nonfinite, monitor.every, monitor.ignore) == ("skip", 7, ["unshuffled"])
