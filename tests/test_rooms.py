import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("callbacks", "datamodules", "lightning_mods")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def entries(folder):
    return [path.name for path in folder.iterdir() if path.name != "__pycache__"]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_holds_a_dozen_entries_at_most(package):
    folders = [ROOT / package, *(path for path in (ROOT / package).rglob("*") if path.is_dir())]
    most = {folder: 16 if folder.name == "lightning_mods" else 12 for folder in folders}
    full = {str(f): len(entries(f)) for f in folders if f.name != "__pycache__" and len(entries(f)) > most[f]}
    assert not full


def test_no_file_is_longer_than_a_reader_holds_in_mind():
    assert not {str(f): n for f in FILES if (n := len(f.read_text(encoding="utf-8").splitlines())) > 450}


def test_no_class_has_more_than_25_methods():
    nodes = [node for f in FILES for node in ast.walk(ast.parse(f.read_text(encoding="utf-8")))]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    methods = {c.name: sum(isinstance(part, ast.FunctionDef) for part in c.body) for c in classes}
    assert not {name: n for name, n in methods.items() if n > 25}


def test_names_of_files_say_what_is_in_them():
    assert not [str(f) for f in FILES if f.name.startswith("_") and f.name not in ("__init__.py", "__main__.py")]


def test_every_room_says_what_it_is():
    assert not [str(f) for f in FILES if not ast.get_docstring(ast.parse(f.read_text(encoding="utf-8")))]


def test_the_map_of_rooms_is_that_of_the_code():
    done = subprocess.run([sys.executable, "docs/rooms.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
