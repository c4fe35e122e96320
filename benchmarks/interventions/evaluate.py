"""Measure the verdict and the advice of a fit by what the changes really gained.

PYTHONPATH=. OMP_NUM_THREADS=1 python -m benchmarks.interventions.evaluate               # folds over development tables
PYTHONPATH=. OMP_NUM_THREADS=1 python -m benchmarks.interventions.evaluate --held-out    # as shipped
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from benchmarks.interventions import fit_trees, labels, tables
from benchmarks.interventions.rivals import available
from callbacks.diagnosis import changes as changes_module
from callbacks.diagnosis import verdict
from callbacks.diagnosis.evidence import Settings
from callbacks.diagnosis.verdict import Diagnosis, Fit, diagnose

Answers = list[tuple[labels.Run, Diagnosis]]
THREE = fit_trees.THREE


def ask(run: labels.Run, **less: Any) -> Diagnosis:
    """Ask as a fit does; `less` replaces parts of the evidence."""
    evidence = replace(run.evidence(), **less)
    return diagnose(run.train_loss, run.val_loss, baseline_loss=run.baseline_loss, evidence=evidence)


def ask_curves(run: labels.Run) -> Diagnosis:
    """Ask as for somebody's log."""
    return diagnose(run.train_loss, run.val_loss, baseline_loss=run.baseline_loss)


ASKED: dict[str, Callable[[labels.Run], Diagnosis]] = {
    "**a fit, all evidence**": ask,
    "without the reference": lambda run: ask(run, reference_loss=None),
    "without settings": lambda run: ask(run, settings=Settings()),
    "without rows and fair training loss": lambda run: ask(
        run, val_rows=None, val_error=None, rise_error=None, fair_train_loss=None
    ),
    "curves alone": ask_curves,
}


@contextmanager
def shipped_as(trees: dict[str, Any]) -> Iterator[None]:
    """Let `diagnose` read these instead of the shipped ones."""
    before = verdict.shipped
    found = lambda name: trees if name == "fits" else before(name)  # noqa: E731
    try:
        verdict.shipped = changes_module.shipped = found  # type: ignore[assignment]
        yield
    finally:
        verdict.shipped = changes_module.shipped = before


def answers(runs: list[labels.Run]) -> dict[str, Answers]:
    """Ask in all ways."""
    return {name: [(run, how(run)) for run in runs] for name, how in ASKED.items()}


def by_folds(runs: list[labels.Run]) -> dict[str, Answers]:
    """Ask of each table with trees that were fitted on the others."""
    found: dict[str, Answers] = {name: [] for name in ASKED}
    folds = fit_trees.Folds.of(fit_trees.rows_of(runs))
    fold = fit_trees.folds([run.table for run in runs])
    for k, models in enumerate(folds.trees):
        with shipped_as(folds.shipped(models, without=k)):
            for name, said in answers([run for run, f in zip(runs, fold, strict=True) if f == k]).items():
                found[name] += said
    return found


def macro_f1(pairs: list[tuple[str, str]]) -> float:
    """F1, a mean over the three verdicts."""
    truth, said = zip(*pairs, strict=True)
    return float(f1_score(truth, said, average="macro", labels=THREE, zero_division=0))


def calibration(said: Answers, weights: labels.Weights) -> float:
    """Expected calibration error of the verdict's own probability, ten bins of equal width."""
    judged = [(run, d) for run, d in said if run.label(weights) in THREE and d.fit in THREE]
    pairs = [(d.probabilities[d.fit], str(d.fit) == run.label(weights)) for run, d in judged]
    sure, right = np.array([p for p, _ in pairs]), np.array([float(r) for _, r in pairs])
    bins = np.clip((sure * 10).astype(int), 0, 9)
    return float(sum(abs(sure[bins == b].sum() - right[bins == b].sum()) for b in range(10)) / len(sure))


def verdict_table(found: dict[str, Answers]) -> str:
    """Macro-F1 and calibration on both labels."""
    lines = ["| | runs | macro-F1 end | ECE end | macro-F1 best | ECE best |", "|---|---|---|---|---|---|"]
    for name, said in found.items():
        cells = []
        for weights in ("end", "best"):
            pairs = [(run.label(weights), str(d.fit)) for run, d in said if run.label(weights) in THREE]
            cells += [f"{macro_f1(pairs):.3f}", f"{calibration(said, weights):.3f}"]
        count = sum(run.label("end") in THREE for run, _ in said)
        lines.append(f"| {name} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def confusion(said: Answers, weights: labels.Weights) -> str:
    """Truth against verdict."""
    counts = Counter((run.label(weights), str(d.fit)) for run, d in said)
    lines = [f"| truth ({weights}) \\ said | " + " | ".join(Fit) + " |", "|---|" + "---|" * len(Fit)]
    for truth in (*THREE, "diverged", "unclear"):
        lines.append(f"| {truth} | " + " | ".join(str(counts[truth, each]) for each in Fit) + " |")
    return "\n".join(lines)


def advice_table(said: Answers) -> str:
    """What the first advice gained, and what any change would have where good was said."""
    lines = ["| said | runs | with advice | it lowers | it raises by > 3 % | mean gain | most frequent |"]
    lines.append("|---|---|---|---|---|---|---|")
    for fit in (Fit.UNDERFIT, Fit.OVERFIT, Fit.GOOD):
        called = [(run.gains("best"), d) for run, d in said if d.fit is fit and run.label("end") != "diverged"]
        first = [(d.changes[0].name, gains[d.changes[0].name]) for gains, d in called if d.changes and gains]
        gain = np.array([g for _, g in first] or [np.nan])
        most = ", ".join(f"{name} {count}" for name, count in Counter(name for name, _ in first).most_common(4))
        lines.append(
            f"| {fit} | {len(called)} | {len(first)} | {(gain > 0).mean():.3f} | {(gain < -0.03).mean():.3f} | "
            f"{np.clip(gain, -1, 1).mean():.3f} | {most} |"
        )
    for weights in ("end", "best"):
        good = [run.gains(weights) for run, d in said if d.fit is Fit.GOOD]
        listed = [max(v for k, v in gains.items() if k not in _UNLISTED) <= 0.10 for gains in good if gains]
        lines.append(f"\nOf {len(listed)} runs called good, no change gains more than 10 % ({weights}) in "
                     f"{np.mean(listed):.3f}.")  # fmt: skip
    return "\n".join(lines)


def rival_table(runs: list[labels.Run]) -> str:
    """Macro-F1 of those who read the losses alone; unknown and diverged are wrong."""
    lines = ["| | macro-F1 end | macro-F1 best |", "|---|---|---|"]
    for name, rival in available().items():
        said = [(run, rival(run)) for run in runs]
        scores = [
            macro_f1([(run.label(weights), word) for run, word in said if run.label(weights) in THREE])
            for weights in ("end", "best")
        ]
        lines.append(f"| {name} | {scores[0]:.3f} | {scores[1]:.3f} |")
    return "\n".join(lines)


def repeated(runs: list[labels.Run]) -> float:
    """Return the macro-F1 of a run's own label (`best`), had its first weights been drawn by the next seed."""
    pairs = []
    for run in runs:
        seed = next((loss for loss in run.record["other_seeds"] if loss is not None), None)
        if run.label("best") in THREE and seed is not None:
            again = labels.Run(run.record | {"test_best": seed}).label("best")
            pairs.append((run.label("best"), again))
    return macro_f1(pairs)


_UNLISTED = {"cosine", "averaged", "ensemble"}  # beside the changes that the labels go by


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=fit_trees.HERE / "runs.jsonl.gz")
    parser.add_argument("--held-out", action="store_true")
    args = parser.parse_args()
    runs = [run for run in labels.read(args.runs) if tables.is_held_out(run.table) == args.held_out]
    found = answers(runs) if args.held_out else by_folds(runs)
    print(verdict_table(found))
    said = found["**a fit, all evidence**"]
    for weights in ("end", "best"):
        print(f"\n{confusion(said, weights)}")
    print(f"\n{advice_table(said)}")
    print(f"\n{rival_table(runs)}")
    print(f"\nThe label (best) itself, with the run's loss from another seed: macro-F1 {repeated(runs):.3f}.")


if __name__ == "__main__":
    main()
