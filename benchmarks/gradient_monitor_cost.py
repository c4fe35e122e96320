"""What `GradientMonitor` costs: CPU time of the same fit with and without it, alternating, the median of some rounds.

python benchmarks/gradient_monitor_cost.py --rounds 5
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from itertools import pairwise

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import GradientMonitor

SIZES = {"64-128-128-10": (64, 128, 128, 10), "4x1024": (64, 1024, 1024, 1024, 1024, 10)}


class Net(pl.LightningModule):
    def __init__(self, sizes: tuple[int, ...]):
        super().__init__()
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.net = nn.Sequential(*layers[:-1])

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def seconds(sizes: tuple[int, ...], batch: int, steps: int, *, watched: bool) -> float:
    """CPU seconds of one fit, its set-up left out."""
    pl.seed_everything(0, verbose=False)
    table = load_digits()
    x, y = torch.tensor(table.data / 16, dtype=torch.float32), torch.tensor(table.target)
    loader = DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)
    module, times = Net(sizes), []

    class Clock(pl.Callback):
        def on_train_start(self, *_):
            times.append(time.process_time())

        def on_train_end(self, *_):
            times.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu", default_root_dir=folder,
            callbacks=[Clock(), *([GradientMonitor()] if watched else [])],
        )  # fmt: skip
        trainer.fit(module, loader)
    return times[1] - times[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--net", nargs="+", default=list(SIZES))
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 256])
    parser.add_argument("--steps", type=int, default=2000, help="of the small net; the wide one takes a fifth")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for name in args.net:
        for batch in args.batch:
            steps = args.steps if name == "64-128-128-10" else args.steps // 5
            seconds(SIZES[name], batch, 50, watched=True)
            pairs = []
            for _ in range(args.rounds):
                alone = seconds(SIZES[name], batch, steps, watched=False)
                pairs.append((alone, seconds(SIZES[name], batch, steps, watched=True)))
            ratio = statistics.median(b / a for a, b in pairs)
            alone = statistics.median(a for a, _ in pairs) / steps
            print(f"{name} batch {batch}: {ratio:.3f} ({alone * 1e6:.0f} µs a step without)", flush=True)


if __name__ == "__main__":
    main()
