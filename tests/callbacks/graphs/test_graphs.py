import random
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from itertools import combinations, pairwise

import pytest
import torch
from graph_models import MODELS, Branch, GoogLeNet, rows
from torch import nn
from torch.nn import functional

from callbacks import graphs
from callbacks.graphs import CallRecorder, backward_graph, collapse, forward_graph, to_dot, to_graph_def, to_svg
from callbacks.graphs.builders import EXPORT, PARTS, SEEN, ForwardGraphBuilder
from callbacks.graphs.patience import Patience
from callbacks.graphs.render import lay_out

ORIGINS = {"branch": PARTS}


@dataclass
class Case:
    name: str
    module: nn.Module
    inputs: object
    forward: graphs.Graph
    backward: graphs.Graph
    output: object
    loss: torch.Tensor


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    torch.manual_seed(0)
    module, inputs = (make() for make in MODELS[request.param])
    forward = forward_graph(module, inputs)
    with CallRecorder(module) as watched:
        output = module(inputs)
        leaves = tensors(output)
        loss = sum(leaf.square().mean() for leaf in leaves)
    return Case(request.param, module, inputs, forward, backward_graph(loss, module, watched), output, loss)


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return [leaf for child in values for leaf in tensors(child)]


def plain(name):
    return name.replace("_orig_mod.", "").replace("._orig_mod", "")


def parameters(graph, op="Parameter"):
    return Counter(dict(node.attributes)["parameter"] for node in graph.of(op))


def reached(graph, start):
    after = {}
    for source, reader in graph.edges():
        after.setdefault(source, []).append(reader)
    seen, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += after.get(name, [])
    return seen


# ------------------------------------------------------------------ forward


def test_the_way_it_was_made_is_told(case):
    assert case.forward.origin == ORIGINS.get(case.name, EXPORT)
    assert bool(case.forward.note) == (case.forward.origin != EXPORT)


def test_every_parameter_that_is_used_is_one_node_in_its_modules_scope(case):
    used = {name for name, p in case.module.named_parameters() if case.name != "branch" or not name.startswith("flat")}
    assert parameters(case.forward) == Counter({plain(name): 1 for name in used})
    for node in case.forward.of("Parameter"):
        name = dict(node.attributes)["parameter"]
        assert node.name == name.replace(".", "/")
        (real,) = [p for key, p in case.module.named_parameters() if plain(key) == name]
        assert node.shapes == (tuple(real.shape),)


def test_scopes_are_modules(case):
    modules = {plain(name).replace(".", "/"): type(m).__name__ for name, m in case.module.named_modules()}
    for scope, cls in case.forward.modules.items():
        again = scope.rpartition("_")  # the second call of a module has a scope of its own
        known = scope if scope in modules else again[0]
        assert modules[known] in (cls, "OptimizedModule")


def test_every_input_leads_to_an_output_and_every_output_comes_from_an_input(case):
    outputs = {node.name for node in case.forward.of("Output")}
    ends = [reached(case.forward, node.name) & outputs for node in case.forward.of("Input")]
    assert len(ends) == len(tensors(case.inputs))
    assert all(ends)
    assert set.union(*ends) == outputs
    assert all(node.shapes[0] is not None for node in case.forward.of("Input"))


def test_shapes_are_those_of_the_real_outputs(case):
    found = [node.shapes for node in case.forward.of("Output")]
    assert found == [(tuple(leaf.shape),) for leaf in tensors(case.output)]
    known = [shape for node in case.forward.nodes for shape in node.shapes]
    assert sum(shape is not None for shape in known) > 0.9 * len(known)


def test_nothing_hangs_in_the_air(case):
    for graph in (case.forward, case.backward):
        names = [node.name for node in graph.nodes]
        assert len(names) == len(set(names))
        assert {source for source, _ in graph.edges()} <= set(names)
        touched = {name for edge in graph.edges() for name in edge}
        assert touched == set(names)
        assert not set(names) & set(graph.modules)  # a node and a scope of one name would be merged


def test_inputs_and_outputs_have_the_names_of_their_keys():
    make, inputs = MODELS["dict"]
    graph = forward_graph(make(), inputs(), scale=2.0)
    assert {n.name for n in graph.of("Input")} == {"batch_image", "batch_tables_0", "batch_tables_1"}
    assert {n.name for n in graph.of("Output")} == {"logits", "more_0"}


# ------------------------------------------------------------------ backward


def test_the_backward_graph_names_exactly_the_parameters_that_get_a_gradient(case):
    case.module.zero_grad()
    case.loss.backward(retain_graph=True)
    landed = {plain(name) for name, p in case.module.named_parameters() if p.grad is not None}
    assert parameters(case.backward, "AccumulateGrad") == Counter(dict.fromkeys(landed, 1))
    assert landed
    assert reached(case.backward, "loss") == {node.name for node in case.backward.nodes}
    for node in case.backward.of("AccumulateGrad"):
        assert node.name == dict(node.attributes)["parameter"].replace(".", "/")


def test_a_frozen_layer_gets_no_gradient():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net[1].requires_grad_(False)
    graph = backward_graph(net(torch.randn(5, 3)).sum(), net)
    assert parameters(graph, "AccumulateGrad") == {"0.weight": 1, "0.bias": 1}


def test_autograds_nodes_stand_in_the_module_that_made_them():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with CallRecorder(net) as watched:
        loss = net(torch.randn(5, 3)).exp().sum()
    scopes = {node.op: node.scope for node in backward_graph(loss, net, watched).nodes}
    assert scopes["TanhBackward0"] == "1"
    assert scopes["ExpBackward0"] == "training_step"
    alone = {node.op: node.scope for node in backward_graph(loss, net).nodes}
    assert alone["TanhBackward0"] == ""
    assert alone["AddmmBackward0"] in ("0", "2")


def test_an_activation_in_place_belongs_to_the_module_that_calls_it():
    make, inputs = MODELS["googlenet"]
    net = make().conv1
    with CallRecorder(net) as watched:
        loss = net(inputs()).sum()
    (relu,) = [node for node in backward_graph(loss, net, watched).nodes if node.op == "ReluBackward0"]
    assert relu.scope == ""
    slow = ForwardGraphBuilder(net, watched.calls, Patience(1e-9)).build([loss])
    assert [node.op for node in slow.nodes if node.op == "relu"] == ["relu"]


# ------------------------------------------------------------------ what is left alone


class Touchy(nn.Module):
    """Everything that a second pass could spoil."""

    def __init__(self):
        super().__init__()
        self.lin = nn.utils.spectral_norm(nn.Linear(4, 4))
        self.bn = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.par = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.calls, self.last, self.seen = [], None, []

    def forward(self, x):
        sys.stdout.write("forward")
        self.calls.append(random.random())
        self.last = self.drop(self.bn(self.lin(x)))
        return self.par(self.last)


def test_the_module_the_random_states_and_the_terminal_are_left_alone(capsys):
    module = Touchy()
    seen = []
    module.bn.register_forward_hook(lambda *args: seen.append(args))
    x = torch.randn(6, 4)
    weights = {key: value.clone() for key, value in module.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    graph = forward_graph(module, x)
    assert graph.origin == EXPORT
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert all(torch.equal(value, weights[key]) for key, value in module.state_dict().items())
    assert (module.calls, module.last, seen) == ([], None, [])
    assert capsys.readouterr().out.count("forward") == 1  # the one real pass
    module(x)
    assert len(seen) == 1


# ------------------------------------------------------------------ hard cases


def test_a_module_called_twice_has_two_scopes_and_one_set_of_weights():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 4)
            self.lin_1 = nn.Linear(4, 4)

        def forward(self, x):
            return self.lin(self.lin_1(self.lin(x)))

    graph = forward_graph(Twice(), rows((4,)))
    assert {node.scope for node in graph.of("linear")} == {"lin", "lin_1", "lin_call_1"}
    assert len(graph.of("Parameter")) == 4


def test_tied_weights_are_one_node():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.embedding(tokens))

    module = Tied()
    tokens = torch.arange(6).view(2, 3)
    graph = forward_graph(module, tokens)
    (weight,) = graph.of("Parameter")
    assert {r for s, r in graph.edges() if s == weight.name} == {"embedding/embedding", "head/linear"}
    assert parameters(backward_graph(module(tokens).sum(), module), "AccumulateGrad") == {"embedding.weight": 1}


def test_a_branch_on_data_is_drawn_as_it_went():
    graph = forward_graph(Branch(), rows((64,)))
    assert "which way it goes depends on the data" in graph.note
    assert not [node for node in graph.nodes if node.scope.startswith("flat")]
    assert reached(graph, "x") >= {"first/linear", "relu", "deep/0/linear", "deep/2/linear", "add", "head/linear"}


def test_a_module_that_cannot_be_traced_is_one_box():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return x * self.weight if float(x.detach().sum()) > -1e9 else x

    net = nn.Sequential(nn.Linear(4, 4), Odd(), nn.Linear(4, 2))
    graph = forward_graph(net, rows((4,)))
    (odd,) = graph.of("Odd")
    assert odd.inputs == ("0/linear", "1/weight")
    assert graph.origin == PARTS


def test_a_trace_that_takes_too_long_is_given_up():
    net = nn.Sequential(*[nn.Linear(4, 4) for _ in range(20)])
    x = rows((4,))
    with CallRecorder(net) as watched:
        loss = net(x).sum()
    start = time.monotonic()
    graph = ForwardGraphBuilder(net, watched.calls, Patience(1e-3)).build([loss])
    assert time.monotonic() - start < 2
    assert graph.origin == SEEN
    assert "too long" in graph.note
    assert [node.shapes for node in graph.of("Linear")] == [((8, 4),)] * 20
    assert "loss" in reached(graph, "input")


def test_a_torch_whose_export_looks_different_leaves_the_calls_as_they_were_seen(monkeypatch):
    monkeypatch.setattr(torch.export, "export", lambda *args, **kwargs: object())
    graph = forward_graph(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), rows((4,)))
    assert graph.origin == SEEN
    assert "torch.export cannot follow" in graph.note
    assert reached(graph, "input") >= {"0/Linear", "1/ReLU", "output"}


def test_what_a_step_does_between_its_modules_is_drawn():
    encoder, decoder = nn.Linear(4, 6), nn.Linear(3, 4)
    both = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    x = rows((4,))
    with CallRecorder(both) as watched:
        mean, scale = encoder(x).chunk(2, 1)
        loss = functional.mse_loss(decoder(mean + scale.exp()), x)
    graph = ForwardGraphBuilder(both, watched.calls, Patience(60)).build([loss])
    way = reached(graph, "encoder/linear")
    assert way >= {"training_step/split", "training_step/exp", "training_step/add", "decoder/linear", "loss"}
    assert graph.origin == EXPORT


# ------------------------------------------------------------------ protos and pictures


def test_the_proto_has_shapes_scopes_and_no_loose_ends(case):
    for graph in (case.forward, case.backward):
        proto = to_graph_def(graph)
        names = {node.name for node in proto.node}
        assert len(names) == len(graph.nodes)
        assert {source.partition(":")[0] for node in proto.node for source in node.input} <= names
    shaped = [node for node in to_graph_def(case.forward).node if "_output_shapes" in node.attr]
    assert len(shaped) > 0.9 * len(case.forward.nodes)


def test_a_number_is_shown_with_its_class():
    proto = to_graph_def(forward_graph(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2)))
    assert {"Linear[0]/linear", "Linear[0]/weight", "input", "output"} <= {node.name for node in proto.node}


def test_a_box_holds_what_is_inside(case):
    whole = sum(p.numel() for n, p in case.module.named_parameters() if not n.startswith("flat"))
    for depth in (1, 2, None):
        small = collapse(case.forward, depth)
        boxed = sum(int(dict(node.attributes).get("parameters", 0)) for node in small.nodes if node.op != "Parameter")
        loose = sum(torch.Size(node.shapes[0]).numel() for node in small.of("Parameter"))
        assert boxed + loose == whole
        assert len(small.nodes) <= len(case.forward.nodes)
        assert all("/" not in n.name or depth != 1 for n in small.nodes if n.op != "Parameter")


def test_pictures_have_a_box_for_every_node_and_none_touch(case):
    for graph in (case.forward, case.backward):
        drawing = ET.fromstring(to_svg(graph, 1 if case.name == "googlenet" else None))
        boxes = [
            tuple(float(box.get(key)) for key in ("x", "y", "width", "height"))
            for box in drawing.iter("{http://www.w3.org/2000/svg}rect")
            if box.get("x")
        ]
        assert len(boxes) >= 3
        for (x, y, wide, high), (x2, y2, wide2, high2) in combinations(boxes, 2):
            assert x + wide <= x2 or x2 + wide2 <= x or y + high <= y2 or y2 + high2 <= y
        width = float(drawing.get("width"))
        assert all(x >= 0 and x + wide <= width for x, _, wide, _ in boxes)


def test_dot_names_every_box_and_every_edge():
    graph = forward_graph(GoogLeNet(thin=16).eval(), rows((3, 32, 32), count=1))
    text = to_dot(graph, depth=1)
    assert text.count("{") == text.count("}")
    small = collapse(graph, 1)
    for node in small.nodes:
        assert f'"{node.name}" [label="' in text
    for source, reader in small.edges():
        assert f'"{source}" -> "{reader}";' in text
    assert {"inception3a", "inception5b", "fc"} <= {node.name for node in small.nodes}
    assert 'subgraph "cluster inception3a"' in to_dot(graph, depth=2)


def test_a_picture_can_be_drawn_of_a_graph_with_a_circle():
    nodes = (graphs.Node("a", "x", ("b",)), graphs.Node("b", "x", ("a",)), graphs.Node("c", "x", ("b",)))
    assert to_svg(graphs.Graph(nodes)).count("<path") == 3


def test_the_arrows_of_a_cell_that_is_unrolled_over_very_many_steps_go_straight():
    steps = [f"step {i}" for i in range(400)]
    edges = [*pairwise(steps), *(("weight", step) for step in steps), *(("bias", step) for step in steps)]
    _, paths, layers = lay_out(dict.fromkeys(["weight", "bias", *steps], 60.0), edges)
    assert layers == 401
    assert {len(path) for path in paths.values()} == {2}
