import re

import pytest
from verbs_here import do, succeed

from lightning_mods.loggers.terminal import Certainty, RunSummary

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's CLI and jsonargparse warn of each other
FLAGS = ["--data.path=iris", "--trainer.accelerator=cpu", "--model.hidden_sizes=[8]", "--trainer.max_epochs=3"]


def test_each_number_has_its_error_beside_it_and_each_set_its_rows():
    sure = Certainty(1052, {"accuracy": 0.037, "loss": 0.0, "rmse": float("nan")})
    results = {"accuracy": 0.92308, "loss": 0.5, "rmse": 2.0}
    lines = str(RunSummary({"val": results}, certainty={"val": sure})).splitlines()
    cells = [re.split(r"  +", line) for line in lines]
    assert cells[0][1] == "validation (1,052 rows)"
    assert [cells[row][1] for row in (1, 2, 3)] == ["0.9231 ± 0.037", "0.5", "2"]
    assert lines[4].startswith("±            standard error over the rows")
    assert "note" not in lines[-1]


def test_large_errors_are_whole_numbers():
    text = str(RunSummary({"test": {"loss": 2861.0}}, certainty={"test": Certainty(60, {"loss": 412.4})}))
    assert "2861 ± 412" in text


@pytest.mark.parametrize(
    ("certainty", "note"),
    [
        (
            Certainty(12, {"accuracy": 0.13, "loss": 1.0}, "more"),
            "note: 12 test rows: accuracy is known to ±0.13 only; more",
        ),
        (Certainty(49, {"rmse": 2.5}), "note: 49 test rows: rmse is known to ±2.5 only"),
        (Certainty(1), "note: 1 test rows: they tell little"),
    ],
)
def test_a_small_set_is_said_to_be_small(certainty, note):
    assert note in str(RunSummary({"test": {"accuracy": 0.5}}, certainty={"test": certainty})).splitlines()


def test_the_commands_say_how_far_their_numbers_can_be_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, _ = succeed("fit", *FLAGS)
    head = next(line for line in out.splitlines() if "validation (" in line)
    assert max(map(len, out.splitlines()[: out.splitlines().index(head) + 6])) <= 100
    assert "validation (22 rows)" in head
    assert "test (22 rows)" in head
    assert re.search(r"^accuracy +\S+ ± \S+ .* ± ", out, re.M)
    assert re.search(
        r"^note: 22 validation rows: accuracy is known to ±0\.\d+ only; a --data.val_fraction above 0.15", out, re.M
    )
    for verb, stage in (("validate", "validation"), ("test", "test")):
        said, err = succeed(verb)
        assert "±" not in said  # a table that scripts read
        assert re.search(r"^standard errors over 22 rows: loss ±\S+, accuracy ±", err, re.M)
        note = next(line for line in out.splitlines() if line.startswith(f"note: 22 {stage}"))
        assert note in err


def test_of_a_part_of_the_rows_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, _ = succeed("fit", *FLAGS, "--trainer.limit_val_batches=1", "--data.test_fraction=0")
    assert "±" not in out
    assert "validation  trivial" in out


def test_without_a_test_set_the_errors_are_of_the_weights_that_were_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    diverges = ["--data.path=diabetes", "--recipe=plain", "--patience=0", "--data.test_fraction=0"]
    out, _ = succeed("fit", *diverges, "--trainer.max_epochs=60", "--model.weight_decay=0", "--model.lr=0.05")
    _, said = succeed("validate")
    errors = dict(re.findall(r"(\w+) ±(\S+?),?(?=\s)", said))
    (row,) = (line for line in out.splitlines() if line.startswith("rmse"))
    assert f"± {errors['rmse']}" in row


FOREIGN = """
import pytorch_lightning as pl, torch
from torch import nn
class Mine(pl.LightningModule):
    def __init__(self, in_features: int = 4):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""


def test_a_model_of_somebodys_has_rows_in_its_table_without_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "somebodys.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    _, out, err = do("fit", "--model=somebodys.Mine", "--data.path=iris", "--data.bins=0", "--trainer.max_epochs=2")
    assert "validation (22 rows)" in out, err
    assert "±" not in out
    assert "note: 22 validation rows: they tell little; a --data.val_fraction above 0.15 holds out more" in out
