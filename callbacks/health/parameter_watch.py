"""Read parameters, their gradients and updates, and units, at the steps that are sampled."""

from collections import Counter
from collections.abc import Container, Sequence
from itertools import chain
from math import gcd, nan, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from callbacks.health.facts import Cut, LayerReading, Units, WeightStart
from callbacks.readers.autograd import AutogradNode, trained_inputs

ENOUGH = 12  # samplings without a gradient; modules that are used now and then have had their turn
ENOUGH_GRADIENTS = 3  # samplings with one


class ReachWatch:
    """Finds parameters that were meant to be trained, and are not.

    A parameter without a gradient is no evidence of that: what follows another by a moving average, a branch that the
    data leave alone, an expert that nobody chose, a last backcast and a copy for later have none either. Nor is one
    that no optimizer holds: a backbone under a head that alone is trained, a network that only measures what another
    makes, what adapters were put into. Whoever says so by `requires_grad_(False)` or `torch.no_grad` is believed.
    Evidence is

    - that what a layer made, followed by autograd, was handed to the next one without its gradient, and no gradient
      ever came to it from elsewhere, nor did anybody else move it; or
    - that gradients pass through a layer of no optimizer to one that is trained, and that it begins with what torch
      draws and stays there: what was trained before has other weights, and nobody measures by what was drawn.
    """

    def __init__(self, module: nn.Module, cuts: Sequence[Cut]) -> None:  # which are found later
        self._named = [(n, p) for n, p in module.named_parameters() if p.requires_grad and not is_lazy(p)]
        self._cuts = cuts
        self._times: Counter[str] = Counter()  # samplings in which it had a gradient that is not all zeros
        self._reached: set[str] = set()  # by autograd, be it with zeros
        self._samplings = 0
        self._passes: set[str] = set()  # layers of no optimizer that pass gradients on

    def state(self) -> dict[str, Any]:
        """Return what was seen so far as plain data."""
        reached, passes = sorted(self._reached), sorted(self._passes)
        return {"times": dict(self._times), "reached": reached, "samplings": self._samplings, "passes": passes}

    def load(self, state: dict[str, Any]) -> None:
        """Go on with what was seen before."""
        self._times, self._samplings = Counter(state["times"]), state["samplings"]
        self._reached, self._passes = set(state["reached"]), set(state["passes"])

    def follow(self, ops: Sequence[AutogradNode], optimizers: Sequence[Optimizer]) -> None:
        """Read through which layers of no optimizer gradients pass to one that is trained, off a loss's operations."""
        known = _held(optimizers)
        rest = {n.rpartition(".")[0] for n, p in self._named if id(p) not in known}
        if not rest:
            return
        held = {n.rpartition(".")[0] for n, p in self._named if id(p) in known} - rest
        after = {op.node for op in ops if op.own and op.layer in held}  # what is trained, and all that builds on it
        for op in ops:
            if any(below in after for below in trained_inputs(op.node)):
                after.add(op.node)
                self._passes |= {op.layer} & rest if op.own else set()

    def add(self) -> None:
        """Read the gradients before a step; parameters that had one often enough are passed by."""
        self._samplings += 1
        for name, p in self._named:
            if p.grad is not None:
                self._reached.add(name)
                if self._times[name] < ENOUGH_GRADIENTS and (p.grad.is_sparse or bool(p.grad.any())):
                    self._times[name] += 1

    def read(
        self, optimizers: Sequence[Optimizer], drawn: Container[str], moved: Container[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...], Cut | None]:
        """Return parameters that gradients pass by, parameters before a cut, and that cut.

        It is told which layers began with what torch draws, and which parameters moved since.
        """
        known, layer = _held(optimizers), {n: n.rpartition(".")[0] for n, _ in self._named}
        still = [(n, p) for n, p in self._named if n not in moved]
        fed = [n for n, p in still if self._times[n] >= ENOUGH_GRADIENTS and id(p) not in known]
        unoptimized = tuple(n for n in fed if layer[n] in self._passes and layer[n] in drawn)
        never = [n for n, _ in still if n not in self._reached and self._samplings >= ENOUGH]
        for cut in self._cuts:
            if all(n in never for n in layer if layer[n] == cut.before[-1]):
                found = tuple(n for n in never if layer[n] in cut.before)
                return unoptimized, found, cut if found else None
        return unoptimized, (), None


def _held(optimizers: Sequence[Optimizer]) -> set[int]:
    return {id(p) for p in chain.from_iterable(g["params"] for o in optimizers for g in o.param_groups)}


# Bounds of torch's uniform initialisations, times sqrt(fan_in): its default for layers, and He's.
_BOUNDS = ((1.0, 3**-0.5), (6**0.5, 2**0.5))


def is_drawn(w: WeightStart) -> bool:
    """Whether a matrix holds what torch draws: a trained one does not end sharply at that bound."""
    root = w.fan_in**0.5
    peak, rms = w.peak * root, w.rms * root
    drawn = (0.97 * bound <= peak <= 1.0001 * bound and abs(rms / usual - 1) < 0.08 for bound, usual in _BOUNDS)
    return w.size >= 128 and any(drawn)


WINDOW = 12  # samplings a judgement rests on; then it starts anew, so that late deaths are seen
_CHANNELS_SECOND = ("Convolution", "NativeBatchNorm", "CudnnBatchNorm", "NativeGroupNorm", "MkldnnConvolution")
FLAT = {"Sigmoid": (0.01, 0.99), "Tanh": (-0.99, 0.99)}  # beyond these the slope is below 4 % and 2 % of its greatest


class UnitWatch:
    """Reads which units of hidden layers were ever alive, and what share of values is saturated, over a window."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._alive: dict[str, Tensor] = {}
        self._saturated: dict[tuple[str, str], list[float]] = {}  # by layer and kind
        self._samplings = 0

    def add(self, ops: Sequence[AutogradNode]) -> None:
        """Read one batch."""
        self._samplings += 1
        times: dict[str, int] = {}
        for op in ops:
            if not op.hidden or op.kind not in ("Relu", *FLAT):
                continue
            times[op.layer] = times.get(op.layer, 0) + 1
            key = op.layer if times[op.layer] == 1 else f"{op.layer} ({times[op.layer]})"
            result = op.result()
            if result is not None and result.ndim > 1 and result.numel() and result.is_floating_point():
                self._add(key, op, result)

    def _add(self, key: str, op: AutogradNode, result: Tensor) -> None:
        if op.kind == "Relu":
            unit = _unit_dimension(op, result)
            alive = (result > 0).any([i for i in range(result.ndim) if i != unit])
            old = self._alive.get(key)
            self._alive[key] = alive if old is None or old.shape != alive.shape else old.to(alive.device) | alive
        else:
            low, high = FLAT[op.kind]
            share = ((result < low) | (result > high)).float().mean().item()
            self._saturated.setdefault((key, op.kind.lower()), []).append(share)

    def state(self) -> dict[str, Any]:
        """Return the window so far as plain data: units that were alive as ones, in a word of zeros and ones."""
        alive = {name: "".join("01"[unit] for unit in units.tolist()) for name, units in self._alive.items()}
        flat = [[*key, list(shares)] for key, shares in self._saturated.items()]
        return {"alive": alive, "flat": flat, "samplings": self._samplings}

    def load(self, state: dict[str, Any]) -> None:
        """Go on with a window that was kept."""
        self._alive = {name: torch.tensor([unit == "1" for unit in word]) for name, word in state["alive"].items()}
        self._saturated = {(layer, kind): list(shares) for layer, kind, shares in state["flat"]}
        self._samplings = state["samplings"]

    def full(self) -> bool:
        """Whether a window's worth of batches was seen."""
        return self._samplings >= WINDOW

    def read(self) -> tuple[Units, ...]:
        """Return what the window shows; begin the next."""
        window = self._samplings
        alive = [(name, len(units), units.float().mean().item()) for name, units in self._alive.items()]
        found = [Units(layer, "relu", units, 1 - share, window) for layer, units, share in alive]
        medians = {key: sorted(shares)[len(shares) // 2] for key, shares in self._saturated.items()}
        found += [Units(layer, kind, 0, share, window) for (layer, kind), share in medians.items()]
        self._begin()
        return tuple(found)


def _unit_dimension(op: AutogradNode, result: Tensor) -> int:
    # Channels come second after a convolution and in pictures, and last elsewhere.
    convolved = op.before is not None and op.before.kind in _CHANNELS_SECOND
    return 1 if result.ndim > 3 or (convolved and result.ndim == 3) else result.ndim - 1


SAMPLE = 64  # elements of a parameter; its root mean square is then right to about 9 %
_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class UpdateWatch:
    """Reads weights, gradients and updates of the trainable parameters of a module.

    Lazy, complex and quantised ones are passed by, and embeddings.
    """

    def __init__(self, module: nn.Module) -> None:
        self._matrices = {id(_weight(part)) for part in module.modules() if isinstance(part, _MATRICES)}
        embeddings = {id(_weight(part)) for part in module.modules() if isinstance(part, nn.Embedding)}
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad and not is_lazy(p)]
        named = [(n, p) for n, p in named if p.is_floating_point() and p.numel() and id(p) not in embeddings]
        self._names, self.parameters = [name for name, _ in named], [p for _, p in named]
        self._sampler = Sampler(self.parameters)
        self._start = self._sampler.read(self.parameters)
        (self._start_rms,) = self._sampler.rms([self._start])
        self._before: Tensor | None = None
        self._gradients: list[Tensor] = []
        self._plain: list[float] | None = None

    def state(self) -> list[float]:
        """Return the samples of the weights as they were before the first step; the same list each time."""
        if self._plain is None:
            self._plain = self._start.tolist()
        return self._plain

    def load(self, start: Sequence[float]) -> None:
        """Measure from where the run began, not from where it goes on."""
        if len(start) == len(self._start):  # else it is of another network
            self._start = torch.tensor(start, dtype=torch.float32, device=self._start.device)
            (self._start_rms,) = self._sampler.rms([self._start])

    @property
    def armed(self) -> bool:
        """Whether the weights before this step were read."""
        return self._before is not None

    def before_step(self) -> None:
        """Read gradients, and weights as they stand before the optimizer; a second optimizer adds its gradients."""
        self._gradients.append(self._sampler.read([p.grad for p in self.parameters]))
        if self._before is None:
            self._before = self._sampler.read(self.parameters)

    def after_step(self, times: int, optimizers: Sequence[Optimizer]) -> tuple[LayerReading, ...]:
        """Read what the optimizers changed, on average of so many `times`: LBFGS goes many ways in one step.

        Matrices that are in none of them count as no matrices: nobody means to train them.
        """
        now = self._sampler.read(self.parameters)
        before = now if self._before is None else self._before
        samples = [now, (now - before) / times, now - self._start, *self._gradients]
        weights, updates, travelled, *gradients = self._sampler.rms(samples)
        self._before, self._gradients = None, []
        last = [next((g for g in reversed(each) if g == g), nan) for each in zip(*gradients, strict=True)]
        held = self._matrices & _held(optimizers)
        matrices = [id(p) in held for p in self.parameters]
        rows = zip(self._names, matrices, weights, self._start_rms, last, updates, travelled, strict=True)
        return tuple(LayerReading(*row) for row in rows)


class Sampler:
    """Reads a few elements of each of some tensors, of the parameters' shapes, into one vector, always the same."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        strides = [_stride(p.numel()) for p in parameters]
        self._places = [(min(SAMPLE, -(-p.numel() // s)), s) for p, s in zip(parameters, strides, strict=True)]
        self._device = parameters[0].device if parameters else torch.device("cpu")
        sizes = torch.tensor([size for size, _ in self._places], dtype=torch.long)
        self._owner = torch.arange(len(sizes)).repeat_interleave(sizes).to(self._device)
        self._sizes = sizes.to(self._device)

    def read(self, values: Sequence[Tensor | None]) -> Tensor:
        """Return a copy of the samples, as floats on one device; NaN for a tensor that is missing or sparse."""
        with torch.no_grad():
            parts = [self._part(v, *place) for v, place in zip(values, self._places, strict=True)]
            return torch.cat(parts) if parts else torch.zeros(0, device=self._device)

    def _part(self, value: Tensor | None, size: int, stride: int) -> Tensor:
        if value is None or value.is_sparse:
            return torch.full((size,), nan, device=self._device)
        if type(value) in (Tensor, nn.Parameter) and value.is_contiguous():
            part = value.as_strided((size,), (stride,))  # one operation where `reshape` and slices are four
        else:
            part = value.detach().reshape(-1)[::stride][:SAMPLE]
        if part.dtype == torch.float32 and part.device == self._device:
            return part
        return part.to(self._device, torch.float32)

    def rms(self, samples: Sequence[Tensor]) -> list[list[float]]:
        """Return the root mean square of each tensor, for each of some samples; NaN where one was missing."""
        if not self._places:
            return [[] for _ in samples]
        squares = torch.stack(list(samples)).square()
        sums = squares.new_zeros(len(samples), len(self._places)).index_add_(1, self._owner, squares)
        return [[sqrt(v) if v >= 0 else nan for v in row] for row in (sums / self._sizes).tolist()]


def weights_at_start(module: nn.Module) -> tuple[WeightStart, ...]:
    """Return what the weight matrices of linear and convolutional layers hold before the first step."""
    found = []
    for name, part in module.named_modules():
        weight = _weight(part) if isinstance(part, _MATRICES) else None
        if weight is None or is_lazy(weight) or not weight.is_floating_point() or not weight.numel():
            continue
        whole = weight.detach().float()
        rows = whole.flatten(1)
        alike = len(rows) > 1 and getattr(part, "groups", 1) == 1 and bool((rows == rows[:1]).all())
        rms, peak = torch.stack([rows.square().mean().sqrt(), rows.abs().max()]).tolist()
        shape = rows.shape[1], rows.numel(), rms, peak, alike, weight.requires_grad
        columns = bool((whole[:, 0] == whole[:, -1]).all()) and bool((whole == whole[:, :1]).all())
        found.append(WeightStart(name, *shape, len(rows), columns))
    return tuple(found)


def _weight(part: nn.Module) -> nn.Parameter | None:
    """Return a layer's own weight: one that is parametrised is computed when it is asked for, and may change state."""
    return part._parameters.get("weight")


def _stride(size: int) -> int:
    # It does not follow a row or a column.
    stride = max(1, size // SAMPLE)
    while gcd(stride, size) != 1:
        stride -= 1
    return stride


AGREED = 3  # steps in a row that must show it
NEAR, FAR = 1e-3, 1e-2  # of the largest value: rounding of a sum in another order; a difference that is none


class ZeroingWatch:
    """Compares, for one small parameter of an optimizer, what came in by backward passes with what a step uses.

    It hangs a hook on that parameter for a few steps at the start. Gradients that are summed over several backward
    passes on purpose come in in full, so accumulation does not mislead it.
    """

    def __init__(self) -> None:
        self.kept = 0  # steps that used the last step's gradient again
        self.done = False
        self._parameter: nn.Parameter | None = None
        self._optimizer: Optimizer | None = None
        self._held: Tensor | None = None
        self._came: Tensor | None = None
        self._hook: RemovableHandle | None = None

    def state(self) -> dict[str, Any]:
        """Return what was seen so far."""
        return {"kept": self.kept, "done": self.done}

    def load(self, state: dict[str, Any]) -> None:
        """Go on with what was seen before."""
        self.kept, self.done = state["kept"], state["done"]

    def before_step(self, optimizer: Optimizer) -> None:
        """Compare, when the optimizer that is watched is about to step."""
        if self.done or self._hook is None or optimizer is not self._optimizer:
            return
        self._unhook()
        gradient = self._parameter.grad if self._parameter is not None else None
        if gradient is None or self._held is None or self._came is None:
            return
        largest = torch.stack([self._held.abs().max(), gradient.abs().max()]).max()
        again = (gradient - self._held - self._came).abs().max()
        afresh = (gradient - self._came).abs().max()
        if bool(again <= NEAR * largest) and bool(afresh > FAR * largest):
            self.kept += 1
            self.done = self.kept >= AGREED
        elif bool(afresh <= NEAR * largest):
            self.done = True

    def after_batch(self, optimizer: Optimizer | None) -> None:
        """Begin to watch the next step of the optimizer that has just stepped."""
        if self.done or optimizer is None or self._hook is not None:
            return
        own = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        held = [p for p in own if p.grad is not None and not p.grad.is_sparse]
        self._parameter = min(held, key=nn.Parameter.numel, default=None)
        if self._parameter is None or self._parameter.grad is None:  # cleared after the step
            self.done = True
            return
        self._optimizer, self._held, self._came = optimizer, self._parameter.grad.detach().clone(), None
        if not bool(self._held.any()):
            return  # nothing to tell it by; perhaps cleared, perhaps a dead unit
        self._hook = self._parameter.register_hook(self._add)

    def _add(self, gradient: Tensor) -> None:
        try:
            came = gradient.detach()
            self._came = came.clone() if self._came is None else self._came + came
        except Exception:  # noqa: BLE001  # it is somebody's backward pass; what cannot be added cannot be compared
            self._came, self.done = None, True

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def end(self) -> None:
        """Take the hook away."""
        self._unhook()
        self._parameter = self._optimizer = self._held = self._came = None
