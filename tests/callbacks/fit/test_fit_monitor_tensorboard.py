import io

import numpy as np
import pytest
from foreign_modules import LIGHTNINGS_WARNINGS, Memorises, fit
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import FitMonitor
from callbacks.diagnosis.verdict import Fit

pytestmark = LIGHTNINGS_WARNINGS


@pytest.fixture
def events():
    def read(logger):
        logger.finalize("success")
        found = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "tensors": 0})
        found.Reload()
        return found

    return read


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_probabilities_words_and_picture_stand_in_their_tabs(tmp_path, events, monkeypatch, seconds):
    monkeypatch.setattr("callbacks.fit.monitor.GUESS", seconds)  # that a picture is thought to take
    monkeypatch.setattr("callbacks.fit.monitor.DRAWING", 1.0)
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    monitor = FitMonitor()
    fit(tmp_path, Memorises, monitor, epochs=20, logger=logger, log_every_n_steps=1)
    found = events(logger)
    for verdict in Fit:
        scalars = {event.step: event.value for event in found.Scalars(f"fit/probability_{verdict}")}
        assert sorted(scalars) == list(range(20))
        assert scalars[19] == pytest.approx(monitor.diagnosis.probabilities[verdict])
    words = found.Tensors("fit/verdict/text_summary")[-1]
    assert words.step == 19
    assert monitor.diagnosis.reason in words.tensor_proto.string_val[0].decode()
    pictures = found.Images("fit/curves")
    assert pictures[-1].step == 19
    assert len(pictures) == 1 if seconds else len(pictures) > 1
    pixels = np.asarray(Image.open(io.BytesIO(pictures[-1].encoded_image_string)))
    assert pixels.shape[2] == 3
    assert pixels.std() > 10


def test_no_picture_where_none_is_wanted(tmp_path, events):
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    fit(tmp_path, Memorises, FitMonitor(plot=False), logger=logger, log_every_n_steps=1)
    assert events(logger).Tags()["images"] == []


def test_a_failed_drawing_is_named_and_training_goes_on(tmp_path, capsys, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no ink")

    monkeypatch.setattr("callbacks.fit.figure.draw_fit", broken)
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    trainer, _ = fit(tmp_path, Memorises, FitMonitor(), logger=logger, log_every_n_steps=1)
    assert trainer.current_epoch == 6
    assert capsys.readouterr().err.count("FitMonitor: drawing the curves failed (RuntimeError: no ink)") == 1
