"""Anybody's LightningModule is exported as it is, if it has an example input."""

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from export_cases import QUIET, SUFFIXES, TABLES, assert_same, fitted, needs, refused, succeed

from lightning_mods.export.runtime import open_exported

pytestmark = QUIET

MODULES = """
import torch
from pytorch_lightning import LightningModule


class Plain(LightningModule):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(width, 3)
        self.example_input_array = torch.zeros(1, width)

    def forward(self, x):
        return self.layer(x).reshape(len(x), -1)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Named(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = {"x": torch.zeros(1, 4), "scale": torch.ones(1, 1)}

    def forward(self, x, scale):
        return {"logits": self.layer(x) * scale, "shares": self.layer(x).softmax(-1)}


class Bare(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = None


class Forks(Plain):
    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else -self.layer(x)
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "foreign_to_export.py").write_text(MODULES)
    sys.path.insert(0, str(folder))
    with contextlib.chdir(folder):
        flags = ("--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")
        succeed(
            "fit", "--data.path=iris", "--model=foreign_to_export.Plain", *flags, "--watch=[]", "--data.val_fraction=0"
        )
    yield folder
    sys.path.remove(str(folder))


@pytest.mark.parametrize("file_format", ["onnx", "torchscript", "pt2"])
def test_anybodys_module_is_exported_without_preprocessing_for_any_number_of_rows(file_format, foreign, monkeypatch):
    needs(file_format)
    monkeypatch.chdir(foreign)
    file = f"plain.{SUFFIXES[file_format]}"
    out, _ = succeed("export", "--model=foreign_to_export.Plain", f"--format={file_format}", f"--output={file}")
    assert "Plain.forward, without preprocessing" in out
    assert "float32 [batch, 4]" in out
    assert not Path(f"{file}.json").exists()
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    weights = torch.load(next(Path().rglob("last.ckpt")), weights_only=True)["state_dict"]
    wanted = rows @ weights["layer.weight"].numpy().T + weights["layer.bias"].numpy()
    found = open_exported(file_format, Path(file), trust=True)([rows])[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_inputs_by_name_and_several_outputs_are_exported(foreign, monkeypatch):
    monkeypatch.chdir(foreign)
    out, _ = succeed("export", "--model=foreign_to_export.Named", "--format=pt2", "--output=named.pt2")
    assert "float32 [batch, 4], float32 [batch, 1]" in out
    with torch.no_grad():
        found = torch.export.load("named.pt2").module()(x=torch.ones(2, 4), scale=torch.zeros(2, 1))
    assert not found["logits"].any()
    assert found["shares"].sum() == pytest.approx(2, rel=1e-5)


def test_a_module_that_cannot_be_exported_is_told_why(foreign, monkeypatch):
    monkeypatch.chdir(foreign)
    assert "Bare has no example input" in refused("--model=foreign_to_export.Bare", "--format=pt2")
    assert "Forks cannot be written as pt2: " in refused("--model=foreign_to_export.Forks", "--format=pt2")
    said = refused("--model=foreign_to_export.Plain", "--model.width=5", "--format=pt2")
    assert "best.ckpt cannot be restored: RuntimeError: size mismatch" in said


OWN = """
from lightning_mods import MLPRegressor


class Own(MLPRegressor):
    def forward(self, x):
        return (super().forward(x) * 1e-3).sinh()
"""


def test_a_model_of_a_table_with_an_operation_of_its_own_needs_to_be_trusted(tmp_path, monkeypatch):
    (tmp_path / "own_to_export.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(fitted(tmp_path / "fit", *TABLES[-1], "--recipe=plain"))
    own = "--model=own_to_export.Own"
    succeed("predict", own, "--data.predict_path=new.csv", "--output=wanted.csv")
    out, _ = succeed("export", own, "--format=pt2", "--output=own.pt2")
    assert "--exported=own.pt2 --data.predict_path=new.csv --output=out.csv --trust=true" in out
    rows = ("--exported=own.pt2", "--data.predict_path=new.csv", "--output=found.csv")
    said = refused(*rows, verb="predict")
    assert "own.pt2 uses the operation 'torch.ops.aten.sinh.default'" in said
    assert "--trust=true" in said
    succeed("predict", *rows, "--trust=true")
    assert_same("found.csv", "wanted.csv")
