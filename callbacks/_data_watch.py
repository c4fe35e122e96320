"""Watches batches during the first epoch, compares them with a validation, and asks what that says."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from callbacks._data_reading import read_contrast, read_labels, read_numbers
from callbacks._dependence import read_dependence, read_neighbours
from callbacks._head_facts import Loss
from callbacks._metrics import logged
from callbacks._samples import Sample
from callbacks._suspicion import Suspicion
from callbacks.data_health import (
    NO_SKILL,
    class_findings,
    contrast_findings,
    dependence_findings,
    label_findings,
    may_be_unlearnable,
    neighbour_findings,
    number_findings,
)
from callbacks.gradient_health import Fault, Finding

MOST_CLASSES = 1000


class DataWatch:
    """Knows which tensor of a batch is the input and which the target, once it was told, and keeps samples of both.

    Batches of one epoch and one validation are kept, then nothing more is.
    """

    def __init__(self) -> None:
        self.input: int | None = None  # position among a batch's tensors
        self.target: int | None = None
        self.classes = False  # the target is a class, not a number
        self.weighted = False
        self.known = False  # the loss certainly compares with the target
        self.ignored = -100  # the class that stands for none
        self.outputs = 0  # of the head, one a class; 0 if not known
        self.train, self.val = Sample(), Sample()
        self.open = True
        self.baseline: float | None = None  # loss of the best constant
        self.best_val_loss = math.inf  # over the baseline
        self.compared = False  # training rows with validation rows
        self.suspicion: Suspicion | None = None

    def learn(self, tensors: Sequence[Tensor], given: Tensor | None, losses: Sequence[Loss]) -> None:
        """Find the input, which the first layer was given, and the target, which the loss was given."""
        if given is not None and self.input is None:
            same = (i for i, tensor in enumerate(tensors) if _same(tensor, given) and tensor.is_floating_point())
            self.input = next(same, None)
        terms = [term for loss in losses for term in loss.terms]
        if self.target is None and len(losses) == 1 and 0 < len(terms) <= 2:
            self._learn_target(tensors, losses[0])

    def _learn_target(self, tensors: Sequence[Tensor], loss: Loss) -> None:
        term = max(loss.terms, key=lambda t: t.target is not None)
        self.weighted = term.weighted
        wanted = [i for i, tensor in enumerate(tensors) if i != self.input and _is_column(tensor)]
        address = term.target.address if term.target is not None else 0
        matching = [i for i in wanted if tensors[i].data_ptr() == address]
        whole = [i for i in wanted if not tensors[i].is_floating_point()]
        self.known = True
        if matching:
            self.target = matching[0]
        elif term.kind in ("nll", "picked", "soft") and len(whole) == 1:  # cast on the way to the loss
            self.target = whole[0]
        elif term.target is None and len(tensors) == 2 and len(wanted) == 1 and self.input is not None:
            self.target, self.known = (
                wanted[0],
                False,
            )  # it looks like one: enough to tell order, not to tell what is wrong with it
        if term.kind == "nll" and len(term.shape) == 2:
            self.outputs, self.ignored = term.shape[1], term.ignored
        if self.target is not None:
            self.classes = self.target in whole or term.kind in ("bce", "bce_logits")

    def out_of_range(self, tensors: Sequence[Tensor], step: int) -> list[Finding]:
        """Whether a class of the batch has no output; only where asking does not hold up a device."""
        target = _at(tensors, self.target)
        if target is None or not self.classes or target.device.type != "cpu" or not len(target):
            return []
        low, high = (int(value) for value in target.aminmax())
        if self.ignored in (low, high):
            return []
        return class_findings(low, high, self.outputs, step)

    def training_batch(self, trainer: Trainer, tensors: Sequence[Tensor]) -> None:
        """Keep a part of a training batch of the first epoch; later only look whether suspected rows come again."""
        if self.suspicion is not None and not self.open:
            self.suspicion.look(_at(tensors, self.input))
        if self.open and (self.input is not None or self.target is not None):
            self.train.spread_over(trainer.num_training_batches)
            self.train.add(_at(tensors, self.input), self._labels(tensors))

    def validation_batch(self, trainer: Trainer, tensors: Sequence[Tensor]) -> None:
        """Keep a part of a validation batch, of the first loader and the first time."""
        batches = trainer.num_val_batches[0] if trainer.num_val_batches else 0
        if not self.compared and self.val.batches < batches:
            self.val.spread_over(batches)
            self.val.add(_at(tensors, self.input), self._labels(tensors))

    def _labels(self, tensors: Sequence[Tensor]) -> Tensor | None:
        target = _at(tensors, self.target)
        if target is None or target.numel() != len(target):
            return None
        return target.round().long() if self.classes and target.is_floating_point() else target

    @property
    def asks(self) -> bool:
        """Whether the end of an epoch may tell anything."""
        rows = self.train.kept and (self.compared or self.val.kept)
        return bool(self.open or rows or self.suspicion is not None)

    def judge(self, trainer: Trainer) -> list[Finding]:
        """What an epoch says; samples are let go as soon as all was asked."""
        found = self.suspicion.verdict() if self.suspicion is not None else []
        self.suspicion = None
        if self.open:
            self.open = False
            found += self._judge_labels(trainer) if self.train.labels else []
        if not self.compared and self.train.kept and self.val.kept:
            self.compared = True
            found += self._judge_rows(trainer.global_step)
        return found + self._judge_skill(trainer)

    def _judge_labels(self, trainer: Trainer) -> list[Finding]:
        sequential, random = order_of(trainer.train_dataloader)
        step, labels = trainer.global_step, self.train.labels
        if not labels[0].is_floating_point():
            classes = read_labels(labels, weighted=self.weighted, ignored=self.ignored)
            if len(classes.counts) > MOST_CLASSES:
                return []
            rows = sum(classes.counts.values())
            self.baseline = -sum(n / rows * math.log(n / rows) for n in classes.counts.values())
            found = label_findings(classes, step, sequential=sequential, random=random)
        else:
            numbers = read_numbers(labels, self.val.labels)
            self.baseline = float(torch.cat(labels).float().var(correction=0))
            found = number_findings(numbers, step, random=random) if numbers else []
        return [finding for finding in found if self.known or finding.fault is Fault.UNSHUFFLED]

    def _judge_rows(self, step: int) -> list[Finding]:
        train, val = self.train.rows(), self.val.rows()
        labels, val_labels = self.train.row_labels(), self.val.row_labels()
        if train is None or val is None or not (self.train.spread and self.val.spread):
            return []
        both = (labels, val_labels) if labels is not None and val_labels is not None else None
        contrast = read_contrast(train, val, both)
        if contrast is None:
            return []
        found = contrast_findings(contrast, step)
        near = read_neighbours((train, both[0]), (val, both[1])) if both and self.known and not found else None
        suspected = neighbour_findings(near, step) if near else []
        self.suspicion = Suspicion(suspected, train) if suspected else None
        if found or both is None or not self.known:
            self.train.clear()
        self.val.clear()
        return found

    def _judge_skill(self, trainer: Trainer) -> list[Finding]:
        """In a run that learns nothing, ask whether there is anything to learn; else let the rows go."""
        if not self.compared or not self.train.kept or not self.baseline:
            return []
        losses = [self.best_val_loss * self.baseline]
        losses += [value for name, value in logged(trainer, "val").items() if "loss" in name and value == value]
        best = self.best_val_loss = min(losses) / self.baseline
        epochs, step, found = trainer.current_epoch + 1, trainer.global_step, list[Finding]()
        asks = may_be_unlearnable(best, epochs, step)
        rows, labels = (self.train.rows(), self.train.row_labels()) if asks else (None, None)
        if rows is not None and labels is not None:
            found = dependence_findings(read_dependence(rows, labels, best_val_loss=best, epochs=epochs), step)
        if best <= NO_SKILL or asks:  # data that tell something go on telling it: nobody needs to ask again
            self.train.clear()
        return found


def order_of(loader: Any) -> tuple[bool, bool]:
    """Whether a loader is known to keep the order of its rows, and whether it is known to draw them at random."""
    batches = getattr(loader, "batch_sampler", None)
    if type(batches) is not BatchSampler:  # one's own: it may do anything
        return False, False
    sampler = batches.sampler
    if isinstance(sampler, DistributedSampler):
        return not sampler.shuffle, sampler.shuffle
    random = isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler)
    return isinstance(sampler, SequentialSampler), random


def _is_column(tensor: Tensor) -> bool:
    real = not tensor.is_complex() and tensor.dtype != torch.bool
    return real and tensor.ndim > 0 and len(tensor) > 0 and tensor.numel() == len(tensor)


def _at(tensors: Sequence[Tensor], position: int | None) -> Tensor | None:
    return tensors[position] if position is not None and position < len(tensors) else None


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether a tensor holds the other's numbers, perhaps in another shape."""
    return one.numel() > 0 and one.data_ptr() == other.data_ptr() and one.numel() == other.numel()
