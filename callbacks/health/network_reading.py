"""Read the network in training: its structure off autograd's graph, what its layers are given, how it was set up."""

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from inspect import signature
from itertools import islice
from math import log, nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node as GradNode
from torch.nn import functional
from torch.nn.modules.dropout import Dropout
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from callbacks.health.data_reading import is_plain
from callbacks.health.facts import AFFINE, MOVES, BatchNorm, Cut, Head, Layer, OptimizerFacts, Structure
from callbacks.host import number
from callbacks.readers.autograd import AutogradNode, inputs_of, name_of, saved, trained_inputs, used_parameters, walk

NUMERIC = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.RNNBase)  # what multiplies its inputs by weights
MOST_NODES = 5000  # an unrolled sequence or a very deep net; then nothing is said of the structure
LONGEST_PATH = 16  # operations between two layers
BATCH_NORMS = frozenset({"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"})
NORMS = BATCH_NORMS | {"NativeLayerNorm", "NativeGroupNorm"}
POOLS = frozenset({"MaxPool1DWithIndices", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D"})
SCALES = frozenset({"Mean", "Sum", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "ConstantPadNd", "NativeDropout"})
PASSES = MOVES | NORMS | POOLS | SCALES
LINEAR = MOVES | AFFINE | BATCH_NORMS | SCALES | {"AccumulateGrad", "Add", "Expand", "Neg"}


def read_structure(loss: Tensor) -> Structure:
    """Return the affine layers behind a loss, last first, and what feeds each; nothing of graphs that are too large."""
    nodes = list(islice(walk([loss.grad_fn] if loss.grad_fn is not None else []), MOST_NODES + 1))
    affine = [node for node in nodes if name_of(node) in AFFINE and next(used_parameters(node), None) is not None]
    if not affine or len(nodes) > MOST_NODES:
        return Structure()
    inner = list(walk(node for layer in affine if (node := _data_input(layer)) is not None))  # without head and loss
    linear = all(name_of(node) in LINEAR or _by_a_constant(node) for node in inner)
    normed = any(name_of(node) in NORMS for node in nodes)
    skips = any(name_of(node) in ("Add", "Cat", "Stack") and len(trained_inputs(node)) > 1 for node in inner)
    return Structure(tuple(_layer(node) for node in affine), linear, normed, skips)


def _data_input(node: GradNode) -> GradNode | None:
    """The node that gave an operation its data, rather than its weights; None if nothing trained did."""
    inputs = inputs_of(node)
    if name_of(node) in ("Addmm", "Baddbmm", "Addmv"):
        return inputs[1]
    return inputs[0] if inputs else None


def _by_a_constant(node: GradNode) -> bool:
    """Whether an operation takes a sum or product with what is not trained, e.g. dropout's mask."""
    return name_of(node) in ("Mul", "Div", "Add", "Sub") and len(trained_inputs(node)) == 1


def _layer(node: GradNode) -> Layer:
    sizes = saved(node, "mat2_sym_sizes")
    inputs, outputs = (int(sizes[0]), int(sizes[1])) if sizes is not None and len(sizes) == 2 else (0, 0)
    convolution, normed, fed_by = "Convolution" in name_of(node), False, "?"
    below = _data_input(node)
    for _ in range(LONGEST_PATH):
        if below is None:
            fed_by = "input"
            break
        name, trained = name_of(below), trained_inputs(below)
        if name in AFFINE:
            fed_by = "affine"
            break
        normed = normed or name in NORMS
        if not (name in PASSES or _by_a_constant(below)):
            fed_by = name if len(trained) == 1 else "?"
            break
        below = inputs_of(below)[0] if name in NORMS else next(iter(trained), None)
    return Layer(convolution, fed_by, normed, inputs, outputs)


def read_head(ops: Sequence[AutogradNode]) -> Head | None:
    """Return what the last operation that compares outputs with targets was given; None if none is known."""
    return next((head for op in reversed(ops) if (head := _head(op)) is not None), None)


def _head(op: AutogradNode) -> Head | None:
    outputs, targets = op.saved("self"), op.saved("target")
    if outputs is None or targets is None or not outputs.numel() or not _from_layer(op):
        return None
    if op.kind in ("NllLoss", "NllLoss2D") and outputs.ndim > 1 and outputs.shape[1] > 1:
        ignored = saved(op.node, "ignore_index", -100)
        loss = functional.nll_loss(outputs.float(), targets, ignore_index=ignored)
        return Head(loss.item(), log(outputs.shape[1]), nan, nan)
    if op.kind == "BinaryCrossEntropyWithLogits":
        loss = functional.binary_cross_entropy_with_logits(outputs.float(), targets.float())
        return Head(loss.item(), log(2), nan, nan)
    if op.kind in ("MseLoss", "SmoothL1Loss", "HuberLoss") and bool((targets != targets.reshape(-1)[0]).any()):
        sizes = torch.stack([outputs.float().square().mean(), targets.float().square().mean()]).sqrt()
        return Head(nan, nan, *sizes.tolist())
    return None


def _from_layer(op: AutogradNode) -> bool:
    """Whether scores come from a layer: cosines and other comparisons of two outputs have a size of their own."""
    for _ in range(LONGEST_PATH):
        if op.before is None or op.kind in AFFINE:
            break
        op = op.before
    return op.kind in AFFINE and op.own


def read_batch_norms(module: nn.Module, *, fresh: bool) -> list[BatchNorm]:
    """Return the batch norms of a module; `fresh` also reads if their running statistics ever moved, which waits."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    found = []
    for name, layer in module.named_modules():
        if isinstance(layer, kinds):
            weight = layer._parameters.get("weight")  # what is parametrised has none of its own
            tracked = layer.running_mean is not None
            trainable = weight is not None and weight.requires_grad and weight.grad is not None  # a teacher has none
            untouched = fresh and _is_fresh(layer)
            found.append(BatchNorm(name, layer.training, tracked, layer.momentum, untouched, trainable))
    return found


def _is_fresh(layer: Any) -> bool:
    mean, variance = layer.running_mean, layer.running_var
    return mean is not None and bool((mean == 0).all() & (variance == 1).all())


class LayerInputs:
    """Keeps the inputs of the first layer of each step, and how much signal reaches the layers in the first one.

    Hooks stay until `close`. They only look: nothing is returned, kept alive past `next_step`, or done in evaluation.
    A compiled module is not looked into.
    """

    def __init__(self) -> None:
        self.first: tuple[str, nn.Module, Tensor] | None = None  # name, layer, and what it was given in this step
        self.again = False  # whether it was called more than once
        self.signals: list[tuple[str, Tensor]] = []  # of numeric layers: deviation between rows, mean over units
        self.cuts: list[tuple[Cut, int]] = []  # of the first step, with where what was handed on lies in memory
        self._first_step = self._listening = True
        self._called: list[str] = []  # layers of the first step so far whose outputs autograd follows
        self._units = 0  # of the last one; 0 if the layer called last is none of them
        self._failed: Callable[[Exception], None] | None = None
        self._handles: list[RemovableHandle] = []

    def open(self, module: nn.Module, failed: Callable[[Exception], None]) -> None:
        """Hang a hook on each layer that owns parameters; an error in one of them is handed to `failed`."""
        self.close()
        self._failed = failed
        seer, root = weakref.ref(self), weakref.ref(module)
        for name, layer in module.named_modules():
            owns = next(layer.parameters(recurse=False), None) is not None
            if owns and layer is not module and not isinstance(layer, torch.jit.ScriptModule):
                self._handles.append(layer.register_forward_pre_hook(InputHook(seer, root, name)))

    def see(self, name: str, layer: nn.Module, given: tuple[Any, ...]) -> None:
        """Take down what one layer is given."""
        try:
            self._see(name, layer, given)
        except Exception as error:  # noqa: BLE001  # it is somebody's forward pass
            if self._failed is not None:
                self._failed(error)

    def _see(self, name: str, layer: nn.Module, given: tuple[Any, ...]) -> None:
        tensor = given[0] if given and isinstance(given[0], Tensor) and is_plain(given[0]) else None
        if self._first_step:
            self._look_for_cut(name, layer, tensor)
        if tensor is None or tensor.ndim < 2:
            return
        if self.first is None:
            if tensor.requires_grad:
                return
            self.first, self.again = (name, layer, tensor.detach()), False
        elif self.first[1] is layer:
            self.again = True
        if self._listening and isinstance(layer, NUMERIC) and tensor.is_floating_point() and len(tensor) > 1:
            with torch.no_grad():
                self.signals.append((name, tensor.detach()[:32].float().std(0).mean()))

    def _look_for_cut(self, name: str, layer: nn.Module, tensor: Tensor | None) -> None:
        weights, units = next(layer.parameters(recurse=False)), self._units
        loose = tensor if tensor is not None and tensor.is_floating_point() and not tensor.requires_grad else None
        first = loose is not None and units > 1 and name not in self._called
        if loose is not None and first and (units in loose.shape[1:] or not loose.shape[-1] % units):
            self.cuts.append((Cut(tuple(self._called), name), loose.untyped_storage().data_ptr()))
        followed = weights.requires_grad or (tensor is not None and tensor.requires_grad)
        self._units = weights.shape[-1 if isinstance(layer, nn.Embedding) else 0] if followed and weights.ndim else 0
        self._called += [name] * followed

    def next_step(self) -> None:
        """Forget the step's inputs; signals are those of the first step."""
        self.first, self._first_step, self._listening = None, False, self._listening and not self.signals

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.first = self._failed = None


class InputHook:
    """Shows a watcher what a layer is given, while the module trains.

    In a copy or a pickle of the module it is a function of Python's own that does nothing: what watches a module does
    not travel with it, and nobody needs this package to load it.
    """

    def __init__(self, seer: "weakref.ref[LayerInputs]", root: "weakref.ref[nn.Module]", name: str) -> None:
        self.seer, self.root, self.name = seer, root, name

    def __call__(self, layer: nn.Module, given: tuple[Any, ...]) -> None:
        """Show what a layer is given, as torch calls it."""
        if torch.compiler.is_compiling():
            return
        watcher, owner = self.seer(), self.root()
        if watcher is not None and owner is not None and owner.training and torch.is_grad_enabled():
            watcher.see(self.name, layer, given)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")  # takes what a hook is given, and returns None


def read_optimizers(optimizers: Sequence[Optimizer]) -> tuple[OptimizerFacts, ...]:
    """Return how each optimizer's groups of parameters were set up; NaN stands for what a group has not."""
    found = []
    for kind, group in ((type(optimizer), group) for optimizer in optimizers for group in optimizer.param_groups):
        lr, eps, decay = (_number(group.get(name)) for name in ("lr", "eps", "weight_decay"))
        usual = _usual_eps(kind)  # type: ignore[arg-type]  # a class is hashable, whatever its objects are
        found.append(OptimizerFacts(kind.__name__, lr, eps, usual, decay))
    return tuple(found)


@cache
def _usual_eps(kind: type[Optimizer]) -> float:
    usual = signature(kind).parameters.get("eps")
    return nan if usual is None else _number(usual.default)


def _number(value: Any) -> float:
    found = number(value)
    return nan if found is None else found


def read_dropouts(module: nn.Module) -> dict[str, float]:
    """Return the share that each dropout module takes away, by its name."""
    return {name: part.p for name, part in module.named_modules() if isinstance(part, Dropout) and part.p > 0}
