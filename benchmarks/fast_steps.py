"""What the steps between two passes through Lightning's loop save: `python -m benchmarks.fast_steps`.

A fit of the bundled digits, MLP 64-128-128-10, in mini-batches of 32, once as it is by default and once with every
mini-batch through Lightning's loop, in turns in one process on one thread; both come to the same weights, which is
checked. Printed are the CPU seconds of both, medians over the rounds, the median of the rounds' ratios with the lowest
and the highest, and the validation loss that both reach.
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim import SGD, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR

from datamodules import TabularDataModule
from lightning_mods import MLPClassifier


def _by_the_step(optimizer: Any, schedule: Any) -> dict[str, Any]:
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _one_cycle(parameters: Any, steps: int) -> Any:
    optimizer = AdamW(parameters, lr=0.003)
    return _by_the_step(optimizer, OneCycleLR(optimizer, max_lr=0.01, total_steps=steps))


def _warm_up_and_cosine(parameters: Any, steps: int) -> Any:
    optimizer, first = AdamW(parameters, lr=0.003), steps // 10
    parts = [LinearLR(optimizer, 0.1, total_iters=first), CosineAnnealingLR(optimizer, steps - first)]
    return _by_the_step(optimizer, SequentialLR(optimizer, parts, [first]))


HABITS: dict[str, Callable[[Any, int], Any]] = {
    "SGD with momentum": lambda parameters, steps: SGD(parameters, lr=0.05, momentum=0.9),
    "AdamW": lambda parameters, steps: AdamW(parameters, lr=0.003),
    "RMSprop": lambda parameters, steps: RMSprop(parameters, lr=0.001),
    "AdamW, one cycle": _one_cycle,
    "AdamW, warm-up and cosine": _warm_up_and_cosine,
}


def fitted(habit: str, through_the_loop: bool, epochs: int) -> tuple[float, float, list[torch.Tensor]]:
    """Fit; return CPU seconds, validation loss and weights."""
    pl.seed_everything(0, verbose=False)
    data = TabularDataModule("digits", batch_size=32, seed=0)
    data.setup("fit")
    model = MLPClassifier(data.in_features, 10, data.class_counts, hidden_sizes=(128, 128))
    model.steps_per_execution = 1 if through_the_loop else "auto"
    steps = epochs * len(data.train_dataloader())
    model.configure_optimizers = lambda: HABITS[habit](model.parameters(), steps)  # type: ignore[method-assign]
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    began = time.process_time()
    trainer.fit(model, datamodule=data)
    spent = time.process_time() - began
    return spent, float(trainer.callback_metrics["val_loss"]), [p.detach() for p in model.parameters()]


def main() -> None:
    """Fit in turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    fitted("AdamW", False, 1)  # what is imported within a first fit
    print(f"{'':28}default  loop    default / loop        val_loss")
    for habit in HABITS:
        rounds = []
        for turn in range(asked.rounds):
            both = {
                through: fitted(habit, through, asked.epochs) for through in ((False, True), (True, False))[turn % 2]
            }
            assert all(map(torch.equal, both[False][2], both[True][2])), f"{habit}: the weights differ"
            rounds.append((both[False][0], both[True][0], both[False][1]))
        ratios = sorted(ours / loop for ours, loop, _ in rounds)
        ours, loop, loss = (statistics.median(each) for each in zip(*rounds, strict=True))
        spread = f"({ratios[0]:.2f}–{ratios[-1]:.2f})"
        print(f"{habit:27} {ours:6.2f} s {loop:6.2f} s  {statistics.median(ratios):.2f} {spread:14}  {loss:.4f}")


if __name__ == "__main__":
    main()
