"""Silence about what is healthy, over kinds of modules that no rule was made on."""

import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import LIGHTNINGS_WARNINGS
from healthy_modules import KINDS, Backbone
from pytorch_lightning.callbacks import BackboneFinetuning

from callbacks import GradientMonitor

pytestmark = [
    *LIGHTNINGS_WARNINGS,
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode"),
    pytest.mark.filterwarnings("ignore:Total length of `DataLoader`"),
]


def fitted(root, kind, *others):
    pl.seed_everything(4, verbose=False)
    monitor = GradientMonitor()
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[monitor, *others],
    )
    trainer.fit(kind())
    return [f"{found.fault}: {found.why}" for found in monitor.findings]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_nothing_is_said_of_a_healthy_module(tmp_path, capsys, kind):
    assert fitted(tmp_path, kind) == []
    said = [line for line in capsys.readouterr().err.splitlines() if "GradientMonitor" in line]
    assert len(said) == 1  # the last word


class Finetuned(Backbone):
    """Leaves it to a callback which parameters are trained."""

    way = "callback"

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=3e-3)


@pytest.mark.filterwarnings("ignore:.*is not yet in the optimizer")
@pytest.mark.parametrize("epoch", [2, 10])
def test_nothing_is_said_of_a_backbone_that_a_callback_freezes_and_lets_go_later(tmp_path, epoch):
    assert fitted(tmp_path, Finetuned, BackboneFinetuning(epoch)) == []
