"""The loop that one writes by hand: nothing in it but the training, and the validation once an epoch."""

import torch
from torch.nn.functional import cross_entropy

from benchmarks.speed.contenders import LogProbabilities
from benchmarks.speed.contenders.torch_parts import answers, make_network, tensors
from benchmarks.speed.shapes import MOMENTUM, Job
from benchmarks.speed.stopwatch import Stopwatch


def fit(job: Job, watch: Stopwatch) -> LogProbabilities:
    x, y, val_x, val_y = tensors(job)
    torch.manual_seed(job.seed)
    watch.start()
    network = make_network(x.shape[1])
    optimizer = torch.optim.SGD(network.parameters(), job.shape.lr, MOMENTUM)
    for _ in range(job.shape.epochs):
        for at in torch.randperm(len(x)).split(job.shape.batch):
            loss = cross_entropy(network(x.index_select(0, at)), y.index_select(0, at))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            logits = network(val_x)
            cross_entropy(logits, val_y).item()
            (logits.argmax(1) == val_y).float().mean().item()
        watch.lap()
    watch.stop()
    return answers(network)
