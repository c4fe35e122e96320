"""Keep one batch that is not finite from spoiling the weights, and say where it came from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from callbacks.health.data_reading import named_tensors
from callbacks.health.faults import Fault, Finding
from callbacks.host.packages import Callback, LightningModule, Trainer
from callbacks.readers.autograd import AutogradNode, operations
from callbacks.readers.optimizer_steps import StepObserver

VECTOR = 65_536  # elements of a bias at most; a longer vector counts as a matrix
FEW = 8  # tensors that are cheaper to add up one by one than to join first: 4 µs each amid a training step
RARELY = 16  # steps between two full readings of gradients that a bias answers for
BUFFER = 65_536  # elements: running statistics are smaller, tables of positions and queues larger


class NonFiniteError(ArithmeticError):
    """A loss or a gradient was not finite, and the monitor was told to raise."""


class GradientCheck:
    """Tells whether the gradients of a module are finite, at the price of some microseconds.

    Every step it adds up the gradients of all vectors (biases, the weights of normalisation) and of every parameter
    whose module has none. A number that is not finite in the gradient of a layer's output is in the gradient of its
    bias too, and of all layers before it; so a weight beside a bias can only be alone with it when the product
    overflows, and is read in full every 16th step. Whatever looks wrong is read in full before it is called so.
    """

    def __init__(self, module: nn.Module) -> None:
        self.vectors: dict[torch.device, list[nn.Parameter]] = {}
        self.alone: list[nn.Parameter] = []
        self.answered_for: list[nn.Parameter] = []
        for part in module.modules():
            own = [p for p in part.parameters(recurse=False) if p.requires_grad and not is_lazy(p)]
            short = [p for p in own if p.ndim == 1 and p.numel() <= VECTOR and p.is_floating_point()]
            for p in short:
                self.vectors.setdefault(p.device, []).append(p)
            rest = [p for p in own if not any(p is s for s in short)]
            (self.answered_for if short else self.alone).extend(rest)
        # Reading a tensor of an accelerator waits for it: there all of them are read at once.
        groups = list(self.vectors.values())
        near = len(groups) == 1 and len(groups[0]) <= FEW and groups[0][0].device.type == "cpu"
        self._few, self._groups = (groups[0], []) if near else ([], groups)
        self._read_in_full = -RARELY  # the step at which somebody's norms showed all gradients to be finite

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters that are watched."""
        return [*(p for group in self.vectors.values() for p in group), *self.alone, *self.answered_for]

    def finite(self, step: int, norms: Tensor | None = None) -> bool:
        """Return whether the gradients now held are finite; the step says whether the rare reading is due.

        Norms of all gradients, if somebody has read them, spare a reading of our own.
        """
        if norms is not None:
            self._read_in_full = step
            return isfinite(norms.sum().item()) or self._exactly()
        for parameter in self._few:
            gradient = parameter.grad
            if gradient is not None and not isfinite(gradient.sum().item()):
                return self._exactly()
        for group in self._groups:
            try:
                total = torch.cat([p.grad for p in group]).sum().item()  # type: ignore[misc]  # see below
            except TypeError:  # one has no gradient; asking each of them first would cost more than all the rest
                there = [p.grad for p in group if p.grad is not None]
                total = torch.cat(there).sum().item() if there else 0.0
            if not isfinite(total):
                return self._exactly()
        if self.alone and not _may_be_finite(self.alone):
            return self._exactly()
        rare = not step % RARELY and step - self._read_in_full >= RARELY
        if rare and self.answered_for and not _may_be_finite(self.answered_for):
            return self._exactly()
        return True

    def _exactly(self) -> bool:
        return all(_all_finite(p.grad) for p in self.parameters if p.grad is not None)


def _may_be_finite(parameters: Sequence[nn.Parameter]) -> bool:
    # No sum is finite that has a term which is not.
    grads = [_plain(p.grad) for p in parameters if p.grad is not None]
    if len(grads) <= FEW and all(grad.device.type == "cpu" for grad in grads):
        return all(isfinite(grad.sum().item()) for grad in grads)
    return isfinite(get_total_norm(grads).item())


def drop_gradients(module: nn.Module) -> None:
    """Drop every gradient: torch's optimizers then pass the parameters by, momentum and decay included."""
    for parameter in module.parameters():
        parameter.grad = None


class BufferKeeper:
    """Keeps what small buffers held before a batch: a forward pass over a NaN spoils running statistics for good.

    Buffers of more than 65 536 elements are no running statistics and left alone.
    """

    def __init__(self, module: nn.Module) -> None:
        kinds: dict[tuple[Any, ...], list[Tensor]] = {}
        for buffer in module.buffers():
            if not is_lazy(buffer) and buffer.numel() <= BUFFER and buffer.layout is torch.strided:
                kinds.setdefault((buffer.dtype, buffer.device), []).append(buffer)
        self._kinds = list(kinds.values())
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Copy what the buffers hold now."""
        if self._kinds:  # else entering `no_grad` with each batch would be all that it does
            with torch.no_grad():
                self._kept = [torch.cat([b.reshape(-1) for b in kind]) for kind in self._kinds]

    def restore(self) -> None:
        """Put back what they held."""
        with torch.no_grad():
            for kind, kept in zip(self._kinds, self._kept, strict=False):
                for buffer, old in zip(kind, torch.split(kept, [b.numel() for b in kind]), strict=True):
                    buffer.copy_(old.view_as(buffer))


def locate(loss: Tensor, batch: Any, module: nn.Module, layer_of: Mapping[int, str]) -> tuple[str, str]:
    """Follow a loss that is not finite, its graph still alive, back to the first layer it can have come from.

    The second word says what is known about it. Either is empty where nothing can be said.
    """
    spoilt = [name for name, p in module.named_parameters() if not is_lazy(p) and not _all_finite(p)]
    if spoilt:
        return spoilt[0].rpartition(".")[0], f"the weights `{spoilt[0]}` are not finite themselves"
    given = next(inputs_not_finite(batch), "")
    culprit = _first_not_finite(operations(loss, layer_of))
    if culprit is None:
        return "", given
    if not culprit.own and not given:
        made = f"{culprit.kind.lower()} after `{culprit.layer}`" if culprit.layer else culprit.kind
        given = f"{made} made it"
    return culprit.layer, given


def _first_not_finite(ops: Sequence[AutogradNode]) -> AutogradNode | None:
    # As far as autograd kept what operations returned or were given.
    for op in ops:
        if any(not _all_finite(taken) for taken in op.taken()):
            return op.before or op
        result = op.result()
        if result is not None and not _all_finite(result):
            return op
    return None


def inputs_not_finite(batch: Any) -> Iterator[str]:
    """Name each tensor of a nested batch that holds NaN or infinity: how many values, and the first one's place."""
    for path, tensor in named_tensors(batch, levels=-1, most=None):
        if tensor.is_floating_point() and not _all_finite(tensor):
            places = (~tensor.isfinite()).nonzero()
            at = ", ".join(str(i) for i in places[0].tolist())
            yield f"`{path}` itself holds {len(places)} values that are not finite, the first at [{at}]"


def _plain(values: Tensor) -> Tensor:
    if values.is_nested:
        return torch.cat([part.reshape(-1) for part in values.unbind()])
    if values.layout is not torch.strided:
        values = (values.coalesce() if values.is_sparse else values).values()
    return torch.view_as_real(values) if values.is_complex() else values


def _all_finite(values: Tensor) -> bool:
    return bool(_plain(values.detach()).isfinite().all())


CHOICES = ("stop", "skip", "raise")
CALIBRATING = 25  # steps in a row with infinite gradients: a loss scale halves each time, from 2^16 that is enough


@dataclass(frozen=True)
class NonFiniteOrigin:
    """The first number that was not finite since an optimizer last stepped, and where it came from."""

    batch_idx: int  # the batch it came with
    what: str  # what was not finite, in words
    where: str  # the layer it was followed back to, empty if none can be named
    cause: str  # what is known about its cause, empty if nothing is


class NonFiniteGuard:
    """Checks the loss and the gradients of each step, and takes the gradients away if one is not finite."""

    def __init__(self, choice: str) -> None:  # `stop`, `skip` or `raise`; here it only colours the words
        self.choice = choice
        self.skipped = 0  # steps left out
        self.steps = 0  # checked
        self.loss = nan  # of the last batch, unscaled
        self.news: Finding | None = None  # what was found; whoever reads it clears it
        self.sums = False  # whether a step may use the gradients of several batches
        self.origin: NonFiniteOrigin | None = None
        self._batch: Any = None
        self._batch_idx = 0
        self._stepped = True
        self._by_hand = False  # else a batch makes no more than one step
        self._losses = self.uses = 0  # losses computed and gradients used with this batch
        self._bad_loss = self._left_out = False
        self._in_a_row = 0
        self._scaler: Any = None
        self._alone = True
        self._trained: list[int] = []
        self._layer_of: dict[int, str] = {}
        self._owner = Callback()
        self._observer: StepObserver | None = None
        self._module: nn.Module = nn.Module()
        self._check, self._buffers = GradientCheck(self._module), BufferKeeper(self._module)

    def begin(self, trainer: Trainer, module: LightningModule, owner: Callback) -> None:
        """Find what there is to watch in a fit, for the callback that calls these hooks."""
        self._owner, self._module = owner, module
        self._buffers = BufferKeeper(module)
        self._layer_of = {id(p): name.rpartition(".")[0] for name, p in module.named_parameters()}
        self._scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._alone = trainer.world_size == 1
        self._trained = []
        self.epoch_begins(trainer, module)

    def epoch_begins(self, trainer: Trainer, module: LightningModule) -> None:
        """See whether other parameters are trained than before: that may change from epoch to epoch."""
        self._by_hand = not module.automatic_optimization
        self.sums = self._by_hand or trainer.accumulate_grad_batches > 1
        held = [len(group["params"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
        trained = [*held, -1, *(p.requires_grad for p in module.parameters())]
        if trained != self._trained:
            self._trained, self._check = trained, GradientCheck(module)
        self._observer = self._shared_observer(trainer) if module.automatic_optimization else None

    def _shared_observer(self, trainer: Trainer) -> StepObserver | None:
        """Return the observer whose listeners read the same gradients as the check; ranks must judge by the same."""
        optimizer = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
        if not isinstance(optimizer, Optimizer) or self._scaler is not None or not self._alone:
            return None
        observer = StepObserver.of(optimizer)
        if not observer.agrees_with(self._owner, trainer.callbacks):  # type: ignore[attr-defined]  # a connector's
            return None
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return observer if all(id(p) in held for p in self._check.parameters) else None

    def end(self) -> None:
        """Drop the last batch and the module."""
        self._batch = self._observer = None
        self._module = nn.Module()
        self._check, self._buffers = GradientCheck(self._module), BufferKeeper(self._module)

    def before_batch(self, batch: Any, batch_idx: int) -> None:
        """Keep the batch in case it must be named, and the buffers as they were before a step's first batch."""
        self._batch, self._batch_idx = batch, batch_idx
        self.loss = nan
        self._losses = self.uses = 0
        if self._stepped or not self.sums:
            self._stepped = self._bad_loss = self._left_out = False
            self.origin = None
            self._buffers.keep()

    def before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> bool:
        """Check the loss; while its graph is alive, follow one that is not finite back to its layer.

        Return whether it is new: LBFGS computes that of one batch many times within one step.
        """
        self._losses += 1
        new = self._by_hand or self._losses == 1
        if loss.numel() != 1:
            return new
        self.loss = loss.item()  # on an accelerator this waits for the forward pass: 20 to 50 µs of its time
        if self._scaler is not None:
            self.loss /= self._scaler.get_scale()
        if not isfinite(self.loss):
            self._bad_loss = True
            if self.origin is None:
                place = locate(loss, self._batch, module, self._layer_of)
                self.origin = NonFiniteOrigin(self._batch_idx, f"the loss is {self.loss}", *place)
        return new

    def after_backward(self) -> None:
        """Where a step uses several batches' gradients, tell with which of them a number that is not finite came."""
        if self.origin is None and not self._check.finite(1):
            self.origin = self._origin_in_gradients()

    def after_batch(self) -> None:
        """Drop the batch."""
        self._batch = None

    def before_step(self, trainer: Trainer, module: LightningModule) -> bool:
        """Check the gradients, take them away if one is not finite; say if they were left, and are a step's first."""
        # Across ranks the summed gradient alone decides: it is the same everywhere, a loss is not.
        observer = self._observer
        norms = observer.norms() if observer is not None and observer.is_due else None
        spoilt = (self._bad_loss and self._alone) or not self._check.finite(self.steps, norms)
        self.uses += 1
        new = self._by_hand or self.uses == 1
        self.steps += new
        self._stepped = True
        self._in_a_row = self._in_a_row + 1 if spoilt else 0
        if not spoilt:
            return new
        if self._scaler is not None and not self._bad_loss and self._in_a_row < CALIBRATING:
            return False  # the scaler leaves this step out itself, and tries a smaller scale
        self.news = self._describe(trainer, self.origin or self._origin_in_gradients())
        drop_gradients(module)
        if observer is not None:
            observer.gradients_changed()
        self._buffers.restore()
        self.skipped += not self._left_out
        self._left_out = True
        return False

    def _origin_in_gradients(self) -> NonFiniteOrigin:
        # The last one in forward order is where it began: from there it spreads to the layers before.
        names = [name for name, p in self._module.named_parameters() if p.grad is not None and not _all_finite(p.grad)]
        cause = next(inputs_not_finite(self._batch), "")
        where = (names[0] if cause else names[-1]).rpartition(".")[0] if names else ""
        what = f"the gradients of {len(names)} parameters are not finite"
        return NonFiniteOrigin(self._batch_idx, what, where, cause)

    def _describe(self, trainer: Trainer, origin: NonFiniteOrigin) -> Finding:
        because = f", because {origin.cause}" if origin.cause else ""
        left = "the step that used it" if self.sums else "this batch"
        kept = {"stop": "training stops", "skip": f"{left} is left out", "raise": "raised"}[self.choice]
        where = f"in batch {origin.batch_idx} of epoch {trainer.current_epoch}"
        numbers = "lower the learning rate, clip gradients, or guard log, sqrt and division"
        advice = "clean the data" if "itself holds" in origin.cause else numbers
        why = f"{origin.what} {where}{because}; weights kept, {kept}"
        return Finding(Fault.NON_FINITE, origin.where, trainer.global_step, why, advice)
