"""The one place that reads a metric that a LightningModule logged."""

from pytorch_lightning import Trainer
from torch import Tensor


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


class Fresh:
    """Reads a metric only when it was logged anew: `callback_metrics` keeps old values for ever.

    Lightning makes a new tensor whenever a value is logged, so the same tensor is an old value. It also makes one of
    the same value when an epoch ends: ask once when the next begins.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Tensor] = {}

    def tensor(self, trainer: Trainer, name: str) -> Tensor | None:
        """The value on its device if it is new since this was last asked for, else None."""
        value = trainer.callback_metrics.get(name)
        if value is None or value is self._seen.get(name) or value.numel() != 1:
            return None
        self._seen[name] = value
        return value.detach()

    def read(self, trainer: Trainer, name: str) -> float | None:
        """The value if it is new since this was last asked for, else None; NaN stays NaN."""
        value = self.tensor(trainer, name)
        return None if value is None else float(value)
