"""Train the labelled runs: real MLPs on real tables, each to four times its epochs.

    python benchmarks/runs/make_runs.py --groups 222 --out benchmarks/runs/runs.jsonl.gz

A group is a table, a split, a shape and an optimizer; its eight networks differ in rate, penalty, dropout
and label noise and are trained at once as one batched network (`baddbmm`), so that 2 000 runs take minutes
of one core.
"""

import argparse
import gzip
import json
import math
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import tables
import torch
from torch.nn import functional as F

MODELS = 8  # a group
LOOK_AHEAD = 4  # trained to this many times the epochs of the history
MAX_STEPS = 6000  # of the optimizer, for one group
MAX_ROWS = 600_000  # seen in training by one network; more costs minutes and teaches the verdict nothing
TEST_ROWS = 2000


@dataclass
class Group:
    """What the eight networks of a group share, and the lists in which they differ."""

    table: str
    seed: int
    epochs: int
    train_rows: int
    val_rows: int
    batch_size: int
    hidden_sizes: list[int]
    optimizer: str
    momentum: float
    schedule: str
    lr: list[float]
    weight_decay: list[float]
    dropout: list[float]
    label_noise: list[float]


def draw_group(table: str, seed: int) -> Group:
    """Draw a configuration the way people have them: small tables and few rows as often as large ones."""
    r = np.random.default_rng(seed)
    rows = len(tables.load(table).x)
    lengths = {8: 0.06, 10: 0.10, 15: 0.10, 20: 0.14, 30: 0.14, 50: 0.14, 80: 0.12, 120: 0.08, 200: 0.06, 1000: 0.06}
    epochs = int(r.choice(list(lengths), p=list(lengths.values())))
    train = int(min(r.choice([60, 120, 250, 500, 1000, 2000], p=[0.08, 0.12, 0.2, 0.2, 0.2, 0.2]), 0.5 * rows))
    train = min(train, MAX_ROWS // LOOK_AHEAD // epochs)
    val = int(min(r.choice([40, 80, 150, 300, 600, 1200], p=[0.06, 0.14, 0.2, 0.25, 0.2, 0.15]), 0.25 * rows))
    sizes = [b for b in (8, 16, 32, 64, 128, 256) if b <= train / 2] + ([train] if epochs >= 50 else [])
    sizes = [b for b in sizes if LOOK_AHEAD * epochs * math.ceil(train / b) <= MAX_STEPS] or [train]
    width = int(r.choice([4, 16, 32, 64, 128], p=[0.15, 0.2, 0.2, 0.25, 0.2]))
    hidden = [min(width, 64 if epochs >= 200 else 128)] * int(r.choice([1, 2, 3], p=[0.4, 0.4, 0.2]))
    optimizer = str(r.choice(["sgd", "adam"], p=[0.55, 0.45]))
    low, high = (-2.7, -0.2) if optimizer == "sgd" else (-4, -1.5)
    return Group(
        table, seed, epochs, train, val, int(r.choice(sizes)), hidden, optimizer,
        float(r.choice([0, 0.9])), str(r.choice(["constant", "step", "cosine"], p=[.75, .15, .10])),
        lr=[float(v) for v in 10 ** r.uniform(low, high, MODELS)],
        weight_decay=[float(v) for v in r.choice([0, 1e-4, 1e-2, 1e-1], MODELS, p=[.5, .2, .2, .1])],
        dropout=[float(v) for v in r.choice([0, 0.2, 0.5], MODELS, p=[.6, .2, .2])],
        label_noise=[float(v) for v in r.choice([0, 0.1, 0.3], MODELS, p=[.6, .2, .2])],
    )  # fmt: skip


class Stack:
    """Eight MLPs as one batched network, with their own rates, penalties and dropout."""

    def __init__(self, g: Group, inputs: int, outputs: int):
        self.g, sizes = g, [inputs, *g.hidden_sizes, outputs]
        self.p: list[torch.Tensor] = []
        for i, o in pairwise(sizes):  # torch's own initialisation of nn.Linear
            bound = 1 / math.sqrt(i)
            for shape in ((MODELS, i, o), (MODELS, 1, o)):
                self.p.append(torch.empty(shape).uniform_(-bound, bound).requires_grad_())
        self.m = [torch.zeros_like(p) for p in self.p]
        self.v = [torch.zeros_like(p) for p in self.p]
        self.t = 0
        column = lambda values: torch.tensor(values).view(MODELS, 1, 1)  # noqa: E731
        self.lr, self.decay, self.drop = column(g.lr), column(g.weight_decay), column(g.dropout)

    def forward(self, x: torch.Tensor, train: bool) -> torch.Tensor:
        for layer in range(0, len(self.p) - 2, 2):
            x = torch.baddbmm(self.p[layer + 1], x, self.p[layer]).relu()
            if train and self.drop.any():
                x = x * (torch.rand(x.shape) >= self.drop) / (1 - self.drop)
        return torch.baddbmm(self.p[-1], x, self.p[-2])

    def step(self, loss: torch.Tensor, scale: float) -> None:
        """SGD with the penalty in the gradient, or Adam with it outside (AdamW)."""
        grads = torch.autograd.grad(loss.sum(), self.p)
        self.t += 1
        with torch.no_grad():
            for p, g, m, v in zip(self.p, grads, self.m, self.v, strict=True):
                if self.g.optimizer == "sgd":
                    m.mul_(self.g.momentum).add_(g + self.decay * p)
                    p.sub_(scale * self.lr * m)
                else:
                    p.mul_(1 - scale * self.lr * self.decay)
                    m.lerp_(g, 0.1)
                    v.lerp_(g * g, 0.001)
                    root = (v / (1 - 0.999**self.t)).sqrt_().add_(1e-8)
                    p.sub_(scale * self.lr * (m / (1 - 0.9**self.t)) / root)


def losses(out: torch.Tensor, y: torch.Tensor, classes: int) -> torch.Tensor:
    """The mean loss of each network: cross-entropy, or the squared error."""
    if not classes:
        return (out[..., 0] - y).square().mean(1)
    return F.cross_entropy(out.transpose(1, 2), y, reduction="none").mean(1)


def draw_data(t: tables.Table, g: Group) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Rows and targets of each network; label noise sits in all three sets, as it does in life."""
    r = np.random.default_rng(g.seed + 1)
    order = r.permutation(len(t.x))
    test, rest = np.split(order, [min(TEST_ROWS, len(order) - g.train_rows - g.val_rows)])
    x, y = {}, {}
    rows = {"train": [], "val": [], "test": [test] * MODELS}
    for _ in range(MODELS):
        mine = r.permutation(rest)
        rows["train"].append(mine[: g.train_rows])
        rows["val"].append(mine[g.train_rows : g.train_rows + g.val_rows])
    for name, lists in rows.items():
        index = np.stack(lists)
        target = t.y[index]
        for k, noise in enumerate(g.label_noise):
            if t.classes:
                swap = r.random(index.shape[1]) < noise
                target[k] = np.where(swap, r.integers(0, t.classes, index.shape[1]), target[k])
            else:
                target[k] = target[k] + 2 * noise * r.standard_normal(index.shape[1])
        x[name], y[name] = torch.from_numpy(t.x[index]), torch.from_numpy(target)
    return x, y


def baseline(y: dict[str, torch.Tensor], classes: int, on: str) -> torch.Tensor:
    """Loss of the best constant prediction: the training set's class shares, or its mean."""
    if not classes:
        return (y[on] - y["train"].mean(1, keepdim=True)).square().mean(1)
    share = F.one_hot(y["train"], classes).float().mean(1) + 1e-3
    return -(share / share.sum(1, keepdim=True)).log().gather(1, y[on]).mean(1)


def scale_at(g: Group, epoch: int) -> float:
    """The factor of the rate: constant, a tenth after 60 % of the history, or a cosine down to a fiftieth."""
    if g.schedule == "step":
        return 0.1 if epoch >= 0.6 * g.epochs else 1.0
    if g.schedule == "cosine":
        return max(0.02, 0.5 + 0.5 * math.cos(math.pi * min(1, epoch / g.epochs)))
    return 1.0


def train_group(g: Group) -> list[dict]:
    """Train a group to four times its epochs and return one record a network."""
    torch.manual_seed(g.seed)
    t = tables.load(g.table)
    x, y = draw_data(t, g)
    net = Stack(g, t.x.shape[1], t.classes or 1)
    trivial = {on: baseline(y, t.classes, on) for on in ("val", "test")}

    def evaluate(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            out = net.forward(x[name], train=False)
            right = (out.argmax(2) == y[name]).float().mean(1) if t.classes else torch.zeros(MODELS)
            return losses(out, y[name], t.classes), right

    before = evaluate("val")[0]
    curves: dict[str, list[torch.Tensor]] = {"train_loss": [], "val_loss": [], "val_accuracy": [], "test_loss": []}
    curves["test_accuracy"] = []
    tested: list[int] = []
    for epoch in range(LOOK_AHEAD * g.epochs):
        total = torch.zeros(MODELS)
        order = torch.stack([torch.randperm(g.train_rows) for _ in range(MODELS)])
        for part in order.split(g.batch_size, dim=1):
            rows = (torch.arange(MODELS)[:, None], part)
            loss = losses(net.forward(x["train"][rows], train=True), y["train"][rows], t.classes)
            net.step(loss, scale_at(g, epoch))
            total += loss.detach() * part.shape[1]
        if epoch < g.epochs:
            curves["train_loss"].append(total / g.train_rows)
            loss, right = evaluate("val")
            curves["val_loss"].append(loss)
            curves["val_accuracy"].append(right)
        if epoch % max(1, g.epochs // (100 if epoch < g.epochs else 12)) == 0 or epoch == g.epochs - 1:
            tested.append(epoch)
            for name, value in zip(("test_loss", "test_accuracy"), evaluate("test"), strict=True):
                curves[name].append(value)
    shared = {k: v for k, v in vars(g).items() if not isinstance(v, list) or k == "hidden_sizes"}
    return [
        {
            "id": f"{g.table}-{g.seed}-{k}",
            **shared,
            **{name: getattr(g, name)[k] for name in ("lr", "weight_decay", "dropout", "label_noise")},
            "classes": t.classes,
            "baseline_loss": _short(trivial["val"][k]),
            "test_baseline": _short(trivial["test"][k]),
            "loss_before": _short(before[k]),
            "test_epochs": tested,
            **{name: [_short(v[k]) for v in values] for name, values in curves.items()},
        }
        for k in range(MODELS)
    ]


def _short(value: torch.Tensor) -> float | None:
    """Five digits are enough for a curve; JSON has no NaN."""
    number = float(value)
    return float(f"{number:.5g}") if math.isfinite(number) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=222)
    parser.add_argument("--first", type=int, default=0, help="number of the first group")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("runs.jsonl.gz"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    with gzip.open(args.out, "wt") as out:
        for number in range(args.first, args.first + args.groups):
            g = draw_group(tables.NAMES[number % len(tables.NAMES)], seed=number)
            for record in train_group(g):
                out.write(json.dumps(record, separators=(",", ":")) + "\n")
            if number % 10 == 0:
                print(f"{number} {time.process_time() - start:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
