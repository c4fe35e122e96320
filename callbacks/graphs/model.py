"""What a compute graph is: named nodes, the modules they belong to, and how to see it from farther away."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

Shape = tuple[int, ...]

PARAMETER, BUFFER, INPUT, OUTPUT, CONSTANT = "Parameter", "Buffer", "Input", "Output", "Constant"
ACCUMULATE, LOSS = "AccumulateGrad", "Loss"


@dataclass(frozen=True)
class Node:
    """A computation, or something that goes into it.

    Args:
        name: Path of the module it belongs to and a label, with slashes: `net/0/linear`.
        op: What it does: `linear`, `relu`, or one of Parameter, Buffer, Input, Output, Constant, AccumulateGrad, Loss.
        inputs: Names of the nodes it reads; `name:1` is the second result of `name`.
        shapes: Of each of its results; none where it is not known.
        dtype: Of its first result, e.g. `float32`.
        attributes: What else is known, by name.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    shapes: tuple[Shape | None, ...] = ()
    dtype: str = ""
    attributes: tuple[tuple[str, str], ...] = ()

    @property
    def scope(self) -> str:
        """The path without the label; empty outside of all modules."""
        return self.name.rpartition("/")[0]

    @property
    def sources(self) -> tuple[str, ...]:
        """The nodes it reads, whichever of their results."""
        return tuple(source.partition(":")[0] for source in self.inputs)


@dataclass(frozen=True)
class Graph:
    """A compute graph.

    Args:
        nodes: In no particular order.
        modules: Class of the module behind each scope, e.g. `{"net/0": "Linear"}`.
        origin: How it was made, e.g. `torch.export`.
        note: Why it was not made in a better way; empty where it was.
    """

    nodes: tuple[Node, ...]
    modules: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""
    note: str = ""

    def edges(self) -> list[tuple[str, str]]:
        """Pairs of names: from the node that computes to the one that reads."""
        return [(source, node.name) for node in self.nodes for source in node.sources]

    def of(self, op: str) -> list[Node]:
        """The nodes of one kind."""
        return [node for node in self.nodes if node.op == op]


class Draft:
    """A graph in the making: gives every node a name of its own.

    Args:
        modules: Class of each module by its scope.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self.modules = dict(modules)
        self._nodes: dict[str, Node] = {}
        self._taken: Counter[str] = Counter()
        self._calls: set[str] = set()  # scopes of second and later calls

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, scope: str, label: str, node: Node) -> str:
        """Take a node in, under `scope/label` or, where that is taken, `scope/label_1`; return its name."""
        wanted = f"{scope}/{label}" if scope else label
        name = wanted
        while name in self._nodes or name in self.modules:  # a node and a scope of one name cannot be told apart
            self._taken[wanted] += 1
            name = f"{wanted}_{self._taken[wanted]}"
        self._nodes[name] = replace(node, name=name)
        return name

    def connect(self, name: str, inputs: tuple[str, ...]) -> None:
        """Say what a node reads, which was not known before."""
        self._nodes[name] = replace(self._nodes[name], inputs=inputs)

    def call_scope(self, scope: str, count: int, cls: str) -> str:
        """A scope for the nodes of a module's call; the second call gets one of its own, `scope_1`."""
        if count:
            plain = f"{scope}_{count}"
            scope = plain if plain not in self.modules or plain in self._calls else f"{scope}_call_{count}"
            self._calls.add(scope)
        self.modules.setdefault(scope, cls)
        return scope

    def last_in(self, scope: str) -> str | None:
        """The node that was added last to a scope or those inside it."""
        inside = [name for name, node in self._nodes.items() if name.startswith(f"{scope}/") and node.inputs]
        return inside[-1] if inside else None

    def graph(self, origin: str, note: str = "") -> Graph:
        """The finished graph: what leads nowhere is left out, and so are modules without a node."""
        nodes = _useful(self._nodes)
        used = {scope for name in nodes for scope in scopes_of(name)}
        modules = {scope: cls for scope, cls in self.modules.items() if scope in used}
        return Graph(tuple(nodes.values()), modules, origin, note)


def scopes_of(name: str) -> list[str]:
    """All the scopes that a node is in, outermost first."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _useful(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """Those that an output or a gradient's end needs, and the inputs."""
    wanted = [node.name for node in nodes.values() if node.op in (OUTPUT, ACCUMULATE, INPUT)]
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in seen:
            seen.add(name)
            wanted.extend(nodes[name].sources)
    return {name: node for name, node in nodes.items() if name in seen}


def collapse(graph: Graph, depth: int | None = None) -> Graph:
    """The graph with each innermost module, or each module `depth` levels deep, as one node.

    Args:
        graph: The whole graph.
        depth: Levels of modules to keep apart; none keeps all of them, and hides only what is inside a module none of
            whose own modules computes anything.

    Returns:
        A graph whose boxes have the module's class as `op`, its results' shapes and its number of `parameters`.
    """
    computing = {node.scope for node in graph.nodes if node.op not in (PARAMETER, BUFFER, ACCUMULATE)}
    parents = {outer for scope in computing for outer in scopes_of(scope)}

    def box(node: Node) -> str:
        for level, scope in enumerate(scopes_of(node.name), start=1):
            if scope in graph.modules and (level == depth or scope not in parents):
                return scope
        return node.name

    home = {node.name: box(node) for node in graph.nodes}
    inside: dict[str, list[Node]] = {}
    for node in graph.nodes:
        inside.setdefault(home[node.name], []).append(node)
    leaving = _leaving(graph, home)
    nodes = (_box(graph, name, members, home, leaving) for name, members in inside.items())
    return Graph(tuple(nodes), graph.modules, graph.origin, graph.note)


def _leaving(graph: Graph, home: Mapping[str, str]) -> dict[str, dict[str, Shape | None]]:
    """For each box the results that others read, by name and number, with their shapes."""
    shapes = {node.name: node.shapes for node in graph.nodes}
    found: dict[str, dict[str, Shape | None]] = {}
    for node in graph.nodes:
        for port in node.inputs:
            source, _, number = port.partition(":")
            if home[source] != home[node.name]:
                index = int(number or 0)
                known = shapes[source][index] if index < len(shapes[source]) else None
                found.setdefault(home[source], {})[port] = known
    return found


def _box(
    graph: Graph,
    name: str,
    members: list[Node],
    home: Mapping[str, str],
    leaving: Mapping[str, Mapping[str, Shape | None]],
) -> Node:
    if name not in graph.modules:
        (node,) = members
        return replace(node, inputs=_other(node.inputs, name, home))
    count = sum(_size(shape) for n in members if n.op in (PARAMETER, ACCUMULATE) for shape in n.shapes if shape)
    return Node(
        name,
        graph.modules[name],
        tuple(dict.fromkeys(source for n in members for source in _other(n.inputs, name, home))),
        tuple(shape for shape in leaving.get(name, {}).values() if shape is not None),
        attributes=(("parameters", str(count)),) if count else (),
    )


def _other(inputs: Iterable[str], name: str, home: Mapping[str, str]) -> tuple[str, ...]:
    found = (home[source.partition(":")[0]] for source in inputs)
    return tuple(dict.fromkeys(source for source in found if source != name))


def _size(shape: Shape) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
