"""Ours with everything on: the command itself, with what it attaches by default, in a terminal, so with its bar."""

import tempfile
from pathlib import Path

from benchmarks.speed.contenders import LogProbabilities
from benchmarks.speed.contenders.laps import Laps
from benchmarks.speed.contenders.torch_parts import answers
from benchmarks.speed.shapes import HIDDEN, MOMENTUM, Job, data_flags
from benchmarks.speed.stopwatch import Stopwatch
from lightning_mods.fit import main


def fit(job: Job, watch: Stopwatch, *more: str) -> LogProbabilities:
    """Run the command; `more` are flags."""
    with tempfile.TemporaryDirectory() as root:
        flags = [
            *data_flags(job.shape.table, Path(job.folder)),
            "--recipe=plain",  # the training that the others do,
            "--patience=0",  # to its end
            "--data.seed=0",
            f"--data.batch_size={job.shape.batch}",
            f"--seed_everything={job.seed}",
            f"--model.hidden_sizes={HIDDEN}",
            f"--model.lr={job.shape.lr}",
            f"--model.momentum={MOMENTUM}",
            "--model.weight_decay=0",  # the others have none
            f"--trainer.max_epochs={job.shape.epochs}",
            "--trainer.accelerator=cpu",
            f"--trainer.default_root_dir={root}",
            f"--trainer.callbacks+={Laps.__module__}.{Laps.__name__}",
            *more,
        ]
        Laps.watch = watch
        watch.start()
        main(flags)
        watch.stop()
    assert Laps.network is not None
    return answers(Laps.network)
