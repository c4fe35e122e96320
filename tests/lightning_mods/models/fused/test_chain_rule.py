"""The chain rule written out: the bits of autograd and torch.optim.SGD, or none at all."""

import copy

import pytest
import torch
from torch import nn

from lightning_mods import MLPClassifier, MLPRegressor
from lightning_mods.models.fused.chain_rule import ChainRule, CrossEntropy, SquaredError

ACTIVATIONS = ["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "identity"]
ROWS = 101


def classifier(**given):
    return MLPClassifier(7, 3, [50, 30, 21], **{"hidden_sizes": (33, 16), "lr": 0.3, **given})


def regressor(**given):
    return MLPRegressor(7, 2.0, 3.0, **{"hidden_sizes": (33, 16), "lr": 0.03, **given})


def targets(model):
    generator = torch.Generator().manual_seed(1)
    if isinstance(model, MLPRegressor):
        return 2 + 3 * torch.randn(ROWS, generator=generator)
    return torch.randint(0, 3, (ROWS,), generator=generator)


def rows():
    return torch.randn(ROWS, 7, generator=torch.Generator().manual_seed(2))


def by_autograd(model, batches):
    """Train; returns the losses and the optimizer."""
    sgd, losses, x, y = model.configure_optimizers(), [], rows(), targets(model)
    for number, at in enumerate(batches):
        torch.manual_seed(number)
        loss = model.loss(model.network(x[at]), y[at])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.detach())
    return losses, sgd


def written_out(model, batches):
    """The same; the first step is autograd's, which makes the momentum's buffers."""
    first, sgd = by_autograd(model, batches[:1])
    chain = ChainRule.of(model.network.layers, model.loss_rule())
    x, y, losses = rows(), targets(model), []
    with torch.inference_mode():
        rule = chain.load(sgd)
        for number, at in enumerate(batches[1:], start=1):
            torch.manual_seed(number)
            losses.append(chain.step(x[at], y[at], rule))
        chain.store(sgd, rule)
    return first + losses, sgd


def batches(size):
    return [torch.randperm(ROWS)[at : at + size] for _ in range(3) for at in range(0, ROWS, size)]


def state(sgd):
    return [buffers["momentum_buffer"] for buffers in sgd.state.values() if "momentum_buffer" in buffers]


@pytest.mark.parametrize("make", [classifier, regressor])
@pytest.mark.parametrize(
    ("given", "size"),
    [
        *(({"activation": name}, 32) for name in ACTIVATIONS),
        *(({"activation": name, "dropout": 0.4}, 32) for name in ("relu", "gelu", "tanh")),
        ({"momentum": 0.0}, 32),
        ({"nesterov": True, "weight_decay": 0.01}, 32),
        ({"weight_decay": 0.0}, 50),  # 1 row in the last batch
        ({"hidden_sizes": ()}, 16),
        ({"hidden_sizes": (1,)}, 16),
        ({"hidden_sizes": (128,)}, ROWS),  # the whole set
        ({"hidden_sizes": (64, 64, 64), "lr": 0.001}, 1),
    ],
)
def test_steps_are_autograds_to_the_bit(make, given, size):
    torch.manual_seed(0)
    model = make(**given)
    twin, order = copy.deepcopy(model), batches(size)
    expected, sgd = by_autograd(model, order)
    found, other = written_out(twin, order)
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert all(map(torch.equal, twin.parameters(), model.parameters()))
    assert all(map(torch.equal, state(other), state(sgd)))
    assert len(state(sgd)) == (0 if model.momentum == 0 else len(list(model.parameters())))
    assert torch.isfinite(torch.stack(found)).all()


@pytest.mark.parametrize("class_weight", ["balanced", [1.0, 0.0, 2.5]])
def test_class_weights_are_autograds_to_the_bit(class_weight):
    torch.manual_seed(0)
    model = classifier(class_weight=class_weight)
    twin, order = copy.deepcopy(model), batches(32)
    expected, _ = by_autograd(model, order)
    found, _ = written_out(twin, order)
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert all(map(torch.equal, twin.parameters(), model.parameters()))


def test_the_gradient_is_that_of_float64_to_the_precision_of_float32():
    torch.manual_seed(0)
    model = classifier(activation="gelu")
    _, sgd = by_autograd(model, batches(ROWS)[:1])
    chain = ChainRule.of(model.network.layers, model.loss_rule())
    with torch.inference_mode():
        chain.load(sgd)
        chain.backward(rows(), targets(model))
    exact = copy.deepcopy(model).double()
    wanted = torch.autograd.grad(
        exact.loss(exact.network(rows().double()), targets(model)), list(exact.network.parameters())
    )
    for found, true in zip(chain.gradients, wanted, strict=True):
        torch.testing.assert_close(found.double(), true, rtol=1e-4, atol=1e-7)


def test_it_sees_that_a_wrong_derivative_does_not_agree():
    torch.manual_seed(0)
    model = regressor()
    _, sgd = by_autograd(model, batches(32)[:1])
    x, y = rows(), targets(model)
    for wrong, agrees in ((SquaredError(2.0, 3.0), True), (SquaredError(2.0, 3.5), False)):
        chain = ChainRule.of(model.network.layers, wrong)
        rule = chain.load(sgd)
        before = [p.clone() for p in chain.parameters]
        with torch.no_grad():
            assert chain.agrees(x, y, rule, lambda: model.loss(model.network(x), y), lambda: None) is agrees
        assert all(map(torch.equal, chain.parameters, before))
        assert all(p.grad is not None for p in model.parameters())  # left as the step before had it


@pytest.mark.parametrize(
    "layers",
    [
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(3, 4), nn.ReLU()),
        nn.Sequential(nn.Linear(3, 4).double(), nn.ReLU(), nn.Linear(4, 2).double()),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2)),
        nn.Sequential(),
    ],
)
def test_other_networks_are_left_to_autograd(layers):
    assert ChainRule.of(layers, CrossEntropy()) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p),
        lambda p: torch.optim.SGD(p, 0.1, maximize=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.1),
        lambda p: torch.optim.SGD([{"params": p[:2]}, {"params": p[2:]}], 0.1),
        lambda p: torch.optim.SGD(p[:2], 0.1),
        lambda p: torch.optim.SGD(p, torch.tensor(0.1)),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),  # its buffers are yet to be made
    ],
)
def test_other_optimizers_are_left_to_autograd(make):
    model = classifier()
    chain = ChainRule.of(model.network.layers, CrossEntropy())
    assert chain.load(make(list(model.parameters()))) is None
    assert chain.load(torch.optim.SGD(model.parameters(), 0.1)) is not None
