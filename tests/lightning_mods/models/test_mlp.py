import pytest
import torch
from torch import nn

from lightning_mods.models.mlp import MLP


@pytest.mark.parametrize("hidden", [(), (5,), (7, 3, 2)])
def test_the_widths_are_those_asked_for(hidden):
    net = MLP(4, 3, hidden_sizes=hidden)
    shapes = [tuple(layer.weight.shape) for layer in net.layers if isinstance(layer, nn.Linear)]
    widths = [4, *hidden, 3]
    assert shapes == [(widths[i + 1], widths[i]) for i in range(len(widths) - 1)]
    assert net(torch.randn(6, 4)).shape == (6, 3)


def test_an_activation_and_dropout_stand_between_layers_and_none_after_the_last():
    net = MLP(4, 2, hidden_sizes=(3,), activation="tanh", dropout=0.5)
    assert [type(layer) for layer in net.layers] == [nn.Linear, nn.Tanh, nn.Dropout, nn.Linear]


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "gelu", "silu", "tanh"])
def test_a_deep_net_neither_swells_nor_fades_at_the_start(activation):
    torch.manual_seed(0)
    net = MLP(100, 10, hidden_sizes=(100,) * 10, activation=activation)
    hidden = net.layers[:-1](torch.randn(500, 100))
    assert 0.05 < hidden.std() < 2


def test_the_first_predictions_are_nearly_the_same_for_every_row():
    torch.manual_seed(0)
    assert MLP(50, 10)(torch.randn(200, 50)).std() < 0.3


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"in_features": 0}, "in_features must be at least 1, not 0"),
        ({"out_features": -1}, "out_features"),
        ({"hidden_sizes": (3, 0)}, r"hidden_sizes must be widths of at least 1, not \[3, 0\]"),
        ({"activation": "rleu"}, "relu, leaky_relu.*'rleu'"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), not 1.0"),
        ({"dropout": float("nan")}, "dropout"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(wrong, says):
    with pytest.raises(ValueError, match=says):
        MLP(**{"in_features": 2, "out_features": 2, **wrong})
