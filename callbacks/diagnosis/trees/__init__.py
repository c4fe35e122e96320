"""Read the ensembles of trees that stand in this folder as plain numbers, and ask them. Standard library only.

A tree is `[feature, threshold, low, high]`, with a 1 behind where a missing value goes low, or a number where it ends;
an ensemble is what it starts from and the trees that add to it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

Ensemble = dict[str, Any]


@cache
def shipped(name: str) -> dict[str, Any]:
    """Return what a JSON file of this folder holds."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))
    return found


def total(ensemble: Ensemble, row: Sequence[float]) -> float:
    """Return what the trees add up to for a row of numbers; NaN is a missing one."""
    found: float = ensemble["start"]
    for node in ensemble["trees"]:
        while isinstance(node, list):
            value = row[node[0]]
            low = value <= node[1] or (value != value and len(node) > 4)
            node = node[2] if low else node[3]
        found += node
    return found
