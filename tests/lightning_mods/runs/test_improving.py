import json
import os
from dataclasses import replace

import pytest

from callbacks.diagnosis.words.advice import Advice
from lightning_mods.runs import RUN_MARK, newest_run
from lightning_mods.runs.improving import ChainedFit, best_of, chain_table, improve, tried_from


def advice(flag, value, change="", gain=0.1):
    return Advice(f"Set {flag}.", change, ((flag, value),), gain)


LONGER, WIDER = advice("trainer.max_epochs", "40", "longer"), advice("model.hidden_sizes", "[64]", "wider")
SHORTER = advice("trainer.max_epochs", "10", "shorter")


class Bench:
    """Fits that cost nothing: their losses are given, and each leaves a run."""

    def __init__(self, root, losses, advice=(LONGER, WIDER)):
        self.root, self.losses, self.advice, self.asked = root, losses, advice, []

    def fit(self, flags=(), changes=()):
        number = len(self.asked)
        self.asked.append(dict(flags))
        loss = self.losses[number]
        if loss == "mistake":
            return None
        folder = self.root / f"version_{number}"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "best.ckpt").touch()
        (folder / "config.yaml").write_text(f"# {RUN_MARK}\n")
        os.utime(folder / "config.yaml", (number, number))
        return ChainedFit(folder, dict(flags), changes, loss, 0.5, "a verdict", tuple(self.advice))

    def chain(self, times):
        return improve(self.fit(), lambda flags, each, best: self.fit(flags, (*best.changes, each.change)), times)


def test_the_first_advice_is_followed_and_what_helped_is_kept(tmp_path):
    bench = Bench(tmp_path, [3.0, 2.0, 1.0])
    chain = bench.chain(2)
    assert bench.asked == [{}, {"trainer.max_epochs": "40"},
                           {"trainer.max_epochs": "40", "model.hidden_sizes": "[64]"}]  # fmt: skip
    assert best_of(chain) is chain[2]


@pytest.mark.parametrize("worse", [4.0, float("nan"), None, "mistake"])
def test_what_made_it_worse_is_undone_and_the_next_advice_followed_from_the_best(tmp_path, worse):
    bench = Bench(tmp_path, [3.0, worse, 2.0])
    chain = bench.chain(2)
    assert bench.asked[2] == {"model.hidden_sizes": "[64]"}
    assert best_of(chain).loss == 2.0


def test_the_best_run_is_the_newest_whatever_came_after_it(tmp_path):
    bench = Bench(tmp_path, [3.0, 4.0, 5.0])
    assert best_of(bench.chain(2)).loss == 3.0
    assert newest_run(tmp_path) == tmp_path / "version_0"


def test_it_ends_when_all_was_tried_or_nothing_gains(tmp_path):
    assert len(Bench(tmp_path / "a", [3.0] * 9).chain(8)) == 3
    little = [advice("model.lr", "1", gain=0.01), Advice("Buy more rows.")]
    assert len(Bench(tmp_path / "b", [3.0] * 9, little).chain(8)) == 1


def test_a_change_that_helped_is_not_taken_back(tmp_path):
    bench = Bench(tmp_path, [3.0, 2.0, 9.0], [LONGER, SHORTER])
    assert len(bench.chain(3)) == 2


def test_where_the_best_is_too_short_for_a_verdict_the_others_advice_is_followed(tmp_path):
    bench = Bench(tmp_path, [3.0, 4.0, 2.0])
    first = replace(bench.fit(), advice=(LONGER,), verdict="unknown (too few epochs)")
    chain = improve(first, lambda flags, each, best: bench.fit(flags, (*best.changes, each.change)), 2)
    assert chain[2].flags == {"trainer.max_epochs": "40", "model.hidden_sizes": "[64]"}


def test_no_fit_is_worse_than_the_first(tmp_path):
    assert best_of(Bench(tmp_path, [1.0, 2.0, None]).chain(2)).loss == 1.0


def test_the_chain_is_a_table_and_a_file_beside_the_best(tmp_path):
    chain = Bench(tmp_path, [3.0, 2.0, float("nan")]).chain(2)
    head, first, best, last = chain_table(chain).splitlines()
    assert head.split() == ["run", "change", "validation", "loss", "verdict"]
    assert first.split()[:5] == ["version_0", "–", "3", "±", "0.5"]
    assert best.split()[:4] == ["*", "version_1", "--trainer.max_epochs=40", "2"]
    assert "nan" in last
    (record,) = tmp_path.rglob("improve.json")
    assert record.parent == tmp_path / "version_1"
    assert [each["loss"] for each in json.loads(record.read_text())] == [3.0, 2.0, None]


def test_the_report_of_the_best_knows_what_the_chain_has_tried(tmp_path):
    bench = Bench(tmp_path, [3.0, 2.0, 9.0], [LONGER, WIDER, SHORTER])
    chain = bench.chain(2)
    assert tried_from(best_of(chain), chain) == {
        WIDER.flags: "Tried: 9 ± 0.5 in version_2.",
        SHORTER.flags: "That is where it came from.",
    }
