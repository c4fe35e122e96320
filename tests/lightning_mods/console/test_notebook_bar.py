import sys
from types import ModuleType, SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_mods.console.progress import NotebookBar, in_notebook, progress_callbacks

pytestmark = pytest.mark.filterwarnings("ignore:.*number of training batches:UserWarning")


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def step(self, batch, name):
        loss = self.layer(batch[0]).square().mean()
        self.log(name, loss, on_epoch=True, on_step=False)
        return loss

    def training_step(self, batch, batch_idx):
        return self.step(batch, "train_loss")

    def validation_step(self, batch, batch_idx):
        self.step(batch, "val_loss")

    def test_step(self, batch, batch_idx):
        self.step(batch, "test_score")

    def predict_step(self, batch, batch_idx):
        return self.layer(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def outputs(monkeypatch):
    """What a notebook would show: one list of texts for each output, the last of them standing there."""
    shown = []

    def display(content, *, raw, display_id):
        assert raw
        assert display_id
        shown.append([content["text/plain"]])
        return SimpleNamespace(update=lambda new, raw: shown[-1].append(new["text/plain"]))

    module = ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def trainer(bar, **flags):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return pl.Trainer(max_epochs=2, accelerator="cpu", callbacks=[bar], **quiet, **flags)


def loader():
    return DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=2)


def test_a_fit_is_one_output_that_is_rewritten_and_tells_how_it_ended(outputs):
    trainer(NotebookBar(every=0)).fit(Module(), loader(), loader())
    (texts,) = outputs
    assert texts[0].startswith("epoch 1 of 2 batch 1 of 4 ")
    assert any(text.startswith("epoch 2 of 2 validation batch 4 of 4 ") for text in texts)
    assert texts[-1].startswith("2 epochs in ")
    assert [part.split()[0] for part in texts[-1].split(" · ")[1:]] == ["train_loss", "val_loss"]


def test_a_short_fit_is_drawn_once_at_its_end(outputs):
    trainer(NotebookBar(every=60)).fit(Module(), loader(), loader())
    assert [len(texts) for texts in outputs] == [1]


def test_evaluations_and_predictions_are_shown_too(outputs):
    bar = NotebookBar(every=0)
    trainer(bar).test(Module(), loader(), verbose=False)
    trainer(bar).predict(Module(), loader())
    test, predict = outputs
    assert test[-1].startswith("test batch 4 of 4 ")
    assert predict[-1].startswith("prediction batch 4 of 4 ")


def test_a_rank_that_was_silenced_shows_nothing(outputs):
    bar = NotebookBar(every=0)
    bar.disable()
    trainer(bar).fit(Module(), loader(), loader())
    assert outputs == []


def test_time_does_not_run_backwards():
    with pytest.raises(ValueError, match="every must be at least 0 seconds, not -1"):
        NotebookBar(every=-1)


def test_a_notebook_gets_the_line_and_a_log_file_does_not(monkeypatch):
    assert not in_notebook()
    kernel = ModuleType("ipykernel.kernelapp")
    kernel.IPKernelApp = SimpleNamespace(initialized=lambda: True)
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", kernel)
    assert [type(callback) for callback in progress_callbacks([])] == [NotebookBar]
    kernel.IPKernelApp = SimpleNamespace(initialized=lambda: False)  # imported, but this process is none
    assert [type(callback) for callback in progress_callbacks([])] != [NotebookBar]
