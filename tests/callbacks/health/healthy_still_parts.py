"""Healthy modules with parts that nobody trains, or not yet, or not with these rows, in the ways that people have."""

import copy
import math

import torch
from healthy_modules import CLASS, ROWS, SERIES, Healthy, X, draw, mlp, whole
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel


class Backcasts(Healthy):
    """N-BEATS: each block takes its backcast off the input; the last one's goes nowhere. Scales in the step."""

    tensors = (SERIES,)

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"body": mlp(18, 24, 24), "back": nn.Linear(24, 18), "fore": nn.Linear(24, 6)}) for _ in "123"
        )

    def loss(self, series):
        level, spread = series[:, :18].mean(1, keepdim=True), series[:, :18].std(1, keepdim=True)
        past, future = ((series - level) / spread).split([18, 6], 1)
        forecast = 0
        for block in self.blocks:
            hidden = block["body"](past).relu()
            past, forecast = past - block["back"](hidden), forecast + block["fore"](hidden)
        return (forecast - future).abs().mean()


class Momentum(Healthy):
    """Contrasts two views; the keys come from an encoder that follows by a moving average."""

    def __init__(self):
        super().__init__()
        self.encoder = mlp(8, 32, 16)
        self.keys = copy.deepcopy(self.encoder)

    def loss(self, x, y):
        one, other = (F.normalize(net(x + 0.1 * torch.randn_like(x)), dim=1) for net in (self.encoder, self.keys))
        return F.cross_entropy(one @ other.detach().T / 0.2, torch.arange(len(x)))

    def on_train_batch_end(self, *_):
        with torch.no_grad():
            for slow, fast in zip(self.keys.parameters(), self.encoder.parameters(), strict=True):
                slow.lerp_(fast, 0.01)


class Clusters(Healthy):
    """BYOL: a predictor, and a target that is detached."""

    def __init__(self):
        super().__init__()
        self.online, self.predict = nn.Sequential(mlp(8, 32, 16), nn.BatchNorm1d(16)), mlp(16, 32, 16)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def loss(self, x, y):
        aim = self.target(x + 0.1 * torch.randn_like(x)).detach()
        guess = self.predict(self.online(x + 0.1 * torch.randn_like(x)))
        return 2 - 2 * F.cosine_similarity(guess, aim).mean()

    on_train_batch_end = Momentum.on_train_batch_end
    keys = property(lambda self: self.target)
    encoder = property(lambda self: self.online)


class Dqn(Healthy):
    """The target network is copied every few steps; all parameters are in the optimizer, as tutorials have it."""

    tensors = (X, whole(3, ROWS), draw(ROWS, seed=5), draw(ROWS, 8, seed=6), whole(2, ROWS, seed=7).bool())

    def __init__(self):
        super().__init__()
        self.q, self.target = mlp(8, 32, 3), mlp(8, 32, 3)

    def loss(self, state, action, reward, then, done):
        value = self.q(state).gather(1, action[:, None])[:, 0]
        aim = reward + 0.9 * self.target(then).max(1)[0].detach() * ~done
        return F.smooth_l1_loss(value, aim)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if batch_idx % 4 == 0:
            self.target.load_state_dict(self.q.state_dict())


class Experts(Healthy):
    """Routes each row to the better of six; some are never chosen."""

    def __init__(self):
        super().__init__()
        self.route, self.experts = nn.Linear(8, 6), nn.ModuleList(mlp(8, 16, 3) for _ in range(6))
        with torch.no_grad():
            self.route.bias[4:] = -50

    def loss(self, x, y):
        chances = self.route(x).softmax(1)
        best, which = chances.max(1)
        out = torch.zeros(len(x), 3)
        for i, expert in enumerate(self.experts):
            mine = which == i
            if mine.any():
                out[mine] = best[mine, None] * expert(x[mine])
        return F.cross_entropy(out, y)


class Averaged(Healthy):
    """Validates with averaged weights, which are parameters of the module and of its optimizer."""

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 32, 3)
        self.average = AveragedModel(self.net)

    def loss(self, x, y):
        return F.cross_entropy((self.net if self.training else self.average)(x), y)

    def on_train_batch_end(self, *_):
        self.average.update_parameters(self.net)


class Backbone(Healthy):
    """A backbone that nobody trains, in each of the ways that people leave it alone."""

    way = "frozen"

    def __init__(self):
        super().__init__()
        self.backbone, self.head = mlp(8, 64, 32), nn.Linear(32, 3)
        if self.way == "frozen":
            self.backbone.requires_grad_(False)

    def loss(self, x, y):
        with torch.set_grad_enabled(self.way != "no_grad" and self.training):
            features = self.backbone(x)
        return F.cross_entropy(self.head(features.relu()), y)

    def configure_optimizers(self):
        trained = self.head if self.way == "head alone" else self
        return torch.optim.Adam(trained.parameters(), lr=3e-3)


class NoGradBackbone(Backbone):
    way = "no_grad"


class HeadAlone(Backbone):
    way = "head alone"


class Perceptual(Healthy):
    """Measures its reconstruction by a network that stands still, with its gradients on."""

    tensors = (X,)

    def __init__(self):
        super().__init__()
        self.net, self.eye = mlp(8, 4, 8), mlp(8, 32, 16)
        with torch.no_grad():
            for p in self.eye.parameters():
                p.copy_(0.3 * draw(*p.shape))

    def loss(self, x):
        return F.mse_loss(self.eye(self.net(x)), self.eye(x).detach())

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=3e-3)


class Unfreezes(Healthy):
    """Lets its backbone stand for two epochs and then gives it to the optimizer."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Sequential(mlp(8, 64, 32), nn.ReLU()), nn.Linear(32, 3)
        self.backbone.requires_grad_(False)

    def loss(self, x, y):
        return F.cross_entropy(self.head(self.backbone(x)), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters(), lr=3e-3)

    def on_train_epoch_start(self):
        if self.current_epoch == 2:
            self.backbone.requires_grad_(True)
            self.optimizers().add_param_group({"params": list(self.backbone.parameters()), "lr": 1e-3})


class Diffusion(Healthy):
    """Tells the noise that was put in, at a time drawn anew."""

    def __init__(self):
        super().__init__()
        self.net, self.average = mlp(9, 64, 64, 8, activation=nn.SiLU), AveragedModel(mlp(9, 64, 64, 8))

    def loss(self, x, y):
        noise, time = torch.randn_like(x), torch.rand(len(x), 1)
        angle = time * math.pi / 2
        return F.mse_loss(self.net(torch.cat([x * angle.cos() + noise * angle.sin(), time], 1)), noise)


class Unused(Healthy):
    """Has a branch for pictures, and no pictures came."""

    def __init__(self):
        super().__init__()
        self.pictures, self.table, self.head = nn.Conv2d(3, 8, 3), mlp(8, 16, 16), nn.Linear(16, 3)

    def loss(self, x, y):
        return F.cross_entropy(self.head(self.table(x).relu()), y)


class Teacher(Healthy):
    """Learns from a teacher with norms, which is fresh and stands in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 32, 3)
        self.teacher = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)).eval()

    def loss(self, x, y):
        with torch.no_grad():
            known = self.teacher(x).softmax(1)
        return F.kl_div(self.net(x).log_softmax(1), known, reduction="batchmean")

    def on_train_start(self):
        self.teacher.eval()


class MeanTeacher(Healthy):
    """Labels for a few rows, consistency with a moving average for all; -1 is no label."""

    tensors = (X, torch.where(torch.arange(ROWS) % 6 > 0, -1, CLASS))

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3))
        self.keys = copy.deepcopy(self.encoder)

    def loss(self, x, y):
        out = self.encoder(x)
        aim = self.keys(x + 0.1 * torch.randn_like(x)).detach()
        return F.cross_entropy(out, y, ignore_index=-1) + F.mse_loss(out.softmax(1), aim.softmax(1))

    on_train_batch_end = Momentum.on_train_batch_end


class Alternates(Healthy):
    """Trains the one half in even epochs and the other in odd ones, with two optimizers by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.body, self.head = mlp(8, 32, 16), nn.Linear(16, 3)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()[self.current_epoch % 2]
        loss = F.cross_entropy(self.head(self.body(batch[0]).relu()), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), lr=3e-3) for part in (self.body, self.head)]


class Consistent(Healthy):
    """Follows a slow copy of itself, which goes first, is detached, and stands in the optimizer beside it."""

    def __init__(self):
        super().__init__()
        self.keys = mlp(8, 32, 8)
        self.encoder = copy.deepcopy(self.keys)

    def loss(self, x, y):
        aim = self.keys(x + 0.1 * torch.randn_like(x)).detach()
        return F.mse_loss(self.encoder(x + 0.3 * torch.randn_like(x)), 0.5 * aim + 0.5 * x)

    on_train_batch_end = Momentum.on_train_batch_end


class Adapters(Healthy):
    """Two small layers are trained within a net that was trained before, whose gradients stay on."""

    def __init__(self):
        super().__init__()
        self.prompt, self.net, self.head = nn.Linear(8, 8), mlp(8, 32, 16), nn.Linear(16, 3)
        with torch.no_grad():
            for p in self.net.parameters():
                p.copy_(0.2 * draw(*p.shape))

    def loss(self, x, y):
        return F.cross_entropy(self.head(self.net(x + self.prompt(x)).relu()), y)

    def configure_optimizers(self):
        return torch.optim.Adam([*self.prompt.parameters(), *self.head.parameters()], lr=3e-3)


class Rolls(Backcasts):
    """Forecasts twice, the second time from what it forecast; forecast first, backcast last."""

    def loss(self, series):
        past, later = (series - 200).div(40).split([18, 6], 1)
        whole, error = past, 0
        for _ in range(2):
            left, forecast = whole.clone(), 0
            for block in self.blocks:
                hidden = block["body"](left).relu()
                forecast, left = forecast + block["fore"](hidden), left - block["back"](hidden)
            error = error + F.mse_loss(forecast, later)
            whole = torch.cat([past[:, 6:], forecast.detach()], 1)
        return error


class Decomposes(Healthy):
    """DLinear: trend and rest go through a linear layer each, side by side; both start at 1/n, as published."""

    tensors = (SERIES,)

    def __init__(self):
        super().__init__()
        self.trend, self.rest = nn.Linear(12, 12), nn.Linear(12, 12)
        for layer in (self.trend, self.rest):
            nn.init.constant_(layer.weight, 1 / 12)

    def loss(self, series):
        past, future = ((series - 200) / 40).split([12, 12], 1)
        trend = F.avg_pool1d(past[:, None], 5, 1, 2)[:, 0]
        return (self.trend(trend) + self.rest(past - trend) - future).square().mean()


class OneVariable(Healthy):
    """TFT with one variable: what weighs the variables goes through a softmax over one thing, and learns nothing."""

    def __init__(self):
        super().__init__()
        self.weigh, self.lift, self.out = mlp(8, 16, 8), mlp(8, 32, 32, 8), mlp(8, 16, 3)

    def loss(self, x, y):
        return F.cross_entropy(self.out(self.weigh(x).sum(1, keepdim=True).softmax(1) * self.lift(x)), y)


class Measures(Healthy):
    """CARD: a network that was trained before gives the mean, to which next to no gradient comes; none is meant to."""

    def __init__(self):
        super().__init__()
        self.mean, self.net = mlp(8, 16, 3), mlp(8, 32, 32, 3)

    def loss(self, x, y):
        return F.cross_entropy(self.net(x) + 1e-6 * self.mean(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=3e-3)


class Complex(Healthy):
    """FEDformer: a part of its numbers is complex, and goes through tanh."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.view_as_complex(0.3 * draw(5, 5, 2)))
        self.out = mlp(8, 16, 3)

    def loss(self, x, y):
        mixed = torch.tanh(torch.fft.rfft(x, dim=1) @ self.weight)
        return F.cross_entropy(self.out(torch.fft.irfft(mixed, n=8, dim=1)), y)
