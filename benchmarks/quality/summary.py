"""The arithmetic over tables, and the page."""

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.quality.methods import METHODS, OURS, REFERENCE
from benchmarks.quality.tables import half

MANY = 6  # classes, from which on a table is one of many
Record = dict[str, Any]
Measure = Callable[[Record], float | None]


def error(record: Record) -> float:
    """Return the error, for classes half a row of the test set more: no error at all has a logarithm then."""
    return float(record["error"]) + (0.5 / record["test_rows"] if record["classes"] else 0.0)


def log_loss(record: Record) -> float | None:
    """Return the log loss; None for a regression."""
    return None if record["log_loss"] is None else float(record["log_loss"])


def log_ratios(records: Iterable[Record], method: str, reference: str, measure: Measure) -> dict[str, float]:
    """Return by table the log of a method's mean over seeds to the reference's, over the seeds that both have."""
    values: dict[str, dict[tuple[str, int], float]] = {method: {}, reference: {}}
    for record in records:
        value = measure(record) if record["method"] in values and "failed" not in record else None
        if value is not None:
            values[record["method"]][record["table"], record["seed"]] = value
    both = values[method].keys() & values[reference].keys()
    found = {}
    for table in sorted({table for table, _ in both}):
        pairs = [key for key in both if key[0] == table]
        found[table] = math.log(sum(values[method][k] for k in pairs) / sum(values[reference][k] for k in pairs))
    return found


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Return the mean and its standard error; NaN for the error of fewer than two, and the mean of none."""
    if not values:
        return math.nan, math.nan
    deviation = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), deviation


def share_better(ratios: Iterable[float]) -> float:
    """Return the share of log ratios below 0; equality counts half."""
    values = list(ratios)
    return sum((r < 0) + 0.5 * (r == 0) for r in values) / len(values) if values else math.nan


def _kinds(records: list[Record]) -> dict[str, set[str]]:
    classes = {r["table"]: r["classes"] for r in records if "failed" not in r}
    return {
        "all": set(classes),
        "regressions": {t for t, c in classes.items() if not c},
        "classifications": {t for t, c in classes.items() if c},
        f"of {MANY} classes or more": {t for t, c in classes.items() if c >= MANY},
    }


def _cell(ratios: list[float]) -> str:
    mean, deviation = mean_and_error(ratios)
    return f"{100 * mean:+.1f} ± {100 * deviation:.1f} ({len(ratios)})" if ratios else "–"


def _share(ratios: Iterable[float]) -> str:
    share = share_better(ratios)
    return "–" if math.isnan(share) else f"{share:.0%}"


def _lines(rows: list[list[str]]) -> str:
    head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])


def _present(records: list[Record]) -> list[str]:
    there = {r["method"] for r in records if "failed" not in r}
    return [method for method in METHODS if method in there]


def against(records: list[Record], reference: str, methods: list[str]) -> str:
    """Return the table of log ratios of methods to one of them, by kinds of tables."""
    kinds = _kinds(records)
    rows = [["", *kinds, "better on", "log loss", "log loss better on", "CPU seconds, median"]]
    for method in methods:
        ratios = log_ratios(records, method, reference, error)
        losses = log_ratios(records, method, reference, log_loss)
        cells = [_cell([ratio for table, ratio in ratios.items() if table in kind]) for kind in kinds.values()]
        spent = statistics.median(r["cpu"] for r in records if r["method"] == method and "failed" not in r)
        shares = [_share(ratios.values()), _cell(list(losses.values())), _share(losses.values())]
        rows.append([METHODS[method].title, *cells, *shares, f"{spent:.1f}"])
    return _lines(rows)


def by_table(records: list[Record]) -> str:
    """Return the mean errors of everybody, a line a table, small ones first; the fewest errors are bold."""
    methods = _present(records)
    titles = [METHODS[m].title for m in methods]
    ours = [f"log loss, {METHODS[m].title}" for m in (OURS, REFERENCE) if m in methods]
    rows = [["table", "rows", "classes", "seeds", *titles, *ours, "CPU seconds, in this order"]]
    good = [r for r in records if "failed" not in r]
    sizes = {r["table"]: r["train_rows"] + r["test_rows"] for r in good}
    for table in sorted(sizes, key=lambda name: (sizes[name], name)):
        mine = {m: [r for r in good if r["table"] == table and r["method"] == m] for m in methods}
        means = {m: statistics.fmean(r["error"] for r in rs) for m, rs in mine.items() if rs}
        best = min(means.values())
        errors = [f"**{means[m]:.4f}**" if means.get(m) == best else f"{means.get(m, math.nan):.4f}" for m in methods]
        classes = max(r["classes"] for r in good if r["table"] == table)
        losses = [
            f"{statistics.fmean(r['log_loss'] for r in mine[m]):.3f}" if classes and mine[m] else "–"
            for m in (OURS, REFERENCE) if m in methods
        ]  # fmt: skip
        spent = " ".join(f"{statistics.fmean(r['cpu'] for r in rs):.0f}" if rs else "–" for rs in mine.values())
        counts = sorted({len(rs) for rs in mine.values()})
        seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
        row = [table, f"{sizes[table]:,}", str(classes) if classes else "R", seeds, *errors, *losses, spent]
        rows.append([cell.replace("nan", "–") for cell in row])
    return _lines(rows)


def tables(records: list[Record]) -> str:
    """Return everything that is told of each half, as Markdown."""
    parts = []
    for title, name in (("Held out", "held_out"), ("Development", "development")):
        mine = [r for r in records if half(r["table"]) == name]
        if not mine:
            continue
        methods = _present(mine)
        parts.append(f"## {title}")
        if REFERENCE in methods:
            rest = [m for m in methods if m != REFERENCE]
            parts += [f"Log ratios × 100 to {METHODS[REFERENCE].title}:", against(mine, REFERENCE, rest)]
        if OURS in methods:
            rows = [["error of ours to that of", *_kinds(mine), "better on"]]
            for method in methods[1:]:
                ratios = log_ratios(mine, OURS, method, error)
                cells = [_cell([x for t, x in ratios.items() if t in kind]) for kind in _kinds(mine).values()]
                rows.append([METHODS[method].title, *cells, _share(ratios.values())])
            parts.append(_lines(rows))
        parts += [by_table(mine)] if methods else []
        failed = [
            f"* {r['table']}, {r['method']}, seed {r['seed']}: {r['failed'].splitlines()[-1]}"
            for r in mine
            if "failed" in r
        ]
        parts += ["Failed:\n\n" + "\n".join(failed)] if failed else []
    return "\n\n".join(parts)


def page(text: str, records: list[Record]) -> str:
    """Return the page with the tables between its marks; what stands around them is kept."""
    before, rest = text.split("<!-- tables -->\n")
    return f"{before}<!-- tables -->\n{tables(records)}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
