"""Draw a graph: as SVG with a layout of its own, in Graphviz' language, and as TensorBoard's `GraphDef`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from graphlib import TopologicalSorter
from html import escape
from itertools import pairwise
from math import inf
from posixpath import commonpath
from typing import Any
from zlib import crc32

from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.versions_pb2 import VersionDef

from callbacks.graphs.model import BUFFER, CONSTANT, INPUT, LOSS, OUTPUT, PARAMETER, STEP, Graph, Node, collapse
from callbacks.graphs.patience import Patience

Edge = tuple[str, str]
Place = tuple[float, int]  # x in pixels, and the number of the layer
Paths = dict[Edge, list[Place]]
MOST_BENDS = 50_000  # of arrows around boxes; a cell unrolled over 1500 steps has millions, and they go straight
SWEEPS = 12  # over the layers, down and up in turn, before the order and the places of boxes are taken as they are
GAP, BETWEEN = 26.0, 34.0  # pixels between the boxes of a layer, and between layers
NARROW = 10.0  # width of a place where an arrow passes through a layer
LETTER, LINE = 6.6, 15.0  # width of a letter, height of a line
MARGIN = 16.0
HIDDEN = (BUFFER, CONSTANT)
COLOURS = ("#dbe7f6", "#e2f0dc", "#fbe8d3", "#f6dede", "#e9e1f4", "#d9f0ee", "#f5efcf", "#e8e4de")
PLAIN = {INPUT: "#ffffff", LOSS: "#ffffff", OUTPUT: "#ffffff", PARAMETER: "#f4f4f4"}
PAGE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<style>path{{fill:none;stroke:#8a8a8a;stroke-width:1.2;marker-end:url(#a)}}\
rect{{stroke:#666;stroke-width:.8}}text{{font:11px Helvetica,Arial,sans-serif;text-anchor:middle;fill:#222}}\
.more{{fill:#666}}</style>\
<defs><marker id="a" viewBox="0 0 6 6" refX="1" refY="3" markerWidth="6" markerHeight="6" orient="auto">\
<polygon points="0,0 6,3 0,6" fill="#8a8a8a"/></marker></defs>
<rect width="100%" height="100%" fill="#fff" style="stroke:none"/>
{body}
</svg>
"""


def lay_out(
    widths: Mapping[str, float], edges: Sequence[Edge], patience: Patience | None = None
) -> tuple[dict[str, Place], Paths, int]:
    """Return places for boxes, so that edges lead downwards, few cross, and boxes lie near those they belong to.

    Widths are in pixels, edges from the upper to the lower box. Returned are the middles of the boxes, for each edge
    where it begins, passes the layers between and ends, and the number of layers. When the patience ends, they are
    returned as they are.
    """
    patience = patience or Patience(inf)
    edges = list(dict.fromkeys((a, b) for a, b in edges if a != b))
    upward = _closing(list(widths), edges)
    downward = [(b, a) if (a, b) in upward else (a, b) for a, b in edges]
    layer = _layers(list(widths), downward)
    size = dict(widths)
    chains: dict[Edge, list[str]] = {}
    bends = sum(layer[b] - layer[a] - 1 for a, b in downward) <= MOST_BENDS
    for a, b in downward:
        through = [f"{a}\n{b}\n{level}" for level in range(layer[a] + 1, layer[b])] if bends else []
        for level, name in enumerate(through, start=layer[a] + 1):
            layer[name], size[name] = level, NARROW
        chains[a, b] = [a, *through, b]
    steps = [step for chain in chains.values() for step in pairwise(chain)]
    rows = _ordered(layer, steps, patience)
    x = _spread(rows, size, steps, patience)
    paths = {}
    for edge in edges:
        chain = chains[edge] if edge in chains else chains[edge[1], edge[0]]
        paths[edge] = [(x[name], layer[name]) for name in (chain if edge in chains else reversed(chain))]
    return {name: (x[name], layer[name]) for name in widths}, paths, len(rows)


def _closing(names: Sequence[str], edges: Sequence[Edge]) -> set[Edge]:
    """The edges that close a circle, found by a walk into the depth."""
    _, after = _neighbours(names, edges)
    found: set[Edge] = set()
    state: dict[str, int] = {}  # 1 on the way, 2 done
    for start in names:
        way = [(start, iter(after[start]))] if start not in state else []
        state.setdefault(start, 1)
        while way:
            name, rest = way[-1]
            follower = next(rest, None)
            if follower is None:
                state[name] = 2
                way.pop()
            elif follower not in state:
                state[follower] = 1
                way.append((follower, iter(after[follower])))
            elif state[follower] == 1:
                found.add((name, follower))
    return found


def _layers(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Each box one layer below the lowest that leads to it; what nothing leads to stands just above its reader."""
    before, after = _neighbours(names, edges)
    layer = dict.fromkeys(names, 0)
    for name in TopologicalSorter(before).static_order():
        layer[name] = max((layer[above] + 1 for above in before[name]), default=0)
    for name in names:
        if not before[name] and after[name]:
            layer[name] = min(layer[below] for below in after[name]) - 1
    return layer


def _ordered(layer: Mapping[str, int], steps: Sequence[Edge], patience: Patience) -> list[list[str]]:
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name, level in layer.items():
        rows[level].append(name)
    above, below = _neighbours(layer, steps)
    for sweep in range(SWEEPS):
        if patience.left() <= 0:
            break
        near = above if sweep % 2 == 0 else below
        place = {name: index for row in rows for index, name in enumerate(row)}
        for row in rows if sweep % 2 == 0 else reversed(rows):
            middle = {n: sum(place[m] for m in near[n]) / len(near[n]) if near[n] else place[n] for n in row}
            row.sort(key=middle.__getitem__)
            place.update((name, index) for index, name in enumerate(row))
    return rows


def _neighbours(names: Collection[str], steps: Sequence[Edge]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {name: [] for name in names}
    below: dict[str, list[str]] = {name: [] for name in names}
    for a, b in steps:
        above[b].append(a)
        below[a].append(b)
    return above, below


def _spread(
    rows: Sequence[list[str]], size: Mapping[str, float], steps: Sequence[Edge], patience: Patience
) -> dict[str, float]:
    """Each box near the middle of its neighbours, in the order found, without touching the next one."""
    x: dict[str, float] = {}
    for row in rows:
        _place(row, dict.fromkeys(row, 0.0), size, x)
    above, below = _neighbours(size, steps)
    for sweep in range(SWEEPS):
        if patience.left() <= 0:
            break
        for row in rows if sweep % 2 == 0 else reversed(rows):
            near = {name: above[name] + below[name] if sweep > 3 else (above, below)[sweep % 2][name] for name in row}
            wanted = {n: sum(x[m] for m in near[n]) / len(near[n]) if near[n] else x[n] for n in row}
            _place(row, wanted, size, x)
    left = min((x[name] - size[name] / 2 for name in size), default=0.0)
    return {name: value - left for name, value in x.items()}


def _place(row: Sequence[str], wanted: Mapping[str, float], size: Mapping[str, float], x: dict[str, float]) -> None:
    """Groups of touching boxes lie so that they are where they are wanted on average (pool adjacent violators)."""
    groups: list[tuple[list[str], float, float]] = []  # names, wanted left edge, width
    for name in row:
        width = size[name] + GAP
        groups.append(([name], wanted[name] - width / 2, width))
        while len(groups) > 1 and groups[-2][1] + groups[-2][2] > groups[-1][1]:
            (names, left, wide), (more, right, broad) = groups[-2:]
            share = (left * len(names) + (right - wide) * len(more)) / (len(names) + len(more))
            groups[-2:] = [([*names, *more], share, wide + broad)]
    for names, left, _ in groups:
        for name in names:
            x[name] = left + (size[name] + GAP) / 2
            left += size[name] + GAP


def to_dot(graph: Graph, depth: int | None = None) -> str:
    """Return the graph in Graphviz' language, modules as clusters; `depth` as in `to_svg`."""
    seen = _visible(collapse(graph, depth))
    lines = ["digraph {", '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=10];']
    lines += _clusters(seen.nodes, "", 1)
    for node in seen.nodes:
        lines += [f"  {_quoted(source)} -> {_quoted(node.name)};" for source in dict.fromkeys(node.sources)]
    return "\n".join([*lines, "}", ""])


def _clusters(nodes: Iterable[Node], scope: str, level: int) -> list[str]:
    indent, lines = "  " * level, []
    inside: dict[str, list[Node]] = {}
    for node in nodes:
        rest = node.name.removeprefix(f"{scope}/") if scope else node.name
        head, below, _ = rest.partition("/")
        if below:
            inside.setdefault(f"{scope}/{head}" if scope else head, []).append(node)
        else:
            label = "\\n".join(_quoted(text)[1:-1] for text in _label(node, head))
            lines.append(f'{indent}{_quoted(node.name)} [label="{label}", fillcolor="{_colour(node)}"];')
    for name, members in inside.items():
        lines.append(f"{indent}subgraph {_quoted(f'cluster {name}')} {{")
        lines.append(f"{indent}  label={_quoted(name.rpartition('/')[2])};")
        lines += [*_clusters(members, name, level + 1), f"{indent}}}"]
    return lines


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def to_svg(graph: Graph, depth: int | None = None, patience: Patience | None = None) -> str:
    """Return the graph as the content of an SVG file: a box for each innermost module, data from top to bottom.

    `depth` is the levels of modules to keep apart, none for all; when the patience ends, boxes are no longer moved to
    better places. The file needs no other one.
    """
    seen = _visible(collapse(graph, depth))
    labels = _labels(seen.nodes)
    widths = {name: max(len(text) for text in label) * LETTER + 18 for name, label in labels.items()}
    heights = {name: len(label) * LINE + 8 for name, label in labels.items()}
    centres, paths, layers = lay_out(widths, seen.edges(), patience)
    tall = [0.0] * layers
    for name, (_, layer) in centres.items():
        tall[layer] = max(tall[layer], heights[name])
    y = [MARGIN + sum(tall[:at]) + BETWEEN * at + tall[at] / 2 for at in range(layers)]
    parts = []
    for (source, reader), path in paths.items():
        down = 1 if path[-1][1] >= path[0][1] else -1
        (x, start), *between, (to_x, end) = ((x + MARGIN, y[layer]) for x, layer in path)
        start, end = start + down * heights[source] / 2, end - down * (heights[reader] / 2 + 5)
        parts.append(f'<path d="{_curve([(x, start), *between, (to_x, end)])}"/>')
    for node in seen.nodes:
        x, layer = centres[node.name]
        parts += _box(node, labels[node.name], x + MARGIN, y[layer], widths[node.name], heights[node.name])
    ends = [centres[name][0] + width / 2 for name, width in widths.items()]
    right = max([0.0, *ends, *(x for path in paths.values() for x, _ in path)])
    bottom = sum(tall) + BETWEEN * max(layers - 1, 0)
    width, height = f"{right + 2 * MARGIN:.0f}", f"{bottom + 2 * MARGIN:.0f}"
    return PAGE.format(width=width, height=height, body="\n".join(parts))


def _box(node: Node, label: list[str], x: float, y: float, width: float, height: float) -> list[str]:
    corner = 12 if node.op in PLAIN else 4
    place = f'x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}"'
    lines = [f'<rect {place} rx="{corner}" fill="{_colour(node)}"/>']
    for index, text in enumerate(label):
        down = y - height / 2 + 4 + LINE * (index + 0.75)
        more = ' class="more"' if index else ""
        lines.append(f'<text x="{x:.1f}" y="{down:.1f}"{more}>{escape(text)}</text>')
    return lines


def _curve(points: list[tuple[float, float]]) -> str:
    """A line through points that leaves and enters each of them vertically."""
    drawn = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for (x, y), (to_x, to_y) in pairwise(points):
        middle = (y + to_y) / 2
        drawn += f" C{x:.1f},{middle:.1f} {to_x:.1f},{middle:.1f} {to_x:.1f},{to_y:.1f}"
    return drawn


def _visible(graph: Graph) -> Graph:
    hidden = {node.name for node in graph.nodes if node.op in HIDDEN}
    kept = [node for node in graph.nodes if node.name not in hidden]
    nodes = (replace(node, inputs=tuple(s for s in node.sources if s not in hidden)) for node in kept)
    return replace(graph, nodes=tuple(nodes))


def _labels(nodes: Iterable[Node], longest: int = 30) -> dict[str, list[str]]:
    """The lines in each box; names are short, and without the scope that all have in common."""
    scopes = [node.scope for node in nodes if node.scope and not node.name.startswith(f"{STEP}/")]
    common = f"{commonpath(scopes)}/" if scopes else ""
    labels = {}
    for node in nodes:
        name = node.name.removeprefix(common)
        labels[node.name] = _label(node, name if len(name) <= longest else "…" + name[1 - longest :])
    return labels


def _label(node: Node, title: str) -> list[str]:
    """Its name; what it is, if that says more; the shape of its result and the number of its parameters."""
    lines = [f"{title} {node.op}" if title.rpartition("/")[2].isdigit() else title]  # a module in a row of them
    if node.op.lower() not in lines[0].lower():
        lines.append(node.op)
    shapes = [shape for shape in node.shapes[:1] if shape is not None]
    facts = [" × ".join("?" if size < 0 else str(size) for size in shape) or "scalar" for shape in shapes]
    facts += [f"{int(value):,} parameters" for key, value in node.attributes if key == "parameters"]
    return [*lines, *([" · ".join(facts)] if facts else [])]


def _colour(node: Node) -> str:
    """The same for what does the same."""
    return PLAIN.get(node.op) or COLOURS[crc32(node.op.encode()) % len(COLOURS)]


def to_graph_def(graph: Graph) -> Any:
    """Return the graph as a `GraphDef`: scopes as it names them, a number with its module's class (`net/Linear[0]`).

    Shapes stand in the attribute `_output_shapes`, from where TensorBoard takes what it writes on the edges.
    """
    titles = {}
    for scope, cls in graph.modules.items():
        label = scope.rpartition("/")[2]
        titles[scope] = f"{cls}[{label}]" if label.replace("_", "").isdigit() else label
    titled = {}
    for node in graph.nodes:
        *parts, label = node.name.split("/")
        titled[node.name] = "/".join([*map(titles.get, node.scopes, parts), label])
    nodes = [_node_def(node, titled) for node in graph.nodes]
    return GraphDef(node=nodes, versions=VersionDef(producer=22))  # 22: what torch's own writer says


def _node_def(node: Node, titled: Mapping[str, str]) -> Any:
    attributes = {key: AttrValue(s=value.encode()) for key, value in node.attributes}
    if any(shape is not None for shape in node.shapes):
        sizes = [[TensorShapeProto.Dim(size=extent) for extent in shape or ()] for shape in node.shapes]
        shapes = [TensorShapeProto(dim=s, unknown_rank=n is None) for s, n in zip(sizes, node.shapes, strict=True)]
        attributes["_output_shapes"] = AttrValue(list=AttrValue.ListValue(shape=shapes))
    if node.dtype:
        attributes["dtype"] = AttrValue(s=node.dtype.encode())
    sources = [source.partition(":") for source in node.inputs]
    inputs = [titled[name] + colon + number for name, colon, number in sources]
    # TensorBoard draws a Const as a small mark beside its reader.
    op = "Const" if node.op == CONSTANT else node.op
    return NodeDef(name=titled[node.name], op=op, input=inputs, attr=attributes)
