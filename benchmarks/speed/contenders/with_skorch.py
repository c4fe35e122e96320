"""skorch's `NeuralNetClassifier` with its own defaults: epoch timer, losses, accuracy and a printed line an epoch."""

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import nn

from benchmarks.speed.contenders import LogProbabilities
from benchmarks.speed.contenders.torch_parts import answers, make_network
from benchmarks.speed.shapes import MOMENTUM, Job
from benchmarks.speed.stopwatch import Stopwatch


class Laps(Callback):
    """Tells the stopwatch."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_epoch_end(self, net: NeuralNetClassifier, **_: object) -> None:
        self.watch.lap()


def fit(job: Job, watch: Stopwatch) -> LogProbabilities:
    x, y, val_x, val_y = job.rows()
    torch.manual_seed(job.seed)
    watch.start()
    net = NeuralNetClassifier(
        make_network(x.shape[1]),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=MOMENTUM,
        lr=job.shape.lr,
        batch_size=job.shape.batch,
        max_epochs=job.shape.epochs,
        iterator_train__shuffle=True,
        train_split=predefined_split(Dataset(val_x, val_y)),
        callbacks=[("laps", Laps(watch))],
    )
    net.fit(x, y)
    watch.stop()
    return answers(net.module_)
