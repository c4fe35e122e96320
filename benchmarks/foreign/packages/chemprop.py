"""chemprop: message passing over small molecules written here."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from chemprop import data, models, nn

from benchmarks.foreign.data import trainer_arguments

DISTRIBUTION = "chemprop"
MOLECULES = [f"{'C' * length}{end}" for length in range(1, 13) for end in ("O", "N", "F", "Cl", "C(=O)O", "c1ccccc1")]


def fit(kind: Any, aggregation: Any, predictor: Any, hyper: dict[str, Any], callbacks: list[Any], folder: Path) -> None:
    target = np.array([len(molecule) + molecule.count("O") for molecule in MOLECULES], dtype=float)
    target = target > 9 if "lassif" in predictor.__name__ else (target - target.mean()) / target.std()
    points = [data.MoleculeDatapoint.from_smi(text, [float(y)]) for text, y in zip(MOLECULES, target, strict=True)]
    datasets = [data.MoleculeDataset(points[start::4] + points[start + 1 :: 4]) for start in (0, 2)]
    loaders = [data.build_dataloader(one, batch_size=12, shuffle=one is datasets[0], seed=1) for one in datasets]
    model = models.MPNN(kind(d_h=32), aggregation(), predictor(input_dim=32, hidden_dim=32), **hyper)
    pl.Trainer(**trainer_arguments(pl, callbacks, folder, epochs=4)).fit(model, *loaders)


ATTENTION = partial(nn.AttentiveAggregation, output_size=32)
FITS = {
    "MPNN-bonds": partial(fit, nn.BondMessagePassing, nn.MeanAggregation, nn.RegressionFFN, {"batch_norm": True}),
    "MPNN-atoms": partial(fit, nn.AtomMessagePassing, nn.NormAggregation, nn.RegressionFFN, {}),
    "MPNN-attention": partial(fit, nn.BondMessagePassing, ATTENTION, nn.MveFFN, {}),
    "MPNN-evidential": partial(fit, nn.BondMessagePassing, nn.SumAggregation, nn.EvidentialFFN, {}),
    "MPNN-classes": partial(fit, nn.BondMessagePassing, nn.MeanAggregation, nn.BinaryClassificationFFN, {}),
}
