"""Keeps one batch that is not finite from spoiling the weights, and says where it came from."""

from math import isfinite, nan
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from callbacks import _nonfinite
from callbacks.gradient_health import Fault, Finding

CHOICES = ("stop", "skip", "raise")
CALIBRATING = 25  # steps in a row with infinite gradients: a loss scale halves each time, from 2^16 that is enough


class NonFiniteGuard:
    """Checks the loss and the gradients of each step, and takes the gradients away if one is not finite.

    Args:
        choice: `stop`, `skip` or `raise`; here it only colours the words.
    """

    def __init__(self, choice: str) -> None:
        self.choice = choice
        self.skipped = 0  # batches left out
        self.loss = nan  # of the last batch, unscaled
        self._batch: Any = None
        self._batch_idx = 0
        self._place = ("", "")
        self._bad_loss = False
        self._left_out = False
        self._in_a_row = 0
        self._steps = 0
        self.news: Finding | None = None  # what was found; whoever reads it clears it
        self._scaler: Any = None
        self._alone = True
        self._layer_of: dict[int, str] = {}
        self._module: nn.Module = nn.Module()
        self._sentinel = _nonfinite.GradientSentinel(self._module)
        self._buffers = _nonfinite.BufferKeeper(self._module)

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Learn what there is to watch."""
        self._module = module
        self._sentinel = _nonfinite.GradientSentinel(module)
        self._buffers = _nonfinite.BufferKeeper(module)
        self._layer_of = {id(p): name.rpartition(".")[0] for name, p in module.named_parameters()}
        self._scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._alone = trainer.world_size == 1

    def end(self) -> None:
        """Let go of the last batch and of the module."""
        self._batch = None
        self._module = nn.Module()

    def before_batch(self, batch: Any, batch_idx: int) -> None:
        """Keep the buffers, and the batch in case it must be named."""
        self._batch, self._batch_idx = batch, batch_idx
        self._bad_loss = self._left_out = False
        self.loss = nan
        self._buffers.keep()
        if batch_idx == 0:  # what is trained may change from epoch to epoch
            self._sentinel = _nonfinite.GradientSentinel(self._module)

    def before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        """Check the loss; while its graph is alive, follow one that is not finite back to its layer."""
        if loss.numel() != 1:
            return
        self.loss = loss.item()  # on an accelerator this waits for the forward pass: 20 to 50 µs of its time
        if self._scaler is not None:
            self.loss /= self._scaler.get_scale()
        if not isfinite(self.loss):
            self._bad_loss = True
            self._place = _nonfinite.locate(loss, self._batch, module, self._layer_of)

    def after_batch(self) -> None:
        """Let go of the batch."""
        self._batch = None

    def before_step(self, trainer: Trainer, module: LightningModule) -> bool:
        """Check the gradients, take them away if one is not finite, and say whether they were left."""
        # Across ranks the summed gradient alone decides: it is the same everywhere, a loss is not.
        spoilt = (self._alone and self._bad_loss) or not self._sentinel.finite(self._steps)
        self._steps += 1
        if not spoilt:
            self._in_a_row = 0
            return True
        self._in_a_row += 1
        if self._scaler is not None and not self._bad_loss and self._in_a_row < CALIBRATING:
            return False  # the scaler leaves this step out itself, and tries a smaller scale
        self.news = self._describe(trainer, module)
        _nonfinite.drop_gradients(module)
        self._buffers.restore()
        self.skipped += not self._left_out
        self._left_out = True
        return False

    def _describe(self, trainer: Trainer, module: LightningModule) -> Finding:
        where, cause = self._place if self._bad_loss else ("", "")
        if self._bad_loss:
            what = f"the loss is {self.loss}"
        else:
            # The last one in forward order is where it began: from there it spreads to the layers before.
            names = _nonfinite.gradients_not_finite(module.named_parameters())
            cause = next(_nonfinite.inputs_not_finite(self._batch), "")
            where = (names[0] if cause else names[-1]).rpartition(".")[0] if names else ""
            what = f"the gradients of {len(names)} parameters are not finite"
        because = f", because {cause}" if cause else ""
        kept = {"stop": "training stops", "skip": "this batch is left out", "raise": "raised"}[self.choice]
        why = f"{what} in batch {self._batch_idx} of epoch {trainer.current_epoch}{because}; weights kept, {kept}"
        advice = (
            "clean the data"
            if "itself holds" in cause
            else "lower the learning rate, clip gradients, or guard log, sqrt and division"
        )
        return Finding(Fault.NON_FINITE, where, trainer.global_step, why, advice)
