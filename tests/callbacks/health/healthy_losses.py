"""Healthy modules with losses of their own: likelihoods, residuals, contrasts, ranks, and steps within a step."""

from functools import partial

import torch
from healthy_modules import CLASS, NUMBER, ROWS, SERIES, Healthy, X, draw, mlp, whole
from torch import nn
from torch.nn import functional as F


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
    net_of = 8, 32, 3

    def loss(self, x, y):
        miss = y[:, None] - self.net(x)
        levels = torch.tensor([0.1, 0.5, 0.9])
        return torch.maximum(levels * miss, (levels - 1) * miss).sum(1).mean()


class Cox(Healthy):
    """Survival: the partial likelihood over who is still at risk; most are censored."""

    tensors = (X, draw(ROWS, seed=8).exp(), (whole(10, ROWS) > 0).long())
    net_of = 8, 16, 1

    def loss(self, x, time, event):
        order = time.argsort(descending=True)
        risk = self.net(x[order])[:, 0]
        return -((risk - risk.logcumsumexp(0)) * event[order]).sum() / event.sum()


class Counts(Healthy):
    """Tells how often something happens, mostly never: whole numbers, and no classes."""

    tensors = (X, torch.poisson((X[:, 0] - 2).exp(), generator=torch.Generator().manual_seed(0)).long())
    net_of = 8, 32, 1

    def loss(self, x, y):
        return F.poisson_nll_loss(self.net(x)[:, 0], y) if self.training else F.mse_loss(self.net(x)[:, 0], y.float())


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


class Ranks(Healthy):
    """ListNet: a softmax over the items of a query, which are the rows."""

    tensors = (X, NUMBER)
    net_of = 8, 32, 1

    def loss(self, x, y):
        return -(y[:, None].softmax(0) * self.net(x).log_softmax(0)).sum()


class Metric(Healthy):
    """Triplets; the batch names who is whom by an integer that no head has outputs for."""

    tensors = (X, CLASS * 1000 + 7)
    net_of = 8, 32, 8

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
    net_of = 8, 16, 1

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
    net_of = 8, 32, 2

    def loss(self, x, action, paid):
        return F.mse_loss(self.net(x).gather(1, action[:, None])[:, 0], paid)


class OwnUnits(Healthy):
    """Trains on standardised targets and validates in the target's own unit."""

    tensors = (X, 1000 * NUMBER + 5000)
    net_of = 8, 128, 128, 1

    def loss(self, x, y):
        if self.training:
            return F.mse_loss(self.net(x)[:, 0], (y - 5000) / 1000)
        return F.l1_loss(1000 * self.net(x)[:, 0] + 5000, y)

    rate = 1e-2


class Newton(Healthy):
    kind, rate = partial(torch.optim.LBFGS, max_iter=5), 0.1

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 16, 3, activation=nn.Tanh)
