"""Networks whose graphs are drawn: from our MLP's shape to GoogLeNet, and some that make it hard."""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

CLASSES = 10


def mlp():
    """The shape of `MLPClassifier`'s network."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))


class ConvBlock(nn.Module):
    def __init__(self, inputs, outputs, **kwargs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, bias=False, **kwargs)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Figure 2b of Szegedy et al., Going Deeper with Convolutions (https://arxiv.org/abs/1409.4842)."""

    def __init__(self, inputs, ch1x1, ch3x3red, ch3x3, ch5x5red, ch5x5, pool_proj):
        super().__init__()
        self.branch1 = ConvBlock(inputs, ch1x1, kernel_size=1)
        self.branch2 = nn.Sequential(
            ConvBlock(inputs, ch3x3red, kernel_size=1), ConvBlock(ch3x3red, ch3x3, kernel_size=3, padding=1)
        )
        self.branch3 = nn.Sequential(
            ConvBlock(inputs, ch5x5red, kernel_size=1), ConvBlock(ch5x5red, ch5x5, kernel_size=5, padding=2)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), ConvBlock(inputs, pool_proj, kernel_size=1)
        )

    def forward(self, x):
        return torch.cat([branch(x) for branch in (self.branch1, self.branch2, self.branch3, self.branch4)], 1)


class InceptionAux(nn.Module):
    def __init__(self, inputs, classes, width):
        super().__init__()
        self.conv = ConvBlock(inputs, width, kernel_size=1)
        self.fc1 = nn.Linear(width * 16, width)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(width, classes)

    def forward(self, x):
        x = torch.flatten(self.conv(functional.adaptive_avg_pool2d(x, (4, 4))), 1)
        return self.fc2(self.dropout(functional.relu(self.fc1(x))))


class GoogLeNet(nn.Module):
    """Table 1 of the paper, every width divided by `thin`; three results while it trains."""

    def __init__(self, classes=CLASSES, thin=8):
        super().__init__()

        def inception(*widths):
            return Inception(*(width // thin for width in widths))

        self.conv1 = ConvBlock(3, 64 // thin, kernel_size=7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = ConvBlock(64 // thin, 64 // thin, kernel_size=1)
        self.conv3 = ConvBlock(64 // thin, 192 // thin, kernel_size=3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = inception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = inception(832, 384, 192, 384, 48, 128, 128)
        self.aux1 = InceptionAux(512 // thin, classes, 128 // thin)
        self.aux2 = InceptionAux(528 // thin, classes, 128 // thin)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024 // thin, classes)

    def forward(self, x):
        x = self.maxpool2(self.conv3(self.conv2(self.maxpool1(self.conv1(x)))))
        x = self.inception4a(self.maxpool3(self.inception3b(self.inception3a(x))))
        aux1 = self.aux1(x) if self.training else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x) if self.training else None
        x = self.inception5b(self.inception5a(self.maxpool4(self.inception4e(x))))
        x = self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))
        return (x, aux1, aux2) if self.training else x


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + shortcut)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layer1 = nn.Sequential(Residual(8, 8, 1), Residual(8, 8, 1))
        self.layer2 = nn.Sequential(Residual(8, 16, 2), Residual(16, 16, 1))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.position = nn.Parameter(torch.zeros(12, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, tokens):
        return self.head(self.encoder(self.embedding(tokens) + self.position).mean(1))


class LSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, tokens):
        _, (hidden, _) = self.lstm(self.embedding(tokens))
        return self.head(hidden[-1])


class DictModel(nn.Module):
    """A dict with a list in it goes in, with a flag by name; a dict with a list in it comes out."""

    def __init__(self):
        super().__init__()
        self.image = nn.Linear(64, 16)
        self.tables = nn.ModuleList([nn.Linear(4, 16), nn.Linear(5, 16)])
        self.head = nn.Linear(16, CLASSES)

    def forward(self, batch, *, scale=1.0):
        parts = [self.image(batch["image"]), *(net(x) for net, x in zip(self.tables, batch["tables"], strict=True))]
        hidden = torch.tanh(torch.stack(parts).sum(0)) * scale
        return {"logits": self.head(hidden), "more": [hidden]}


class Branch(nn.Module):
    """Which way it goes depends on the numbers: `torch.export` refuses."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.deep = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
        self.flat = nn.Linear(32, 32)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = self.deep(x) + x if x.mean() > 0 else self.flat(x)
        return self.head(x)


class Compiled(nn.Module):
    """A part of it is compiled; the rest is not."""

    def __init__(self):
        super().__init__()
        self.body = torch.compile(nn.Sequential(nn.Linear(64, 32), nn.ReLU()), backend="aot_eager")
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x):
        return self.head(self.body(x))


def rows(shape, kind=torch.randn, count=8):
    generator = torch.Generator().manual_seed(0)
    if kind is torch.randint:
        return torch.randint(50, (count, *shape), generator=generator)
    return kind(count, *shape, generator=generator)


def vectors():
    return rows((64,))


def images():
    return rows((3, 64, 64), count=4)


def tokens():
    return rows((12,), torch.randint)


def records():
    return {"image": rows((64,)), "tables": [rows((4,)), rows((5,))]}


MODELS = {
    "mlp": (mlp, vectors),
    "googlenet": (GoogLeNet, images),
    "resnet": (ResNet, images),
    "transformer": (Transformer, tokens),
    "lstm": (LSTM, tokens),
    "dict": (DictModel, records),
    "branch": (Branch, vectors),
    "compiled": (Compiled, vectors),
}


class Trained(pl.LightningModule):
    """Any of these models in a fit, with the loss of a classifier over all that comes out of it."""

    def __init__(self, name):
        super().__init__()
        self.net = MODELS[name][0]()

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        out = self(inputs)
        if isinstance(out, dict):
            out = out["logits"]
        first, *others = out if isinstance(out, tuple) else (out,)
        return functional.cross_entropy(first, labels) + sum(0.3 * functional.cross_entropy(o, labels) for o in others)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def batches(name, count=2):
    inputs = MODELS[name][1]()
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    labels = torch.arange(len(first)) % CLASSES
    return DataLoader([(inputs, labels)] * count, batch_size=None)


def train(name, folder, *callbacks, **kwargs):
    """Fit one of the models for two batches."""
    pl.seed_everything(1)
    module = Trained(name)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        callbacks=list(callbacks),
        **kwargs,
    )
    trainer.fit(module, batches(name))
    return trainer, module
