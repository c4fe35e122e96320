"""What `predict` does once the command line has been looked at: predict the rows of a file and write a CSV."""

from collections.abc import Sequence
from pathlib import Path

from datamodules import DataError
from lightning_mods.cli import ModsCLI
from lightning_mods.running import run
from lightning_mods.tables import prediction_rows, write_csv
from lightning_mods.terminal import say


def predict(args: Sequence[str]) -> None:
    """Predict the rows of a file.

    Args:
        args: The flags.
    """
    run("predict", args, _predict)


def _predict(cli: ModsCLI, checkpoint: Path | None) -> None:
    if getattr(cli.datamodule, "predict_path", "") is None:
        raise DataError("--data.predict_path is needed: a file with the rows to predict.")
    outputs = cli.trainer.predict(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    if not cli.trainer.is_global_zero:
        return
    header, rows = prediction_rows(outputs or [], getattr(cli.datamodule, "class_names", None))
    count = write_csv(Path(cli.config.output), header, rows)
    say(f"{count} predictions in {cli.config.output}")
