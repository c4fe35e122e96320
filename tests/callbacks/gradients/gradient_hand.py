"""Gradients computed by hand."""

import pytorch_lightning as pl
import torch


class Hand(pl.Callback):
    """Keeps clones: gradients and weights before each step, gradients after clipping and weights after it."""

    def __init__(self):
        self.steps = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.steps.append((self.grads(pl_module), self.weights(pl_module)))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.steps and len(self.steps[-1]) == 2:
            self.steps[-1] += (self.grads(pl_module), self.weights(pl_module))

    def grads(self, module):
        return {n: p.grad.detach().clone() for n, p in module.named_parameters() if p.grad is not None}

    def weights(self, module):
        return {n: p.detach().clone() for n, p in module.named_parameters()}


def norm(tensors):
    return float(torch.cat([t.flatten().abs().double() for t in tensors]).norm())


def of(layer, tensors):
    return [t for name, t in tensors.items() if name.rpartition(".")[0] == layer]
