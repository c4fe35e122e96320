"""The C++ example builds with the libtorch of the wheel and prints what `predict` writes."""

import contextlib
import csv
import io
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_mods import export, fit, predict

pytestmark = [
    pytest.mark.skipif(shutil.which("cmake") is None, reason="the C++ example is built with cmake, which is not here"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="the C++ example needs a C++ compiler, which is not here"),
    # Lightning 2.6 calls names of jsonargparse that go in version 5; pyproject.toml bounds it below that.
    pytest.mark.filterwarnings("ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"),
]
SOURCE = Path(__file__).parents[2] / "examples" / "cpp"


def quietly(verb, *args):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        verb.main(list(args))


def write(path, rows, *, cities, target=True):
    """Numbers with gaps and junk, categories with commas, quotes and whole floats; a class with a comma in its name."""
    draw = random.Random(rows)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["at", "gappy", "city", "code", *["kind"] * target])
        for _ in range(rows):
            at, city = 1.6e9 + draw.random() * 1e6, draw.choice(cities)
            gappy = draw.choice(["", "NA", "?", *[f"{draw.gauss(0, 1):.4f}"] * 40])
            kind = "yes, sir" if (at > 1.6005e9) == (city == "Nice") else 'no "way"'
            writer.writerow([f"{at:.2f}", gappy, city, draw.choice(["1.0", "2", ""]), *[kind] * target])


@pytest.fixture
def program(tmp_path):
    build = ["-B", str(tmp_path / "build"), f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"]
    for command in (["cmake", "-S", str(SOURCE), *build], ["cmake", "--build", str(tmp_path / "build")]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path / "build" / "predict"


# One test, as building and compiling take most of a minute.
@pytest.mark.timeout(600)
def test_torchscript_and_an_aotinductor_package_predict_in_cpp_as_the_checkpoint_does(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.csv", 400, cities=["Nice", "Köln", 'a "b", c'])
    write(tmp_path / "new.csv", 30, cities=["Nice", "Köln", 'a "b", c', "Ur", ""], target=False)
    flags = ("--trainer.max_epochs=3", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu")
    quietly(fit, "--data.path=train.csv", "--data.target=kind", "--data.categorical=[code]", "--watch=[]", *flags)
    quietly(predict, "--data.predict_path=new.csv", "--output=wanted.csv")
    quietly(export, "--format=torchscript", "--output=model.pt")
    quietly(export, "--format=aoti", "--output=model.pt2")
    trusted = ("--exported=model.pt2", "--trust=true")
    quietly(predict, *trusted, "--data.predict_path=new.csv", "--output=in_python.csv")
    wanted = list(csv.reader(io.StringIO((tmp_path / "wanted.csv").read_text())))
    answers = [(tmp_path / "in_python.csv").read_text()]
    for model in ("model.pt", "model.pt2"):
        done = subprocess.run([program, model, "new.csv"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout)
    for answer in answers:
        found = list(csv.reader(io.StringIO(answer)))
        assert [row[0] for row in found] == [row[0] for row in wanted]
        assert found[0] == wanted[0] == ["prediction", 'probability_no "way"', "probability_yes, sir"]
        shares, right = (np.array([row[1:] for row in rows[1:]], dtype=float) for rows in (found, wanted))
        np.testing.assert_allclose(shares, right, rtol=1e-5, atol=1e-7)
    Path("few.csv").write_text("at,city\n1,Nice\n")
    done = subprocess.run([program, "model.pt", "few.csv"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, 'predict: the file has no column "gappy"\n')
