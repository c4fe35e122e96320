"""Healthy LightningModules of many kinds, each small, as their papers' code trains them: nothing is wrong with any."""

import copy
import math
from itertools import pairwise

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

ROWS, BATCH = 320, 32


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(high, *shape, seed=1):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


X = draw(ROWS, 8)
CLASS = (X @ draw(8, 3, seed=2)).argmax(1)
NUMBER = X[:, 0] - X[:, 1] * X[:, 2] + 0.1 * draw(ROWS, seed=3)


def mlp(*sizes, activation=nn.ReLU):
    parts = []
    for one, other in pairwise(sizes):
        parts += [nn.Linear(one, other), activation()]
    return nn.Sequential(*parts[:-1])


class Healthy(pl.LightningModule):
    """Trains with Adam over all its parameters; `tensors` are what its batches are cut from."""

    tensors = (X, CLASS)
    kind, rate = torch.optim.Adam, 3e-3

    def training_step(self, batch, batch_idx):
        return self.loss(*batch)

    def validation_step(self, batch, batch_idx):
        if self.automatic_optimization:
            self.log("val_loss", self.loss(*batch).detach(), batch_size=BATCH)

    def configure_optimizers(self):
        return self.kind(self.parameters(), lr=self.rate)

    def loader(self, rows, *, shuffle):
        return DataLoader(TensorDataset(*(t[rows] for t in self.tensors)), batch_size=BATCH, shuffle=shuffle)

    def train_dataloader(self):
        return self.loader(slice(0, 256), shuffle=True)

    def val_dataloader(self):
        return self.loader(slice(256, ROWS), shuffle=False)


class Vae(Healthy):
    tensors = (X, CLASS)

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(8, 16, 8), mlp(4, 16, 8)

    def loss(self, x, y):
        mean, log_var = self.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (log_var / 2).exp()
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(1).mean()
        return F.mse_loss(self.decoder(z), x, reduction="sum") / len(x) + 0.1 * kl


class TiedAutoencoder(Healthy):
    tensors = (X.sigmoid(),)

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(0.3 * draw(6, 8)), nn.Parameter(torch.zeros(8))

    def loss(self, x):
        code = F.linear(x, self.weight).relu()
        return F.binary_cross_entropy_with_logits(F.linear(code, self.weight.T, self.bias), x)


class Language(Healthy):
    """A small transformer; padding is class 0 and left out of the loss. Tied embeddings, a schedule with warm-up."""

    tensors = (torch.where(torch.arange(12) < whole(9, ROWS, 1) + 4, whole(19, ROWS, 12) // 3 * 3 % 19 + 1, 0),)

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 16, padding_idx=0), nn.Parameter(0.02 * draw(12, 16))
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True), 2)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.head.weight, std=0.05)

    def loss(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(11)
        seen = self.body(self.tokens(tokens[:, :-1]) + self.places[:11], mask=mask, is_causal=True)
        return F.cross_entropy(self.head(seen).flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=0)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Graphs(Healthy):
    """Batches are of many graphs: features, edges, and of each node the graph that it belongs to."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def loss(self, x, edges, graph, y):
        for layer in (self.first, self.second):
            x = layer(x).relu()
            x = x + torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
        pooled = torch.zeros(len(y), 16).index_add(0, graph, x)
        return F.l1_loss(self.out(pooled), y[:, None])

    def graphs(self, rows, *, shuffle):
        def collate(found):
            x = torch.cat([X[5 * i : 5 * i + 5] for i in found])
            ring = torch.arange(len(x))
            graph = ring // 5
            return x, torch.stack([ring, graph * 5 + (ring + 1) % 5]), graph, NUMBER[torch.tensor(found)]

        return DataLoader(rows, batch_size=8, shuffle=shuffle, collate_fn=collate)

    def train_dataloader(self):
        return self.graphs(range(48), shuffle=True)

    def val_dataloader(self):
        return self.graphs(range(48, 64), shuffle=False)


SERIES = torch.sin(torch.arange(24) * 0.7 + 3 * draw(ROWS, 1)) * 40 + 200 + draw(ROWS, 24, seed=4)


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


class Likelihood(Healthy):
    """DeepAR: a Gaussian likelihood, whose minus logarithm goes below 0."""

    tensors = (SERIES / 1000, whole(4, ROWS))

    def __init__(self):
        super().__init__()
        self.who, self.cell, self.out = nn.Embedding(4, 3), nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 2)

    def loss(self, series, who):
        scale = series.mean(1, keepdim=True)
        given = torch.cat([(series / scale)[:, :-1, None], self.who(who)[:, None].expand(-1, 23, -1)], 2)
        mean, spread = self.out(self.cell(given)[0]).unbind(2)
        return -torch.distributions.Normal(mean * scale, F.softplus(spread) * scale).log_prob(series[:, 1:]).mean()


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


class Physics(Healthy):
    """Solves u'' = -u by its own second derivative."""

    tensors = (torch.linspace(0, 3, ROWS)[:, None],)

    def __init__(self):
        super().__init__()
        self.net = mlp(1, 32, 32, 1, activation=nn.Tanh)

    def loss(self, t):
        with torch.enable_grad():
            t = t.clone().requires_grad_()
            u = self.net(t)
            first = torch.autograd.grad(u.sum(), t, create_graph=True)[0]
            second = torch.autograd.grad(first.sum(), t, create_graph=True)[0]
            return (second + u).square().mean() + (self.net(torch.zeros(1, 1)) - 1).square().mean()


class GradNorm(Healthy):
    """Two tasks whose weights are learnt by the size of their gradients."""

    tensors = (X, CLASS, NUMBER)

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.body, self.kinds, self.size = mlp(8, 32, 16), nn.Linear(16, 3), nn.Linear(16, 1)
        self.weights = nn.Parameter(torch.ones(2))

    def training_step(self, batch, batch_idx):
        x, kind, number = batch
        hidden = self.body(x).relu()
        losses = torch.stack([F.cross_entropy(self.kinds(hidden), kind), F.mse_loss(self.size(hidden)[:, 0], number)])
        net, weights = self.optimizers()
        shared, weighted = self.body[-1].weight, self.weights * losses
        norms = torch.stack([torch.autograd.grad(one, shared, create_graph=True)[0].norm() for one in weighted])
        balance = (norms - norms.mean().detach()).abs().sum()
        net.zero_grad()
        self.manual_backward((self.weights.detach() * losses).sum(), retain_graph=True)
        weights.zero_grad()
        self.weights.grad = torch.autograd.grad(balance, self.weights)[0]
        net.step()
        weights.step()

    def configure_optimizers(self):
        nets = [p for name, p in self.named_parameters() if name != "weights"]
        return torch.optim.Adam(nets, lr=3e-3), torch.optim.Adam([self.weights], lr=1e-3)


class Quantiles(Healthy):
    tensors = (X, NUMBER)

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 32, 3)

    def loss(self, x, y):
        miss = y[:, None] - self.net(x)
        levels = torch.tensor([0.1, 0.5, 0.9])
        return torch.maximum(levels * miss, (levels - 1) * miss).sum(1).mean()


class Cox(Healthy):
    """Survival: the partial likelihood over who is still at risk; most are censored."""

    tensors = (X, draw(ROWS, seed=8).exp(), (whole(10, ROWS) > 0).long())

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 16, 1)

    def loss(self, x, time, event):
        order = time.argsort(descending=True)
        risk = self.net(x[order])[:, 0]
        return -((risk - risk.logcumsumexp(0)) * event[order]).sum() / event.sum()


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


class Recommends(Healthy):
    """Sparse gradients; the first integer column is nobody's label, and hardly varies."""

    tensors = ((whole(50, ROWS) == 0).long(), whole(40, ROWS, seed=9), (CLASS > 0).float())

    def __init__(self):
        super().__init__()
        self.who, self.what = nn.Embedding(40, 8, sparse=True), nn.Embedding(40, 8, sparse=True)

    def loss(self, who, what, liked):
        return F.binary_cross_entropy_with_logits((self.who(who) * self.what(what)).sum(1), liked)

    def configure_optimizers(self):
        return torch.optim.SparseAdam(self.parameters(), lr=1e-2)


class Packed(Healthy):
    """Sequences of many lengths; the lengths are whole numbers, and no labels."""

    tensors = (draw(ROWS, 7, 4), whole(7, ROWS) + 1, NUMBER)

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRU(4, 12, batch_first=True), nn.Linear(12, 1)

    def loss(self, x, lengths, y):
        _, last = self.cell(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return (self.out(last[-1])[:, 0] - y).square().mean()


class Accumulates(Healthy):
    """Steps with the gradients of three batches, by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = mlp(8, 32, 3)

    def training_step(self, batch, batch_idx):
        self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]) / 3)
        if batch_idx % 3 == 2:
            self.optimizers().step()
            self.optimizers().zero_grad()


class Gan(Healthy):
    """A Wasserstein GAN with spectral norm: losses go below 0, the generator steps every other time."""

    tensors = (X,)

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.maker = mlp(4, 32, 8)
        one, other = parametrizations.spectral_norm(nn.Linear(8, 32)), parametrizations.weight_norm(nn.Linear(32, 1))
        self.judge = nn.Sequential(one, nn.LeakyReLU(0.2), other)

    def training_step(self, batch, batch_idx):
        make, judge = self.optimizers()
        fake = self.maker(torch.randn(len(batch[0]), 4))
        judge.zero_grad()
        self.manual_backward(self.judge(fake.detach()).mean() - self.judge(batch[0]).mean())
        judge.step()
        if batch_idx % 2:
            make.zero_grad()
            self.manual_backward(-self.judge(fake).mean())
            make.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (self.maker, self.judge)]


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


class Linear(Healthy):
    """One layer, from zero: logistic regression."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 3)
        nn.init.zeros_(self.out.weight)

    def loss(self, x, y):
        return F.cross_entropy(self.out(x), y)


class ConstantHead(Healthy):
    """A last layer whose units begin alike: each has a class of its own to tell them apart by."""

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 32, 3)
        nn.init.constant_(self.net[-1].weight, 0.05)

    def loss(self, x, y):
        return F.cross_entropy(self.net(x), y)


class Drops(Healthy):
    """Takes nine tenths of its many units away, as was published for wide layers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Dropout(0.9), nn.Linear(512, 3))

    def loss(self, x, y):
        return F.cross_entropy(self.net(x), y)


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


class Newton(Healthy):
    kind, rate = torch.optim.LBFGS, 0.1

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 16, 3, activation=nn.Tanh)

    def loss(self, x, y):
        return F.cross_entropy(self.net(x), y)


class Counts(Healthy):
    """Tells how often something happens, mostly never: whole numbers, and no classes."""

    tensors = (X, torch.poisson((X[:, 0] - 2).exp(), generator=torch.Generator().manual_seed(0)).long())

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 32, 1)

    def loss(self, x, y):
        return F.poisson_nll_loss(self.net(x)[:, 0], y) if self.training else F.mse_loss(self.net(x)[:, 0], y.float())


class MasksItems(Healthy):
    """Learns to fill in what is hidden; beside it stands an integer that is the same for nearly all rows."""

    tensors = (whole(12, ROWS, 9), (whole(60, ROWS) == 0).long())

    def __init__(self):
        super().__init__()
        self.tokens, self.domain = nn.Embedding(13, 16), nn.Embedding(2, 16)
        self.head = nn.Linear(16, 12)

    def loss(self, items, domain):
        hidden = torch.rand(items.shape) < 0.3
        hidden[:, 0] = True
        seen = self.tokens(items.masked_fill(hidden, 12)).mean(1, keepdim=True) + self.domain(domain)[:, None]
        return F.cross_entropy(self.head(seen.expand(-1, 9, -1)[hidden]), items[hidden])


class Policy(Healthy):
    """REINFORCE: the loss has whatever sign the returns have."""

    tensors = (X, whole(3, ROWS), draw(ROWS, seed=10))

    def __init__(self):
        super().__init__()
        self.actor, self.critic = mlp(8, 32, 3), mlp(8, 32, 1)

    def loss(self, state, action, returns):
        value = self.critic(state)[:, 0]
        chances = torch.distributions.Categorical(logits=self.actor(state))
        acted = -(chances.log_prob(action) * (returns - value.detach())).mean()
        return acted + 0.5 * F.mse_loss(value, returns) - 0.01 * chances.entropy().mean()


class Boundary(Physics):
    """The same, with the residual held against zeros, and first the point where it starts, over and over."""

    tensors = (torch.zeros(ROWS, 1), torch.linspace(0, 3, ROWS)[:, None])

    def loss(self, start, t):
        known = F.mse_loss(self.net(start), torch.ones_like(start))
        with torch.enable_grad():
            t = t.clone().requires_grad_()
            u = 20 * self.net(t)
            first = torch.autograd.grad(u.sum(), t, create_graph=True)[0]
            second = torch.autograd.grad(first.sum(), t, create_graph=True)[0]
            residual = second + 9 * u + 60 * t.cos()
            return F.mse_loss(residual, torch.zeros_like(residual)) + known


class Angular(Healthy):
    """ArcFace: scores are cosines times 64, so the first loss is far over that of knowing nothing."""

    def __init__(self):
        super().__init__()
        self.net, self.centres = mlp(8, 32, 16), nn.Parameter(draw(3, 16))

    def loss(self, x, y):
        cosine = F.linear(F.normalize(self.net(x)), F.normalize(self.centres))
        return F.cross_entropy(64 * (cosine - 0.35 * F.one_hot(y, 3)), y)


class Pairs(Healthy):
    """CLIP: two views tell each other apart, by rows and by columns, sharply."""

    tensors = (X, X @ draw(8, 6, seed=11))

    def __init__(self):
        super().__init__()
        self.one, self.other, self.scale = mlp(8, 32, 4), mlp(6, 32, 4), nn.Parameter(torch.tensor(3.9))

    def loss(self, x, y):
        scores = self.scale.exp() * F.normalize(self.one(x)) @ F.normalize(self.other(y)).T
        pairs = torch.arange(len(x))
        return -(scores.log_softmax(1)[pairs, pairs] + scores.log_softmax(0)[pairs, pairs]).mean()


class Anneals(Vae):
    """The weight of its divergence grows from nothing, and with it the loss."""

    rate = 3e-4

    def loss(self, x, y):
        mean, log_var = self.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (log_var / 2).exp()
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(1).mean()
        return F.mse_loss(self.decoder(z), x) + (0.5 * self.global_step) * (kl + 0.2)


class Trends(Healthy):
    """Forecasts a series that climbs: what is validated lies later, and so higher; read in the order of time."""

    path = torch.linspace(-2, 2, ROWS + 8) + 0.05 * draw(ROWS + 8)
    tensors = (path.unfold(0, 8, 1)[:ROWS], path[8:])

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 16, 1)

    def loss(self, past, then):
        return F.mse_loss(self.net(past)[:, 0], then)

    def train_dataloader(self):
        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                return zip(*(t[:256] for t in Trends.tensors), strict=True)

        return DataLoader(Stream(), batch_size=BATCH)


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


class Topics(Healthy):
    """Mixes a few topics into a document: the softmax in the middle is what it is about."""

    tensors = (torch.rand(ROWS, 3, generator=torch.Generator().manual_seed(1)).softmax(1) @ draw(3, 20, seed=2).exp(),)

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(20, 3), nn.Linear(3, 20, bias=False)

    def loss(self, words):
        return F.mse_loss(self.decode(self.encode(words).softmax(1)), words)


class Gates(Healthy):
    """Chooses features by gates that are open or shut, as they should be."""

    def __init__(self):
        super().__init__()
        self.gate, self.net = nn.Linear(8, 8), mlp(8, 32, 3)
        with torch.no_grad():
            self.gate.bias.copy_(torch.tensor([6.0, 6, 6, 6, 6, 6, 6, -6]))

    def loss(self, x, y):
        return F.cross_entropy(self.net(x * self.gate(x).sigmoid()), y)


class FaintTask(Healthy):
    """A second task, registered last, counts for next to nothing."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.faint = mlp(8, 32, 32, 16), nn.Linear(16, 3), nn.Linear(16, 8)

    def loss(self, x, y):
        hidden = self.body(x).relu()
        return F.cross_entropy(self.head(hidden), y) + 1e-6 * F.mse_loss(self.faint(hidden), x)


class SparseCode(Healthy):
    """A sparse autoencoder: of many units a few speak for a row, and most for none of the rows there are."""

    tensors = (X[:, :2] @ draw(2, 8, seed=5),)

    def __init__(self):
        super().__init__()
        self.code, self.decode = nn.Linear(8, 256), nn.Linear(256, 8)
        nn.init.constant_(self.code.bias, -0.5)

    def loss(self, x):
        code = self.code(x).relu()
        return F.mse_loss(self.decode(code), x) + 0.01 * code.abs().mean()


class Narrow(Healthy):
    """One layer whose weights start near zero, and whose inputs are counts under a logarithm."""

    tensors = (torch.log1p(X.exp()), CLASS)

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 3)
        nn.init.normal_(self.out.weight, std=0.005)

    def loss(self, x, y):
        return F.cross_entropy(self.out(x), y)


class OwnUnits(Healthy):
    """Trains on standardised targets and validates in the target's own unit."""

    tensors = (X, 1000 * NUMBER + 5000)

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 128, 128, 1)

    def loss(self, x, y):
        if self.training:
            return F.mse_loss(self.net(x)[:, 0], (y - 5000) / 1000)
        return F.l1_loss(1000 * self.net(x)[:, 0] + 5000, y)

    rate = 1e-2


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


class Ranks(Healthy):
    """ListNet: a softmax over the items of a query, which are the rows."""

    tensors = (X, NUMBER)

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 32, 1)

    def loss(self, x, y):
        return -(y[:, None].softmax(0) * self.net(x).log_softmax(0)).sum()


class Segments(Healthy):
    """A mask per picture, mostly background, and a void class that is left out; a downward and an upward path."""

    tensors = (draw(96, 1, 8, 8), (draw(96, 8, 8) > 1).long() + 254 * (draw(96, 8, 8, seed=3) > 1.5).long())

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 2, 2)
        self.norm, self.out = nn.BatchNorm2d(8), nn.Conv2d(9, 2, 1)

    def loss(self, x, y):
        up = self.norm(self.up(self.down(x).relu())).relu()
        y = torch.where(y > 1, 255, y)
        return F.cross_entropy(self.out(torch.cat([x, up], 1)), y, ignore_index=255)


class Metric(Healthy):
    """Triplets; the batch names who is whom by an integer that no head has outputs for."""

    tensors = (X, CLASS * 1000 + 7)

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 32, 8)

    def loss(self, x, who):
        z = F.normalize(self.net(x))
        apart, same = torch.cdist(z, z), who[:, None] == who
        far, near = (apart * same).amax(1), (apart + 9 * same).amin(1)
        return (far - near + 0.3).relu().mean()


class Flow(Healthy):
    """A normalising flow: an exact likelihood, below 0 as soon as it is any good."""

    tensors = (X[:, :4] * 0.05,)

    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleList(mlp(2, 32, 4) for _ in range(4))
        for net in self.nets:
            nn.init.zeros_(net[-1].weight)

    def loss(self, x):
        volume = 0
        for net in self.nets:
            left, right = x.chunk(2, 1)
            shift, size = net(left).chunk(2, 1)
            x, volume = torch.cat([right * size.exp() + shift, left], 1), volume + size.sum(1)
        return (0.5 * x.square().sum(1) - volume).mean()


class Hyper(Healthy):
    """One net makes the weights of another; meta-learning steps within a step."""

    tensors = (X, NUMBER)

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 16, 1)

    def loss(self, x, y):
        names, weights = zip(*self.net.named_parameters(), strict=True)
        with torch.enable_grad():
            half = len(x) // 2
            first = F.mse_loss(self.net(x[:half])[:, 0], y[:half])
            slopes = torch.autograd.grad(first, weights, create_graph=True)
            moved = {n: w - 0.1 * g for n, w, g in zip(names, weights, slopes, strict=True)}
            return F.mse_loss(torch.func.functional_call(self.net, moved, (x[half:],))[:, 0], y[half:])


class Ordinal(Healthy):
    """Binary questions `is it more than k?`, a target made of the label in the step."""

    def __init__(self):
        super().__init__()
        self.net, self.cuts = mlp(8, 32, 1), nn.Parameter(torch.tensor([-0.5, 0.5]))

    def loss(self, x, y):
        return F.binary_cross_entropy_with_logits(self.net(x) - self.cuts, (y[:, None] > torch.arange(2)).float())


class Bandit(Healthy):
    """Learns from what was paid for the action that was taken; actions are whole numbers, mostly one of them."""

    tensors = (X, (whole(20, ROWS) == 0).long(), NUMBER)

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 32, 2)

    def loss(self, x, action, paid):
        return F.mse_loss(self.net(x).gather(1, action[:, None])[:, 0], paid)


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


KINDS = [each for each in globals().values() if isinstance(each, type) and issubclass(each, Healthy)][1:]
