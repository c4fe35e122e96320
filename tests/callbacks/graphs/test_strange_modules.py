import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import LIGHTNINGS_WARNINGS
from strange_modules import STRANGE, batches
from test_graph_logger import board, said, unhurried, written

pytestmark = [
    *LIGHTNINGS_WARNINGS,
    pytest.mark.filterwarnings("ignore:.*TensorBoardLogger. expects"),
    pytest.mark.filterwarnings("ignore:.*itertools"),  # Python 3.12 on copying one; it is copied with an ear shut
]
BOTH = {"Default", "backward"}


def trainer_of(folder, *callbacks, logger=False, epochs=2, **flags):
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        callbacks=list(callbacks),
        **flags,
    )


def fit(folder, kind, *callbacks, logger=False, loader=None, **flags):
    pl.seed_everything(1)
    module, trainer = kind(), trainer_of(folder, *callbacks, logger=logger, **flags)
    trainer.fit(module, loader or batches())
    return trainer, module


def everything(trainer, module):
    """All that the next step would depend on."""
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    chance = [torch.get_rng_state(), repr(np.random.get_state()), repr(random.getstate())]
    return {"weights": dict(module.state_dict()), "optimizers": optimizers, "chance": chance, "own": module.state()}


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert_same(list(a.items()), list(b.items()))
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


@pytest.mark.parametrize("kind", STRANGE)
def test_a_fit_is_the_same_with_graphs_and_without(tmp_path, capsys, kind):
    alone = everything(*fit(tmp_path / "alone", kind))
    watched = everything(*fit(tmp_path, kind, unhurried(), logger=board(tmp_path)))
    assert_same(alone, watched)
    assert set(written(tmp_path)) == BOTH
    lines = said(capsys)
    assert len(lines) <= 1
    assert not any("failed" in line for line in lines)
