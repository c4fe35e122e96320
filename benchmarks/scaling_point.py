"""One fit for `benchmarks.scaling`, in a process of its own: its time an epoch, and the memory it took."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_mods.fit import main


def status(name: str) -> int:
    """Bytes that the kernel counts for this process under a name of /proc/self/status, such as VmHWM."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


class Gauge(pl.Callback):
    """Notes when epochs end, and the peak of memory up to the first epoch's end and from there on."""

    marks: list[tuple[float, float]] = []  # noqa: RUF012  # the command makes the callback, this process reads the class
    found: dict[str, int] = {}  # noqa: RUF012

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.marks:
            self.found["peak_begin"] = status("VmHWM")
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew: proc(5)
        else:
            # Pages of a mapped file are resident too, but the kernel takes them back when it wants them.
            self.found["anonymous"] = max(self.found.get("anonymous", 0), status("RssAnon"))
        self.marks.append((time.process_time(), time.perf_counter()))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.found["peak_epochs"] = status("VmHWM")
        self.found["parameters"] = sum(p.numel() for p in pl_module.parameters())


def measure(file: str, *, batch: int, epochs: int, memory_map: bool) -> dict[str, Any]:
    """Run our command with everything on, on a Parquet file whose target is called y."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as root:
        os.environ["XDG_CACHE_HOME"] = root
        main(
            [
                "--recipe=plain",
                "--patience=0",
                f"--data.path={file}",
                "--data.target=y",
                f"--data.batch_size={batch}",
                f"--data.memory_map={str(memory_map).lower()}",
                "--data.val_fraction=0.1",
                "--data.test_fraction=0",
                "--model.hidden_sizes=[128,128]",
                f"--trainer.max_epochs={epochs}",
                "--trainer.accelerator=cpu",
                f"--trainer.default_root_dir={root}",
                "--trainer.callbacks+=benchmarks.scaling_point.Gauge",
            ]
        )
    whole = time.perf_counter() - start
    (cpu, wall), (cpu_end, wall_end) = Gauge.marks[0], Gauge.marks[-1]
    periods = len(Gauge.marks) - 1
    epoch_wall = (wall_end - wall) / periods
    times = {"epoch_cpu": (cpu_end - cpu) / periods, "epoch_wall": epoch_wall, "rest": whole - epochs * epoch_wall}
    return {**times, **Gauge.found}


if __name__ == "__main__":
    # `--trainer.callbacks` imports this file under its own name: measure there, where the callback will be.
    from benchmarks import scaling_point

    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump(scaling_point.measure(**json.loads(sys.argv[1])), reply)
    reply.close()
