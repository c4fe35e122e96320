"""Callbacks that the end-to-end tests give to the real commands by their dotted path."""

import json
from pathlib import Path

from pytorch_lightning import Callback


def listening_addresses():
    """The addresses that this process listens on, as Linux tells them in hexadecimal."""
    links = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    own = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    lines = [line.split() for each in ("tcp", "tcp6") for line in Path("/proc/net", each).read_text().splitlines()[1:]]
    return sorted({line[1].partition(":")[0] for line in lines if line[3] == "0A" and line[9] in own})


class RankRecorder(Callback):
    """Writes what this rank saw: the first feature of each training row, the final weights, the metrics.

    Args:
        folder: Where `rank_N.json` goes.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.epochs = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append([])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.epochs[-1] += batch[0][:, 0].tolist()

    def on_train_end(self, trainer, pl_module):
        weights = [p.flatten().tolist() for p in pl_module.parameters()]
        self._write(trainer, weights=weights, listens=listening_addresses(), reference=pl_module.reference_loss)

    def on_validation_end(self, trainer, pl_module):
        if not trainer.training and not trainer.sanity_checking:
            self._write(trainer)

    def _write(self, trainer, **more):
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        content = {"epochs": self.epochs, "metrics": metrics, "world": trainer.world_size, **more}
        (Path(self.folder) / f"rank_{trainer.global_rank}.json").write_text(json.dumps(content))
