"""Watches batches during the first epoch, compares them with a validation, and asks what that says."""

import math
from collections.abc import Sequence

import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler

from callbacks._data_facts import Dependence
from callbacks._data_reading import read_contrast, read_labels, read_numbers
from callbacks._dependence import read_dependence
from callbacks._head_facts import Loss
from callbacks._metrics import logged
from callbacks._samples import MOST_ROWS, Sample
from callbacks.data_health import contrast_findings, dependence_findings, label_findings, number_findings
from callbacks.gradient_health import Finding

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
        self.train, self.val = Sample(), Sample()
        self.open = True
        self.baseline: float | None = None  # loss of the best constant
        self.best_val_loss: float | None = None
        self.dependence: Dependence | None = None

    def learn(self, tensors: Sequence[Tensor], given: Tensor | None, losses: Sequence[Loss]) -> None:
        """Find the input, which the first layer was given, and the target, which the loss was given."""
        if given is not None and self.input is None:
            self.input = next((i for i, t in enumerate(tensors) if _same(t, given)), None)
        terms = [term for loss in losses for term in loss.terms]
        if self.target is None and len(losses) == 1 and 0 < len(terms) <= 2:
            self._learn_target(tensors, losses[0])

    def _learn_target(self, tensors: Sequence[Tensor], loss: Loss) -> None:
        term = max(loss.terms, key=lambda t: t.target is not None)
        self.weighted = term.weighted or loss.terms[0].kind == "unknown"
        for i, tensor in enumerate(tensors):
            if i == self.input or not len(tensor) or tensor.numel() != len(tensor) or tensor.is_complex():
                continue
            whole = not tensor.is_floating_point() and tensor.dtype != torch.bool
            matches = term.target is not None and term.target.address == tensor.data_ptr()
            only = len(tensors) == 2 and term.target is None
            if (whole and (matches or only)) or (term.kind == "nll" and whole):
                self.target, self.classes = i, True
            elif tensor.is_floating_point() and (matches or only):
                binary = term.kind in ("bce", "bce_logits")
                self.target, self.classes = i, binary

    def training_batch(self, trainer: Trainer, tensors: Sequence[Tensor]) -> None:
        """Keep a part of a training batch of the first epoch."""
        if self.open and (self.input is not None or self.target is not None):
            batches = trainer.num_training_batches
            if math.isfinite(batches):
                self.train.a_batch = max(1, math.ceil(MOST_ROWS / max(int(batches), 1)))
            self.train.add(_at(tensors, self.input), self._labels(tensors))

    def validation_batch(self, tensors: Sequence[Tensor]) -> None:
        """Keep a part of a validation batch, of the first loader's first epoch."""
        if self.open:
            self.val.add(_at(tensors, self.input), self._labels(tensors))

    def _labels(self, tensors: Sequence[Tensor]) -> Tensor | None:
        target = _at(tensors, self.target)
        if target is None or target.numel() != len(target):
            return None
        return target.round().long() if self.classes and target.is_floating_point() else target

    def judge(self, trainer: Trainer) -> list[Finding]:
        """What an epoch says; the samples are let go as soon as all was asked."""
        step, found = trainer.global_step, []
        if self.open and self.train.labels:
            found += self._judge_labels(trainer)
        if self.open and (self.val.kept or trainer.current_epoch >= 4):
            found += self._judge_rows(step)
            self.open = False
            self.train.clear()
            self.val.clear()
        return found + self._judge_skill(trainer)

    def _judge_labels(self, trainer: Trainer) -> list[Finding]:
        sampler = getattr(trainer.train_dataloader, "sampler", None)
        random = isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler)
        step, labels = trainer.global_step, self.train.labels
        if not labels[0].is_floating_point():
            classes = read_labels(labels, weighted=self.weighted)
            if len(classes.counts) > MOST_CLASSES:
                return []
            rows = sum(classes.counts.values())
            self.baseline = -sum(n / rows * math.log(n / rows) for n in classes.counts.values())
            return label_findings(classes, step, sequential=isinstance(sampler, SequentialSampler), random=random)
        numbers = read_numbers(labels, self.val.labels)
        self.baseline = float(torch.cat(labels).float().var(correction=0))
        return number_findings(numbers, step, random=random) if numbers else []

    def _judge_rows(self, step: int) -> list[Finding]:
        train, val = self.train.rows(), self.val.rows()
        train_labels, val_labels = self.train.row_labels(), self.val.row_labels()
        found: list[Finding] = []
        if train is None or not train.is_floating_point() or not bool(train.isfinite().all()):
            return found
        if val is not None:
            both = (train_labels, val_labels) if train_labels is not None and val_labels is not None else None
            contrast = read_contrast(train, val, both)
            found = contrast_findings(contrast, step) if contrast else []
        if train_labels is not None and not found:
            pair = (val, val_labels) if val is not None and val_labels is not None else None
            self.dependence = read_dependence((train, train_labels), pair)
        return found

    def _judge_skill(self, trainer: Trainer) -> list[Finding]:
        if self.dependence is None:
            return []
        losses = [value for name, value in logged(trainer, "val").items() if "loss" in name and value == value]
        if losses and self.baseline:
            best = min(losses) / self.baseline
            self.best_val_loss = best if self.best_val_loss is None else min(best, self.best_val_loss)
        epochs, step = trainer.current_epoch + 1, trainer.global_step
        seen = Dependence(**{**vars(self.dependence), "best_val_loss": self.best_val_loss})
        seen = Dependence(**{**vars(seen), "epochs": epochs, "steps": step})
        return dependence_findings(seen, step)


def _at(tensors: Sequence[Tensor], position: int | None) -> Tensor | None:
    return tensors[position] if position is not None and position < len(tensors) else None


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether a tensor holds the other's numbers, perhaps in another shape."""
    return one.numel() > 0 and one.data_ptr() == other.data_ptr() and one.numel() == other.numel()
