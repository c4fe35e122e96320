"""lightning-mods: a command line, here as lists of flags; `python -m lightning_mods.fit` takes the same."""

import pandas as pd

from benchmarks.compared.task import BATCH, EPOCHS, HIDDEN, LR, MOMENTUM, SEED
from lightning_mods import fit, predict


def train(train_csv, val_csv):
    fit.main(
        [
            "--recipe=plain",
            "--patience=0",
            f"--data.path={train_csv}",
            f"--data.val_path={val_csv}",
            "--data.target=target",
            "--data.test_fraction=0",
            f"--data.batch_size={BATCH}",
            f"--model.hidden_sizes={list(HIDDEN)}",
            f"--model.lr={LR}",
            f"--model.momentum={MOMENTUM}",
            "--model.weight_decay=0",
            f"--trainer.max_epochs={EPOCHS}",
            f"--seed_everything={SEED}",
        ]
    )

    def probabilities(path):
        predict.main(["--ckpt_path=last", f"--data.predict_path={path}", f"--output=of_{path}"])
        return pd.read_csv(f"of_{path}")["probability_1"]

    return probabilities
