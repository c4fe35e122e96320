"""The fault bench: its cases build and run, a fault is not its twin, and the score is counted right."""

import sys
from dataclasses import replace
from math import isnan
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks are scripts, no installed package

from benchmarks.faults.bases import BASES, DEV, REPORT, SPLITS
from benchmarks.faults.detectors import History
from benchmarks.faults.kinds import KINDS, Case, cases
from benchmarks.faults.rows import make_data
from benchmarks.faults.running import Job, read_records, run_all, skill, train
from benchmarks.faults.scoring import count, mistakes, score, tables, wilson
from benchmarks.faults.user_module import make_module


def short(case: Case) -> Case:
    return replace(case, settings=replace(case.settings, steps=3, rows=case.settings.rows or 96))


def fingerprint(case: Case) -> tuple[torch.Tensor, list[float]]:
    history = History()
    module, _ = train(short(case), 3, [history])
    return torch.cat([p.detach().flatten() for p in module.parameters()]), history.val_loss


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_and_its_twin_train_and_come_out_different(kind):
    pair = cases(BASES["dev_regression"], kind) or cases(BASES["dev_mlp"], kind)
    fault, twin = map(fingerprint, pair)
    same = fault[0].shape == twin[0].shape and torch.equal(fault[0], twin[0])
    assert not same or fault[1] != twin[1]


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_every_case_of_every_base_gives_a_loss_with_gradients(base):
    for kind in KINDS:
        pair = cases(base, kind)
        assert len({case.settings for case in pair} | {base}) == 1 + len(pair), (
            f"{kind}: a case is its twin or its base"
        )
        for case in pair:
            s = replace(case.settings, rows=64)
            data = make_data(s, 0)
            module = make_module(s, data.clean_x.shape[1:])
            x, y = next(iter(data.train))
            assert module(x).shape == (len(x), 2 if s.loss == "gaussian_nll" else max(1, s.classes))
            assert module._loss(module(x), y).requires_grad
            assert module.configure_optimizers().param_groups


def test_only_a_regression_leaves_a_kind_out_and_it_is_the_softmax():
    left_out = {(base.base, kind) for base in DEV + REPORT for kind in KINDS if not cases(base, kind)}
    assert left_out == {("dev_regression", "missing_softmax"), ("regression_mlp", "missing_softmax")}


def test_the_splits_share_neither_bases_nor_tables_nor_seeds():
    (dev, dev_seeds), (report, report_seeds) = SPLITS["dev"], SPLITS["report"]
    assert not {b.table for b in dev} & {b.table for b in report}
    assert not set(dev_seeds) & set(report_seeds)


def test_an_untrained_network_knows_nothing_and_a_trained_one_does():
    base = BASES["dev_mlp"]
    knowing, data = train(Case("", True, replace(base, steps=60), ()), 0, [])
    blank, _ = train(Case("", True, replace(base, lr=1e-9, steps=2), ()), 0, [])
    assert skill(blank, data) < 0.5 < 0.8 < skill(knowing, data)


def test_wilsons_interval_is_that_of_the_paper():
    low, high = wilson(81, 263)  # Newcombe, Statistics in Medicine 17 (1998), table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert isnan(wilson(0, 0)[0])


def record(healthy, *said, kind="k", error=""):
    names = [] if healthy else ["dead_units"]
    return {
        "key": "", "kind": kind, "base": "b", "healthy": healthy, "seed": 0, "names": names, "skill": 0.5,
        "said": [[name, "why"] for name in said], "error": error,
    }  # fmt: skip


def test_the_score_counts_names_first_names_alarms_and_false_alarms():
    records = [
        record(False, "dead_units", "unshuffled"),  # first
        record(False, "unshuffled", "dead_units", "dead_units"),  # named, not first
        record(False, "loss_sign|dead_units"),  # one of several causes
        record(False, "unshuffled"),  # detected
        record(False, error="Boom"),
        record(True),
        record(True, "unshuffled"),
    ]
    c = count(records)
    hits = {name: (c[name]["hits"], c[name]["of"]) for name in ("named", "first", "detected", "false_alarms")}
    assert hits == {"named": (3, 5), "first": (2, 5), "detected": (4, 5), "false_alarms": (1, 2)}
    assert c["names_said"] == pytest.approx((2 + 2 + 1 + 1) / 4)
    assert c["errors"] == 1
    assert "| k | 3 2 4 of 5; 1 |" in tables(score(records))
    listed = mistakes(records)
    assert [listed.count(what) for what in ("not first", "WRONG NAME", "ERROR Boom", "FALSE ALARM")] == [1, 1, 1, 1]


def test_a_second_run_adds_nothing_to_the_records(tmp_path):
    out = tmp_path / "records.jsonl"
    job = Job("none", "dev_mlp", "loss", False, 0)
    out.write_text('{"key": "' + job.key + '"}\n')
    run_all([job], out, 1)
    assert [r["key"] for r in read_records(out)] == [job.key]
