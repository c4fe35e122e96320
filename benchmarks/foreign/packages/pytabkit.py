"""pytabkit: RealMLP. It makes its Trainer itself and takes no callbacks: they are given where it makes its own."""

from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor, RealMLP_TD_S_Regressor

from benchmarks.foreign.data import table, trainer_arguments

DISTRIBUTION = "pytabkit"


def fit(kind: Any, classes: int, callbacks: list[Any], folder: Path) -> None:
    given = trainer_arguments(pl, callbacks, folder)
    made = pl.Trainer.__init__

    def with_callbacks(trainer: Any, **chosen: Any) -> None:
        more = {"callbacks": [*chosen.get("callbacks", []), *callbacks]} if "callbacks" in chosen else {}
        made(trainer, **{**chosen, **more, "logger": given["logger"], "default_root_dir": str(folder)})

    frame = table(classes)
    with patch.object(pl.Trainer, "__init__", with_callbacks):
        model = kind(n_epochs=4, device="cpu", random_state=1, n_cv=1, n_threads=1, hidden_sizes=[32, 32])
        model.fit(frame.drop(columns="target"), frame["target"])


FITS = {
    "RealMLP_TD_Regressor": partial(fit, RealMLP_TD_Regressor, 0),
    "RealMLP_TD_S_Regressor": partial(fit, RealMLP_TD_S_Regressor, 0),
    "RealMLP_TD_Classifier": partial(fit, RealMLP_TD_Classifier, 3),
}
