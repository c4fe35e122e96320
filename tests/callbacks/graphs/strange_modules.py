"""LightningModules that keep something where a second pass through them would leave its traces.

`state` is what the next step's numbers come from, apart from weights and buffers.
"""

import functools
import io
import itertools
import threading
import weakref
from collections import deque

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

ROWS, CLASSES = 4, 3


def batches(count=4):
    generator = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(ROWS, 6, generator=generator), torch.arange(ROWS) % CLASSES) for _ in range(count)]
    return DataLoader(pairs, batch_size=None)


class Strange(pl.LightningModule):
    """Multiplies its input by a factor that comes from what it remembers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(5, CLASSES))
        self.remember()

    def remember(self):
        pass

    def factor(self, x):
        return 1.0

    def state(self):
        return []

    def forward(self, x):
        return self.net(x * self.factor(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


class Metrics(Strange):
    def remember(self):
        both = {"f1": MulticlassF1Score(CLASSES), "accuracy": MulticlassAccuracy(CLASSES)}
        self.train_metrics = MetricCollection(both, prefix="train_")

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.train_metrics(logits, y)
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        return functional.cross_entropy(logits, y)


class MetricInForward(Metrics):
    def factor(self, x):
        self.train_metrics.update(x[:, :CLASSES], torch.arange(ROWS) % CLASSES)
        return 1.0

    def training_step(self, batch, batch_idx):
        return Strange.training_step(self, batch, batch_idx)

    def on_train_epoch_end(self):
        self.log_dict(self.train_metrics.compute())


class Patched(Strange):
    def remember(self):
        self.seen = []
        self.forward = self.other

    def other(self, x):
        self.seen.append(x.mean())
        return self.net(x * (1 + torch.stack(self.seen).sum().abs()))

    def state(self):
        return self.seen


class Wrapped(Patched):
    def remember(self):
        self.seen = []
        inner = self.other

        @functools.wraps(inner)
        def wrapper(x):
            return inner(x)

        self.forward = wrapper


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.memory = nn.Linear(6, 6), []

    def forward(self, x):
        self.memory.append(float(len(self.memory)))
        return self.lin(x) * (1 + sum(self.memory))


class PatchedInside(Strange):
    """As libraries do that wrap the parts of a network."""

    def remember(self):
        self.inner = Inner()
        inner = self.inner.forward
        self.inner.forward = lambda x: inner(x)

    def factor(self, x):
        return self.inner(x)

    def state(self):
        return self.inner.memory


class Plain:
    """An object with no ideas of its own."""

    def __init__(self):
        self.count, self.last = 0, None


class PlainObject(Strange):
    def remember(self):
        self.plain = Plain()

    def factor(self, x):
        self.plain.count += 1
        self.plain.last = x if self.plain.last is None else 0.5 * (x + self.plain.last)
        return self.plain.last * self.plain.count

    def state(self):
        return [self.plain.count, self.plain.last]


class ListInDict(Strange):
    def remember(self):
        self.kept = {"inputs": [], "deeper": {"set": set(), "count": [0]}}

    def factor(self, x):
        self.kept["inputs"].append(x.mean())
        self.kept["deeper"]["set"].add(len(self.kept["inputs"]))
        self.kept["deeper"]["count"][0] += 1
        return torch.stack(self.kept["inputs"]).sum() + len(self.kept["deeper"]["set"])

    def state(self):
        return [*self.kept["inputs"], *self.kept["deeper"]["set"], *self.kept["deeper"]["count"]]


class Queue(Strange):
    def remember(self):
        self.queue = deque(maxlen=3)

    def factor(self, x):
        self.queue.append(x)
        return sum(self.queue)

    def state(self):
        return list(self.queue)


class PlainTensor(Strange):
    def remember(self):
        self.average, self.one = torch.ones(6), torch.ones(1)

    def factor(self, x):
        self.average.mul_(0.9).add_(0.1)
        self.one.add_(1)
        return self.average * self.one

    def state(self):
        return [self.average, self.one]


class NumPyState(Strange):
    def remember(self):
        self.array = np.ones(6, dtype=np.float32)

    def factor(self, x):
        self.array += 1
        return torch.from_numpy(self.array.copy())

    def state(self):
        return [torch.from_numpy(self.array)]


class OwnGenerators(Strange):
    def remember(self):
        self.numpy, self.torch = np.random.default_rng(3), torch.Generator().manual_seed(3)

    def factor(self, x):
        noise = torch.rand(6, generator=self.torch)
        return float(self.numpy.random()) + noise

    def state(self):
        return [str(self.numpy.bit_generator.state), self.torch.get_state()]


class GlobalGenerators(Strange):
    def factor(self, x):
        return float(np.random.random()) + torch.rand(6)


class Iterators(Strange):
    def remember(self):
        self.count = itertools.count(1)
        self.noise = (float(number) for number in itertools.count(1))

    def factor(self, x):
        return next(self.count) + next(self.noise)

    def state(self):
        return [str(self.count)]


class Uncopied(Strange):
    """A lock, an open file and a thread's own storage."""

    def remember(self):
        self.lock, self.file, self.local = threading.Lock(), io.StringIO(), threading.local()

    def factor(self, x):
        with self.lock:
            self.file.write("x")
            self.local.count = getattr(self.local, "count", 0) + 1
        return len(self.file.getvalue()) + self.local.count

    def state(self):
        return [self.file.getvalue()]


class Outside(Strange):
    """Networks that are not registered: in a list, a dict, a tuple and an object; one follows in every pass."""

    def remember(self):
        self.targets, self.by_name = [nn.Linear(6, 6)], {"bn": nn.BatchNorm1d(6, affine=False)}
        self.holder = Plain()
        self.holder.net = Inner()

    def factor(self, x):
        with torch.no_grad():
            for parameter in self.targets[0].parameters():
                parameter.mul_(0.9).add_(0.01)
            return self.targets[0](x) + self.by_name["bn"](x) + self.holder.net(x)

    def state(self):
        inner = self.holder.net
        return [*self.targets[0].parameters(), *self.by_name["bn"].buffers(), *inner.parameters(), *inner.memory]


class Follower(nn.Module):
    def __init__(self, parent):
        super().__init__()
        self.links, self.lin = {"parent": weakref.ref(parent), "proxy": weakref.proxy(parent)}, nn.Linear(6, 6)

    def forward(self, x):
        self.links["parent"]().calls.append(x.mean())
        self.links["proxy"].calls.append(x.std())
        return self.lin(x)


class WeakParent(Strange):
    def remember(self):
        self.calls = []
        self.follower = Follower(self)

    def factor(self, x):
        return self.follower(x) * torch.stack(self.calls).sum()

    def state(self):
        return self.calls


class Cached(Strange):
    def remember(self):
        self.misses = []
        self.mask = functools.lru_cache(maxsize=2)(self.make_mask)

    def make_mask(self, size, step):
        self.misses.append(step)
        return torch.ones(size) * step

    def factor(self, x):
        return self.mask(6, len(self.misses)) + 1

    def state(self):
        return self.misses


STEPS, SEEN = 0, [0]


class ClassAndGlobal(Strange):
    """Counts in its class and at the top of its file, from where each fit begins anew."""

    count, kept = 0, {}

    def remember(self):
        global STEPS
        STEPS, type(self).count = 0, 0
        self.kept.clear()
        SEEN[:] = [0]

    def factor(self, x):
        global STEPS
        STEPS, type(self).count = STEPS + 1, self.count + 1
        self.kept[self.count] = x.mean()
        SEEN.append(x.std())
        return STEPS + self.count + sum(self.kept.values()) + sum(SEEN)

    def state(self):
        return [STEPS, self.count, *self.kept.values(), *SEEN]


class Helper:
    total, by_number = 0, {}

    def __init__(self):
        self.count = 0


DEEP, HELPER = {"deeper": {"list": []}}, Helper()


@functools.cache
def ramp(size, step):
    return torch.full((size,), 1 + step / 100)


def average(x, seen=[]):  # noqa: B006  # the mistake that it is about
    seen.append(x.mean())
    return torch.stack(seen).mean()


class DeepInTheFile(Strange):
    """Counts deep inside of what its file holds: in a nested list, a helper's class, a default, a function's cache."""

    def remember(self):
        HELPER.count, Helper.total, self.step = 0, 0, 0
        for kept in (DEEP["deeper"]["list"], Helper.by_number, average.__defaults__[0]):
            kept.clear()
        ramp.cache_clear()

    def factor(self, x):
        HELPER.count, Helper.total, self.step = HELPER.count + 1, Helper.total + 1, self.step + 1
        DEEP["deeper"]["list"].append(x.mean())
        Helper.by_number[Helper.total] = x.std()
        return ramp(6, self.step) + average(x) + sum(DEEP["deeper"]["list"]) + sum(Helper.by_number.values())

    def state(self):
        lists = [*DEEP["deeper"]["list"], *Helper.by_number.values(), *average.__defaults__[0]]
        return [HELPER.count, Helper.total, *lists, *(ramp(6, step) for step in range(1, 10))]


class SharesItself:
    """Says that its copy is itself, as singletons do."""

    def __init__(self):
        self.seen = []

    def __deepcopy__(self, memo):
        return self


class Copied(Strange):
    """Holds what `copy.deepcopy` does not copy: its own word, a function with a counter, methods of Python's own."""

    def remember(self):
        self.shared, self.seen, self.bias, count = SharesItself(), [], torch.ones(6), 0

        def counted():
            nonlocal count
            count += 1
            return count

        self.counted, self.note, self.add = counted, self.seen.append, self.bias.add_

    def factor(self, x):
        self.shared.seen.append(x.std())
        self.note(x.mean())
        self.add(0.01)
        return self.counted() + sum(self.shared.seen) + sum(self.seen) + self.bias

    def state(self):
        return [*self.shared.seen, *self.seen, self.bias, self.counted()]


class OwnOptimizer(Strange):
    """Trains a part of itself in its forward pass; gradients of the step before add up."""

    def remember(self):
        self.inner = nn.Linear(6, 6)
        self.own = torch.optim.SGD(self.inner.parameters(), lr=0.01)

    def factor(self, x):
        with torch.enable_grad():
            self.inner(x.detach()).square().mean().backward()
        self.own.step()
        self.own.zero_grad()
        return self.inner(x)


class WholeDataset(Strange):
    """Holds far more than a tracing should copy."""

    def remember(self):
        self.table, self.array = torch.ones(40_000_000), np.ones(40_000_000, dtype=np.float32)
        self.rows = [[number] for number in range(300_000)]

    def factor(self, x):
        self.table[:6] += 1
        return self.table[:6] + float(self.array[0])

    def state(self):
        return [self.table[:10]]


class InPlaceSlices(Strange):
    def forward(self, x):
        hidden = self.net[0](x)
        out = torch.zeros_like(hidden)
        out[:, :2] = hidden[:, 2:4]
        out[:, 2:] += hidden[:, 2:]
        return self.net[3](out)


class Packed(Strange):
    def remember(self):
        self.rnn = nn.LSTM(1, 5, batch_first=True)

    def forward(self, x):
        packed = pack_padded_sequence(x[..., None], torch.tensor([6, 4, 3, 1]), batch_first=True)
        out, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.net[3](out.mean(1))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.flip(0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.flip(0)


class OddNames(Strange):
    """Names that mean something else in TensorBoard: a port, a path, a control edge."""

    def remember(self):
        names = ("user:rates:film", "^a b", "x/y")
        self.odd = nn.ModuleDict({name: nn.Linear(6, 6) for name in names})
        self.function = type("My::Reversed:0", (Reversed,), {})

    def factor(self, x):
        return self.function.apply(sum(part(x) for part in self.odd.values()))


class NoneLoss(Strange):
    def training_step(self, batch, batch_idx):
        return None if batch_idx < 2 else super().training_step(batch, batch_idx)


STRANGE = [
    *(Metrics, MetricInForward, Patched, Wrapped, PatchedInside, PlainObject, ListInDict, Queue, PlainTensor),
    *(
        NumPyState,
        OwnGenerators,
        GlobalGenerators,
        Iterators,
        Uncopied,
        Outside,
        WeakParent,
        Cached,
        ClassAndGlobal,
        DeepInTheFile,
        WholeDataset,
    ),
    *(Copied, OwnOptimizer),
    *(InPlaceSlices, Packed, OddNames, NoneLoss),
]
