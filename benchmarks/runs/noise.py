"""Measure what `diagnose` says of losses that say nothing: noise about a constant, and constants.

    PYTHONPATH=. python benchmarks/runs/noise.py

360 logs: lengths from 5 to 500, four shapes of noise, four sizes of it, five levels. Each is asked with and without
the trivial loss, and beside three training losses: none, noise like its own, and one that falls as it should.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from callbacks.diagnosis.verdict import diagnose

LENGTHS = (5, 6, 8, 12, 20, 30, 50, 100, 200, 500)
SIZES = (0.01, 0.03, 0.1, 0.3)  # of the level
LEVELS = (0.01, 0.7, 1.0, 2.3, 50.0)
SHAPES: dict[str, Callable[[random.Random], float]] = {
    "normal": lambda r: r.gauss(0, 1),
    "uniform": lambda r: r.uniform(-1.7, 1.7),
    "heavy-tailed": lambda r: r.gauss(0, 1) / math.sqrt(max(0.05, sum(r.gauss(0, 1) ** 2 for _ in range(3)) / 3)),
    "skewed": lambda r: r.expovariate(1) - 1,
}
BASELINES = {"none": None, "half the level": 0.5, "twice the level": 2.0, "the level": 1.0}


@dataclass(frozen=True)
class NoiseLog:
    """A validation loss without a signal, and training losses that may stand beside it."""

    level: float
    size: float
    val: list[float]
    trains: dict[str, list[float]]


def noise_logs(count: int = 360, seed: int = 0) -> Iterator[NoiseLog]:
    """Yield logs of noise; the same for the same seed."""
    r = random.Random(seed)
    for _ in range(count):
        n, size, level = r.choice(LENGTHS), r.choice(SIZES), r.choice(LEVELS)
        val, noise = ([level * (1 + size * shape(r)) for _ in range(n)] for shape in r.choices([*SHAPES.values()], k=2))
        falling = [level * (0.2 + 0.8 * math.exp(-5 * i / n)) for i in range(n)]
        yield NoiseLog(level, size, val, {"none": [], "noise": noise, "falling": falling})


def constants() -> Iterator[NoiseLog]:
    """Yield losses that are always the same."""
    for n in LENGTHS:
        for level in (0.0, *LEVELS):
            falling = [1 + math.exp(-5 * i / n) for i in range(n)]
            yield NoiseLog(level, 0.0, [level] * n, {"none": [], "noise": [level] * n, "falling": falling})


def ask(log: NoiseLog, train: str, times: float | None) -> str:
    """Return the verdict on a log, beside a training loss and with a trivial loss of so many times the level."""
    return str(diagnose(log.trains[train], log.val, baseline_loss=None if times is None else times * log.level).fit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| | trivial loss | training loss | unknown | underfit | good | overfit | diverged |")
    print("|---" * 8 + "|")
    sets = {"noise": [*noise_logs(seed=args.seed)], "constant": [*constants()]}
    for what, logs in sets.items():
        for baseline, times in BASELINES.items():
            for train in ("none", "noise", "falling"):
                said = Counter(ask(log, train, times) for log in logs)
                counts = " | ".join(str(said[fit]) for fit in ("unknown", "underfit", "good", "overfit", "diverged"))
                beside = "the same" if what == "constant" and train == "noise" else train
                print(f"| {what} ({len(logs)}) | {baseline} | {beside} | {counts} |")


if __name__ == "__main__":
    main()
