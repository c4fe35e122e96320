import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from callbacks.diagnosis.verdict import Fit
from callbacks.loggers.figures import COLOURS, rgb
from callbacks.search.figure import draw_history, draw_search
from callbacks.search.results import TrialRow


def trial(number, lr, size, value=None, state="COMPLETE", verdict="good"):
    values = () if value is None else (value,)
    return TrialRow(number, state, {"lr": lr, "batch_size": size}, values, attrs={"verdict": verdict})


ROWS = [
    trial(0, 1e-4, 8, 2.0, verdict="underfit"),
    trial(1, 1e-3, 64, 1.5, verdict="underfit"),
    trial(2, 1e-2, 16, 0.5),
    trial(3, 1e-1, 32, 0.3),
    trial(4, 3e-2, 8, 0.4, verdict="overfit"),
    trial(5, 1.0, 128, 50.0, "PRUNED", "diverged"),
    trial(6, 0.9, 128, None, "FAIL", "diverged"),
]


def star(axes):
    return [line.get_xydata()[0].tolist() for line in axes.lines if line.get_marker() == "*"]


def words(axes):
    return [text.get_text() for text in axes.figure.legends[0].get_texts()]


def test_every_trial_stands_where_its_values_are_in_the_colour_of_its_verdict():
    axes = draw_search(ROWS).axes[0]
    marks = {tuple(place): line for line in axes.lines if line.get_marker() in "oXv" for place in line.get_xydata()}
    assert set(marks) == {(row.params["lr"], row.params["batch_size"]) for row in ROWS}
    assert to_rgb(marks[1e-4, 8].get_color()) == to_rgb(COLOURS[Fit.UNDERFIT])
    assert [marks[1.0, 128].get_marker(), marks[0.9, 128].get_marker()] == ["v", "X"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert {"underfit", "good", "overfit", "diverged", "complete", "pruned", "failed"} == set(words(axes))


@pytest.mark.parametrize(("mode", "place"), [("min", [1e-1, 32]), ("max", [1e-4, 8])])
def test_a_star_marks_the_best_of_those_that_came_to_their_end(mode, place):
    assert star(draw_search(ROWS, mode=mode).axes[0]) == [pytest.approx(place)]


def test_the_surface_is_good_where_the_good_trials_are_whatever_one_that_exploded_came_to():
    rows = [*ROWS[:5], trial(5, 1.0, 128, 1e30, "PRUNED")]
    mesh = draw_search(rows).axes[0].collections[0]
    shade = np.asarray(mesh.get_array()).reshape(80, 80)
    good, bad = np.unravel_index([shade.argmin(), shade.argmax()], shade.shape)
    assert (shade.min(), shade.max()) == (pytest.approx(0, abs=0.2), pytest.approx(1, abs=0.05))
    assert good[0] < bad[0]  # the left one of the good ones against the far right
    assert math.isfinite(shade.sum())


def test_with_one_value_alone_the_metric_stands_on_the_other_axis():
    rows = [TrialRow(i, "COMPLETE", {"lr": 10.0**-i}, (float(i + 1),)) for i in range(4)]
    axes = draw_search(rows).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("lr", "val_loss")
    assert star(axes) == [[1.0, 1.0]]


def test_the_history_shows_the_best_so_far_which_never_rises():
    axes = draw_history(ROWS).axes[0]
    (steps,) = [line for line in axes.lines if line.get_label() == "best so far"]
    assert steps.get_ydata() == pytest.approx([2.0, 1.5, 0.5, 0.3, 0.3, 0.3])
    assert steps.get_xdata()[-1] == 6


def test_a_trial_that_exploded_stands_at_the_edge_of_the_history_and_presses_nothing_flat():
    axes = draw_history(ROWS).axes[0]
    heights = dict(tuple(place) for line in axes.lines if line.get_marker() in "oXv" for place in line.get_xydata())
    assert heights == pytest.approx({0: 2.0, 1: 1.5, 2: 0.5, 3: 0.3, 4: 0.4, 5: 2.0, 6: 2.0})
    high = draw_history(ROWS, mode="max").axes[0]
    assert min(line.get_ydata().min() for line in high.lines if line.get_marker() in "oXv") == pytest.approx(0.3)


@pytest.mark.parametrize("rows", [[], [trial(0, 0.1, 8, math.nan)], [trial(0, 0.1, 8, math.inf), ROWS[6]], ROWS[:1]])
def test_little_or_nothing_can_be_drawn_too(rows):
    for figure in (draw_search(rows), draw_history(rows)):
        assert rgb(figure).std() > 0


def test_no_word_is_cut_off_whatever_the_numbers_are():
    rows = [trial(i, 10.0**-i, 2**i, -1.23e10 / (i + 1)) for i in range(21)]
    for figure in (draw_search(rows), draw_history(rows)):
        canvas, page = figure.canvas, figure.bbox
        canvas.draw()
        for each in [*figure.axes, *figure.legends]:
            around = each.get_tightbbox(canvas.get_renderer())
            assert page.x0 <= around.x0 < around.x1 <= page.x1 + 1
            assert page.y0 <= around.y0 < around.y1 <= page.y1 + 1
