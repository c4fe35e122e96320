"""The TensorBoard run of a trial that was trained together with others: one event an epoch, at its end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_mods.study_watch import plain


def write_run(
    folder: Path,
    params: Mapping[str, Any],
    curves: Mapping[str, Sequence[float]],
    *,
    lr: float,
    best: tuple[int | None, Mapping[str, float]],
    metrics: Sequence[str],
) -> None:
    """Write the run of a fit as its own loggers would: the curves, and its row for the HParams tab.

    Args:
        folder: The run.
        params: What the trial tried, by name.
        curves: Name to one number an epoch.
        lr: The learning rate.
        best: The best epoch and all metrics of it; None and nothing if no epoch had a finite value.
        metrics: Names of the objectives.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    epoch_of_best, found = best
    results = dict.fromkeys([*metrics, *(name for name in sorted(found) if name.startswith("val_"))])
    row = {f"hp/{name}": found[name] for name in results if name in found}
    writer = SummaryWriter(str(folder))
    file: Any = writer.file_writer
    try:
        if row:
            shown = {name: plain(value) for name, value in params.items()}
            for summary in hparams(shown, row):  # type: ignore[no-untyped-call]
                file.add_summary(summary, 0)
        for epoch, _ in enumerate(curves["train_loss"]):
            values = {"lr": lr, **{name: curve[epoch] for name, curve in curves.items()}, "epoch": float(epoch)}
            if epoch == epoch_of_best:
                values |= {**found, **row}
            event = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
            file.add_summary(event, epoch)
    finally:
        writer.close()
