"""Where the boxes of a graph go on a page: in layers, so that arrows point down and cross little.

The four steps of Sugiyama, Tagawa and Toda, Methods for Visual Understanding of Hierarchical System Structures (1981):
break the circles, put nodes into layers, order each layer by its neighbours' middle, and move them apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Edge = tuple[str, str]
SWEEPS = 12
GAP = 26.0  # pixels between boxes of a layer
NARROW = 10.0  # width of a place where an arrow passes through a layer


@dataclass(frozen=True)
class Layout:
    """Places on a page.

    Args:
        centres: x of the middle of each box and the number of its layer.
        paths: For each edge the x of its ends and of every layer it passes, from the upper to the lower box.
        layers: How many there are.
    """

    centres: Mapping[str, tuple[float, int]]
    paths: Mapping[Edge, list[tuple[float, int]]]
    layers: int


def lay_out(widths: Mapping[str, float], edges: Sequence[Edge]) -> Layout:
    """Find places for boxes.

    Args:
        widths: Width of each box by its name, in pixels.
        edges: From the upper to the lower box.
    """
    edges = list(dict.fromkeys((a, b) for a, b in edges if a != b))
    backward = _closing(list(widths), edges)
    downward = [(b, a) if (a, b) in backward else (a, b) for a, b in edges]
    layer = _layers(list(widths), downward)
    size = dict(widths)
    chains: dict[Edge, list[str]] = {}
    for a, b in downward:
        through = [f"{a}\n{b}\n{level}" for level in range(layer[a] + 1, layer[b])]
        for level, name in enumerate(through, start=layer[a] + 1):
            layer[name], size[name] = level, NARROW
        chains[a, b] = [a, *through, b]
    steps = [step for chain in chains.values() for step in pairwise(chain)]
    rows = _ordered(layer, steps)
    x = _spread(rows, size, steps)
    paths = {}
    for edge in edges:
        chain = chains[edge] if edge in chains else chains[edge[1], edge[0]]
        paths[edge] = [(x[name], layer[name]) for name in (chain if edge in chains else reversed(chain))]
    return Layout({name: (x[name], layer[name]) for name in widths}, paths, len(rows))


def _closing(names: Sequence[str], edges: Sequence[Edge]) -> set[Edge]:
    """The edges that close a circle, found by a walk into the depth."""
    after: dict[str, list[str]] = {name: [] for name in names}
    for a, b in edges:
        after[a].append(b)
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
    before: dict[str, list[str]] = {name: [] for name in names}
    after: dict[str, list[str]] = {name: [] for name in names}
    for a, b in edges:
        before[b].append(a)
        after[a].append(b)
    lacking = {name: len(before[name]) for name in names}
    ready = [name for name in names if not lacking[name]]
    layer = dict.fromkeys(names, 0)
    for name in ready:  # grows while it is read
        for follower in after[name]:
            layer[follower] = max(layer[follower], layer[name] + 1)
            lacking[follower] -= 1
            if not lacking[follower]:
                ready.append(follower)
    for name in names:
        if not before[name] and after[name]:
            layer[name] = min(layer[follower] for follower in after[name]) - 1
    return layer


def _ordered(layer: Mapping[str, int], steps: Sequence[Edge]) -> list[list[str]]:
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name, level in layer.items():
        rows[level].append(name)
    above, below = _neighbours(layer, steps)
    for sweep in range(SWEEPS):
        near = above if sweep % 2 == 0 else below
        place = {name: index for row in rows for index, name in enumerate(row)}
        for row in rows if sweep % 2 == 0 else reversed(rows):
            middle = {n: sum(place[m] for m in near[n]) / len(near[n]) if near[n] else place[n] for n in row}
            row.sort(key=middle.__getitem__)
            place.update((name, index) for index, name in enumerate(row))
    return rows


def _neighbours(names: Mapping[str, int], steps: Sequence[Edge]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {name: [] for name in names}
    below: dict[str, list[str]] = {name: [] for name in names}
    for a, b in steps:
        above[b].append(a)
        below[a].append(b)
    return above, below


def _spread(rows: Sequence[list[str]], size: Mapping[str, float], steps: Sequence[Edge]) -> dict[str, float]:
    """Each box near the middle of its neighbours, in the order found, without touching the next one."""
    x: dict[str, float] = {}
    for row in rows:
        _place(row, dict.fromkeys(row, 0.0), size, x)
    above, below = _neighbours(dict.fromkeys(size, 0), steps)
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            near = {name: above[name] + below[name] if sweep > 3 else (above, below)[sweep % 2][name] for name in row}
            wish = {n: sum(x[m] for m in near[n]) / len(near[n]) if near[n] else x[n] for n in row}
            _place(row, wish, size, x)
    left = min((x[name] - size[name] / 2 for name in size), default=0.0)
    return {name: value - left for name, value in x.items()}


def _place(row: Sequence[str], wish: Mapping[str, float], size: Mapping[str, float], x: dict[str, float]) -> None:
    """Groups of touching boxes lie so that their wishes are met on average (pool adjacent violators)."""
    groups: list[tuple[list[str], float, float]] = []  # names, wished left edge, width
    for name in row:
        width = size[name] + GAP
        groups.append(([name], wish[name] - width / 2, width))
        while len(groups) > 1 and groups[-2][1] + groups[-2][2] > groups[-1][1]:
            (names, left, wide), (more, right, broad) = groups[-2:]
            share = (left * len(names) + (right - wide) * len(more)) / (len(names) + len(more))
            groups[-2:] = [([*names, *more], share, wide + broad)]
    for names, left, _ in groups:
        for name in names:
            x[name] = left + (size[name] + GAP) / 2
            left += size[name] + GAP
