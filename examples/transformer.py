"""A Hugging Face transformer built from a configuration, nothing downloaded: a ViT that reads a digit as 16 patches.

python examples/transformer.py
"""

import sys
from importlib.util import find_spec

if find_spec("transformers") is None:
    sys.stderr.write("transformer.py needs transformers: pip install transformers\n")
    sys.exit(2)

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import ViTConfig, ViTForImageClassification

from callbacks import FitMonitor, GradientLogger, GradientMonitor, GraphLogger


class TransformerModule(pl.LightningModule):
    """A vision transformer, very small; its batches are dicts, and the loss comes out of the model."""

    def __init__(self) -> None:
        super().__init__()
        config = ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            num_labels=10,
        )
        self.network = ViTForImageClassification(config)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.network(**batch).loss
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        output = self.network(**batch)
        self.log("val_loss", output.loss)
        self.log("val_accuracy", (output.logits.argmax(1) == batch["labels"]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main() -> None:
    pl.seed_everything(0)
    digits = load_digits()
    images = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    rows = [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, digits.target, strict=True)]
    train, val = train_test_split(rows, test_size=0.3, random_state=0, stratify=digits.target)
    loaders = DataLoader(train, batch_size=64, shuffle=True), DataLoader(val, batch_size=256)
    watchers = [FitMonitor(), GradientMonitor(), GradientLogger(), GraphLogger()]
    trainer = pl.Trainer(max_epochs=5, callbacks=watchers, log_every_n_steps=1, enable_progress_bar=False)
    trainer.fit(TransformerModule(), *loaders)
    print("reached", {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
