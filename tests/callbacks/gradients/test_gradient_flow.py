import json
import math
from itertools import pairwise

import numpy as np
import pytest

from callbacks.gradients.figure import draw_gradient_flow
from callbacks.gradients.flow import COLUMNS, ROWS, GradientFlow
from callbacks.loggers.figures import rgb


def test_memory_is_bounded_and_means_are_kept():
    flow = GradientFlow(["a", "b"])
    for step in range(10_000):
        flow.add(step, {"a": float(step), "b": 1.0})
    assert COLUMNS / 2 <= len(flow.columns) <= COLUMNS
    a, b = flow.means()
    assert b == [1.0] * len(flow.columns)
    for column, mean in zip(flow.columns, a, strict=True):
        assert mean == (column.first + column.last) / 2
    assert [c.first for c in flow.columns][1:] == [c.last + 1 for c in flow.columns][:-1]
    assert (flow.columns[0].first, flow.columns[-1].last) == (0, 9999)


def test_layers_of_two_optimizers_share_columns():
    flow = GradientFlow(["g", "d"])
    for step in range(0, 40, 2):
        flow.add(step, {"g": 1.0})
        flow.add(step + 1, {"d": 2.0})
    assert len(flow.columns) == 20
    assert flow.means() == [[1.0] * 20, [2.0] * 20]


def test_what_is_not_finite_and_what_is_not_there_are_told_apart():
    flow = GradientFlow(["a", "b", "c"])
    flow.add(0, {"a": math.inf, "b": 0.0})
    (a,), (b,), (c,) = flow.means()
    assert (math.isnan(a), b, c) == (True, 0.0, None)


def test_a_layer_that_comes_later_takes_its_place():
    flow = GradientFlow(["a", "c"])
    flow.add(0, {"a": 1.0, "c": 3.0})
    flow.add(1, {"a": 1.0, "b": 2.0, "c": 3.0})
    flow.arrange(["a", "b", "c"])
    assert flow.layers == ["a", "b", "c"]
    assert flow.means() == [[1.0, 1.0], [None, 2.0], [3.0, 3.0]]


def test_of_very_many_layers_an_even_choice_is_kept():
    flow = GradientFlow([f"layer.{i}" for i in range(1000)])
    flow.add(0, {f"layer.{i}": 1.0 for i in range(1000)})
    assert len(flow.layers) == ROWS
    assert flow.layers[:2] == ["layer.0", "layer.5"]
    assert flow.of == 1000


def test_state_goes_through_json_and_goes_on():
    one = GradientFlow(["a"])
    for step in range(300):
        one.add(step, {"a": float(step)})
    other = GradientFlow.load(json.loads(json.dumps(one.state())))
    for flow in (one, other):
        for step in range(300, 600):
            flow.add(step, {"a": float(step)})
    assert one.state() == other.state()


@pytest.mark.parametrize(("layers", "moments"), [(1, 1), (3, 60), (200, 60)])
def test_the_picture_is_light_and_shows_each_kind_of_norm(layers, moments):
    flow = GradientFlow([f"block.{i}.linear" for i in range(layers)])
    for step in range(moments):
        flow.add(10 * step, {name: 10.0 ** -(i % 7) for i, name in enumerate(flow.layers)})
    flow.columns[-1].total[-1] = 0.0
    flow.columns[0].broken[0] = 1
    figure = draw_gradient_flow(flow)
    axes, bar = figure.axes
    assert axes.get_ylabel() == "output  ←  layer  ←  input"
    assert "gradient" in bar.get_ylabel()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "block.0.linear"
    assert len(labels) == min(layers, len(labels))
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(above.y0 >= below.y1 - 2 for above, below in pairwise(boxes))  # none overlap
    pixels = rgb(figure)
    assert pixels.shape[0] <= 1300
    red = (np.abs(pixels.astype(int) - [0xE0, 0x11, 0x5F]).sum(-1) < 10).sum()
    assert red > 50
