"""Read the data, the head and the structure of whatever a trainer trains, rarely and cheaply."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import data

from callbacks.diagnosis.names import is_validation
from callbacks.health import data_reading
from callbacks.health.facts import Cut, Loss, Structure
from callbacks.health.faults import Fault, Finding
from callbacks.health.loss_reading import read_loss, with_batch
from callbacks.health.network_reading import NUMERIC, LayerInputs, read_batch_norms, read_structure
from callbacks.health.rules import data as data_rules
from callbacks.health.rules import network as network_rules
from callbacks.host import logged
from callbacks.host.packages import LightningModule, Trainer

MOST_CLASSES = 1000


class DataWatch:
    """Finds which tensor of a batch is the input and which the target, and keeps samples of both, of one epoch."""

    def __init__(self) -> None:
        self.input: int | None = None  # position among a batch's tensors
        self.target: int | None = None
        self.classes = False  # the target is a class, not a number
        self.weighted = False
        self.known = False  # the loss certainly compares with the target
        self.ignored = -100  # the class that stands for none
        self.outputs = 0  # of the head, one a class; 0 if not known
        self.train, self.val = data_reading.Sample(), data_reading.Sample()
        self.open = True
        self.baseline: float | None = None  # validation loss of the constant that suits the training rows best
        self.best_val_loss = math.inf  # over the baseline
        self.compared = False  # training rows with validation rows
        self.pending: data_reading.PendingFinding | None = None

    def learn(self, tensors: Sequence[Tensor], given: Tensor | None, losses: Sequence[Loss]) -> None:
        """Find the input, which the first layer was given, and the target, which the loss was given."""
        if given is not None and self.input is None:
            same = (i for i, tensor in enumerate(tensors) if _same(tensor, given) and tensor.is_floating_point())
            self.input = next(same, None)
        terms = [term for loss in losses for term in loss.terms]
        if self.target is None and len(losses) == 1 and 0 < len(terms) <= 2:
            self._learn_target(tensors, losses[0])

    def _learn_target(self, tensors: Sequence[Tensor], loss: Loss) -> None:
        # The target is what the loss was given: the tensor itself, or one with the same numbers, cast or one-hot on the
        # way. A column of the batch that merely looks like labels may be a domain, a length or a place in the data.
        term = max(loss.terms, key=lambda t: t.target is not None)
        target = term.target
        wanted = [i for i, tensor in enumerate(tensors) if i != self.input and _is_column(tensor)]
        if target is None or not wanted:
            return
        itself = next((i for i in wanted if tensors[i].data_ptr() == target.address), None)
        self.target = itself if itself is not None else next((i for i in wanted if target.is_of(tensors[i])), None)
        self.known = target.seen  # else it has the right shape: enough to tell order, not to tell what is wrong with it
        self.weighted = term.weighted
        self.classes = term.kind != "regression"
        if term.kind == "nll" and len(term.shape) == 2:
            self.outputs, self.ignored = term.shape[1], term.ignored

    def state(self) -> dict[str, Any]:
        """Return how far the questions have got; of rows, of which none are kept, that they are wanted again."""
        asked = self.compared and not self.train.kept and not self.open and self.pending is None
        return {"asked": asked, "best_val_loss": self.best_val_loss}

    def load(self, state: dict[str, Any]) -> None:
        """Ask no more in a run that goes on if all was asked before."""
        self.best_val_loss = state["best_val_loss"]
        if state["asked"]:
            self.open, self.compared = False, True

    def out_of_range(self, tensors: Sequence[Tensor], step: int) -> list[Finding]:
        """Return whether a class of the batch has no output; only where asking does not hold up a device."""
        target = _at(tensors, self.target)
        if target is None or target.device.type != "cpu" or not len(target):
            return []
        low, high = (int(value) for value in target.aminmax())
        return [] if self.ignored in (low, high) else data_rules.class_findings(low, high, self.outputs, step)

    def training_batch(self, trainer: Trainer, tensors: Sequence[Tensor]) -> None:
        """Keep a part of a training batch of the first epoch; later only see whether rows come again."""
        if self.pending is not None and not self.open:
            self.pending.add(_at(tensors, self.input))
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
        return target.round().long() if self.classes else target.float()

    def judge(self, trainer: Trainer) -> list[Finding]:
        """Return what an epoch says; samples are dropped as soon as all was asked."""
        found = self.pending.findings() if self.pending is not None else []
        self.pending = None
        if self.open:
            self.open = False
            found += self._judge_labels(trainer) if self.train.labels else []
        if not self.compared and self.train.kept and self.val.kept:
            self.compared = True
            found += self._judge_rows(trainer.global_step)
        return found + self._judge_skill(trainer)

    def _judge_labels(self, trainer: Trainer) -> list[Finding]:
        sequential, random = order_of(trainer.train_dataloader)
        step, labels, asked = trainer.global_step, self.train.labels, torch.cat(self.val.labels or self.train.labels)
        if labels[0].is_floating_point():
            numbers = data_reading.read_numbers(labels, self.val.labels)
            self.baseline = float((asked.float() - torch.cat(labels).float().mean()).square().mean())
            found = data_rules.number_findings(numbers, step, sequential=sequential) if numbers else []
        else:
            classes = data_reading.read_labels(labels, weighted=self.weighted, ignored=self.ignored)
            if len(classes.counts) > MOST_CLASSES:
                return []
            logs = {name: math.log(n / sum(classes.counts.values())) for name, n in classes.counts.items()}
            known = [logs[name] for name in asked.tolist() if name in logs]
            self.baseline = -sum(known) / len(known) if known else None
            found = data_rules.label_findings(classes, step, sequential=sequential, random=random)
        return [finding for finding in found if self.known or finding.fault is Fault.UNSHUFFLED]

    def _judge_rows(self, step: int) -> list[Finding]:
        train, val = self.train.rows(), self.val.rows()
        labels, val_labels = self.train.row_labels(), self.val.row_labels()
        if train is None or val is None or not (self.train.spread and self.val.spread):
            return []
        both = (labels, val_labels) if labels is not None and val_labels is not None else None
        contrast = data_reading.read_contrast(train, val, both)
        if contrast is None:
            return []
        found = data_rules.contrast_findings(contrast, step)
        fair = self.known and not found
        near = data_reading.read_neighbours((train, both[0]), (val, both[1])) if both and fair else None
        possible = data_rules.neighbour_findings(near, step) if near else []
        self.pending = data_reading.PendingFinding(possible, train) if possible else None
        if found or both is None or not self.known:
            self.train.clear()
        self.val.clear()
        return found

    def _judge_skill(self, trainer: Trainer) -> list[Finding]:
        """In a run that learns nothing, ask whether there is anything to learn; else let the rows go."""
        if not self.compared or not self.train.kept or not self.baseline:
            return []
        losses = [self.best_val_loss * self.baseline]
        known = ((name, value) for name, value in logged(trainer).items() if is_validation(name) and value == value)
        losses += [value for name, value in known if "loss" in name.lower()]
        best = self.best_val_loss = min(losses) / self.baseline
        epochs, step, found = trainer.current_epoch + 1, trainer.global_step, list[Finding]()
        asks = data_rules.may_be_unlearnable(best, epochs, step)
        rows, labels = (self.train.rows(), self.train.row_labels()) if asks else (None, None)
        if rows is not None and labels is not None:
            seen = data_reading.read_dependence(rows, labels, best_val_loss=best, epochs=epochs)
            found = data_rules.dependence_findings(seen, step)
        if best <= data_rules.NO_SKILL or asks:  # data that tell something go on telling it: nobody needs to ask again
            self.train.clear()
        return found


def order_of(loader: Any) -> tuple[bool, bool]:
    """Return whether a loader is known to keep the order of its rows, and whether it is known to draw at random."""
    batches = getattr(loader, "batch_sampler", None)
    if type(batches) is not data.BatchSampler:  # one's own: it may do anything
        return False, False
    sampler = batches.sampler
    if isinstance(sampler, data.DistributedSampler):
        return not sampler.shuffle, sampler.shuffle
    random = isinstance(sampler, data.RandomSampler | data.SubsetRandomSampler | data.WeightedRandomSampler)
    return isinstance(sampler, data.SequentialSampler), random


def _is_column(tensor: Tensor) -> bool:
    real = not tensor.is_complex() and tensor.dtype != torch.bool
    return real and tensor.ndim > 0 and 0 < tensor.numel() == len(tensor)


def _at(tensors: Sequence[Tensor], position: int | None) -> Tensor | None:
    return tensors[position] if position is not None and position < len(tensors) else None


def _same(one: Tensor, other: Tensor) -> bool:
    # Perhaps in another shape.
    return one.numel() > 0 and one.data_ptr() == other.data_ptr() and one.numel() == other.numel()


FIRST_STEPS = 4  # whose losses, layers and inputs are read
LOSSES_KEPT = 400  # of the first steps, to see whether they fall
REFUSED = re.compile(r"Target -?\d+ is out of bounds|Class values must be (smaller than|non-negative)")
FIRST_LOSSES, LAST_LOSSES = 5, 20


class TrainingProbe:
    """Gathers facts about the data, the head and the structure, and names the faults they establish.

    Its methods are called from a callback's hooks of the same names. It alters nothing: not the batch, not the module,
    not the random numbers, and leaves no hook behind after `end`. Facts it cannot read make no finding.
    """

    def __init__(self) -> None:
        self.new: list[Finding] = []  # whoever reads them clears them; the same one may come with each batch
        self._kept: dict[str, Any] = {}  # state of a run that goes on, until that begins
        self._clear()

    def _clear(self) -> None:
        self._steps = 0
        self.wants_batches = True  # whether `after_batch` has anything to do but with an epoch's first batch
        self.wants_losses = True  # whether `before_backward` has
        self._norms_seen = [0, 0]  # epochs and validations that began
        self._read: list[Loss] = []  # losses of the step that is under way
        self._layers = LayerInputs()
        self.cuts: list[Cut] = []  # where a gradient is cut off between two layers, found in the first step
        self._given: list[Tensor] = []  # to the first layer, in the first steps
        self._fed = ""  # the first layer
        self._data = DataWatch()
        self._structure = Structure()
        self._signals: list[tuple[str, float]] = []
        self._losses: list[Tensor] = []
        self._norms = self._norms_trained = False
        self._looked = False  # whether the first steps, those of the run before an interruption too, were read

    def state_dict(self) -> dict[str, Any]:
        """Return how far the questions have got, as plain data."""
        signals = {"signals": [list(each) for each in self._signals], "losses": [float(loss) for loss in self._losses]}
        looked = self._looked or self._steps >= FIRST_STEPS
        return {"looked": looked, "norms_seen": list(self._norms_seen), "data": self._data.state(), **signals}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a run that was interrupted."""
        self._kept = dict(state)

    def begin(self, trainer: Trainer, module: LightningModule, failed: Callable[[Exception], None]) -> None:
        """Read the structure before the first step, and hang hooks on the layers for the first few.

        An error in such a hook is handed to `failed`.
        """
        self.end()
        if kept := self._kept:
            self._kept, self._looked, self._norms_seen = {}, kept["looked"], list(kept["norms_seen"])
            self._data.load(kept["data"])
            self._signals = [(name, value) for name, value in kept["signals"]]
            self._losses = [torch.tensor(loss, device=module.device) for loss in kept["losses"]]
        norms = read_batch_norms(module, fresh=True)
        self._norms = bool(norms)
        self.new += network_rules.start_findings(norms, trainer.global_step)
        self._layers.open(module, failed)

    def before_batch(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Compare a batch's classes with the outputs before the loss does, which would stop the run."""
        if self._data.open and self._data.outputs:
            self.new += self._data.out_of_range(data_reading.tensors_in(batch), trainer.global_step)

    def failed(self, trainer: Trainer, module: LightningModule, error: BaseException) -> None:
        """Say in plain words what stopped the run, if it is a label that the loss refused."""
        if isinstance(error, IndexError | RuntimeError) and REFUSED.search(str(error)):
            self.new += [data_rules.out_of_range(f"the loss refuses a label: {error}", trainer.global_step)]

    def before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        """Read the graph of the first losses."""
        first = self._steps < FIRST_STEPS and not self._looked
        if (self._signals or first) and len(self._losses) < LOSSES_KEPT:
            self._losses.append(loss.detach())
        if self._steps >= FIRST_STEPS or loss.grad_fn is None:
            return
        optimizers = trainer.optimizers
        alone = len(optimizers) == 1 and module.automatic_optimization
        maximised = any(group.get("maximize") for optimizer in optimizers for group in optimizer.param_groups)
        facts = read_loss(loss, alone=alone, maximised=maximised)
        self._read.append(facts)
        self.new += network_rules.head_findings(facts, trainer.global_step)
        if self._steps == 0 and len(self._read) == 1:
            self._structure = read_structure(loss)
            self.new += network_rules.structure_findings(self._structure, trainer.global_step)

    def after_batch(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Read the first batches, and with an epoch's first batch, more and more rarely, the mode of batch norms."""
        self._steps += 1
        if batch_idx == 0 and self._norms_trained and self._steps > FIRST_STEPS and self._now_and_then(0):
            norms, step = read_batch_norms(module, fresh=False), trainer.global_step
            self.new += network_rules.training_findings(norms, step, root_training=module.training, were_training=True)
        if not self.wants_batches:
            return
        tensors = data_reading.tensors_in(batch)
        if self._steps <= FIRST_STEPS:
            self._first_steps(trainer, module, tensors)
        self._data.training_batch(trainer, tensors)
        self._update_wants()

    @property
    def busy(self) -> bool:
        """Whether it has to see every step."""
        return self._steps < FIRST_STEPS or self.wants_losses

    def batches(self, trainer: Trainer, batches: Iterable[Any]) -> None:
        """Read training batches of steps that need not be seen."""
        for batch in batches:
            self._data.training_batch(trainer, data_reading.tensors_in(batch))
        self._update_wants()

    def _update_wants(self) -> None:
        self.wants_losses = self._steps < FIRST_STEPS or bool(self._signals)
        self.wants_batches = self._steps < FIRST_STEPS or self._data.open or self._data.pending is not None

    def _now_and_then(self, which: int) -> bool:
        # The first time, the second, the fourth, the eighth, …
        self._norms_seen[which] += 1
        return not self._norms_seen[which] & (self._norms_seen[which] - 1)

    def validation_batch(self, trainer: Trainer, module: LightningModule, _: Any, batch: Any, batch_idx: int) -> None:
        """Read validation batches of the first epoch, and the mode that batch norms are in."""
        if self._norms and batch_idx == 0 and not trainer.sanity_checking and self._now_and_then(1):
            self.new += network_rules.validation_findings(read_batch_norms(module, fresh=False), trainer.global_step)
        if not self._data.compared and self._steps:
            self._data.validation_batch(trainer, data_reading.tensors_in(batch))

    def epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Judge what one epoch gathered."""
        self._judge_inputs(trainer)
        self.new += self._data.judge(trainer)
        self._update_wants()
        self._judge_signal(trainer)

    def end(self) -> None:
        """Drop everything but the news."""
        self._layers.close()
        self._clear()

    def _first_steps(self, trainer: Trainer, module: LightningModule, tensors: list[Tensor]) -> None:
        step = trainer.global_step
        first = self._layers.first
        facts = [with_batch(loss, tensors, first[2] if first else None) for loss in self._read]
        for loss in facts:
            self.new += network_rules.head_findings(loss, step)
        if self._steps == 1:
            given = {tensor.untyped_storage().data_ptr() for tensor in tensors}
            self.cuts += [cut for cut, place in self._layers.cuts if place not in given]
        self._data.learn(tensors, first[2] if first else None, facts)
        if first is not None:
            name, layer, seen = first
            if isinstance(layer, NUMERIC) and seen.is_floating_point() and not self._layers.again:
                self._fed = name
                self._given.append(seen)
        self._read.clear()
        self._layers.next_step()
        if self._norms and self._steps in (1, FIRST_STEPS):
            norms = read_batch_norms(module, fresh=True)
            self._norms_trained = self._norms_trained or any(norm.training for norm in norms)
            self.new += network_rules.training_findings(norms, step, root_training=module.training, were_training=False)
        if self._steps == FIRST_STEPS:
            self._layers.close()
            self._judge_inputs(trainer)
            if self._layers.signals and not self._looked:  # how they were at the start is what counts
                names, values = zip(*self._layers.signals, strict=True)
                self._signals = list(zip(names, torch.stack(values).tolist(), strict=True))
            if not network_rules.fades(self._structure, self._signals):  # then nobody asks how the loss goes on
                self._signals.clear()
                self._losses.clear()

    def _judge_inputs(self, trainer: Trainer) -> None:
        if self._given:
            facts = data_reading.read_inputs(self._fed, self._given, from_batch=self._data.input is not None)
            self._given = []
            if facts is not None:
                self.new += data_rules.input_findings(facts, trainer.global_step)

    def _judge_signal(self, trainer: Trainer) -> None:
        if self._signals and len(self._losses) >= 100:
            first, last = self._losses[:FIRST_LOSSES], self._losses[-LAST_LOSSES:]
            means = float(torch.stack(first).mean()), float(torch.stack(last).mean())
            if all(math.isfinite(mean) for mean in means):
                self.new += network_rules.signal_findings(self._structure, self._signals, means, trainer.global_step)
            if len(self._losses) >= LOSSES_KEPT:
                self._losses.clear()
                self._signals.clear()
