"""Losses as people write them, right and wrong; only the loss tensor is looked at."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks.health.loss_reading import read_loss, with_batch
from callbacks.health.network_reading import read_structure
from callbacks.health.rules.network import head_findings, structure_findings

ROWS, CLASSES = 32, 3
SEED = torch.Generator().manual_seed(0)
X = torch.randn(ROWS, 5, generator=SEED)
Y = torch.randint(0, CLASSES, (ROWS,), generator=SEED)
T = 2 * torch.randn(ROWS, 1, generator=SEED)
ONE_HOT = F.one_hot(Y, CLASSES).float()
SCORES, NUMBER = nn.Linear(5, CLASSES), nn.Linear(5, 1)
TOKENS, TOKEN_SCORES = torch.randn(8, 6, 5, generator=SEED), torch.randint(0, CLASSES, (8, 6), generator=SEED)


def clip_loss(scores):
    similarity = scores @ scores.t()
    rows = torch.arange(len(scores))
    return F.cross_entropy(similarity, rows) + F.cross_entropy(similarity.t(), rows)


def reinforce(scores):
    return -(torch.distributions.Categorical(logits=scores).log_prob(Y) * T[:, 0]).mean()


def focal(scores):
    each = F.cross_entropy(scores, Y, reduction="none")
    return ((1 - torch.exp(-each)) ** 2 * each).mean()


RIGHT = {
    "cross-entropy": lambda: F.cross_entropy(SCORES(X), Y),
    "label smoothing": lambda: F.cross_entropy(SCORES(X), Y, label_smoothing=0.1, weight=torch.ones(CLASSES)),
    "soft labels": lambda: F.cross_entropy(SCORES(X), ONE_HOT * 0.9 + 0.1 / CLASSES),
    "log-softmax and nll": lambda: F.nll_loss(SCORES(X).log_softmax(-1), Y),
    "logarithm of a softmax": lambda: F.nll_loss((SCORES(X).softmax(-1) + 1e-8).log(), Y),
    "nll by indexing": lambda: -SCORES(X).log_softmax(1)[torch.arange(ROWS), Y].mean(),
    "nll by gathering": lambda: -SCORES(X).log_softmax(1).gather(1, Y[:, None]).mean(),
    "nll by one-hot": lambda: -(SCORES(X).log_softmax(1) * ONE_HOT).sum(1).mean(),
    "cross-entropy by logsumexp": lambda: (SCORES(X).logsumexp(1) - SCORES(X).gather(1, Y[:, None])[:, 0]).mean(),
    "kl of soft labels": lambda: F.kl_div(SCORES(X).log_softmax(1), ONE_HOT, reduction="batchmean"),
    "tokens, transposed": lambda: F.cross_entropy(SCORES(TOKENS).transpose(1, 2), TOKEN_SCORES),
    "tokens, flattened": lambda: F.nll_loss(SCORES(TOKENS).log_softmax(-1).view(-1, CLASSES), TOKEN_SCORES.view(-1)),
    "focal": lambda: focal(SCORES(X)),
    "a policy's gradient": lambda: reinforce(SCORES(X)),
    "entropy bonus": lambda: (
        F.cross_entropy(SCORES(X), Y) - 0.1 * torch.distributions.Categorical(logits=SCORES(X)).entropy().mean()
    ),
    "contrastive": lambda: clip_loss(SCORES(X)),
    "capped scores": lambda: F.cross_entropy(30 * torch.tanh(SCORES(X) / 30), Y),
    "density below zero": lambda: -torch.distributions.Normal(NUMBER(X), 1e-3).log_prob(NUMBER(X).detach()).mean(),
    "gaussian nll": lambda: F.gaussian_nll_loss(NUMBER(X), T, torch.full((ROWS, 1), 1e-4)),
    "sigmoid for targets from 0 to 1": lambda: F.mse_loss(NUMBER(X).sigmoid(), T.sigmoid()),
    "relu for targets above 0": lambda: F.mse_loss(NUMBER(X).relu(), T.abs()),
    "binary with logits": lambda: F.binary_cross_entropy_with_logits(NUMBER(X), (T > 0).float()),
    "binary": lambda: F.binary_cross_entropy(NUMBER(X).sigmoid(), (T > 0).float()),
    "weight decay by hand": lambda: F.mse_loss(NUMBER(X), T) + 0.1 * NUMBER.weight.pow(2).sum(),
    "minus a divergence": lambda: F.mse_loss(NUMBER(X), T) - 0.1 * F.mse_loss(SCORES(X), ONE_HOT * 2),
    "by other means": lambda: F.multi_margin_loss(SCORES(X), Y),
}
WRONG = {
    "minus cross-entropy": ("loss_sign", lambda: -F.cross_entropy(SCORES(X), Y)),
    "times minus one": ("loss_sign", lambda: F.cross_entropy(SCORES(X), Y, label_smoothing=0.1) * -1.0),
    "minus forgotten": ("loss_sign", lambda: SCORES(X).log_softmax(1).gather(1, Y[:, None]).mean()),
    "minus mse": ("loss_sign", lambda: -F.mse_loss(NUMBER(X), T)),
    "minus mse by hand": ("loss_sign", lambda: -(NUMBER(X) - T).square().mean() + 0.1 * NUMBER.weight.norm()),
    "softmax twice": ("redundant_softmax", lambda: F.cross_entropy(SCORES(X).softmax(1), Y)),
    "softmax twice, soft labels": ("redundant_softmax", lambda: F.cross_entropy(SCORES(X).softmax(1), ONE_HOT)),
    "sigmoid twice": (
        "redundant_softmax",
        lambda: F.binary_cross_entropy_with_logits(NUMBER(X).sigmoid(), (T > 0).float()),
    ),
    "over the batch": ("wrong_softmax", lambda: F.nll_loss(SCORES(X).log_softmax(0), Y)),
    "over the batch, by log": ("wrong_softmax", lambda: F.nll_loss(SCORES(X).softmax(0).log(), Y)),
    "twice, over the batch": ("wrong_softmax", lambda: F.cross_entropy(SCORES(X).softmax(0), Y)),
    "none": ("missing_softmax", lambda: F.nll_loss(SCORES(X), Y)),
    "no logarithm": ("missing_softmax", lambda: F.nll_loss(SCORES(X).softmax(1), Y)),
    "none, by hand": ("missing_softmax", lambda: -SCORES(X).clamp(min=1e-8).log()[torch.arange(ROWS), Y].mean()),
    "one output": ("wrong_loss", lambda: F.cross_entropy(NUMBER(X), torch.zeros(ROWS, dtype=torch.long))),
    "squares of classes": ("wrong_loss", lambda: F.mse_loss(SCORES(X), ONE_HOT)),
    "binary for numbers": ("wrong_loss", lambda: F.binary_cross_entropy_with_logits(NUMBER(X), T)),
    "everybody with everybody": ("wrong_loss", lambda: F.mse_loss(NUMBER(X), T[:, 0])),
    "by hand with everybody": ("wrong_loss", lambda: (NUMBER(X)[:, 0] - T).abs().mean()),
    "labels -1 and 1": (
        "labels_out_of_range",
        lambda: F.binary_cross_entropy_with_logits(NUMBER(X), (T > 0) * 2.0 - 1),
    ),
    "relu for signed targets": ("wrong_output_activation", lambda: F.smooth_l1_loss(NUMBER(X).relu(), T)),
    "tanh for wide targets": ("wrong_output_activation", lambda: F.mse_loss(NUMBER(X).tanh(), T)),
    "tanh, by hand": ("wrong_output_activation", lambda: (NUMBER(X).tanh() - T).square().mean()),
    "softmax of one": ("wrong_output_activation", lambda: F.mse_loss(NUMBER(X).softmax(1)[:, 0], T[:, 0])),
    "relu before the softmax": ("wrong_output_activation", lambda: F.cross_entropy(SCORES(X).relu(), Y)),
}


def names(loss, **changes):
    facts = with_batch(read_loss(loss, **{"alone": True, "maximised": False} | changes), [X, Y, T])
    return [str(finding.fault) for finding in head_findings(facts, 0)]


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("case", RIGHT)
def test_nothing_is_said_of_a_loss_that_is_right(case):
    assert names(RIGHT[case]()) == []


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("case", WRONG)
def test_a_loss_that_is_wrong_is_named(case):
    right, loss = WRONG[case]
    assert names(loss()) == [right]


@pytest.mark.parametrize("change", [{"alone": False}, {"maximised": True}])
def test_a_loss_that_another_optimizer_answers_may_be_turned(change):
    assert names(-F.cross_entropy(SCORES(X), Y), **change) == []


def test_reading_leaves_the_graph_as_it_was():
    SCORES.zero_grad()
    F.cross_entropy(SCORES(X), Y).backward()
    alone = SCORES.weight.grad.clone()
    SCORES.zero_grad()
    loss = F.cross_entropy(SCORES(X), Y)
    read_loss(loss, alone=True, maximised=False)
    read_structure(loss)
    loss.backward()
    assert torch.equal(SCORES.weight.grad, alone)


def chain(*parts, rows=X):
    net = nn.Sequential(*[part() if isinstance(part, type) else part for part in parts])
    return net(rows).square().mean()


def lines(widths, activation):
    layers = [[nn.Linear(a, b), activation()] for a, b in pairwise(widths)]
    return [part for layer in layers for part in layer][:-1]


PICTURE = torch.randn(4, 1, 8, 8, generator=SEED)
GOOD_NETS = {
    "relu": lambda: chain(*lines([5, 8, 8, 1], nn.ReLU)),
    "one layer": lambda: chain(nn.Linear(5, 1)),
    "two layers of sigmoids": lambda: chain(*lines([5, 8, 8, 1], nn.Sigmoid)),
    "four layers of tanh": lambda: chain(*lines([5, 8, 8, 8, 8, 1], nn.Tanh)),
    "a linear autoencoder": lambda: chain(nn.Linear(5, 2), nn.Linear(2, 5)),
    "a norm and dropout between two": lambda: chain(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1)
    ),
    "separable convolutions": lambda: chain(
        nn.Conv2d(1, 2, 3), nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3), rows=PICTURE
    ),
    "an lstm": lambda: nn.Linear(4, 2)(nn.LSTM(5, 4, batch_first=True)(TOKENS)[0]).mean(),
    "attention": lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)(torch.zeros(2, 3, 6)).mean(),
}
BAD_NETS = {
    "three layers of sigmoids": lambda: chain(*lines([5, 8, 8, 8, 1], nn.Sigmoid)),
    "convolutions and sigmoids": lambda: chain(
        nn.Conv2d(1, 4, 3),
        nn.Sigmoid(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(4, 2),
        rows=PICTURE,
    ),
    "nothing between": lambda: chain(nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 1)),
    "softmax between": lambda: chain(nn.Linear(5, 8), nn.Softmax(1), nn.Linear(8, 8), nn.Softmax(1), nn.Linear(8, 1)),
}


@pytest.mark.parametrize("case", GOOD_NETS)
def test_nothing_is_said_of_a_net_that_can_learn(case):
    assert structure_findings(read_structure(GOOD_NETS[case]()), 0) == []


@pytest.mark.parametrize("case", BAD_NETS)
def test_hidden_activations_that_cannot_work_are_named(case):
    found = structure_findings(read_structure(BAD_NETS[case]()), 0)
    assert [str(finding.fault) for finding in found] == ["wrong_activation"]
