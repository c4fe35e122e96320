"""Keeps one batch that is not finite from spoiling the weights, and says where it came from."""

from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from callbacks import _nonfinite
from callbacks.gradient_health import Fault, Finding

CHOICES = ("stop", "skip", "raise")
CALIBRATING = 25  # steps in a row with infinite gradients: a loss scale halves each time, from 2^16 that is enough


@dataclass(frozen=True)
class Suspect:
    """The first sign, since an optimizer last stepped, of a number that is not finite.

    Args:
        batch_idx: The batch it came with.
        what: What was not finite, in words.
        where: The layer it was followed back to, empty if none can be named.
        cause: What is known about its cause, empty if nothing is.
    """

    batch_idx: int
    what: str
    where: str
    cause: str


class NonFiniteGuard:
    """Checks the loss and the gradients of each step, and takes the gradients away if one is not finite.

    Args:
        choice: `stop`, `skip` or `raise`; here it only colours the words.
    """

    def __init__(self, choice: str) -> None:
        self.choice = choice
        self.skipped = 0  # steps left out
        self.steps = 0  # checked
        self.loss = nan  # of the last batch, unscaled
        self.news: Finding | None = None  # what was found; whoever reads it clears it
        self.sums = False  # whether a step may use the gradients of several batches
        self.suspect: Suspect | None = None
        self._batch: Any = None
        self._batch_idx = 0
        self._stepped = True
        self._bad_loss = False
        self._left_out = False
        self._in_a_row = 0
        self._scaler: Any = None
        self._alone = True
        self._trained: list[int] = []
        self._parameters: list[nn.Parameter] = []
        self._layer_of: dict[int, str] = {}
        self._module: nn.Module = nn.Module()
        self._sentinel = _nonfinite.GradientSentinel(self._module)
        self._buffers: _nonfinite.BufferKeeper | None = None

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Learn what there is to watch."""
        self._module = module
        buffers = _nonfinite.BufferKeeper(module)
        self._buffers = buffers if buffers.any else None
        self._layer_of = {id(p): name.rpartition(".")[0] for name, p in module.named_parameters()}
        self._scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._alone = trainer.world_size == 1
        self._trained = []
        self.epoch_begins(trainer, module)

    def epoch_begins(self, trainer: Trainer, module: LightningModule) -> None:
        """See whether other parameters are trained than before: that may change from epoch to epoch."""
        self.sums = not module.automatic_optimization or trainer.accumulate_grad_batches > 1
        held = [len(group["params"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
        trained = [*held, -1, *(p.requires_grad for p in self._parameters)]
        if trained != self._trained:
            self._parameters = list(module.parameters())
            self._trained = [*held, -1, *(p.requires_grad for p in self._parameters)]
            self._sentinel = _nonfinite.GradientSentinel(module)

    def end(self) -> None:
        """Let go of the last batch and of the module."""
        self._batch = self._buffers = None
        self._module = nn.Module()
        self._parameters = []
        self._sentinel = _nonfinite.GradientSentinel(self._module)

    def before_batch(self, batch: Any, batch_idx: int) -> None:
        """Keep the batch in case it must be named, and the buffers as they were before a step's first batch."""
        self._batch, self._batch_idx = batch, batch_idx
        self.loss = nan
        if self._stepped or not self.sums:
            self._stepped = self._bad_loss = self._left_out = False
            self.suspect = None
            if self._buffers is not None:
                self._buffers.keep()

    def before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        """Check the loss; while its graph is alive, follow one that is not finite back to its layer."""
        if loss.numel() != 1:
            return
        self.loss = loss.item()  # on an accelerator this waits for the forward pass: 20 to 50 µs of its time
        if self._scaler is not None:
            self.loss /= self._scaler.get_scale()
        if not isfinite(self.loss):
            self._bad_loss = True
            if self.suspect is None:
                place = _nonfinite.locate(loss, self._batch, module, self._layer_of)
                self.suspect = Suspect(self._batch_idx, f"the loss is {self.loss}", *place)

    def after_backward(self) -> None:
        """Where a step uses several batches' gradients, tell with which of them a number that is not finite came."""
        if self.suspect is None and not self._sentinel.finite(1):
            self.suspect = self._suspect_gradients()

    def after_batch(self) -> None:
        """Let go of the batch."""
        self._batch = None

    def before_step(self, trainer: Trainer, module: LightningModule) -> bool:
        """Check the gradients, take them away if one is not finite, and say whether they were left."""
        # Across ranks the summed gradient alone decides: it is the same everywhere, a loss is not.
        spoilt = (self._bad_loss and self._alone) or not self._sentinel.finite(self.steps)
        self.steps += 1
        self._stepped = True
        if not spoilt:
            self._in_a_row = 0
            return True
        self._in_a_row += 1
        if self._scaler is not None and not self._bad_loss and self._in_a_row < CALIBRATING:
            return False  # the scaler leaves this step out itself, and tries a smaller scale
        self.news = self._describe(trainer, self.suspect or self._suspect_gradients())
        _nonfinite.drop_gradients(module)
        if self._buffers is not None:
            self._buffers.restore()
        self.skipped += not self._left_out
        self._left_out = True
        return False

    def _suspect_gradients(self) -> Suspect:
        # The last one in forward order is where it began: from there it spreads to the layers before.
        names = _nonfinite.gradients_not_finite(self._module.named_parameters())
        cause = next(_nonfinite.inputs_not_finite(self._batch), "")
        where = (names[0] if cause else names[-1]).rpartition(".")[0] if names else ""
        return Suspect(self._batch_idx, f"the gradients of {len(names)} parameters are not finite", where, cause)

    def _describe(self, trainer: Trainer, suspect: Suspect) -> Finding:
        because = f", because {suspect.cause}" if suspect.cause else ""
        left = "the step that used it" if self.sums else "this batch"
        kept = {"stop": "training stops", "skip": f"{left} is left out", "raise": "raised"}[self.choice]
        where = f"in batch {suspect.batch_idx} of epoch {trainer.current_epoch}"
        advice = (
            "clean the data"
            if "itself holds" in suspect.cause
            else "lower the learning rate, clip gradients, or guard log, sqrt and division"
        )
        why = f"{suspect.what} {where}{because}; weights kept, {kept}"
        return Finding(Fault.NON_FINITE, suspect.where, trainer.global_step, why, advice)
