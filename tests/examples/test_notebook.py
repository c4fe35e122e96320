"""The notebook runs from top to bottom, shows its pictures, and installs the package where it is missing."""

import base64
import json
import os
import re
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATH = ROOT / "examples" / "first_steps.ipynb"
ESTIMATORS = ROOT / "examples" / "estimators.ipynb"

pytestmark = pytest.mark.timeout(600)


def cells(kind="code", path=PATH):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A copy of the notebook, run by a kernel of this interpreter in an empty folder."""
    return run_by_a_kernel(PATH, tmp_path_factory.mktemp("notebook"))


def run_by_a_kernel(path, folder):
    nbformat = pytest.importorskip("nbformat", reason="not installed: pip install nbformat")
    nbclient = pytest.importorskip("nbclient", reason="not installed: pip install nbclient")
    pytest.importorskip("ipykernel", reason="not installed: pip install ipykernel")
    before = path.read_bytes()
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "JUPYTER_DATA_DIR": str(folder / "jupyter"), "OMP_NUM_THREADS": "1"}
    client = nbclient.NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)
    assert path.read_bytes() == before
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell, name):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == name)


def sizes_of_pictures(cell):
    pictures = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return [struct.unpack(">II", base64.b64decode(picture)[16:24]) for picture in pictures]


def test_every_picture_stands_in_the_notebook(executed):
    shown = {cell.source: sizes_of_pictures(cell) for cell in executed}
    for name in ("monitor", "gradients", "search", "second"):
        (size,) = shown[name]
        assert min(size) > 300  # pixels


def test_the_verdict_is_the_one_its_text_speaks_of(executed):
    (words,) = [text_of(cell, "stdout") for cell in executed if "monitor.last_word" in cell.source]
    assert words.startswith("verdict      overfit (memorising)")
    (scores,) = [text_of(cell, "stdout") for cell in executed if "def scores" in cell.source]
    r2 = dict(re.findall(r"^(.+?) +\{.*'(?:test_)?r2': (-?[\d.]+)", scores, flags=re.MULTILINE))
    assert float(r2["too large, last epoch"]) < float(r2["too large, best epoch"])
    assert float(r2["always the mean"]) < float(r2["searched, best epoch"])


def test_progress_is_one_bar_a_fit(executed):
    fits = [cell for cell in executed if "train(network(" in cell.source]
    assert len(fits) == 2
    for cell in fits:
        shown = [output.data for output in cell.outputs if output.output_type == "display_data"]
        bars = [data["text/plain"] for data in shown if "application/vnd.jupyter.widget-view+json" in data]
        assert len([text for text in bars if text.startswith("Training")]) == 1
        assert len(shown) < 12  # a validation has a bar of its own if it is long enough to be seen
        assert len(text_of(cell, "stderr").splitlines()) < 12


def test_without_ipywidgets_a_fit_in_a_notebook_is_quiet_and_one_line_names_the_command(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="not installed: pip install nbformat")
    nbclient = pytest.importorskip("nbclient", reason="not installed: pip install nbclient")
    pytest.importorskip("ipykernel", reason="not installed: pip install ipykernel")
    lines = [
        "import sys",
        "sys.modules['ipywidgets'] = None  # as if it were not installed",
        "from lightning_mods.fit import main",
        "main(['--data.path=iris', '--trainer.max_epochs=2', '--trainer.accelerator=cpu'])",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("\n".join(lines))])
    environment = {**os.environ, "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"), "OMP_NUM_THREADS": "1"}
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute(env=environment)
    (cell,) = notebook.cells
    said = text_of(cell, "stderr")
    assert "Warning" not in said
    assert "Error" not in said
    (line,) = [line for line in said.splitlines() if "ipywidgets" in line]
    assert line.endswith("pip install 'lightning-mods[notebook]'")
    assert not [output for output in cell.outputs if output.output_type == "display_data"]


def test_no_warning_stands_in_the_notebook(executed):
    said = "".join(text_of(cell, "stderr") for cell in executed)
    assert "Warning" not in said
    assert " failed (" not in said


@pytest.mark.parametrize("path", [PATH, ESTIMATORS])
def test_it_is_stored_without_outputs(path):
    """A stored output is a claim that nobody measures again, and a diff that nobody can read."""
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path=path))
    assert "http" not in path.read_text(encoding="utf-8")


def test_the_estimators_of_the_other_notebook_learn_a_data_frame_without_a_word(tmp_path):
    executed = run_by_a_kernel(ESTIMATORS, tmp_path)
    assert [text_of(cell, "stderr") for cell in executed if text_of(cell, "stderr")] == []
    said = "".join(text_of(cell, "stdout") for cell in executed)
    assert float(re.search(r"R² on rows it has not seen: ([\d.]+)", said)[1]) > 0.2
    assert re.search(r"^verdict: (good|overfit|underfit)\. ", said, flags=re.MULTILINE)
    assert re.search(r"^(bmi|s5) ", said, flags=re.MULTILINE)  # what a linear model finds there, too
    assert said.endswith("True\n")
    assert {path.name for path in tmp_path.iterdir()} <= {"jupyter", "model.ckpt"}


def test_its_first_cell_installs_the_package_from_the_clone_it_lies_in(tmp_path):
    clone = tmp_path / "clone"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.split("\0"):
        if name.startswith(("callbacks/", "datamodules/", "lightning_mods/", "pyproject", "README", "LICENSE")):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_bytes((ROOT / name).read_bytes())
    (clone / "examples").mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    # All that is installed here but for the package itself, which an editable installation adds by a .pth file.
    environment = {
        **os.environ,
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say yes: setuptools is there, and no network is needed
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
    }
    cell = "".join(cells()[0]["source"]) + "\nimport lightning_mods\nprint(lightning_mods.__file__)"
    done = subprocess.run(
        [str(tmp_path / "env" / "bin" / "python"), "-c", cell],
        cwd=clone / "examples", env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "env")


def test_its_first_cell_says_what_it_lacks_outside_of_a_clone(tmp_path):
    cell = "".join(cells()[0]["source"]).replace('find_spec("lightning_mods") is None', "True")
    done = subprocess.run([sys.executable, "-c", cell], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "lightning-mods is missing: open this notebook in a clone of it, or set REPOSITORY above.\n"
