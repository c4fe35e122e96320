"""Every command and every piece of Python in the README runs as it stands."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from commands import TIMEOUT, argv, call_warm, environment
from two_ranks import run_alone

pytestmark = pytest.mark.timeout(600)  # a dozen commands, each with a start of five seconds

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.splitlines()
    if line.startswith("python -m lightning_mods.")
]


def run_cold(verb, *args, cwd):
    """The command as it is typed, which imports what it needs."""
    return subprocess.run(
        argv(verb, *args), cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT, env=environment(cwd)
    )


def test_every_command_of_the_readme_runs_in_their_order(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    assert len(COMMANDS) >= 8
    outputs, tried = {}, set()
    for line in COMMANDS:
        verb, *args = line.removeprefix("python -m lightning_mods.").split()
        done = (call_warm if verb in tried else run_cold)(verb, *args, cwd=tmp_path)  # each verb is started cold once
        assert done.returncode == 0, done.stderr
        outputs[line] = done.stdout
        tried.add(verb)
    shown = outputs["python -m lightning_mods.fit --data.path=examples/penguins.csv --data.target=species"]
    assert re.search(r"^accuracy +\S+ ± \S+ +0.4423 ", shown, flags=re.MULTILINE)
    assert "tensorboard --logdir lightning_logs" in shown
    rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert rows[0] == "prediction,probability_Adelie,probability_Chinstrap,probability_Gentoo"
    assert len(rows) == 13


def test_every_piece_of_python_in_the_readme_runs(tmp_path):
    pieces = [block for kind, block in BLOCKS if kind == "python"]
    assert pieces
    for piece in pieces:
        run_alone(tmp_path, f"import warnings\nwarnings.simplefilter('ignore')\n{piece}")


def test_every_file_the_readme_links_to_is_there():
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_make_offers_what_the_readme_promises():
    targets = (ROOT / "Makefile").read_text()
    promised = [line.split()[1] for _, block in BLOCKS for line in block.splitlines() if line.startswith("make ")]
    assert promised == ["fit", "test"]
    assert all(f"\n{target}:" in targets for target in promised)
