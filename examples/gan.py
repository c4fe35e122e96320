"""A GAN with manual optimization draws handwritten digits: two optimizers, two losses, no fit in the usual sense.

python examples/gan.py
"""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from callbacks import GradientLogger, GradientMonitor, GraphLogger

NOISE = 16


class GAN(pl.LightningModule):
    """A generator and a discriminator of digits, 64 pixels in [-1, 1] each."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(NOISE, 128), nn.ReLU(), nn.Linear(128, 64), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1))

    def judged(self, images: Tensor, real: float) -> Tensor:
        """The discriminator's loss if these images are all real (1) or all made up (0)."""
        logits = self.discriminator(images)
        return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, real))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (images,) = batch
        of_generator, of_discriminator = self.optimizers()
        drawn = self.generator(torch.randn(len(images), NOISE, device=self.device))
        loss = (self.judged(images, 1.0) + self.judged(drawn.detach(), 0.0)) / 2
        of_discriminator.zero_grad()
        self.manual_backward(loss)
        of_discriminator.step()
        fooled = self.judged(drawn, 1.0)
        of_generator.zero_grad()
        self.manual_backward(fooled)
        of_generator.step()
        self.log_dict({"d_loss": loss, "g_loss": fooled}, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(net.parameters(), 2e-3, (0.5, 0.999)) for net in (self.generator, self.discriminator)]


def main() -> None:
    pl.seed_everything(0)
    images = torch.as_tensor(load_digits().data, dtype=torch.float32) / 8 - 1
    # No FitMonitor: what one loss gains the other loses, so that neither tells how good the drawings are.
    watchers = [GradientMonitor(), GradientLogger(), GraphLogger()]
    trainer = pl.Trainer(max_epochs=10, callbacks=watchers, enable_progress_bar=False)
    trainer.fit(GAN(), DataLoader(TensorDataset(images), batch_size=64, shuffle=True))
    print("reached", {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
