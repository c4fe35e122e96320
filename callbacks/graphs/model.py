"""What a compute graph is: named nodes and the modules they belong to; how it is put together, and seen from afar."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from torch import Tensor, nn

from callbacks.graphs.calls import TensorRecord, flatten
from callbacks.readers.autograd import unwrapped_name

Shape = tuple[int, ...]
Shapes = tuple[Shape | None, ...]
Names = tuple[str, ...]
Facts = tuple[tuple[str, str], ...]

PARAMETER, BUFFER, INPUT, OUTPUT, CONSTANT = "Parameter", "Buffer", "Input", "Output", "Constant"
ACCUMULATE, LOSS = "AccumulateGrad", "Loss"
STEP = "training_step"  # scope of what the step does itself


@dataclass(frozen=True)
class Node:
    """A computation, or something that goes into it."""

    name: str  # path of the module it belongs to and a label, with slashes: `net/0/linear`
    op: str  # `linear`, `relu`, or one of Parameter, Buffer, Input, Output, Constant, AccumulateGrad, Loss
    inputs: Names = ()  # names of the nodes it reads; `name:1` is the second result of `name`
    shapes: Shapes = ()  # of each of its results; none where it is not known
    dtype: str = ""  # of its first result, e.g. `float32`
    attributes: Facts = ()  # what else is known, by name

    @property
    def scope(self) -> str:
        """The path without the label; empty outside of all modules."""
        return self.name.rpartition("/")[0]

    @property
    def scopes(self) -> list[str]:
        """All the scopes that it is in, outermost first."""
        parts = self.name.split("/")
        return ["/".join(parts[:end]) for end in range(1, len(parts))]

    @property
    def sources(self) -> Names:
        """The nodes it reads, whichever of their results."""
        return tuple(source.partition(":")[0] for source in self.inputs)


@dataclass(frozen=True)
class Graph:
    """A compute graph."""

    nodes: tuple[Node, ...]  # in no particular order
    modules: Mapping[str, str] = field(default_factory=dict)  # the class behind each scope: `{"net/0": "Linear"}`
    origin: str = ""  # how it was made, e.g. `torch.export`
    note: str = ""  # why it was not made in a better way; empty where it was

    def edges(self) -> list[tuple[str, str]]:
        """Return pairs of names: from the node that computes to the one that reads."""
        return [(source, node.name) for node in self.nodes for source in node.sources]

    def of(self, op: str) -> list[Node]:
        """Return the nodes of one kind."""
        return [node for node in self.nodes if node.op == op]


def shapes_of(value: Any) -> tuple[Shapes, str]:
    """Return the shapes of the tensors in a nest, extents that depend on data as -1, and the type of the first."""
    shapes: list[Shape | None] = []
    dtype = ""
    for _, leaf in flatten(value):
        is_tensor = isinstance(leaf, Tensor | TensorRecord)
        shapes.append(tuple(size if isinstance(size, int) else -1 for size in leaf.shape) if is_tensor else None)
        dtype = dtype or (str(leaf.dtype).removeprefix("torch.") if is_tensor else "")
    return tuple(shapes), dtype


def path_of(name: str) -> str:
    """Return a name as a path with slashes; what means something else in a graph becomes an underscore."""
    return re.sub(r"[^\w/-]+", "_", name.replace(".", "/"))


class GraphDraft:
    """A graph that nodes are still added to; each gets a name of its own, from the parts and tensors of a module."""

    def __init__(self, root: nn.Module) -> None:
        named = [(unwrapped_name(name), part) for name, part in root.named_modules(remove_duplicate=False)]
        self._modules = {path_of(name): type(part).__name__ for name, part in named if name}
        self._nodes: dict[str, Node] = {}
        self._taken: Counter[str] = Counter()
        self._calls: set[str] = set()  # scopes of second and later calls
        # Parameters and buffers by what they are, so that one with two names is one node.
        self._tensors: dict[int, tuple[str, str, Tensor]] = {}
        self._tensor_nodes: dict[int, str] = {}
        for kind, tensors in ((BUFFER, root.named_buffers()), (PARAMETER, root.named_parameters())):
            for name, tensor in tensors:
                self._tensors[id(tensor)] = (kind, unwrapped_name(name), tensor)

    def name_of(self, tensor: Tensor) -> str:
        """Return the first name of a parameter or buffer; of other tensors an empty one."""
        return self._tensors.get(id(tensor), ("", "", tensor))[1]

    def add_tensor(self, tensor: Tensor, scope: str) -> str:
        """Return the node of a tensor, added when it is first asked for; a stranger becomes a constant in `scope`."""
        if id(tensor) not in self._tensor_nodes:
            stranger = (CONSTANT, f"{scope}.constant".lstrip("."), tensor)
            kind, name, _ = self._tensors.setdefault(id(tensor), stranger)
            home, _, label = name.rpartition(".")
            known = ((kind.lower(), name),) if kind != CONSTANT else ()
            self._tensor_nodes[id(tensor)] = self.add(home, label, kind, (), *shapes_of(tensor), known)
        return self._tensor_nodes[id(tensor)]

    def add(
        self, scope: str, label: str, op: str, feeds: Names = (), shapes: Shapes = (), dtype: str = "", more: Facts = ()
    ) -> str:
        """Add a node under `scope/label` or, where that is taken, `scope/label_1`, and return its name.

        The scope may be a module's name with dots; the other arguments are those of `Node`.
        """
        label = path_of(label).replace("/", "_")
        wanted = name = f"{path_of(scope)}/{label}" if scope else label
        while name in self._nodes or name in self._modules:  # a node and a scope of one name cannot be told apart
            self._taken[wanted] += 1
            name = f"{wanted}_{self._taken[wanted]}"
        self._nodes[name] = Node(name, op, feeds, shapes, dtype, more)
        return name

    def connect(self, name: str, inputs: tuple[str, ...]) -> None:
        """Set what a node reads, where that was not known when it was added."""
        self._nodes[name] = replace(self._nodes[name], inputs=inputs)

    def scope_of_call(self, module: str, count: int, cls: str) -> str:
        """Return the scope for the nodes of the call of a module, whose name has dots or slashes.

        The outermost has an empty name and no scope. From the second call on the scope is one of its own, `scope_1`.
        """
        scope = path_of(module)
        if scope and count:
            numbered = f"{scope}_{count}"
            is_free = numbered not in self._modules or numbered in self._calls
            scope = numbered if is_free else f"{scope}_call_{count}"
            self._calls.add(scope)
        if scope:
            self._modules.setdefault(scope, cls)
        return scope

    def last_in(self, scope: str) -> str | None:
        """Return the node that was added last to a scope or those inside it, of those that read something."""
        scope = f"{path_of(scope)}/"
        inside = [name for name, node in self._nodes.items() if name.startswith(scope) and node.inputs]
        return inside[-1] if inside else None

    def freeze(self, origin: str, note: str = "") -> Graph:
        """Return the finished graph, without nodes that lead nowhere and modules without a node."""
        waiting = [node.name for node in self._nodes.values() if node.op in (OUTPUT, ACCUMULATE, INPUT)]
        needed: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed.add(name)
                waiting.extend(self._nodes[name].sources)
        nodes = tuple(node for name, node in self._nodes.items() if name in needed)
        used = {scope for node in nodes for scope in node.scopes}
        return Graph(nodes, {scope: cls for scope, cls in self._modules.items() if scope in used}, origin, note)


def collapse(graph: Graph, depth: int | None = None) -> Graph:
    """Return the graph with each innermost module, or each module `depth` levels deep, as one node.

    Without `depth` all levels are kept apart, and only what is inside a module none of whose own modules computes
    anything is hidden. A box has the module's class as `op`, its results' shapes and its number of `parameters`.
    """
    computing = (node for node in graph.nodes if node.op not in (PARAMETER, BUFFER, ACCUMULATE))
    parents = {outer for node in computing for outer in node.scopes[:-1]}

    def box_around(node: Node) -> str:
        for level, scope in enumerate(node.scopes, start=1):
            if scope in graph.modules and (level == depth or scope not in parents):
                return scope
        return node.name

    boxes, members = {}, dict[str, list[Node]]()
    for node in graph.nodes:
        boxes[node.name] = box_around(node)
        members.setdefault(boxes[node.name], []).append(node)
    shapes = _shapes_read_outside(graph, boxes)
    nodes = []
    for name, inside in members.items():
        sources = dict.fromkeys(boxes[source] for node in inside for source in node.sources)
        inputs = tuple(source for source in sources if source != name)
        if name not in graph.modules:
            nodes.append(replace(inside[0], inputs=inputs))
            continue
        owned = [shape for node in inside if node.op in (PARAMETER, ACCUMULATE) for shape in node.shapes if shape]
        size = sum(prod(shape) for shape in owned)
        attributes = (("parameters", str(size)),) if size else ()
        nodes.append(Node(name, graph.modules[name], inputs, shapes.get(name, ()), attributes=attributes))
    return replace(graph, nodes=tuple(nodes))


def _shapes_read_outside(graph: Graph, boxes: Mapping[str, str]) -> dict[str, tuple[Shape, ...]]:
    """For each box the shapes of those results that nodes outside of it read, as far as they are known."""
    shapes = {node.name: node.shapes for node in graph.nodes}
    found: dict[str, dict[str, Shape]] = {}
    for node in graph.nodes:
        for result in node.inputs:
            source, _, number = result.partition(":")
            known = dict(enumerate(shapes[source])).get(int(number or 0))
            if boxes[source] != boxes[node.name] and known is not None:
                found.setdefault(boxes[source], {})[result] = known
    return {box: tuple(results.values()) for box, results in found.items()}
