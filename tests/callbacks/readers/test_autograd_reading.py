"""What is read of autograd's nodes without torch's promise: these tests fail when a new torch keeps it elsewhere."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks.graphs import backward_graph
from callbacks.health.loss_reading import read_loss
from callbacks.health.network_reading import read_head, read_structure
from callbacks.health.rules.network import head_findings, structure_findings
from callbacks.readers.autograd import (
    forward_name,
    name_of,
    operations,
    parameter_of,
    saved,
    source_of,
    sources_of,
    trained_inputs,
    used_parameters,
    walk,
)

X, Y = torch.randn(6, 5), torch.arange(6) % 3


def net():
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def behind(tensor, name):
    return next(node for node in walk([tensor.grad_fn]) if name_of(node) == name)


def test_nodes_are_named_by_their_operations():
    loss = F.cross_entropy(net()(X), Y)
    assert [name_of(node) for node in walk([loss.grad_fn])][:3] == ["NllLoss", "LogSoftmax", "Addmm"]
    assert forward_name(behind(loss, "LogSoftmax")) == "log_softmax"
    assert name_of(X.clone().requires_grad_().sum(1).grad_fn) == "Sum"  # SumBackward1


def test_a_gradient_ends_at_the_parameter_it_is_of():
    module = net()
    loss = module(X).sum()
    ends = [parameter for node in walk([loss.grad_fn]) if (parameter := parameter_of(node)) is not None]
    assert {id(end) for end in ends} == {id(parameter) for parameter in module.parameters()}


def test_losses_keep_what_is_read_of_them():
    scores = nn.Linear(5, 3)(X)
    entropy, square = F.cross_entropy(scores, Y), F.mse_loss(scores, torch.ones(6, 3))
    assert torch.equal(saved(entropy.grad_fn, "target"), Y)
    assert saved(entropy.grad_fn, "ignore_index") == -100
    assert saved(entropy.grad_fn, "weight") is None
    assert torch.equal(saved(behind(entropy, "LogSoftmax"), "result"), scores.log_softmax(1))
    assert saved(F.softmax(scores, -1).grad_fn, "dim") in (-1, 1)
    assert torch.equal(saved(square.grad_fn, "self"), scores)
    assert torch.equal(saved(square.grad_fn, "target"), torch.ones(6, 3))
    binary = F.binary_cross_entropy_with_logits(scores, torch.ones(6, 3), pos_weight=torch.ones(3))
    assert saved(binary.grad_fn, "pos_weight") is not None


def test_operations_keep_what_is_read_of_them():
    module = nn.Linear(5, 3)
    affine, hidden = module(X).grad_fn, torch.relu(module(X))
    assert list(saved(affine, "mat1_sym_sizes")) == [6, 5]
    assert list(saved(affine, "mat2_sym_sizes")) == [5, 3]
    assert torch.equal(saved(affine, "mat1"), X)
    assert torch.equal(saved(behind(hidden, "Relu"), "result"), hidden)
    assert saved((hidden**2).grad_fn, "exponent") == 2
    assert saved((hidden * 3.0).grad_fn, "other") == 3.0
    assert torch.equal(saved((hidden * torch.ones(6, 3)).grad_fn, "other"), torch.ones(6, 3))
    assert not saved(hidden.grad_fn, "result").requires_grad


def test_what_a_function_of_somebodys_would_give_back_is_not_asked_for():
    asked = []
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: asked.append(kept) or kept):
        result = torch.sigmoid(nn.Linear(5, 3)(X))
    assert saved(result.grad_fn, "result") is None
    assert not asked


def test_what_a_backward_pass_has_freed_is_not_there():
    loss = F.cross_entropy(net()(X), Y)
    loss.backward()
    assert saved(loss.grad_fn, "target", "gone") == "gone"
    assert [operation.result() for operation in operations(loss, {})] == [None] * len(operations(loss, {}))


@pytest.mark.parametrize("change", [lambda w: w[1], lambda w: w[1].t().contiguous().t(), lambda w: w.unbind()[1]])
def test_a_weight_that_is_shown_in_another_way_is_still_used_by_its_layer(change):
    weights = nn.Parameter(torch.randn(2, 4, 5))
    product = X @ change(weights).t()
    (used,) = used_parameters(behind(product, "Mm"))
    assert used is weights
    assert [(op.kind, op.layer, op.own) for op in operations(product.relu(), {id(weights): "experts"})] == [
        ("Mm", "experts", True),
        ("Relu", "experts", False),
    ]


def test_operations_come_after_those_they_build_on_and_know_their_layer():
    module = net()
    layers = {id(p): name.rpartition(".")[0] for name, p in module.named_parameters()}
    found = operations(F.cross_entropy(module(X), Y), layers)
    assert [(op.kind, op.layer, op.own, op.hidden) for op in found] == [
        ("Addmm", "0", True, True),
        ("Relu", "0", False, True),
        ("Addmm", "2", True, False),
        ("LogSoftmax", "2", False, False),
        ("NllLoss", "2", False, False),
    ]
    assert found[1].before is found[0]


def test_a_result_is_known_by_its_operation_and_its_number():
    first, second = nn.Linear(5, 4)(X).chunk(2, 1)
    assert source_of(first)[0] is source_of(second)[0]
    assert [source_of(part)[1] for part in (first, second)] == [0, 1]
    assert sources_of((first + second).grad_fn) == (source_of(first), source_of(second))
    assert source_of(X) is None


class Changed:
    """A node of a torch that keeps one of the things that are read elsewhere."""

    def __init__(self, node, lost):
        self.node, self.lost = node, lost

    def __getattr__(self, attribute):
        if attribute.startswith(self.lost):
            raise AttributeError(attribute)
        return getattr(self.node, attribute)

    def __eq__(self, other):
        return self.node == other.node

    def __hash__(self):
        return hash(self.node)

    def name(self):
        return "Unheard" if self.lost == "name" else self.node.name()

    @property
    def next_functions(self):
        return tuple((below and Changed(below, self.lost), number) for below, number in self.node.next_functions)


@pytest.mark.parametrize("lost", ["_saved_", "variable", "name"])
def test_a_torch_that_keeps_less_is_read_without_a_finding_and_without_a_failure(lost):
    module = net()
    loss = F.cross_entropy(module(X), Y) + F.mse_loss(module(X), F.one_hot(Y, 3).float()) * 0.5
    changed = SimpleNamespace(grad_fn=Changed(loss.grad_fn, lost), detach=loss.detach)
    assert trained_inputs(changed.grad_fn)
    assert operations(changed, {id(p): "layer" for p in module.parameters()})
    read_head(operations(changed, {}))
    assert head_findings(read_loss(changed, alone=True, maximised=False), 0) == []
    assert structure_findings(read_structure(changed), 0) == []
    assert {node.op for node in backward_graph(changed, module).nodes} >= (
        {"AccumulateGrad"} if lost == "_saved_" else set()
    )
