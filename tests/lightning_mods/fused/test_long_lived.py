"""While a fit goes on, the garbage collector looks at what is new alone; afterwards all is as it was."""

import gc

import pytest
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel

from lightning_mods.fused.overhead import LongLived


class Frozen(pl.Callback):
    """Notes how many objects are out of sight, epoch by epoch."""

    def __init__(self, raises=False):
        self.counts, self.raises = [], raises

    def on_train_epoch_end(self, *_):
        self.counts.append(gc.get_freeze_count())
        if self.raises and len(self.counts) == 3:
            raise ValueError("enough")


def fit(watch, **given):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 3}
    sizes = {"limit_train_batches": 1, "limit_val_batches": 0, "enable_model_summary": False, "accelerator": "cpu"}
    pl.Trainer(callbacks=[LongLived(), watch], **quiet, **sizes, **given).fit(BoringModel())


def test_what_the_libraries_loaded_is_out_of_sight_after_the_first_epoch():
    watch = Frozen()
    fit(watch)
    assert watch.counts[0] == 0
    assert min(watch.counts[1:]) > 10_000
    assert gc.get_freeze_count() == 0


def test_an_error_puts_all_back():
    with pytest.raises(ValueError, match="enough"):
        fit(Frozen(raises=True))
    assert gc.get_freeze_count() == 0


def test_a_process_that_looks_after_its_garbage_itself_is_left_alone():
    gc.freeze()
    before = gc.get_freeze_count()
    try:
        watch = Frozen()
        fit(watch)
        assert max(watch.counts) <= before
        assert gc.get_freeze_count() > before / 2  # some have gone since
    finally:
        gc.unfreeze()
