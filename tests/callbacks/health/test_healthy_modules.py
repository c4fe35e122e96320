"""Silence about what is healthy, over kinds of modules that no rule was made on."""

import pytest
import pytorch_lightning as pl
from foreign_modules import LIGHTNINGS_WARNINGS
from healthy_modules import KINDS

from callbacks import GradientMonitor

pytestmark = LIGHTNINGS_WARNINGS


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_nothing_is_said_of_a_healthy_module(tmp_path, capsys, kind):
    pl.seed_everything(4, verbose=False)
    monitor = GradientMonitor()
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[monitor],
    )
    trainer.fit(kind())
    said = [line for line in capsys.readouterr().err.splitlines() if "GradientMonitor" in line]
    assert [line for line in said if not line.startswith("GradientMonitor: nothing wrong over ")] == []
    assert len(said) == 1
