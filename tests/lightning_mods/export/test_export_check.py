"""Two models' outputs are compared: rounding is forgiven, anything else is not."""

import numpy as np
import pytest

from lightning_mods.export.comparison import difference, in_batches
from lightning_mods.runs import RunError


def test_equal_outputs_differ_by_nothing_even_where_they_are_not_numbers():
    values = np.array([1.0, np.nan, np.inf])
    assert difference([values], [values], 1.0).largest == 0


def test_rounding_is_tolerable_and_more_is_not():
    wanted = np.array([100.0, 0.0])
    for apart, fine in (([5e-4, 5e-6], True), ([0.0, 5e-5], False), ([5e-3, 0.0], False)):
        assert difference([wanted + np.array(apart)], [wanted], 1.0).tolerable == fine


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_what_is_no_number_on_one_side_alone_is_not_tolerable(odd):
    for found, wanted in ((odd, 1.0), (1.0, odd)):
        assert not difference([np.array([found])], [np.array([wanted])], 1.0).tolerable


def test_another_shape_is_refused():
    with pytest.raises(RunError, match="outputs of the shapes"):
        difference([np.zeros((2, 1))], [np.zeros(2)], None)


def test_no_batch_is_longer_than_allowed():
    seen = []

    def run(arrays):
        seen.append(len(arrays[0]))
        return [arrays[0] * 2]

    assert in_batches(run, [np.arange(7)], 3)[0].tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert seen == [3, 3, 1]
