"""Ignite's supervised trainer and evaluator over torch's own loaders."""

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy, Loss
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.speed.contenders import LogProbabilities
from benchmarks.speed.contenders.torch_parts import answers, make_network, tensors
from benchmarks.speed.shapes import MOMENTUM, Job
from benchmarks.speed.stopwatch import Stopwatch


def fit(job: Job, watch: Stopwatch) -> LogProbabilities:
    x, y, val_x, val_y = tensors(job)
    torch.manual_seed(job.seed)
    watch.start()
    train = DataLoader(TensorDataset(x, y), job.shape.batch, shuffle=True)
    val = DataLoader(TensorDataset(val_x, val_y), job.shape.batch)
    network = make_network(x.shape[1])
    optimizer = torch.optim.SGD(network.parameters(), job.shape.lr, MOMENTUM)
    trainer = create_supervised_trainer(network, optimizer, cross_entropy)
    evaluator = create_supervised_evaluator(network, {"accuracy": Accuracy(), "loss": Loss(cross_entropy)})

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate() -> None:
        metrics = evaluator.run(val).metrics
        print(f"epoch {trainer.state.epoch}: {metrics}")
        watch.lap()

    trainer.run(train, max_epochs=job.shape.epochs)
    watch.stop()
    return answers(network)
