"""The scripts in `examples` run, or say in one line what to install."""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDS = {
    "gan": None,
    "graph_network": "torch_geometric",
    "kornia_augmentation": "kornia",
    "quantum_layer": "pennylane",
    "sklearn_pipeline": None,
    "skorch_diagnose": "skorch",
    "transformer": "transformers",
}


def source(name):
    return ROOT / "examples" / f"{name}.py"


def ran(name, capsys, monkeypatch, tmp_path):
    if NEEDS[name] is not None:
        pytest.importorskip(NEEDS[name], reason=f"not installed: pip install {NEEDS[name]}")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(source(name)), run_name="__main__")
    return capsys.readouterr()


def test_every_script_is_tested():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(NEEDS)


@pytest.mark.parametrize("name", ["graph_network", "kornia_augmentation", "quantum_layer", "transformer"])
def test_the_callbacks_watch_other_peoples_modules(name, capsys, monkeypatch, tmp_path):
    said = ran(name, capsys, monkeypatch, tmp_path)
    assert " failed (" not in said.err  # how a callback tells of its own failure
    assert re.search(r"^verdict      \w+ \(.*\), \d+ % sure$", said.err, flags=re.MULTILINE)
    assert re.search(r"^health       nothing wrong over \d+ steps\.$", said.err, flags=re.MULTILINE)
    accuracy = float(re.search(r"'val_accuracy': ([0-9.]+)", said.out).group(1))
    assert accuracy > 0.4  # of ten classes, or of three
    assert "search: lr=" in said.err or name != "graph_network"


def test_the_callbacks_watch_a_gan(capsys, monkeypatch, tmp_path):
    said = ran("gan", capsys, monkeypatch, tmp_path)
    assert " failed (" not in said.err
    assert re.search(r"^GradientMonitor: nothing wrong over \d+ steps \(\d+ batches\)\.$", said.err, re.MULTILINE)
    assert "'d_loss'" in said.out


def test_a_grid_search_of_scikit_learn_drives_our_model(capsys, monkeypatch, tmp_path):
    said = ran("sklearn_pipeline", capsys, monkeypatch, tmp_path)
    accuracy, loss = map(float, re.search(r"accuracy (\S+), log loss (\S+)", said.out).groups())
    assert accuracy > 0.9
    assert loss < 0.2  # of probabilities; a softmax of them would say 0.35
    assert re.search(r"^verdict      good \(", said.out, flags=re.MULTILINE)


def test_a_history_of_skorch_is_diagnosed(capsys, monkeypatch, tmp_path):
    said = ran("skorch_diagnose", capsys, monkeypatch, tmp_path)
    assert said.out.startswith("overfit (memorising): ")


WITHOUT = """
import runpy, sys
import importlib.util
there = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == sys.argv[1] else there(name, *more)
runpy.run_path(sys.argv[2], run_name="__main__")
"""


@pytest.mark.parametrize("name", [name for name, package in NEEDS.items() if package])
def test_a_script_says_in_one_line_what_to_install(name):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, NEEDS[name], str(source(name))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert re.fullmatch(rf"{name}\.py needs .+: pip install {NEEDS[name]}\n", done.stderr)


@pytest.mark.parametrize("name", NEEDS)
def test_a_script_is_short_and_says_how_to_run_it(name):
    text = source(name).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    assert f"python examples/{name}.py" in (ast.get_docstring(ast.parse(text)) or "")


def test_what_the_scripts_need_is_an_extra():
    extras = re.search(r"^examples = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert set(re.findall(r'^  "([\w.]+)>=', extras.group(1), re.MULTILINE)) == {n for n in NEEDS.values() if n}
