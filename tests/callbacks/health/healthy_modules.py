"""Healthy LightningModules of many kinds, each small, as their papers' code trains them: nothing is wrong with any."""

from itertools import pairwise

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence
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


SERIES = torch.sin(torch.arange(24) * 0.7 + 3 * draw(ROWS, 1)) * 40 + 200 + draw(ROWS, 24, seed=4)


class Healthy(pl.LightningModule):
    """Trains with Adam over all its parameters; `tensors` are what its batches are cut from, `net_of` a net's sizes."""

    tensors, net_of = (X, CLASS), ()
    kind, rate = torch.optim.Adam, 3e-3

    def __init__(self):
        super().__init__()
        if self.net_of:
            self.net = mlp(*self.net_of)

    def loss(self, x, y):
        return F.cross_entropy(self.net(x), y)

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


class Drops(Healthy):
    """Takes nine tenths of its many units away, as was published for wide layers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Dropout(0.9), nn.Linear(512, 3))


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


class Trends(Healthy):
    """Forecasts a series that climbs: what is validated lies later, and so higher; read in the order of time."""

    path = torch.linspace(-2, 2, ROWS + 8) + 0.05 * draw(ROWS + 8)
    tensors = (path.unfold(0, 8, 1)[:ROWS], path[8:])
    net_of = 8, 16, 1

    def loss(self, past, then):
        return F.mse_loss(self.net(past)[:, 0], then)

    def train_dataloader(self):
        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                return zip(*(t[:256] for t in Trends.tensors), strict=True)

        return DataLoader(Stream(), batch_size=BATCH)


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
