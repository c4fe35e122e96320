"""What callbacks add to the cost of a fit: `python benchmarks/gradient_cost.py --callbacks GradientLogger`.

Two fits of one model on the same data, both with a TensorBoard logger, one of them with the callbacks, take turns in
one process that is pinned to one core: a block of steps each, then the other, the order of the two changing from round
to round, so that what else the machine does falls on both. What belongs to a block is timed with it: the writer's queue
is emptied at its end. The first round warms up and is not counted. Printed are the median of the rounds' ratios, and in
brackets the interval that holds the true median with 95 % certainty (by its order statistics), of CPU time (all threads
of the process, the writer's too) and of wall time. `--callbacks` with nothing after it shows the noise alone.
The model is our MLPClassifier on the bundled digits, without validation and checkpoints, which would thin the cost.

Where the parameters are large (4x1024), two fits in one process get their memory in different ways, and the ratio says
more about that than about callbacks (0.8 to 1.3 from one start to the next): `--apart` runs whole fits one after the
other instead, and times what comes after their first steps.

A callback is named as `callbacks` exports it, or by a dotted path, with arguments after a colon:

    --callbacks GradientLogger:every=1,histograms_every=0
"""

import argparse
import ast
import logging
import os
import statistics
import tempfile
import threading
import time
import warnings
from importlib import import_module
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from datamodules import TabularDataModule
from lightning_mods import MLPClassifier

MODELS = {"digits 64-128-128-10": [128, 128], "4x1024": [1024] * 4}
STEPS = 100  # in a block: whole periods of histograms and of writing
ROUNDS = {"digits 64-128-128-10": 200, "4x1024": 12}

SKIPPED = 100  # steps of a fit before `--apart` begins to time it


class Turns(pl.Callback):
    """Lets a fit run only while it is its turn, and times the turns."""

    def __init__(self, name: str, order: list[str], steps: int, baton: threading.Condition) -> None:
        self.name, self.order, self.steps, self.baton = name, order, steps, baton
        self.seconds: list[tuple[float, float]] = []
        self._done = 0

    def wait(self) -> None:
        with self.baton:
            self.baton.wait_for(lambda: not self.order or self.order[0] == self.name)
        self._done, self._start = 0, (time.process_time(), time.perf_counter())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.wait()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        self._done += 1
        if self._done < self.steps:
            return
        for logger in trainer.loggers:
            logger.experiment.flush()
        now = time.process_time(), time.perf_counter()
        self.seconds.append((now[0] - self._start[0], now[1] - self._start[1]))
        with self.baton:
            self.order.pop(0)
            self.baton.notify_all()
        self.wait()  # the one that is through waits for the other: its end would be timed with the other's block
        trainer.should_stop = not self.order


def made(text: str) -> pl.Callback:
    """A callback from `Name` or `Name:key=value,key=value`."""
    name, _, arguments = text.partition(":")
    home, _, name = name.rpartition(".")
    pairs = (pair.split("=") for pair in arguments.split(",") if pair)
    return getattr(import_module(home or "callbacks"), name)(**{k: ast.literal_eval(v) for k, v in pairs})


def fit(hidden: list[int], batch: int, callbacks: list[pl.Callback], root: Path, max_steps: int = -1) -> None:
    """One of the two fits."""
    data = TabularDataModule("digits", batch_size=batch, val_fraction=0.0, test_fraction=0.15, seed=0)
    model = MLPClassifier(data.in_features, 10, hidden_sizes=hidden, lr=0.01)
    model.steps_per_execution = 1  # every mini-batch through the loop: that is what the callbacks cost others
    trainer = pl.Trainer(
        max_epochs=-1,
        max_steps=max_steps,
        accelerator="cpu",
        logger=TensorBoardLogger(root),
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=0,
    )
    trainer.fit(model, data)


def guarded(order: list[str], baton: threading.Condition, *args: object) -> None:
    """A fit in a thread of its own; if it fails, the other shall not wait for ever."""
    try:
        fit(*args)
    except BaseException:
        with baton:
            order.clear()
            baton.notify_all()
        raise


def ratios(model: str, batch: int, names: list[str], rounds: int, steps: int) -> tuple[list[float], list[float], float]:
    """CPU and wall time with the callbacks over that without, a round each; and ms of CPU a step without."""
    order = [who for turn in range(rounds + 1) for who in (("with", "without"), ("without", "with"))[turn % 2]]
    baton = threading.Condition()
    turns = {who: Turns(who, order, steps, baton) for who in ("with", "without")}
    with tempfile.TemporaryDirectory() as root:
        fit(MODELS[model], batch, [], Path(root) / "first", max_steps=2)  # torch imports much within its first step
        threads = [
            threading.Thread(
                target=guarded,
                args=(
                    order,
                    baton,
                    MODELS[model],
                    batch,
                    [*map(made, names if who == "with" else []), turn],
                    Path(root) / who,
                ),
            )
            for who, turn in turns.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    pairs = list(zip(turns["with"].seconds, turns["without"].seconds, strict=True))[1:]
    cpu, wall = ([a[clock] / b[clock] for a, b in pairs] for clock in (0, 1))
    return cpu, wall, 1000 * statistics.median(b[0] for _, b in pairs) / steps


class Clock(pl.Callback):
    """Times the steps of one fit from `first` to the end."""

    def __init__(self, first: int) -> None:
        self.first, self.seconds = first, (0.0, 0.0)
        self._start = (0.0, 0.0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        if trainer.global_step == self.first:
            self._start = time.process_time(), time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            logger.experiment.flush()
        self.seconds = time.process_time() - self._start[0], time.perf_counter() - self._start[1]


def apart(model: str, batch: int, names: list[str], rounds: int, steps: int) -> tuple[list[float], list[float], float]:
    """As `ratios`, of whole fits one after the other."""
    pairs: list[dict[str, tuple[float, float]]] = []
    for turn in range(rounds + 1):
        took = {}
        for who in (("with", "without"), ("without", "with"))[turn % 2]:
            clock = Clock(SKIPPED)
            with tempfile.TemporaryDirectory() as root:
                callbacks = [*map(made, names if who == "with" else []), clock]
                fit(MODELS[model], batch, callbacks, Path(root), max_steps=SKIPPED + steps)
            took[who] = clock.seconds
        pairs.append(took)
    kept = pairs[1:]
    cpu, wall = ([pair["with"][clock] / pair["without"][clock] for pair in kept] for clock in (0, 1))
    return cpu, wall, 1000 * statistics.median(pair["without"][0] for pair in kept) / steps


def spread(values: list[float]) -> str:
    """The median and its 95 % interval."""
    ordered, count = sorted(values), len(values)
    off = int(count / 2 - 0.98 * count**0.5)
    low, high = (ordered[off], ordered[-1 - off]) if off >= 0 else (ordered[0], ordered[-1])
    return f"{statistics.median(values):.3f} ({low:.3f}–{high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callbacks", nargs="*", default=["GradientLogger:flow_every=0"], help="none: the noise alone")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--batches", nargs="*", type=int, default=[32, 256])
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}")
    parser.add_argument("--apart", action="store_true", help="whole fits one after the other, no two at a time")
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    threads = torch.get_num_threads()
    print(f"{' '.join(args.callbacks) or 'nothing'}; {threads} torch thread(s), median of rounds (its 95 % interval)")
    print(f"{'model':<22}{'batch':>6}{'ms a step':>11}  {'CPU time':<24}{'wall time':<24}")
    for model in args.models:
        for batch in args.batches:
            measure = apart if args.apart else ratios
            cpu, wall, step = measure(model, batch, args.callbacks, args.rounds or ROUNDS[model], STEPS)
            print(f"{model:<22}{batch:>6}{step:>11.2f}  {spread(cpu):<24}{spread(wall):<24}", flush=True)


if __name__ == "__main__":
    main()
