"""What a study of 64 trials costs, and the best loss it finds: `python benchmarks/study_speed.py`.

On digits: learning rate 1e-4..1 (log) and batch size 32, 64, 128 or 256, 20 epochs, MLP of two hidden layers of 128,
SGD with momentum 0.9, one thread. Contenders, each in a process of its own, in turns:

- `fused`: `python -m lightning_mods.study` on a journal, without pruning: from the command line to the report,
  pictures, TensorBoard runs and verdicts; everything but the imports.
- `halving`: the same with its default pruner.
- `single`: the same without pruning, with a Trainer of ours for each trial (`--study.fused=false`).
- `stock`: Optuna's TPE in memory, and for each trial a Trainer as it comes with a module as in Lightning's tutorials:
  `self.log` in the step, a DataLoader of a TensorDataset, torchmetrics, a TensorBoard run, the last checkpoint, the
  bar (into a pipe) and the summary.
- `raw`: Optuna's TPE in memory, and for each trial a loop written by hand, with validation and nothing else.

Time is the CPU's. A small study beforehand imports whatever a contender imports, early or late. All begin from the same
kind of weights, on the same split. Rows are appended to a JSONL file; what stands there is not done again.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
CONTENDERS = ("stock", "raw", "single", "fused", "halving")
USUAL = ("stock", "raw", "fused", "halving")
EPOCHS, TRIALS = 20, 64
HIDDEN = (128, 128)
Fit = Callable[[float, int, int], float]  # learning rate, batch size, epochs -> best validation loss


def ours(root: str, seed: int, epochs: int, trials: int, flags: list[str]) -> tuple[float, int]:
    """The best loss, and how many epochs were trained."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.study import load_study

    from lightning_mods.study import main

    command = ["--recipe=plain", "--data.path=digits", f"--seed_everything={seed}", f"--study.seed={seed}", *flags]
    command += [f"--study.n_trials={trials}", f"--trainer.max_epochs={epochs}", f"--trainer.default_root_dir={root}"]
    command += ["--space.model.lr=log 1e-4..1", "--space.data.batch_size=pow2 32..256"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(command)
    file = Path(root) / "studies" / "study" / "study.journal"
    study = load_study(study_name="study", storage=JournalStorage(JournalFileBackend(str(file))))
    return study.best_value, sum(trial.user_attrs["epochs"] for trial in study.trials)


def theirs(fit: Fit, seed: int, epochs: int, trials: int) -> tuple[float, int]:
    """The best loss of a study of fits, and how many epochs were trained."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))

    def objective(trial: Any) -> float:
        lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
        return fit(lr, 2 ** trial.suggest_int("log2_batch_size", 5, 8), epochs)

    study.optimize(objective, n_trials=trials)
    return study.best_value, epochs * trials


def rows_of(seed: int) -> tuple[Any, Any]:
    """The rows to train and to validate on, those of our own command."""
    from datamodules import TabularDataModule

    data = TabularDataModule("digits", seed=seed)
    data.setup("fit")
    return data.train_dataloader().dataset, data.val_dataloader().dataset


def network(rows: int, features: int, seed: int) -> tuple[Any, float]:
    """Our network as it begins, and the weight decay that our model has on so many rows."""
    import torch

    from lightning_mods.models.mlp import MLP

    torch.manual_seed(seed)
    return MLP(features, 10, hidden_sizes=HIDDEN), min(20 / rows, 0.02)


def raw(seed: int, root: str) -> Fit:
    """A loop written by hand."""
    import torch
    from torch.nn.functional import cross_entropy

    train, val = rows_of(seed)

    def fit(lr: float, batch_size: int, epochs: int) -> float:
        net, decay = network(len(train), train.x.shape[1], seed)
        optimizer = torch.optim.SGD(net.parameters(), lr, 0.9, weight_decay=decay)
        best = float("inf")
        for _ in range(epochs):
            for rows in torch.randperm(len(train)).split(batch_size):
                optimizer.zero_grad()
                cross_entropy(net(train.x.index_select(0, rows)), train.y.index_select(0, rows)).backward()
                optimizer.step()
            with torch.no_grad():
                best = min(best, float(cross_entropy(net(val.x), val.y)))
        return best

    return fit


def stock(seed: int, root: str) -> Fit:
    """A Trainer for each trial, as one would write it after the tutorials."""
    import pytorch_lightning as pl
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, TensorDataset
    from torchmetrics.classification import MulticlassAccuracy

    train, val = rows_of(seed)

    class Module(pl.LightningModule):
        def __init__(self, lr: float) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net, self.decay = network(len(train), train.x.shape[1], seed)
            self.accuracy = MulticlassAccuracy(10)
            self.best = float("inf")

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = cross_entropy(self.net(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            outputs = self.net(batch[0])
            self.accuracy(outputs, batch[1])
            self.log("val_loss", cross_entropy(outputs, batch[1]))
            self.log("val_accuracy", self.accuracy)

        def on_validation_end(self) -> None:
            if self.trainer.sanity_checking:
                return
            self.best = min(self.best, float(self.trainer.callback_metrics["val_loss"]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), self.hparams["lr"], 0.9, weight_decay=self.decay)

    def fit(lr: float, batch_size: int, epochs: int) -> float:
        module = Module(lr)
        trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=root)
        loaders = (
            DataLoader(TensorDataset(train.x, train.y), batch_size=batch_size, shuffle=True),
            DataLoader(TensorDataset(val.x, val.y), batch_size=len(val)),
        )
        trainer.fit(module, *loaders)
        return module.best

    return fit


def run(name: str, seed: int, epochs: int, trials: int) -> dict[str, Any]:
    """One study in this process, warmed up: imports are not counted."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for logger in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    flags = {
        "fused": ["--study.pruner=none", "--study.prune_hopeless=false"],
        "single": ["--study.pruner=none", "--study.prune_hopeless=false", "--study.fused=false"],
        "halving": [],
    }

    def study(root: str, epochs: int, trials: int) -> tuple[float, int]:
        if name in flags:
            return ours(root, seed, epochs, trials, flags[name])
        return theirs({"raw": raw, "stock": stock}[name](seed, root), seed, epochs, trials)

    with tempfile.TemporaryDirectory() as root:
        study(str(Path(root) / "warm"), 2, 12)
        wall, cpu = time.perf_counter(), time.process_time()
        best, done = study(str(Path(root) / "timed"), epochs, trials)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"name": name, "seed": seed, "cpu": cpu, "wall": wall, "best": best, "epochs": done}


def show(rows: list[dict[str, Any]], names: list[str]) -> None:
    """Medians over the seeds, and ratios within each."""
    found = {(row["name"], row["seed"]): row for row in rows}
    seeds = sorted({seed for _, seed in found if all((name, seed) in found for name in names)})
    if not seeds:
        return
    print(f"{len(seeds)} seeds, medians (lowest..highest)")
    print(f"{'':<9}{'CPU s':>22}{'epochs':>8}{'best loss':>11}{'stock / it':>20}{'its loss / stock':>18}")
    for name in names:
        mine = [found[name, seed] for seed in seeds]
        times = [row["cpu"] for row in mine]
        text = f"{name:<9}{median(times):>8.2f} ({min(times):.2f}..{max(times):.2f})".ljust(31)
        text += f"{median(row['epochs'] for row in mine):>8.0f}{median(row['best'] for row in mine):>11.4f}"
        if "stock" in names:
            ratios = [found["stock", seed]["cpu"] / found[name, seed]["cpu"] for seed in seeds]
            losses = [found[name, seed]["best"] / found["stock", seed]["best"] for seed in seeds]
            text += f"{median(ratios):>7.1f} ({min(ratios):.1f}..{max(ratios):.1f})".rjust(20)
            text += f"{median(losses):>18.3f}"
        print(text)


def main() -> None:
    """Do what is not yet done, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(USUAL))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of a trial")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--out", type=Path, default=Path("study_speed.jsonl"), help="where the rows are kept")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(run(asked.one[0], int(asked.one[1]), asked.epochs, asked.trials)))
        return
    rows = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    known = {(row["name"], row["seed"]) for row in rows}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(asked.seeds):
        turn = seed % len(asked.contenders)
        for name in asked.contenders[turn:] + asked.contenders[:turn]:
            if (name, seed) in known:
                continue
            command = [sys.executable, __file__, f"--epochs={asked.epochs}", f"--trials={asked.trials}"]
            path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
            done = subprocess.run(
                [*command, "--one", name, str(seed)],
                env={**os.environ, "PYTHONPATH": path},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                sys.exit(done.stderr)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            with asked.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    show(rows, asked.contenders)


if __name__ == "__main__":
    main()
