import io
import math
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from callbacks.diagnosis.verdict import Diagnosis, Fit, diagnose
from callbacks.fit.figure import draw_fit
from callbacks.loggers.figures import png, rgb

TRAIN = [2.0 * 0.9**e for e in range(60)]
VAL = [0.5 + 2.0 * 0.8**e + 0.02 * max(0, e - 12) for e in range(60)]


def texts(figure):
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
        legend = axes.get_legend()
        found += [text.get_text() for text in legend.get_texts()] if legend else []
    return found


def test_verdict_reason_best_epoch_and_onset_are_drawn_in():
    found = diagnose(TRAIN, VAL)
    figure = draw_fit(TRAIN, VAL, found, title="digits")
    assert isinstance(figure, Figure)
    said = texts(figure)
    assert "digits – overfit: memorising" in said
    assert found.reason in " ".join(said).replace("\n", " ")
    assert {"training loss", "validation loss", f"best: epoch {found.best_epoch}"} <= set(said)
    assert f"worse from epoch {found.onset_epoch}" in said
    assert any(text.startswith("overfit ") and text.endswith(" %") for text in said)


def test_losses_to_compare_with_are_lines_where_they_are_within_the_view():
    found = diagnose(TRAIN, VAL)
    levels = {"trivial": 40.0, "reference": 0.6, "missing": None}
    said = texts(draw_fit(TRAIN, VAL, found, levels=levels))
    assert "reference\n0.6" in said
    assert not any("trivial" in text or "missing" in text for text in said)


def test_a_metric_gets_axes_of_its_own():
    found = diagnose(TRAIN, VAL)
    assert len(draw_fit(TRAIN, VAL, found, [0.5] * 60).axes) == len(draw_fit(TRAIN, VAL, found).axes) + 1
    assert len(draw_fit(TRAIN, VAL, found, [None] * 60).axes) == len(draw_fit(TRAIN, VAL, found).axes)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ([], []),
        ([], [1.0, 0.5, 0.4, 0.3, 0.2]),
        ([None] * 5, [math.nan] * 5),
        ([1.0, math.inf, None, math.nan, 1e300], [1.0, None, -math.inf, 2.0, 1e-300]),
        ([1e-9] * 5, [-3.0] * 5),
        ([1.0], [1.0]),
    ],
)
def test_whatever_was_logged_can_be_drawn(train, val):
    pixels = rgb(draw_fit(train, val, diagnose(train, val)))
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.std() > 0


def test_every_verdict_can_be_drawn_whatever_it_points_at():
    for fit in Fit:
        shares = {each: float(each is fit) for each in Fit}
        found = Diagnosis(fit, "some_cause", shares, 70, 80, "Because.", ())
        assert "some cause" in " ".join(texts(draw_fit(TRAIN, VAL, found)))


def test_the_file_is_a_png_of_the_same_pixels():
    found = diagnose(TRAIN, VAL)
    image = Image.open(io.BytesIO(png(draw_fit(TRAIN, VAL, found))))
    assert image.format == "PNG"
    assert np.array_equal(np.asarray(image)[..., :3], rgb(draw_fit(TRAIN, VAL, found)))


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("callbacks.fit.figure", "matplotlib.pyplot"),
        ("callbacks.fit.monitor", "callbacks.fit.figure"),  # torchmetrics loads matplotlib itself
    ],
)
def test_pyplot_is_left_alone_and_nothing_is_loaded_before_a_picture_is_drawn(module, absent):
    code = f"import sys, {module}; sys.exit({absent!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
