"""Reads the network behind a loss from the autograd graph, and the state of its batch norms, into plain facts."""

from typing import Any

from torch import Tensor, nn

from callbacks._head_facts import AFFINE, MOVES, BatchNorm, Layer, Structure
from callbacks._loss_reading import data_input, name_of

MOST_NODES = 5000  # an unrolled sequence or a very deep net; then nothing is said of the structure
LONGEST_PATH = 16  # operations between two layers
NORMS = frozenset({"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "NativeLayerNorm", "NativeGroupNorm"})
BATCH_NORMS = frozenset({"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"})
POOLS = frozenset({"MaxPool1DWithIndices", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D"})
SCALES = frozenset({"Mean", "Sum", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "ConstantPadNd", "NativeDropout"})
PASSES = MOVES | NORMS | POOLS | SCALES
LINEAR = MOVES | AFFINE | BATCH_NORMS | SCALES | {"AccumulateGrad", "Expand", "Neg"}
ONE_INPUT = frozenset({"Mul", "Div", "Add", "Sub"})  # with a constant, e.g. dropout's mask


def read_structure(loss: Tensor) -> Structure:
    """The affine layers behind a loss, last first, and what feeds each; nothing of graphs that are too large."""
    nodes = _nodes(loss.grad_fn)
    if nodes is None:
        return Structure()
    affine = [node for node in nodes if name_of(node) in AFFINE and _has_parameter(node)]
    if not affine:
        return Structure()
    layers = [_layer(node) for node in affine]
    inner = _below(affine)
    linear = all(_is_linear(node) for node in inner)
    normed = any(name_of(node) in NORMS for node in nodes)
    skips = any(name_of(node) in ("Add", "Cat", "Stack") and _trained_inputs(node) > 1 for node in inner)
    return Structure(tuple(layers), linear, normed, skips)


def _nodes(root: Any) -> list[Any] | None:
    """All nodes, nearest to the loss first; None if there are too many."""
    found: dict[Any, None] = {root: None}
    todo = [root]
    while todo:
        following = []
        for node in todo:
            for below, _ in node.next_functions:
                if below is not None and below not in found:
                    found[below] = None
                    following.append(below)
        if len(found) > MOST_NODES:
            return None
        todo = following
    return list(found)


def _below(affine: list[Any]) -> list[Any]:
    """The nodes that feed affine layers: the network without its head and loss."""
    found: dict[Any, None] = {}
    for layer in affine:
        node = data_input(layer)
        todo = [node] if node is not None and node not in found else []
        while todo:
            node = todo.pop()
            found[node] = None
            todo += [below for below, _ in node.next_functions if below is not None and below not in found]
    return list(found)


def _has_parameter(node: Any) -> bool:
    """Whether an operation's weights are a parameter, so that it is a layer; a product of activations is none."""
    for below, _ in node.next_functions:
        for _ in range(3):  # a transposed or cast weight
            if below is None:
                break
            if name_of(below) == "AccumulateGrad":
                return True
            below = below.next_functions[0][0] if name_of(below) in MOVES and below.next_functions else None
    return False


def _trained_inputs(node: Any) -> int:
    return sum(below is not None for below, _ in node.next_functions)


def _is_linear(node: Any) -> bool:
    name = name_of(node)
    return name in LINEAR or (name in ONE_INPUT and _trained_inputs(node) == 1) or name == "Add"


def _layer(node: Any) -> Layer:
    sizes = getattr(node, "_saved_mat2_sym_sizes", None)
    inputs, outputs = (int(sizes[0]), int(sizes[1])) if sizes is not None and len(sizes) == 2 else (0, 0)
    convolution, normed, fed_by = "Convolution" in name_of(node), False, "?"
    node = data_input(node)
    for _ in range(LONGEST_PATH):
        if node is None:
            fed_by = "input"
            break
        name = name_of(node)
        if name in AFFINE:
            fed_by = "affine"
            break
        normed = normed or name in NORMS
        if not (name in PASSES or (name in ONE_INPUT and _trained_inputs(node) == 1)):
            fed_by = name if _trained_inputs(node) == 1 else "?"
            break
        node = node.next_functions[0][0] if name in NORMS else _only_input(node)
    return Layer(convolution, fed_by, normed, inputs, outputs)


def _only_input(node: Any) -> Any:
    return next((below for below, _ in node.next_functions if below is not None), None)


def read_batch_norms(module: nn.Module, *, fresh: bool) -> list[BatchNorm]:
    """The batch norms of a module; `fresh` also reads whether their running statistics ever moved, which waits."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return [
        BatchNorm(
            name,
            layer.training,
            layer.running_mean is not None,
            layer.momentum,
            fresh and _is_fresh(layer),
            layer.weight is not None and layer.weight.requires_grad,
        )
        for name, layer in module.named_modules()
        if isinstance(layer, kinds)
    ]


def _is_fresh(layer: Any) -> bool:
    mean, variance = layer.running_mean, layer.running_var
    return mean is not None and bool((mean == 0).all() & (variance == 1).all())
