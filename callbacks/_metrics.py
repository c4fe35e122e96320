"""The one place that reads a metric that a LightningModule logged."""

from pytorch_lightning import Trainer


def logged(trainer: Trainer, prefix: str = "") -> dict[str, float]:
    """What the trainer's module has logged so far, as floats.

    Args:
        trainer: The trainer to ask.
        prefix: Only metrics whose name starts with this, e.g. `val_`.

    Returns:
        Metric name to its latest value; NaN stays NaN. Values that are no single number are left out.
    """
    metrics = trainer.callback_metrics.items()
    return {name: float(value) for name, value in metrics if name.startswith(prefix) and value.numel() == 1}
