"""Sample units, gradients, updates and the loss of a run, more and more rarely, and have them judged."""

from contextlib import suppress
from dataclasses import asdict
from math import nan
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from callbacks.diagnosis.names import find_losses, is_validation
from callbacks.health.facts import Cut, Facts, Head, Reading, WeightStart
from callbacks.health.faults import Finding, Said
from callbacks.health.network_reading import read_dropouts, read_head, read_optimizers
from callbacks.health.parameter_watch import (
    ReachWatch,
    UnitWatch,
    UpdateWatch,
    ZeroingWatch,
    is_drawn,
    weights_at_start,
)
from callbacks.health.rules import training as rules
from callbacks.health.rules.training import LossCourse
from callbacks.host import logged
from callbacks.host.packages import LightningModule, Trainer
from callbacks.readers.autograd import operations

KEPT = 16  # readings: the first ones, and the latest
MOST_LOSSES = 512  # that wait to be added to the course: together they cost less
GROWTH = 1.5  # of the distance between two samplings, until it is `every`
OTHER_UNITS = 10.0  # times what is minimised: a logged training loss so far from it is in units of its own


class TrainingWatch:
    """Watches the dynamics of a run: closely on batches that are `due`, the rest costs next to nothing.

    A batch is due from `next` on. The caller counts `batches`, and is in a hurry: `before_step` and `after_batch` only
    need to be called while the watch is `busy`.
    """

    def __init__(self, every: int) -> None:  # batches between two samplings, once training has gone on for a while
        self.every = every
        self.course = LossCourse()
        self.due = True
        self.busy = True
        self.batches = 0
        self.next = 0.0
        self.new: list[Finding] = []  # whoever reads them clears them
        self.losses: list[float] = []  # not yet in the course
        self._gap = 1.0
        self._facts = Facts()
        self._epochs: list[tuple[float, float]] = []
        self._epoch_losses = [0.0, 0.0]  # sum, count
        self._ended_epochs = 0
        self._next_epoch = 1.0
        self._zeroing = ZeroingWatch()
        self._stepped: Optimizer | None = None
        self._factor = 1
        self._drawn = set[str]()  # layers that began with what torch draws
        self._kept: dict[str, Any] = {}  # state of what is made when a fit begins, until then
        self._resumed = False

    def begin(self, trainer: Trainer, module: LightningModule, cuts: list[Cut]) -> None:
        """Read weights and optimizers before the first step; `cuts` are to be put into that list as they are found."""
        self._layer_of = {id(p): name.rpartition(".")[0] for name, p in module.named_parameters()}
        self._updates, self._reach, self._units = UpdateWatch(module), ReachWatch(module, cuts), UnitWatch()
        self._zeroing, self._stepped = ZeroingWatch(), None
        if self._kept:
            kept, self._kept = self._kept, {}
            for name, watch in self._watches():
                watch.load(kept[name])
            self.busy = self.due or not self._zeroing.done
        self.losses.clear()
        self._factor = max(1, trainer.accumulate_grad_batches) if module.automatic_optimization else 1
        facts, optimizers = self._facts, trainer.optimizers
        facts.alone = len(optimizers) == 1 and not any(group.get("maximize") for group in optimizers[0].param_groups)
        facts.optimizers = read_optimizers(optimizers)
        facts.dropouts = read_dropouts(module)
        facts.regularised = bool(facts.dropouts) or any(group.decay > 0 for group in facts.optimizers)
        if not self._resumed:  # a trainer does not say it yet
            facts.weights = weights_at_start(module)
            self._drawn = {w.name for w in facts.weights if is_drawn(w)}

    def reference_is_known(self, module: LightningModule) -> None:
        """Note the loss that the module says another model reaches; nothing where it does not, or cannot."""
        with suppress(Exception):  # a stranger's attribute may be anything
            told: Any = module.reference_loss
            logged_as: Any = module.logged_loss  # turns the loss that is minimised into the units of the other
            self._facts.reachable = float(told) / float(logged_as(torch.tensor(1.0)))

    def _watches(self) -> tuple[tuple[str, Any], ...]:
        return ("start", self._updates), ("reach", self._reach), ("units", self._units), ("zeroing", self._zeroing)

    def _add_losses(self) -> None:
        """Add the losses since the last time to the course; those that are not finite are left out."""
        finite = self.course.extend([value * self._factor for value in self.losses])
        self._epoch_losses[0] += sum(finite)
        self._epoch_losses[1] += len(finite)
        self.losses.clear()

    def graph(self, trainer: Trainer, loss: Tensor) -> None:
        """Read the operations behind a loss; on batches that are due."""
        ops = operations(loss, self._layer_of)
        self._units.add(ops)
        self._reach.follow(ops, trainer.optimizers)
        if self.batches == 0 and self._facts.weights:
            self._facts.head = read_head(ops)
            self._facts.hidden = frozenset(op.layer for op in ops if op.own and op.hidden)

    def before_step(self, optimizer: Optimizer) -> None:
        """Read gradients and weights before an optimizer moves them; `due` alone makes it costly."""
        self._stepped = optimizer
        self._zeroing.before_step(optimizer)
        if self.due:
            self._updates.before_step()
            self._reach.add()

    def after_batch(self, trainer: Trainer, times: int) -> None:
        """Read what the step changed, which computed its gradients so many `times`, and judge."""
        self._zeroing.after_batch(self._stepped)
        self._stepped = None
        if self.due and self._updates.armed:
            self._sample(trainer, times)
        self.busy = self.due or not self._zeroing.done

    def epoch_end(self, trainer: Trainer) -> None:
        """Pair the losses of the epoch and judge."""
        self._ended_epochs += 1
        wanted = self._next_epoch - rules.LASTING  # after it come the last epochs when they are judged next
        if self._ended_epochs + 1 <= wanted and len(self.losses) < MOST_LOSSES:
            return
        self._add_losses()
        (total, count), self._epoch_losses = self._epoch_losses, [0.0, 0.0]
        if self._ended_epochs <= wanted:
            return
        mean = total / count if count else nan
        values = logged(trainer)
        found = find_losses(values)
        train_loss, val_loss = (values.get(name or "", nan) for name in (found.train, found.val))
        accuracy = next((v for name, v in values.items() if is_validation(name) and "acc" in name.lower()), nan)
        first, latest = self._epochs[:1], [*self._epochs[1:], (mean, _in_units(val_loss, mean, train_loss))]
        self._epochs = [*first, *latest[-rules.LASTING :]]
        if self._ended_epochs < self._next_epoch:
            return
        self._next_epoch = self._ended_epochs * 1.25  # what one more epoch shows grows less and less
        self._judge(trainer, seen_epoch=True)
        self._add(trainer, rules.judge_epochs(self._facts, self.course.start, self._epochs, accuracy))

    def blown_up(self, trainer: Trainer) -> None:
        """Ask why a run whose data are finite reached a number that is not."""
        self._add_losses()
        last = self._facts.readings[-1] if self._facts.readings else None
        if self._facts.alone:
            self._add(trainer, rules.judge_blow_up(self.course, last))

    def end(self) -> None:
        """Take hooks away."""
        self._zeroing.end()

    def _sample(self, trainer: Trainer, times: int) -> None:
        self._add_losses()
        readings = self._facts.readings
        readings.append(Reading(trainer.global_step, self._updates.after_step(max(times, 1), trainer.optimizers)))
        if len(readings) > KEPT:
            del readings[rules.EARLY]
        self.due = False
        if len(readings) > rules.EARLY:
            self._gap = min(float(self.every), self._gap * GROWTH)
        self.next = self.batches + self._gap
        if self.batches == 0 or len(readings) == 1:
            self._facts.optimizers = read_optimizers(trainer.optimizers)
            self._add(trainer, rules.judge_start(self._facts))
        if self._units.full():
            self._facts.units = self._units.read()
        self._judge(trainer, seen_epoch=False)

    def _judge(self, trainer: Trainer, *, seen_epoch: bool) -> None:
        facts = self._facts
        facts.kept_gradients = self._zeroing.kept if self._zeroing.kept >= 3 else 0
        moved = {r.name for reading in facts.readings[-1:] for r in reading.layers if r.travelled > 0}
        facts.unoptimized, facts.unreached, facts.cut = self._reach.read(trainer.optimizers, self._drawn, moved)
        facts.optimizers = read_optimizers(trainer.optimizers)
        self._add(trainer, rules.judge_units(facts, self.course))
        self._add(trainer, rules.judge_course(facts, self.course, seen_epoch=seen_epoch))

    def _add(self, trainer: Trainer, said: Said) -> None:
        self.new += rules.findings_of(said, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the course of the loss, what was read so far and how far the sampling got, as plain data."""
        self._add_losses()
        facts = self._facts
        watches = {name: watch.state() for name, watch in self._watches()} if hasattr(self, "_updates") else self._kept
        return {
            "course": self.course.state(),
            "batches": self.batches,
            "next": self.next,
            "gap": self._gap,
            "due": self.due,
            "epochs": [list(pair) for pair in self._epochs],
            "ended_epochs": self._ended_epochs,
            "next_epoch": self._next_epoch,
            "epoch_losses": list(self._epoch_losses),
            "weights": [asdict(weight) for weight in facts.weights],
            "hidden": sorted(facts.hidden),
            "head": None if facts.head is None else asdict(facts.head),
            "drawn": sorted(self._drawn),
            "readings": [reading.state() for reading in facts.readings],
            "watches": watches,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a run that was interrupted: what is read from there on is judged with what was read before.

        A state from before all of that was kept has the course of the loss alone; the rest is read anew.
        """
        self._resumed = True
        self.course.load(state["course"])
        self.batches, self.next, self._gap = int(state["batches"]), float(state["next"]), float(state["gap"])
        self._epochs = [(float(train), float(val)) for train, val in state["epochs"]]
        if "watches" not in state:
            return
        self.due, self._kept = bool(state["due"]), dict(state["watches"])
        self._ended_epochs, self._next_epoch = int(state["ended_epochs"]), float(state["next_epoch"])
        total, count = state["epoch_losses"]
        self._epoch_losses = [float(total), float(count)]
        facts = self._facts
        facts.weights = tuple(WeightStart(**weight) for weight in state["weights"])
        facts.hidden, self._drawn = frozenset(state["hidden"]), set(state["drawn"])
        facts.head = None if state["head"] is None else Head(**state["head"])
        facts.readings[:] = [Reading.of(each) for each in state["readings"]]


def _in_units(val_loss: float, mean: float, train_loss: float) -> float:
    """Return a validation loss in the units that are minimised: a scaled target is often logged in its own."""
    scale = mean / train_loss if train_loss > 0 else nan
    return val_loss * scale if scale > OTHER_UNITS or 0 < scale < 1 / OTHER_UNITS else val_loss
