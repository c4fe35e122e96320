"""Plain numbers in, findings out: each rule beside the healthy case next to it."""

import math
from dataclasses import replace

import pytest
import torch

from callbacks.health.data_reading import read_contrast
from callbacks.health.facts import (
    BatchNorm,
    Contrast,
    Dependence,
    Inputs,
    Labels,
    Layer,
    Neighbours,
    Numbers,
    Structure,
)
from callbacks.health.rules.data import (
    class_findings,
    contrast_findings,
    dependence_findings,
    input_findings,
    label_findings,
    may_be_unlearnable,
    neighbour_findings,
    number_findings,
)
from callbacks.health.rules.network import signal_findings, start_findings, training_findings, validation_findings


def names(found):
    return [str(finding.fault) for finding in found]


def inputs(largest, rms, column_rms=None, spread=1.0, **more):
    return Inputs("net.0", 64, largest, rms, column_rms or rms, spread, **more)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (inputs(4.2, 1.0), None),
        (inputs(1.0, 0.33, spread=0.4), None),
        (inputs(16.0, 7.8, spread=6.0), None),  # digits of 17 shades, as scikit-learn has them
        (inputs(0.2, 0.047, spread=0.05), None),  # scikit-learn's diabetes
        (inputs(0.09, 0.02, unit_rows=True), None),  # embeddings of length 1
        (inputs(1.0, 1.0, spread=0.0, from_batch=False), None),  # a constant that the step made
        (inputs(float("nan"), float("nan")), None),
        (inputs(255.0, 85.0, spread=100.0), "inputs_unscaled"),
        (inputs(3230.0, 180.0, 981.0, spread=500.0), "inputs_unscaled"),
        (inputs(0.004, 0.0013, spread=0.002), "inputs_too_small"),
        (inputs(1.0, 0.4, spread=0.0), "inputs_constant"),
    ],
)
def test_inputs_are_judged_by_their_size(given, fault):
    assert names(input_findings(given, 4)) == ([fault] if fault else [])


@pytest.mark.parametrize(
    ("counts", "weighted", "fault"),
    [
        ({0: 180, 1: 178, 2: 182}, False, None),
        ({0: 850, 1: 150}, False, None),
        ({0: 970, 1: 30}, True, None),
        ({0: 30}, False, None),  # too few rows to say
        ({0: 970, 1: 30}, False, "labels_unbalanced"),
        ({0: 970, 1: 10, 2: 10, 3: 10}, False, "labels_unbalanced"),
        ({3: 400}, False, "labels_one_class"),
    ],
)
def test_classes_are_judged_by_their_shares(counts, weighted, fault):
    found = label_findings(Labels(counts, weighted=weighted), 10, sequential=False, random=True)
    assert names(found) == ([fault] if fault else [])


ORDERED = {"within": 0.03, "runs": 4, "batches": 29}


@pytest.mark.parametrize(
    ("order", "loader", "said"),
    [
        (ORDERED, {"sequential": True, "random": False}, True),
        (ORDERED, {"sequential": False, "random": False}, True),  # a loader of unknown make, in four blocks
        (ORDERED | {"runs": 25}, {"sequential": False, "random": False}, False),  # batches of one class, drawn so
        (ORDERED, {"sequential": False, "random": True}, False),
        (ORDERED | {"within": 0.97}, {"sequential": True, "random": False}, False),
        (ORDERED | {"batches": 3}, {"sequential": True, "random": False}, False),
    ],
)
def test_order_is_a_fault_where_batches_lack_variety(order, loader, said):
    found = label_findings(Labels(dict.fromkeys(range(4), 225), **order), 29, **loader)
    assert names(found) == ["unshuffled"] * said


@pytest.mark.parametrize(
    ("numbers", "sequential", "said"),
    [
        (Numbers(900, 0.02, 1.0, 29), True, ["unshuffled"]),
        (Numbers(900, 0.02, 1.0, 29), False, []),
        (Numbers(900, 0.2, 0.1, 29), True, []),  # a series that swings
        (Numbers(900, 1.0, 0.0, 29, apart=0.87, narrower=0.1), True, ["labels_unbalanced"]),
        (Numbers(900, 1.0, 0.0, 29, apart=0.1, narrower=0.9), True, []),
    ],
)
def test_targets_of_a_regression_are_judged_by_order_and_crowding(numbers, sequential, said):
    assert names(number_findings(numbers, 29, sequential=sequential)) == said


@pytest.mark.parametrize(("low", "high", "said"), [(0, 9, 0), (3, 5, 0), (0, 10, 1), (-1, 9, 1)])
def test_a_class_without_an_output_is_named(low, high, said):
    assert names(class_findings(low, high, 10, 3)) == ["labels_out_of_range"] * said


@pytest.mark.parametrize(
    ("contrast", "said"),
    [
        (Contrast(250, {"deviation": 7.9}), 1),
        (Contrast(250, {"mean": 0.1, "skewness": -10.0}), 1),
        (Contrast(250, {"mean": 0.1, "skewness": 2.0}), 0),  # cropped, erased and recoloured
        (Contrast(20, {"deviation": 7.9}), 0),
        (Contrast(250, {"deviation": 7.9}, label_shift=0.5), 0),  # other classes look different
        (Contrast(250, {"mean": 0.1}, likeness=0.1, reliable=0.95), 1),
        (Contrast(250, {"mean": 0.1}, likeness=0.1, reliable=0.2), 0),  # no common picture to compare
        (Contrast(250, {"mean": 0.1}, likeness=0.7, reliable=0.95), 0),
    ],
)
def test_training_rows_may_differ_a_little_from_validation_rows(contrast, said):
    assert names(contrast_findings(contrast, 29)) == ["wrong_augmentation"] * said


def test_noise_on_a_table_of_few_columns_is_told_from_a_series_that_goes_on_climbing():
    draw = torch.Generator().manual_seed(1)
    clean, val = torch.randn(512, 8, generator=draw), torch.randn(250, 8, generator=draw)
    noisy = clean + 4 * torch.randn(512, 8, generator=draw)
    assert names(contrast_findings(read_contrast(noisy, val, None), 29)) == ["wrong_augmentation"]
    climbing = val[val.std(1).argsort()]
    assert names(contrast_findings(read_contrast(noisy, climbing, None), 29)) == []


LOST = Dependence(500, 0.4, 1.0, 1.02, 5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, 1),
        ({"best_val_loss": 0.6}, 0),  # the network sees what neighbours do not
        ({"column": 12.0}, 0),
        ({"neighbours": 9.0}, 0),
        ({"neighbours": -5.0}, 0),  # parity: a neighbour is of the other class
        ({"rows": 120}, 0),
    ],
)
def test_labels_are_wrong_if_neither_network_nor_neighbours_nor_a_column_tell_them(change, said):
    assert names(dependence_findings(replace(LOST, **change), 150)) == ["labels_wrong"] * said


@pytest.mark.parametrize(
    ("best_val_loss", "epochs", "steps", "asked"),
    [
        (1.02, 5, 150, True),
        (0.6, 5, 150, False),
        (math.inf, 5, 150, False),
        (1.02, 2, 150, False),
        (1.02, 5, 40, False),
    ],
)
def test_it_is_only_asked_of_runs_that_learn_nothing(best_val_loss, epochs, steps, asked):
    assert may_be_unlearnable(best_val_loss, epochs, steps) is asked


@pytest.mark.parametrize(
    ("near", "said"),
    [
        (Neighbours(250, 0.4, 0.9, 0.1), 1),
        (Neighbours(250, 0.8, 0.9, 0.1), 0),
        (Neighbours(250, 0.4, 0.9, 0.1, density=1.4), 0),  # augmented
        (Neighbours(250, 0.12, 0.3, 0.25), 0),  # neighbours say nothing of these rows
        (Neighbours(60, 0.4, 0.9, 0.1), 0),
    ],
)
def test_labels_are_partly_wrong_if_neighbours_disagree_only_in_training(near, said):
    assert names(neighbour_findings(near, 29)) == ["labels_wrong"] * said


DEEP = [(f"layers.{i}", 0.4**i) for i in range(10)]
PLAIN = Structure((Layer(False, "Relu"),) * 10)


@pytest.mark.parametrize(
    ("structure", "signals", "losses", "said"),
    [
        (PLAIN, DEEP, (1.6, 1.59), 1),
        (PLAIN, DEEP, (1.6, 0.4), 0),  # it learns all the same
        (PLAIN, [(name, 1.0) for name, _ in DEEP], (1.6, 1.6), 0),
        (Structure((Layer(False, "Relu"),) * 5), DEEP[:5], (1.6, 1.6), 0),
        (Structure((Layer(False, "Relu"),) * 10, normed=True), DEEP, (1.6, 1.6), 0),
        (Structure((Layer(False, "Relu"),) * 10, skips=True), DEEP, (1.6, 1.6), 0),
    ],
)
def test_a_norm_is_missed_only_where_the_signal_fades_and_nothing_is_learnt(structure, signals, losses, said):
    assert names(signal_findings(structure, signals, losses, 100)) == ["missing_normalisation"] * said


def norm(**changes):
    return [BatchNorm(**{"name": "net.1", "training": True, "tracked": True} | changes)]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (start_findings(norm(momentum=0.0, fresh=True), 0), 1),
        (start_findings(norm(momentum=0.0), 0), 0),  # kept as it was trained before
        (start_findings(norm(fresh=True), 0), 0),
        (validation_findings(norm(), 5), 1),
        (validation_findings(norm(training=False), 5), 0),
        (validation_findings(norm(tracked=False), 5), 0),
        (training_findings(norm(), 5, root_training=True, were_training=True), 0),
        (training_findings(norm(training=False), 5, root_training=True, were_training=True), 0),  # frozen on purpose
        (training_findings(norm(training=False), 5, root_training=False, were_training=True), 1),
        (training_findings(norm(training=False, fresh=True), 1, root_training=True, were_training=False), 1),
        (
            training_findings(
                norm(training=False, fresh=True, trainable=False), 1, root_training=True, were_training=False
            ),
            0,
        ),
    ],
)
def test_batch_norms_are_judged_by_their_mode(found, said):
    assert names(found) == ["batch_norm_mode"] * said
