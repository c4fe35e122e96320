"""A graph as text for Graphviz and as an SVG picture, without Graphviz."""

from collections.abc import Iterable
from html import escape
from itertools import pairwise
from zlib import crc32

from callbacks._graph import BUFFER, CONSTANT, INPUT, LOSS, OUTPUT, PARAMETER, Graph, Node, Shape, collapse
from callbacks._graph_layout import Layout, lay_out

LETTER, LINE, BETWEEN = 6.6, 15.0, 34.0  # pixels: width of a letter, height of a line, from layer to layer
MARGIN = 16.0
HIDDEN = (BUFFER, CONSTANT)
COLOURS = ("#dbe7f6", "#e2f0dc", "#fbe8d3", "#f6dede", "#e9e1f4", "#d9f0ee", "#f5efcf", "#e8e4de")
PLAIN = {INPUT: "#ffffff", LOSS: "#ffffff", OUTPUT: "#ffffff", PARAMETER: "#f4f4f4"}


def to_dot(graph: Graph, depth: int | None = None) -> str:
    """The graph in Graphviz' language, modules as clusters.

    Args:
        graph: Forward or backward.
        depth: Levels of modules to keep apart; none for all. Each innermost one is a box.
    """
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
            label = "\\n".join(_escaped(text) for text in _label(node, head))
            lines.append(f'{indent}{_quoted(node.name)} [label="{label}", fillcolor="{_colour(node)}"];')
    for name, members in inside.items():
        lines.append(f"{indent}subgraph {_quoted(f'cluster {name}')} {{")
        lines.append(f"{indent}  label={_quoted(name.rpartition('/')[2])};")
        lines += [*_clusters(members, name, level + 1), f"{indent}}}"]
    return lines


def to_svg(graph: Graph, depth: int | None = None) -> str:
    """The graph as a picture: a box for each module, data from top to bottom.

    Args:
        graph: Forward or backward.
        depth: Levels of modules to keep apart; none for all. Each innermost one is a box.

    Returns:
        The content of an SVG file, which needs no other file.
    """
    seen = _visible(collapse(graph, depth))
    common = _common([node.name for node in seen.nodes if "/" in node.name])
    labels = {node.name: _label(node, _short(node.name.removeprefix(common))) for node in seen.nodes}
    widths = {name: max(len(text) for text in label) * LETTER + 18 for name, label in labels.items()}
    layout = lay_out(widths, seen.edges())
    height = {name: len(label) * LINE + 8 for name, label in labels.items()}
    y, bottom = _levels(layout, height)
    parts = []
    for (source, reader), path in layout.paths.items():
        points = [(x + MARGIN, y[layer]) for x, layer in path]
        down = path[-1][1] >= path[0][1]
        points[0] = (points[0][0], points[0][1] + (height[source] / 2 if down else -height[source] / 2))
        points[-1] = (points[-1][0], points[-1][1] - (height[reader] / 2 + 5 if down else -height[reader] / 2 - 5))
        parts.append(f'<path d="{_curve(points)}"/>')
    boxes = []
    for node in seen.nodes:
        x, layer = layout.centres[node.name]
        boxes += _box(node, labels[node.name], x + MARGIN, y[layer], widths[node.name])
    wide = max((layout.centres[name][0] + width / 2 for name, width in widths.items()), default=0.0)
    through = max((x for path in layout.paths.values() for x, _ in path), default=0.0)
    return _page(max(wide, through) + 2 * MARGIN, bottom, [*parts, *boxes])


def _levels(layout: Layout, height: dict[str, float]) -> tuple[list[float], float]:
    """y of the middle of each layer, and the height of the page."""
    tall = [0.0] * layout.layers
    for name, (_, layer) in layout.centres.items():
        tall[layer] = max(tall[layer], height[name])
    middles = [MARGIN + sum(tall[:at]) + BETWEEN * at + tall[at] / 2 for at in range(layout.layers)]
    return middles, sum(tall) + BETWEEN * max(layout.layers - 1, 0) + 2 * MARGIN


def _page(width: float, height: float, parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
    style = (
        "path{fill:none;stroke:#8a8a8a;stroke-width:1.2;marker-end:url(#a)}"
        "rect{stroke:#666;stroke-width:.8}text{font:11px Helvetica,Arial,sans-serif;text-anchor:middle;fill:#222}"
        ".more{fill:#666}"
    )
    arrow = '<marker id="a" viewBox="0 0 6 6" refX="1" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
    arrow += '<polygon points="0,0 6,3 0,6" fill="#8a8a8a"/></marker>'
    ground = '<rect width="100%" height="100%" fill="#fff" style="stroke:none"/>'
    body = "\n".join(parts)
    return f'{head} height="{height:.0f}">\n<style>{style}</style><defs>{arrow}</defs>\n{ground}\n{body}\n</svg>\n'


def _box(node: Node, label: list[str], x: float, y: float, width: float) -> list[str]:
    height = len(label) * LINE + 8
    round_ = 12 if node.op in PLAIN else 4
    place = f'x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}"'
    lines = [f'<rect {place} rx="{round_}" fill="{_colour(node)}"/>']
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
    nodes = tuple(
        Node(n.name, n.op, tuple(s for s in n.sources if s not in hidden), n.shapes, n.dtype, n.attributes)
        for n in kept
    )
    return Graph(nodes, graph.modules, graph.origin, graph.note)


def _label(node: Node, title: str) -> list[str]:
    """Its name; what it is, if that says more; the shape of its result and the number of its parameters."""
    lines = [f"{title} {node.op}" if title.rpartition("/")[2].isdigit() else title]  # a module in a row of them
    if node.op.lower() not in lines[0].lower():
        lines.append(node.op)
    facts = [_shape(shape) for shape in node.shapes[:1] if shape is not None]
    facts += [f"{int(value):,} parameters" for key, value in node.attributes if key == "parameters"]
    return [*lines, *([" · ".join(facts)] if facts else [])]


def _shape(shape: Shape) -> str:
    return " × ".join("?" if extent < 0 else str(extent) for extent in shape) if shape else "scalar"


def _short(name: str, longest: int = 30) -> str:
    return name if len(name) <= longest else "…" + name[1 - longest :]


def _common(names: list[str]) -> str:
    """The scope that all have in common, with its slash."""
    paths = [name.split("/")[:-1] for name in names if not name.startswith("training_step/")]
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return "/".join([*common, ""]) if common else ""


def _colour(node: Node) -> str:
    """The same for what does the same."""
    return PLAIN.get(node.op) or COLOURS[crc32(node.op.encode()) % len(COLOURS)]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'
