"""Records of fits to Markdown tables: ratios to the raw loop of the same round, medians and spreads."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.speed.contenders import CONTENDERS, REFERENCE

Record = dict[str, Any]


def tables(records: Sequence[Record]) -> str:
    """All tables of a run."""
    rounds = 1 + max(record["round"] for record in records)
    parts = [
        ("CPU time of an epoch", lambda mine, theirs: ratio(mine, theirs, "epoch_cpu")),
        ("Wall time of an epoch", lambda mine, theirs: ratio(mine, theirs, "epoch_wall")),
        ("Losses reached: training rows / validation rows, and validation accuracy", lambda mine, _: reached(mine)),
        ("The rest of a fit (set-up, the first epoch's surplus, the end), seconds of CPU", lambda mine, _: rest(mine)),
    ]
    about = (
        f"Median of {rounds} rounds (lowest–highest), as a ratio to the raw loop in the same round, whose median is in "
        "ms. An epoch's validation is in it."
    )
    return "\n\n".join([about, *(f"**{title}**\n\n{table(records, cell)}" for title, cell in parts)])


def table(records: Sequence[Record], cell: Callable[[list[Record], list[Record]], str]) -> str:
    """One table: a contender a row, a shape a column; `cell` takes its records and the raw loop's."""
    shapes = list(dict.fromkeys(record["shape"] for record in records))
    seen = {record["contender"] for record in records}

    def of(name: str, shape: str) -> list[Record]:
        found = (r for r in records if (r["contender"], r["shape"]) == (name, shape))
        return sorted(found, key=lambda r: r["round"])

    lines = [f"| | {' | '.join(shapes)} |", "|---" * (1 + len(shapes)) + "|"]
    for name in (name for name in CONTENDERS if name in seen):
        cells = [cell(mine, of(REFERENCE, shape)) if (mine := of(name, shape)) else "–" for shape in shapes]
        lines.append(f"| {CONTENDERS[name].label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio(mine: list[Record], theirs: list[Record], key: str) -> str:
    """Median and spread of the ratios of the rounds that both have; of ms where there is no raw loop."""
    base = {record["round"]: record[key] for record in theirs}
    found = [record[key] / base[record["round"]] for record in mine if record["round"] in base]
    milliseconds = statistics.median(record[key] for record in mine) * 1e3
    if not found or mine == theirs:
        return f"{'1: ' if found else ''}{milliseconds:.3g} ms"
    return f"{statistics.median(found):.2f} ({min(found):.2f}–{max(found):.2f})"


def reached(mine: list[Record]) -> str:
    """Median losses and accuracy over the rounds, each of which has another seed."""
    keys = ("train_loss", "val_loss", "val_accuracy")
    train, val, accuracy = (statistics.median(record[key] for record in mine) for key in keys)
    return f"{train:.3g} / {val:.3g}, {accuracy:.1%}"


def rest(mine: list[Record]) -> str:
    """Median of what a fit took beside its epochs."""
    return f"{statistics.median(record['rest_cpu'] for record in mine):.2g}"
