"""Epochs that pruning saves on the digits, at which best loss: `python benchmarks/pruning.py`.

Two searches for each seed, alike but for the pruner: 30 trials of 15 epochs over learning rate and batch size. Without
one only trials that have diverged or learn nothing are ended, which are never the best. Saved is what all trials would
take in full, less the epochs that any trial began. Rows are appended to a JSONL file, and what stands there is not done
again.
"""

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

EPOCHS, TRIALS = 15, 30
PRUNERS = ("none", "halving")  # the second is the default of OptunaSearch


def search(pruner: str, seed: int, epochs: int, trials: int) -> dict[str, Any]:
    """One search; its epochs, the best validation loss and how long it took."""
    import optuna
    import pytorch_lightning as pl
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from pytorch_lightning.callbacks import ModelCheckpoint

    from callbacks import OptunaSearch
    from datamodules import TabularDataModule
    from lightning_mods import MLPClassifier

    pl.seed_everything(seed, verbose=False)
    data = TabularDataModule("digits", seed=seed)
    module = MLPClassifier(data.in_features, data.num_classes, class_counts=data.class_counts)
    with tempfile.TemporaryDirectory() as root:
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            default_root_dir=root,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[
                OptunaSearch(trials, pruner=pruner, seed=seed, name="digits"),
                ModelCheckpoint(root, monitor="val_loss"),
            ],
        )
        start = time.monotonic()
        trainer.fit(module, datamodule=data)
        seconds = time.monotonic() - start
        storage = JournalStorage(JournalFileBackend(str(Path(root) / "search.journal")))
        trials = optuna.load_study(study_name="digits", storage=storage).trials
    spent = sum(trial.user_attrs["epochs"] for trial in trials)
    states = [trial.state.name for trial in trials]
    return {
        "pruner": pruner,
        "seed": seed,
        "epochs": spent,
        "best": min(trial.value for trial in trials if trial.state.name == "COMPLETE"),
        "pruned": states.count("PRUNED"),
        "seconds": seconds,
    }


def main() -> None:
    """Do what is not yet done, and print a line a seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of a trial")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--pruner", default=PRUNERS[1], help="compared with none")
    parser.add_argument("--out", type=Path, default=Path("pruning.jsonl"), help="where the rows are kept")
    asked = parser.parse_args()
    import pytorch_lightning  # noqa: F401  # sets its loggers' level when it is imported

    warnings.simplefilter("ignore")
    for logger in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    rows = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    known = {(row["pruner"], row["seed"]) for row in rows}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(asked.seeds):
        for pruner in (PRUNERS[0], asked.pruner):
            if (pruner, seed) not in known:
                rows.append(search(pruner, seed, asked.epochs, asked.trials))
                with asked.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(f"{'seed':<6}{'in full':>8}{'hopeless':>9}{'pruned':>8}{'saved':>8}{'best loss':>11}{'pruned':>9}")
    saved, worse = [], []
    for seed in range(asked.seeds):
        whole, pruned = (
            next(row for row in rows if (row["pruner"], row["seed"]) == (p, seed)) for p in (PRUNERS[0], asked.pruner)
        )
        saved.append(1 - pruned["epochs"] / (asked.trials * asked.epochs))
        worse.append(pruned["best"] - whole["best"])
        full = asked.trials * asked.epochs
        print(f"{seed:<6}{full:>8}{whole['epochs']:>9}{pruned['epochs']:>8}{100 * saved[-1]:>6.0f} %"
              f"{whole['best']:>11.4f}{pruned['best']:>9.4f}")  # fmt: skip
    print(f"median: {100 * median(saved):.0f} % of the epochs saved, best loss {median(worse):+.4f}")


if __name__ == "__main__":
    main()
