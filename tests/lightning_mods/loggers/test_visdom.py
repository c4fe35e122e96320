import math
import pickle
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[2] / "end_to_end"))
from logger_readers import ask_visdom, lines_of, start_visdom, visdom_server

from callbacks import FitMonitor, GradientLogger, GraphLogger
from callbacks.loggers.base import Drawing, Histogram, LoggerAdapter
from lightning_mods import VisdomLogger
from lightning_mods.loggers.visdom import POINTS, Sender

pytest.importorskip("visdom", reason="visdom is not installed: see docs/loggers.md")


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Foreign(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"width": 3})
        self.net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))

    def training_step(self, batch, batch_idx):
        loss = (self.net(batch[0]) - 1).square().mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", (self.net(batch[0]) - 1).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ServerGoes(pl.Callback):
    """Kills the server in epoch 2, and starts another one in epoch 5."""

    def __init__(self, server, port, folder):
        self.server, self.port, self.folder = server, port, folder

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            trainer.logger.flush(10)
            self.server.kill()
            self.server.wait()
        if trainer.current_epoch == 5:
            time.sleep(1.2)  # let it be noticed
            self.server = start_visdom(self.port, self.folder)


def fit(logger, *callbacks, epochs=8):
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=logger,
        callbacks=[*callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    pl.seed_everything(0)
    loader = DataLoader(TensorDataset(torch.randn(8, 3)), batch_size=4)
    model = Foreign()
    trainer.fit(model, loader, loader)
    return model


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_a_server_that_is_killed_in_the_middle_of_a_fit_and_started_again_has_whole_curves(tmp_path, port, capsys):
    logger = VisdomLogger(tmp_path, version="one", port=port)
    goes = ServerGoes(start_visdom(port, tmp_path), port, tmp_path)
    watchers = [FitMonitor(), GradientLogger(every=1, write_every=1, histograms_every=2), GraphLogger()]
    try:
        model = fit(logger, goes, *watchers)
        assert logger.flush(20)
        windows = ask_visdom(port, "win_data", win=None, eid=logger.env)
    finally:
        goes.server.kill()
        goes.server.wait()
    losses = lines_of(windows["loss"])
    assert losses["train_loss"][0] == losses["val_loss"][0] == [2 * epoch + 1 for epoch in range(8)]
    assert set(lines_of(windows["fit"])["fit/probability_good"][0]) == set(range(8))
    assert lines_of(windows["grad_norm"])["grad_norm/total"][0] == list(range(16))
    assert windows["fit/curves"]["content"]["src"].startswith("data:image/png")
    assert windows["gradients/flow"]["content"]["src"].startswith("data:image/png")
    assert windows["graphs/forward"]["content"].startswith("<svg")
    assert "validation loss" in windows["fit/verdict"]["content"].lower()
    assert "width" in windows["hyperparameters"]["content"]
    assert sum(windows["weights/net.0.weight"]["content"]["data"][0]["y"]) == 12
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("VisdomLogger")]
    assert len(said) == 1
    assert "no server answers" in said[0]
    without = fit(False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), without.parameters(), strict=True))


def test_without_a_server_nothing_waits_and_all_is_kept_for_one_that_comes(tmp_path, port):
    logger = VisdomLogger(tmp_path, "runs", version="one", port=port, prefix="a")
    began = time.monotonic()
    for step in range(200):
        logger.log_metrics({"train_loss": math.inf if step == 3 else step}, step)
    logger.finalize("success")
    assert time.monotonic() - began < 5
    with visdom_server(port, tmp_path):
        assert logger.flush(30)
        windows = ask_visdom(port, "win_data", win=None, eid="runs_one")
        assert logger.experiment.win_exists("run")
    steps, values = lines_of(windows["a-train_loss"])["a-train_loss"]
    assert steps == list(range(200))
    assert values == [None if step == 3 else step for step in range(200)]


def test_a_process_that_goes_on_with_a_run_keeps_the_lines_that_the_server_has(tmp_path, port):
    with visdom_server(port, tmp_path):
        for steps in (range(4), range(3, 6)):  # the second one goes on from a checkpoint after step 2
            logger = VisdomLogger(tmp_path, version="one", port=port)
            for step in steps:
                logger.log_metrics({"train_loss": step + 10 * steps.start}, step)
            assert logger.flush(30)
            logger.log_metrics({"late": 1.0}, steps.stop)
            assert logger.flush(30)
        windows = ask_visdom(port, "win_data", win=None, eid=logger.env)
    assert lines_of(windows["loss"])["train_loss"] == (list(range(6)), [0, 1, 2, 33, 34, 35])
    assert lines_of(windows["late"])["late"][0] == [4, 6]


def test_what_is_no_visdom_server_is_one_line(tmp_path, port, capsys):
    with socket.socket() as mute:  # takes connections and says nothing
        mute.bind(("127.0.0.1", port))
        mute.listen()
        logger = VisdomLogger(tmp_path, port=port)
        began = time.monotonic()
        logger.log_metrics({"loss": 1.0}, 0)
        assert not logger.flush(0.5)
        assert time.monotonic() - began < 3


def test_it_is_a_logger_adapter_and_a_copy_for_another_process_begins_anew(tmp_path, port):
    logger = VisdomLogger(tmp_path, version="one", port=port)
    assert isinstance(logger, LoggerAdapter)
    logger.log_metrics({"loss": 1.0}, 0)
    twin = pickle.loads(pickle.dumps(logger))  # noqa: S301  # as Lightning does for processes it spawns
    assert (twin.url, twin.save_dir) == (f"http://127.0.0.1:{port}/env/lightning_logs_one", str(tmp_path))
    twin.write_text("a", "b", 0)
    assert not twin.flush(5)


class Page:
    """A Visdom client whose server takes everything, and during whose calls something may happen."""

    server, port = "http://127.0.0.1", 8097

    def __init__(self):
        self.calls, self.held, self.meanwhile = [], "", lambda: None

    def get_window_data(self, win):
        return "{}" if win is None else self.held

    def text(self, text, win, opts):
        self.calls.append((win, text))
        self.held = text if win == "run" else self.held
        self.meanwhile()
        return win

    def line(self, X, Y, win, name, opts, update):  # as Visdom calls them
        self.calls.append((win, name, list(X), update))
        self.meanwhile()
        return win


def test_a_long_line_is_thinned_and_sent_again_as_a_whole():
    page = Page()
    sender = Sender(page, "")
    sender.points.extend(("loss", "train_loss", float(step), 0.5) for step in range(POINTS))
    assert sender.flush(20)
    assert page.calls.pop() == ("loss", "train_loss", list(range(POINTS)), None)
    sender.points.append(("loss", "train_loss", float(POINTS), 0.5))
    assert sender.flush(20)
    assert page.calls.pop() == ("loss", "train_loss", list(range(0, POINTS + 1, 2)), None)
    sender.points.append(("loss", "train_loss", POINTS + 1.0, 0.5))
    assert sender.flush(20)
    assert page.calls.pop() == ("loss", "train_loss", [POINTS + 1], "append")


def test_a_pane_that_changed_while_it_was_sent_is_sent_again():
    page = Page()
    sender = Sender(page, "")
    assert sender.flush(20)
    page.meanwhile = lambda: sender.panes.update(a=("text", {"text": "second", "opts": {}}))
    sender.panes["a"] = ("text", {"text": "first", "opts": {}})
    assert sender.flush(20)
    assert page.calls[-1] == ("a", "first")
    page.meanwhile = lambda: None
    assert sender.flush(20)
    assert page.calls[-1] == ("a", "second")
    page.calls.clear()
    assert sender.flush(20)
    assert page.calls == []
    page.held = "another server"
    assert sender.flush(20)
    assert page.calls[-1] == ("a", "second")


def test_what_cannot_be_drawn_is_named_and_holds_up_nothing(tmp_path, port, capsys):
    logger = VisdomLogger(tmp_path, version="one", port=port)
    with visdom_server(port, tmp_path):
        logger.write_image("odd", np.zeros((2, 2, 2, 2)), 0)
        for _ in range(2):
            logger.log_metrics({"words": "many", "count": torch.tensor(2)})
        logger.write_graphs({"forward": Drawing(lambda: None, lambda: "<svg a='b'></svg>")}, 0)
        logger.write_moment(3, {"loss": 1.0}, {"weights/a": Histogram(0.0, 1.0, [1.0, 2.0], 3.0, 4.0)})
        assert logger.flush(30)
        windows = ask_visdom(port, "win_data", win=None, eid=logger.env)
    assert {"graphs/forward", "loss", "weights/a", "run"} <= set(windows)
    assert windows["weights/a"]["content"]["data"][0]["x"] == [0.25, 0.75]
    assert lines_of(windows["count"])["count"] == ([0, 1], [2, 2])
    said = capsys.readouterr().err
    assert "`odd` cannot be shown" in said
    assert said.count("`words` is left out, it needs a number and came as a str") == 1
