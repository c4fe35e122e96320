"""scvi-tools: its models on the counts that it makes itself."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import scvi
from scvi.data import synthetic_iid

from benchmarks.foreign.data import trainer_arguments

DISTRIBUTION = "scvi-tools"


def fit(kind: str, setup: dict[str, Any], hyper: dict[str, Any], callbacks: list[Any], folder: Path) -> None:
    given = trainer_arguments(pl, callbacks, folder)
    passed = {name: given[name] for name in ("callbacks", "logger", "default_root_dir", "enable_progress_bar")}
    scvi.settings.seed = 3
    model_of = getattr(scvi.model, kind, None) or getattr(scvi.external, kind)
    counts = synthetic_iid(batch_size=128, n_genes=60, n_proteins=10, n_labels=3)
    if kind == "SysVI":  # wants what is normalised and logarithmic
        counts.X = np.log1p(counts.X / counts.X.sum(1, keepdims=True) * 60).astype("float32")
    if kind == "PEAKVI":  # wants to know which regions are open
        counts.X = (counts.X > 5).astype("float32")
    model_of.setup_anndata(counts, **setup)
    model = model_of(counts, **hyper)
    common = {"max_epochs": 4, "accelerator": "cpu", "batch_size": 50, "check_val_every_n_epoch": 1}
    model.train(train_size=0.75, **common, **passed)


BATCHES = {"batch_key": "batch"}
LABELS = {"labels_key": "labels"}
FITS = {
    "SCVI": partial(fit, "SCVI", BATCHES, {"n_hidden": 16}),
    "LinearSCVI": partial(fit, "LinearSCVI", BATCHES, {"n_hidden": 16}),
    "SCANVI": partial(fit, "SCANVI", BATCHES | LABELS | {"unlabeled_category": "label_0"}, {"n_hidden": 16}),
    "AUTOZI": partial(fit, "AUTOZI", BATCHES | LABELS, {"n_hidden": 16}),
    "PEAKVI": partial(fit, "PEAKVI", BATCHES, {"n_hidden": 16}),
    "CondSCVI": partial(fit, "CondSCVI", LABELS, {"n_hidden": 16}),
    "TOTALVI": partial(
        fit,
        "TOTALVI",
        BATCHES | {"protein_expression_obsm_key": "protein_expression"},
        {"empirical_protein_background_prior": False},
    ),
    "AmortizedLDA": partial(fit, "AmortizedLDA", {}, {"n_topics": 4, "n_hidden": 16}),
    "POISSONVI": partial(fit, "POISSONVI", BATCHES, {"n_hidden": 16}),
    "SysVI": partial(fit, "SysVI", BATCHES, {"n_hidden": 16}),
    "TorchMRVI": partial(fit, "TorchMRVI", {"sample_key": "batch"}, {}),
}
