"""Judge runs of the default recipe (docs/decisions/0016) on the ten held-out tables; nothing is fitted here.

    PYTHONPATH=. python benchmarks/runs/recipe_runs.py --out FILE.jsonl [--minutes 20]

The label is not that of `labels.py`, which reads a run on to four times its epochs. A cosine's rate is zero at its
end: going on from there changes nothing, and the middle of a longer cosine, where the rate is high, is not the end of
a shorter one. So the same fit (rows, seed, settings) is made a second time, planned for four times the epochs, and
what each is worth is its test loss at its best epoch by validation, which is what the recipe keeps. The room is that
of `labels.py`: the trivial test loss minus the lowest of both fits, at least a tenth of the trivial one.

* overfit: at the end the test loss stands more than 10 % of the room above its lowest before.
* underfit: the long fit is worth more than 10 % of the room more; or, as in `labels.py`, the test loss never came 2 %
  below the trivial one.
* good: neither, and the long fit is worth less than 3 % more.
* unclear, left out: a gain between the two, or overfit while the long fit is worth more than 10 % more.

Test losses are not smoothed: they are those of averaged weights.
"""

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import labels
import numpy as np
import tables
import torch
from evaluate import THREE, Answers, ask, calibration, confusion, macro_f1

from callbacks.host.lightning import Callback, Trainer, seed_everything
from datamodules import TabularDataModule
from lightning_mods.cli import recipe
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.module import MLPModule
from lightning_mods.models.regressor import MLPRegressor

LOOK_AHEAD, TEST_ROWS = 4, 2000
VALIDATION, TRAINING = 0.15, 0.70  # the shares of the data module's defaults; the test rows come from elsewhere


def draw(number: int) -> dict[str, Any]:
    """Draw what a run varies; the tables take turns."""
    r = np.random.default_rng([16, number])
    names = sorted(tables.HELD_OUT)
    table = names[number % len(names)]
    most = len(tables.load(table).x) // 2
    return {
        "id": f"{table}-{number}", "table": table, "seed": number,
        "train_rows": min(most, int(r.choice([100, 200, 500, 1000, 2000]))), "epochs": int(r.choice([10, 20, 40, 80])),
        "width": int(r.choice([16, 128])), "label_noise": float(r.choice([0, 0.1, 0.3])),
    }  # fmt: skip


def write_data(run: dict[str, Any], folder: Path) -> dict[str, str]:
    """Write a draw of rows for training and validation, and one for the test; the noise of labels sits in all."""
    t, r, noise = tables.load(run["table"]), np.random.default_rng(run["seed"]), run["label_noise"]
    order, y = r.permutation(len(t.x)), t.y.copy()
    if t.classes:
        swap = r.random(len(y)) < noise
        y[swap] = r.integers(0, t.classes, swap.sum())
    else:
        y += 2 * noise * r.standard_normal(len(y)).astype("f4")
    mine, test = np.split(order, [round(run["train_rows"] * (1 + VALIDATION / TRAINING))])
    if t.classes:
        test = test[np.isin(y[test], y[mine])]  # a class that no training row has cannot be judged
    paths = {"path": str(folder / "table.npz"), "test_path": str(folder / "test.npz")}
    for path, rows in zip(paths.values(), (mine, test[:TEST_ROWS]), strict=True):
        np.savez(path, X=t.x[rows], y=y[rows])
    return paths


class Curves(Callback):
    """Records the curves as they are logged, and the test loss of the averaged weights after every epoch."""

    def __init__(self, test: tuple[torch.Tensor, torch.Tensor]):
        self.test = test
        self.of: dict[str, list[float]] = {"train_loss": [], "val_loss": [], "val_accuracy": [], "test_loss": []}

    def on_validation_epoch_end(self, trainer: Trainer, module: MLPModule) -> None:
        self.of["test_loss"].append(float(module.evaluation_loss(self.test)))  # the average is in the weights now

    def on_train_epoch_end(self, trainer: Trainer, module: MLPModule) -> None:
        for name in ("train_loss", "val_loss", "val_accuracy"):
            if name in trainer.callback_metrics:  # a regression has no accuracy
                self.of[name].append(float(trainer.callback_metrics[name]))


def train(run: dict[str, Any], paths: dict[str, str], epochs: int) -> dict[str, Any]:
    """Train as the recipe would, with its settings for so many rows, and return the curves and trivial losses."""
    seed_everything(run["seed"], verbose=False)
    task = "classification" if tables.load(run["table"]).classes else "regression"
    data = TabularDataModule(
        **paths, target="y", task=task, val_fraction=VALIDATION / (VALIDATION + TRAINING), test_fraction=0,
        bins=recipe.BINS, batch_size=recipe.batch_size(run["train_rows"]), seed=run["seed"],
    )  # fmt: skip
    data.setup("fit")
    facts = recipe.TableFacts(data.n_train, task)
    settings = {**recipe.model_settings(facts), "hidden_sizes": [run["width"]] * 2}
    test = tuple(map(torch.cat, zip(*data.test_dataloader(), strict=True)))
    if task == "classification":
        model = MLPClassifier(data.in_features, data.num_classes, data.class_counts, **settings)
        shares = torch.tensor(data.class_counts) / data.n_train
        trivial = -shares[test[1]].log().mean()
    else:
        model = MLPRegressor(data.in_features, data.target_mean, data.target_std, **settings)
        trivial = (test[1] - data.target_mean).square().mean()
    curves = Curves(test)
    trainer = Trainer(
        **{**recipe.trainer_settings("default", facts), "max_epochs": epochs}, callbacks=[curves], accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, data)
    return {**curves.of, "baseline_loss": model.baseline_loss, "test_baseline": float(trivial)}


def make(run: dict[str, Any]) -> dict[str, Any]:
    """Make a run and its long twin."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_data(run, Path(folder))
        short, long = (train(run, paths, run["epochs"] * times) for times in (1, LOOK_AHEAD))
    return {**run, **short, "long": {name: long[name] for name in ("val_loss", "test_loss")}}


def label(record: dict[str, Any]) -> tuple[str, float, float]:
    """Return the label, how far above its lowest the test loss ends, and what the long fit gains, in rooms."""
    test, trivial = record["test_loss"], record["test_baseline"]
    worth, later = (each["test_loss"][int(np.argmin(each["val_loss"]))] for each in (record, record["long"]))
    room = max(trivial - min(*test, *record["long"]["test_loss"]), labels.LEAST * trivial)
    worse, gain = (test[-1] - min(test)) / room, (worth - later) / room
    if not np.isfinite([*record["train_loss"], *record["val_loss"], *test]).all():
        return "diverged", worse, gain
    if worse > labels.CLEAR:
        return "overfit" if gain <= labels.CLEAR else "unclear", worse, gain
    if gain > labels.CLEAR or min(test) > (1 - labels.FLAT) * trivial:
        return "underfit", worse, gain
    return "good" if gain < labels.NOTHING else "unclear", worse, gain


def read(record: dict[str, Any]) -> labels.Run:
    """Return what the verdict is asked about, with its label."""
    names = ("train_rows", "epochs", "width", "label_noise")
    return labels.Run(
        record["id"], record["table"], label(record)[0], record["train_loss"], record["val_loss"],
        record["val_accuracy"] or None, record["baseline_loss"],
        config=" ".join(f"{name}={record[name]}" for name in names),
    )  # fmt: skip


def report(records: list[dict[str, Any]]) -> None:
    """Print what the verdict says of the runs, with and without the accuracy beside the losses."""
    runs = {record["id"]: read(record) for record in records}
    counts = Counter(run.label for run in runs.values())
    print(f"\n{len(runs)} runs of {len({run.table for run in runs.values()})} tables: {dict(counts)}")
    clear = [run for run in runs.values() if run.label in THREE]
    print("\n| | judged | right | macro-F1 | mean confidence | ECE | good said, of these right |")
    print("|---" * 7 + "|")
    answers: dict[str, Answers] = {
        name: [(run, ask(run, metric)) for run in clear]
        for name, metric in (("losses alone", False), ("with the accuracy", True))
    }
    measured = {record["id"]: label(record)[1:] for record in records}
    calm = [pair for pair in answers["losses alone"] if not labels.NOTHING < measured[pair[0].id][0] <= labels.CLEAR]
    for name, said in {**answers, "losses alone, none that ends 3 to 10 % above its lowest": calm}.items():
        print(f"| {name} | {_scores(said)} |")
    for name, said in answers.items():
        print(f"\n{name}\n\n{confusion([(run.label, str(d.fit)) for run, d in said])}")
    said = answers["losses alone"]
    for key in ("train_rows", "epochs", "width", "label_noise", "table"):
        found: dict[Any, list[bool]] = {}
        by_id = {record["id"]: record[key] for record in records}
        for run, d in said:
            found.setdefault(by_id[run.id], []).append(d.fit == run.label)
        print(f"right by {key}: " + ", ".join(f"{k} {sum(v)}/{len(v)}" for k, v in sorted(found.items())))
    for run, d in said:
        if d.fit != run.label:
            worse, gain = measured[run.id]
            print(f"{run.id}\t{run.label}\t{d.fit}/{d.cause} {d.probabilities[d.fit]:.2f}\t"
                  f"ends {worse:+.2f}, gains {gain:+.2f}\t{run.config}")  # fmt: skip


def _scores(said: Answers) -> str:
    right = np.mean([d.fit == run.label for run, d in said])
    sure = np.mean([d.probabilities[d.fit] for _, d in said])
    good = [run.label == "good" for run, d in said if d.fit == "good"]
    f1 = macro_f1([(run.label, str(d.fit)) for run, d in said])
    return f"{len(said)} | {right:.3f} | {f1:.3f} | {sure:.3f} | {calibration(said):.3f} | {len(good)}, {sum(good)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="of CPU time to train for")
    parser.add_argument("--runs", type=int, default=400, help="at most")
    parser.add_argument("--out", type=Path, required=True, help="a line a run; goes on with what is there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    with args.out.open("a") as out:
        for number in range(len(lines), args.runs):
            if time.process_time() > 60 * args.minutes:
                break
            lines.append(json.dumps(make(draw(number))))
            print(lines[-1], file=out, flush=True)
    report([json.loads(line) for line in lines])


if __name__ == "__main__":
    main()
