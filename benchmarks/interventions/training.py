"""Many MLPs of one shape trained at once on the same rows, each with its own rate, decay, dropout and schedule."""

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

GAIN_PACE = 4.0  # as in `lightning_mods.models.scaling`


@dataclass(frozen=True)
class Shared:
    """What the networks of one stack have in common."""

    hidden_sizes: tuple[int, ...]
    epochs: int
    batch_size: int
    optimizer: str  # `sgd` or `adam` (AdamW)
    momentum: float
    nesterov: bool
    clip: float  # of the gradients' norm; 0 for none
    scaling: bool  # a learned factor on every feature


@dataclass(frozen=True)
class Member:
    """What is a network's own."""

    name: str  # of the change; `base` as it was drawn
    base: int  # which drawn run it belongs to
    lr: float
    weight_decay: float
    dropout: float
    schedule: str  # constant, step or cosine
    ema_epochs: float
    seed: int  # of the first weights

    def changed(self, name: str, **what: object) -> "Member":
        """Return it with one thing changed."""
        return replace(self, name=name, **what)  # type: ignore[arg-type]  # as the fields are


@dataclass
class Outcome:
    """What became of one network."""

    train_loss: list[float] = field(default_factory=list)  # as logged: mean over the epoch, dropout on
    val_loss: list[float] = field(default_factory=list)
    val_metric: list[float] = field(default_factory=list)  # accuracy, or R²
    best_epoch: int = 0
    fair_train_loss: float = math.nan  # eval mode, weights at the end
    val_error: float = math.nan
    rise_error: float = math.nan
    test_end: float = math.nan
    test_best: float = math.nan  # of the epoch with the lowest validation loss
    outputs: Tensor | None = None  # of the test rows, at that epoch


def row_losses(out: Tensor, y: Tensor, classes: int) -> Tensor:
    """Loss of every row `[M, N]`: cross-entropy in nats, or the squared error."""
    if not classes:
        return (out[..., 0] - y).square()
    return F.cross_entropy(out.transpose(1, 2), y.expand(len(out), -1), reduction="none")


class Stack:
    """The weights of all members in one buffer `[M, P]`, with views for the layers."""

    def __init__(self, shared: Shared, members: list[Member], inputs: int, outputs: int) -> None:
        self.s, self.members, m = shared, members, len(members)
        sizes = [inputs, *shared.hidden_sizes, outputs]
        shapes = [shape for i, o in pairwise(sizes) for shape in ((i, o), (1, o))]
        shapes += [(1, inputs)] if shared.scaling else []
        self.flat = torch.zeros(m, sum(a * b for a, b in shapes))
        self.views = self._views(self.flat, shapes)
        for k, member in enumerate(members):  # as `lightning_mods.models.mlp`: He's uniform, a small last layer
            g = torch.Generator().manual_seed(member.seed)
            for layer, i in enumerate(sizes[:-1]):
                weight = self.views[2 * layer][k]
                if layer < len(sizes) - 2:
                    weight.uniform_(-math.sqrt(6 / i), math.sqrt(6 / i), generator=g)
                else:
                    weight.normal_(0, 0.1 * i**-0.5, generator=g)
        for view in self.views:
            view.requires_grad_()
        self.m, self.v = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.average, self.t = self.flat.clone(), 0
        self.shapes = shapes
        column = lambda name: torch.tensor([getattr(e, name) for e in members]).view(m, 1)  # noqa: E731
        self.lr, self.decay, self.drop = column("lr"), column("weight_decay"), column("dropout").view(m, 1, 1)
        self.horizon, self.averaged = column("ema_epochs"), (column("ema_epochs") > 0)
        self.drops = bool(self.drop.any())

    @staticmethod
    def _views(flat: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
        ends = torch.tensor([a * b for a, b in shapes]).cumsum(0).tolist()
        parts = zip([0, *ends], ends, shapes, strict=False)
        return [flat[:, begin:end].view(len(flat), *shape) for begin, end, shape in parts]

    def forward(self, x: Tensor, p: list[Tensor], generator: torch.Generator | None = None) -> Tensor:
        """Outputs `[M, B, O]` of rows `[B, F]`; with a generator as in training, with dropout."""
        layers = 2 * (len(self.s.hidden_sizes) + 1)
        first = p[0] * (1 + GAIN_PACE * p[layers].transpose(1, 2)) if self.s.scaling else p[0]
        h = torch.baddbmm(p[1], x.expand(len(first), *x.shape), first)
        for layer in range(2, layers, 2):
            h = h.relu()
            if generator is not None and self.drops:
                h = h * (torch.rand(h.shape, generator=generator) >= self.drop) / (1 - self.drop)
            h = torch.baddbmm(p[layer + 1], h, p[layer])
        return h

    def step(self, loss: Tensor, scale: Tensor, per_epoch: float) -> None:
        """SGD with the penalty in the gradient, or AdamW; then the averages follow."""
        grads = torch.autograd.grad(loss, self.views)
        with torch.no_grad():
            g, p, lr = torch.cat([each.flatten(1) for each in grads], dim=1), self.flat, scale * self.lr
            if self.s.clip:
                norm = g.norm(dim=1, keepdim=True)
                g.mul_((self.s.clip / (norm + 1e-6)).clamp(max=1))
            self.t += 1
            if self.s.optimizer == "sgd":
                g.addcmul_(self.decay.expand_as(p), p)
                if self.s.momentum:
                    self.m.mul_(self.s.momentum).add_(g)
                    g = g.add_(self.m, alpha=self.s.momentum) if self.s.nesterov else self.m
                p.sub_(lr * g)
            else:
                p.mul_(1 - lr * self.decay)
                self.m.lerp_(g, 0.1)
                self.v.mul_(0.999).addcmul_(g, g, value=0.001)
                root = (self.v / (1 - 0.999**self.t)).sqrt_().add_(1e-8)
                p.sub_(lr * (self.m / (1 - 0.9**self.t)) / root)
            if self.averaged.any():
                rate = torch.clamp(1 / (self.horizon * per_epoch), min=1 / (self.t + 1))
                rate[~self.averaged] = 1.0
                self.average.lerp_(p, rate.clamp(max=1.0))

    def shown(self) -> Tensor:
        """What is validated: the averages where a member has them."""
        return torch.where(self.averaged, self.average, self.flat.detach())


def rate_scale(schedule: str, progress: float) -> float:
    """Factor of the rate at a share of the planned epochs: constant, a tenth after 60 %, or half a cosine to zero."""
    if schedule == "step":
        return 0.1 if progress >= 0.6 else 1.0
    return 0.5 + 0.5 * math.cos(math.pi * progress) if schedule == "cosine" else 1.0


@torch.no_grad()
def _losses(stack: Stack, flat: Tensor, x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    out = stack.forward(x, stack._views(flat, stack.shapes))
    return row_losses(out, y, classes), out


def train(
    shared: Shared,
    members: list[Member],
    data: dict[str, tuple[Tensor, Tensor]],
    classes: int,
    seed: int,
    slice_rows: int = 512,
) -> list[Outcome]:
    """Train a stack on `train`, watch it on `val`, judge it on `test`; all members see the same mini-batches."""
    (x, y), (vx, vy), (tx, ty) = (data[name] for name in ("train", "val", "test"))
    stack = Stack(shared, members, x.shape[1], classes or 1)
    g = torch.Generator().manual_seed(seed)
    per_epoch = math.ceil(len(x) / shared.batch_size)
    outcomes = [Outcome() for _ in members]
    best = torch.full((len(members),), math.inf)
    best_flat, best_rows = stack.flat.detach().clone(), torch.zeros(len(members), len(vx))
    rows = best_rows
    for epoch in range(shared.epochs):
        total, order = torch.zeros(len(members)), torch.randperm(len(x), generator=g)
        for number, part in enumerate(order.split(shared.batch_size)):
            progress = (epoch + number / per_epoch) / shared.epochs
            scale = torch.tensor([rate_scale(e.schedule, progress) for e in members]).view(-1, 1)
            loss = row_losses(stack.forward(x[part], stack.views, g), y[part], classes).mean(1)
            stack.step(loss.sum(), scale, per_epoch)
            total += loss.detach() * len(part)
        flat = stack.shown()
        rows, out = _losses(stack, flat, vx, vy, classes)
        val = rows.mean(1)
        metric = _metric(out, vy, classes)
        better = val < best
        if better.any():
            best = torch.where(better, val, best)
            best_flat[better], best_rows[better] = flat[better], rows[better]
        for k, outcome in enumerate(outcomes):
            outcome.train_loss.append(float(total[k] / len(x)))
            outcome.val_loss.append(float(val[k]))
            outcome.val_metric.append(float(metric[k]))
            outcome.best_epoch = epoch if better[k] else outcome.best_epoch
    flat = stack.shown()
    some = torch.arange(min(slice_rows, len(x))) * len(x) // min(slice_rows, len(x))
    fair = _losses(stack, flat, x[some], y[some], classes)[0].mean(1)
    end = _losses(stack, flat, tx, ty, classes)[0].mean(1)
    kept, out = _losses(stack, best_flat, tx, ty, classes)
    for k, outcome in enumerate(outcomes):
        outcome.fair_train_loss, outcome.test_end, outcome.test_best = (
            float(fair[k]),
            float(end[k]),
            float(kept[k].mean()),
        )
        outcome.val_error = float(rows[k].std() / len(vx) ** 0.5)
        outcome.rise_error = float((rows[k] - best_rows[k]).std() / len(vx) ** 0.5)
        outcome.outputs = out[k]
    return outcomes


def _metric(out: Tensor, y: Tensor, classes: int) -> Tensor:
    if classes:
        return (out.argmax(2) == y).float().mean(1)
    return 1 - (out[..., 0] - y).square().mean(1) / y.var(unbiased=False).clamp(min=1e-9)
