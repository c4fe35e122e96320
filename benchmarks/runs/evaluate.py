"""Measure the verdict: one table, ours against the rivals, on tables and tasks that the weights have not
seen.

    python benchmarks/runs/evaluate.py --curves ../shared/curves [--held-out] [--wrong wrong.txt]

Without --held-out the development tables are judged in five folds, each by weights fitted on the other
tables. With it, the tables of `tables.HELD_OUT` are judged by the weights as shipped.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fit_trees
import labels
import numpy as np
import rivals
import tables
from sklearn.metrics import f1_score

from callbacks.diagnosis import verdict
from callbacks.diagnosis.verdict import Diagnosis, Fit, diagnose

THREE = fit_trees.THREE
CONDITIONS: dict[str, Callable[[labels.Run], labels.Run]] = {
    "clean": lambda run: run,
    "noise 3 %": lambda run: labels.noisy(run, 0.03, 99),
    "ten evaluations": lambda run: labels.evaluated(run, 10),
    "no baseline": lambda run: replace(run, baseline_loss=None),
}
Answers = list[tuple[labels.Run, Diagnosis]]


def ask(run: labels.Run, metric: bool = False) -> Diagnosis:
    """Ask for the verdict as a user would."""
    values = run.val_accuracy if metric else None
    return diagnose(run.train_loss, run.val_loss, val_metric=values, baseline_loss=run.baseline_loss)


@contextmanager
def shipped_as(trees: dict[str, dict[str, object]]) -> Iterator[None]:
    """Let `diagnose` read these instead of the shipped ones."""
    shipped = verdict.shipped
    try:
        verdict.shipped = lambda name: trees if name == "curves" else shipped(name)
        yield
    finally:
        verdict.shipped = shipped


def only(rows: fit_trees.Rows, keep: Callable[[str], bool]) -> fit_trees.Rows:
    """The rows of some groups."""
    picked = [i for i, group in enumerate(rows.group) if keep(group)]
    return fit_trees.Rows(*([getattr(rows, f)[i] for i in picked] for f in ("x", "label", "group", "weight")))


def by_folds(mine: list[labels.Run], foreign: list[labels.Run], curves: Path | None) -> Iterator[list[labels.Run]]:
    """Yield the runs of one fold after the other, while `diagnose` reads weights fitted without them."""
    rows, others = fit_trees.ours(mine), fit_trees.others(curves) if curves else fit_trees.Rows()
    own, theirs = fit_trees.folds(rows.group), fit_trees.folds([run.table for run in foreign])
    for k in range(fit_trees.FOLDS):
        seen = only(rows, lambda g, k=k: own[g] != k)
        ensembles = fit_trees.fit(seen, only(others, lambda g, k=k: theirs[g] != k))
        with shipped_as(fit_trees.as_numbers(*ensembles, seen)):
            yield [run for run in mine if own.get(run.table) == k] + [run for run in foreign if theirs[run.table] == k]


def calibration(answers: Answers, bins: int = 10) -> float:
    """Expected calibration error of the verdict's own probability, in bins of equal width."""
    p = np.array([max(d.probabilities.values()) for _, d in answers])
    right = np.array([d.fit == run.label for run, d in answers])
    which = np.minimum((p * bins).astype(int), bins - 1)
    return float(sum(abs(right[which == b].mean() - p[which == b].mean()) * (which == b).mean() for b in set(which)))


def macro_f1(pairs: list[tuple[str, str]], names: tuple[str, ...] = THREE) -> float:
    """Macro-F1 over the names; any other answer is wrong for every class."""
    truth, said = zip(*pairs, strict=True)
    return float(f1_score(truth, said, labels=list(names), average="macro", zero_division=0))


def confusion(pairs: list[tuple[str, str]]) -> str:
    """Truth down, verdict across."""
    count, said = Counter(pairs), [*THREE, "diverged", "unknown"]
    lines = ["| truth \\ said | " + " | ".join(said) + " |", "|---" * (len(said) + 1) + "|"]
    for truth in [*THREE, "diverged"]:
        lines.append(f"| {truth} | " + " | ".join(str(count[truth, s]) for s in said) + " |")
    return "\n".join(lines)


def report(mine: dict[str, Answers], judged: list[labels.Run]) -> None:
    """Print the table, ours first, and the confusion of the clean runs."""
    three = [run for run in judged if run.label in THREE]
    print(f"\n{len(three)} runs of {len({r.table for r in three})} tables: {dict(Counter(r.label for r in three))}\n")
    names = list(CONDITIONS)[:3]
    print("| | " + " | ".join(f"macro-F1 {n}" for n in names) + " | ECE | overfit recall | false alarms |")
    print("|---" * 7 + "|")
    line = [[(run.label, str(d.fit)) for run, d in mine[n] if run.label in THREE] for n in names]
    ece = calibration([(run, d) for run, d in mine["clean"] if run.label in THREE])
    print(f"| **ours** | {_scores(line)} | {ece:.3f} | {_alarms(line[0])} |")
    blind = [(run, d) for run, d in mine["no baseline"] if run.label in THREE]
    pairs = [(run.label, str(d.fit)) for run, d in blind]
    print(f"| ours, no baseline_loss | {macro_f1(pairs):.3f} | | | {calibration(blind):.3f} | {_alarms(pairs)} |")
    for name, rival in rivals.available().items():
        line = [[(run.label, rival(CONDITIONS[n](run))) for run in three] for n in names]
        print(f"| {name} | {_scores(line)} | | {_alarms(line[0])} |")
    print("\n" + confusion([(run.label, str(d.fit)) for run, d in mine["clean"]]))


def _scores(line: list[list[tuple[str, str]]]) -> str:
    return " | ".join(f"{macro_f1(pairs):.3f}" for pairs in line)


def _alarms(pairs: list[tuple[str, str]]) -> str:
    over = [said == "overfit" for truth, said in pairs if truth == "overfit"]
    rest = [said == "overfit" for truth, said in pairs if truth != "overfit"]
    return f"{np.mean(over):.3f} | {np.mean(rest):.3f}"


def with_metric(answers: list[tuple[labels.Run, Diagnosis]]) -> None:
    """What the verdict does with the accuracy beside it: truth is then whether TEST accuracy held."""
    over = [(run, d) for run, d in answers if run.label == "overfit" and run.accuracy_held is not None]
    for held in (True, False):
        said = Counter(d.cause for run, d in over if run.accuracy_held is held)
        print(f"overfit by test loss, test accuracy {'held' if held else 'fell'}: {dict(said.most_common(4))}")


def on_taskset(answers: Answers, title: str) -> None:
    """False alarms and recalls on TaskSet, whose 'overfit' ends 5 % above the best of the test curve."""

    def share(label: str, test: Callable[[Diagnosis], bool]) -> str:
        hits = [test(d) for run, d in answers if run.label == label]
        return f"{sum(hits)}/{len(hits)} = {np.mean(hits):.3f}"

    learning = [d.cause == "not_learning" for run, d in answers if run.label in ("ok", "overfit", "ambiguous")]
    print(f"TaskSet, {title}: overfit said of ok {share('ok', lambda d: d.fit is Fit.OVERFIT)}, of overfit "
          f"{share('overfit', lambda d: d.fit is Fit.OVERFIT)}; not_learning said of not_learning "
          f"{share('not_learning', lambda d: d.cause == 'not_learning')}, "
          f"of the learning {np.mean(learning):.3f}; "
          f"diverged said of diverged {share('diverged', lambda d: d.fit is Fit.DIVERGED)}")  # fmt: skip


def online(run: labels.Run, step: int, last: int) -> int | None:
    """The first epoch after which the verdict is overfit, asked every `step` epochs."""
    for n in range(5, last + 1, step):
        said = diagnose(run.train_loss[:n], run.val_loss[:n], baseline_loss=run.baseline_loss)
        if said.fit is Fit.OVERFIT:
            return n - 1
    return None


def first_alarms(runs: list[labels.Run]) -> list[tuple[str, int, int | None]]:
    """(label, best epoch, first epoch called overfit) of histories of 1 000 epochs."""
    found = []
    for run in runs:
        v = run.val_loss
        best = min(range(len(v)), key=v.__getitem__)
        found.append((run.label, best, online(run, 2 if run.label == "overfit" else 10, len(v))))
    return found


def report_online(found: list[tuple[str, int, int | None]], title: str) -> None:
    """Delay after the best epoch of what overfitted, and how many histories kept their best epoch."""
    over = [at - best for label, best, at in found if label == "overfit" and at is not None and at >= best]
    kept = [at is None or at >= best for _, best, at in found]
    kept_over = [at is None or at >= best for label, best, at in found if label == "overfit"]
    delay = f"median delay {statistics.median(over):.0f} epochs" if over else "no alarm"
    print(
        f"online, {title}: {delay}; alarm in {len(over)} of {len(kept_over)} that overfit; "
        f"best epoch kept in {sum(kept_over)}/{len(kept_over)} of them, {sum(kept)}/{len(kept)} of all"
    )


def on_lightning(path: Path) -> None:
    """Real logs without labels: a verdict for each, and no crash."""
    said: Counter[str] = Counter()
    with gzip.open(path / "lightning_logs.jsonl.gz", "rt") as lines:
        for record in map(json.loads, lines):
            curves = [{e: v for _, e, v in sorted(record[key])} for key in ("train", "val")]
            epochs = sorted(curves[1])
            d = diagnose([curves[0].get(e) for e in epochs], [curves[1][e] for e in epochs])
            said[f"{d.fit}/{d.cause}"] += 1
    print(f"Lightning logs: {sum(said.values())} verdicts: {dict(said.most_common())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path(__file__).with_name("runs.jsonl.gz"))
    parser.add_argument("--curves", type=Path)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--online", action="store_true", help="also ask after every epoch (minutes)")
    parser.add_argument("--wrong", type=Path, help="write the runs it gets wrong here")
    args = parser.parse_args()
    curves = args.curves if args.curves and args.curves.is_dir() else None
    if curves is None:
        print("curve sets skipped: no folder at --curves")
    runs = [run for run in labels.read(args.runs) if (run.table in tables.HELD_OUT) == args.held_out]
    foreign = [*labels.read_taskset(curves), *labels.read_simulated(curves)] if curves and not args.held_out else []
    known = {id(run) for run in foreign}
    mine: dict[str, Answers] = {name: [] for name in CONDITIONS}
    sets: dict[str, Answers] = {"ln 2 given": [], "without a baseline": []}
    metric: Answers = []
    alarms: dict[str, list[tuple[str, int, int | None]]] = {"simulated": [], "ours, 1 000 epochs": []}
    for part in [runs] if args.held_out else by_folds(runs, foreign, curves):
        own, other = [r for r in part if id(r) not in known], [r for r in part if id(r) in known]
        for name, change in CONDITIONS.items():
            mine[name] += [(run, ask(change(run))) for run in own]
        metric += [(run, ask(run, metric=True)) for run in own if run.label == "overfit"]
        sets["ln 2 given"] += [(run, ask(run)) for run in other]
        sets["without a baseline"] += [(run, ask(replace(run, baseline_loss=None))) for run in other]
        if args.online:
            alarms["simulated"] += first_alarms([r for r in other if r.config == "simulated"])
            whole = [r for r in own if len(r.val_loss) == 1000 and r.label in THREE]
            alarms["ours, 1 000 epochs"] += first_alarms(whole)
    report(mine, runs)
    with_metric(metric)
    for title, answers in sets.items():
        if answers:
            on_taskset([(run, d) for run, d in answers if run.config == "taskset"], title)
    simulated = [(run.label, str(d.fit)) for run, d in sets["without a baseline"] if run.config == "simulated"]
    if simulated:
        pairs = [(t, "overfit" if s == "overfit" else "non_overfit") for t, s in simulated]
        print(f"simulated: macro-F1 {macro_f1(pairs, ('overfit', 'non_overfit')):.3f} {dict(Counter(pairs))}")
    for title, found in alarms.items():
        if found:
            report_online(found, title)
    if curves:
        on_lightning(curves)
    if args.wrong:
        lines = [
            f"{run.id}\t{run.label}\t{d.fit}/{d.cause}\t{d.probabilities[d.fit]:.2f}\t{run.config}"
            for run, d in mine["clean"] if run.label in THREE and d.fit != run.label
        ]  # fmt: skip
        args.wrong.write_text("\n".join(sorted(lines)) + "\n")


if __name__ == "__main__":
    sys.exit(main())
