"""Projects with `callbacks` and `datamodules` of their own: nobody's folder hides ours, and ours hides nobody's."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from lightning_mods import callbacks, datamodules

ROOT = Path(__file__).parent.parent.parent
FIT = ["--data.path=iris", "--trainer.max_epochs=1"]
pytestmark = pytest.mark.timeout(900)  # a dozen commands one after the other, on a machine that may be busy
KINDS = ["package", "bare folder", "file"]

MINE = """
from pytorch_lightning import Callback

class Mine(Callback):
    def on_fit_start(self, trainer, pl_module):
        print("MINE FROM", type(self).__module__)
"""
MODELS = """
from callbacks{loggers} import X
from lightning_mods import MLPClassifier
from lightning_mods.callbacks import FitMonitor
from lightning_mods.datamodules import TabularDataModule
from lightning_mods.callbacks.diagnosis import diagnose

assert X == "the user's"

class Mine(MLPClassifier):
    pass
"""
# One of ours is named by the path it has where nobody hides it, in a file that was written elsewhere.
ELSEWHERE = """
trainer: {callbacks: [{class_path: callbacks.FitMonitor, init_args: {stop: true}}]}
data: {class_path: datamodules.TabularDataModule, init_args: {path: iris}}
"""


def project(folder, kind):
    """A project of a user; returns the class path of the callback in it."""
    folder.mkdir()
    (folder / "elsewhere.yaml").write_text(ELSEWHERE)
    if kind == "file":
        (folder / "callbacks.py").write_text(f'{MINE}\nX = "the user\'s"\n')
        (folder / "datamodules.py").touch()
        (folder / "models.py").write_text(MODELS.format(loggers=""))
        return "callbacks.Mine"
    for name in ("callbacks", "datamodules"):
        (folder / name).mkdir()
        if kind == "package":
            (folder / name / "__init__.py").touch()
    (folder / "callbacks" / "early.py").write_text(MINE)
    (folder / "callbacks" / "loggers.py").write_text('X = "the user\'s"\n')  # a name of ours too
    (folder / "models.py").write_text(MODELS.format(loggers=".loggers"))
    return "callbacks.early.Mine"


def run_all(python, path, jobs):
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    for name in ("PL_GLOBAL_SEED", "PYTHONWARNINGS"):
        env.pop(name, None)
    words = [str(python), str(Path(__file__).with_name("many_commands.py"))]
    done = subprocess.run(
        words, input=json.dumps(jobs), env=env, cwd="/", capture_output=True, text=True, check=False, timeout=840
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fit(mine):
    return ["lightning_mods.fit", *FIT, "--model=models.Mine", f"--trainer.callbacks+={mine}"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What becomes of commands in a checkout, by kind of project: in each the same ones."""
    folder = tmp_path_factory.mktemp("checkout")
    jobs = []
    for kind in KINDS:
        cwd = folder / kind
        mine = project(cwd, kind)
        verbs = {"fit": fit(mine)}
        if kind != "file":
            written = "--config=lightning_logs/version_0/config.yaml"
            verbs |= {
                "again": ["lightning_mods.fit", written, "--ckpt_path=last", "--trainer.max_epochs=2"],
                "elsewhere": [
                    "lightning_mods.fit",
                    "--config=elsewhere.yaml",
                    "--recipe=plain",
                    "--trainer.max_epochs=1",
                ],
            }
        if kind == "package":
            study = ["lightning_mods.study", *FIT, "--study.n_trials=2", f"--trainer.callbacks+={mine}"]
            verbs |= {
                "validate": ["lightning_mods.validate", "--model=models.Mine", "--data.path=iris"],
                "test": ["lightning_mods", "test", "--model=models.Mine", "--data.path=iris"],
                "predict": ["lightning_mods.predict", "--data.predict_path=iris", "--model=models.Mine"],
                "export": ["lightning_mods.export", "--format=pt2"],
                "diagnose": ["lightning_mods.diagnose", "lightning_logs/version_1", "--plot=fit.png"],
                "help": ["lightning_mods", "fit", "--help"],
                "study": [*study, "--study.workers=2", "--study.prune_hopeless=false"],
            }
        jobs += [(kind, verb, {"cwd": str(cwd), "argv": argv}) for verb, argv in verbs.items()]
    done = run_all(sys.executable, str(ROOT), [job for _, _, job in jobs])
    return {(kind, verb): each for (kind, verb, _), each in zip(jobs, done, strict=True)}, folder


def test_every_verb_works_where_the_user_has_our_names(checkout):
    done, _ = checkout
    failed = {key: each["text"] for key, each in done.items() if each["code"] or "Traceback" in each["text"]}
    assert not failed, "\n".join(f"{key}: {text[-1500:]}" for key, text in failed.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_users_own_callback_is_found(checkout, kind):
    done, _ = checkout
    assert f"MINE FROM {'callbacks' if kind == 'file' else 'callbacks.early'}\n" in done[kind, "fit"]["text"]


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_config_written_there_loads_there(checkout, kind):
    done, folder = checkout
    assert "MINE FROM callbacks.early" in done[kind, "again"]["text"]
    written = (folder / kind / "lightning_logs" / "version_0" / "config.yaml").read_text()
    assert "class_path: lightning_mods.datamodules.TabularDataModule" in written


def test_trials_in_workers_have_the_users_callback_and_our_model(checkout):
    done, _ = checkout
    assert done["package", "study"]["text"].count("MINE FROM callbacks.early") == 2


def installed(tmp_path, *how):
    """A virtual environment with our packages, and with what they need from the one that runs the tests."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    ).stdout.strip()
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    wanted = ("callbacks", "datamodules", "lightning_mods", "pyproject.toml", "README.md", "LICENSE")
    for name in tracked.decode().split("\0"):
        if name.split("/")[0] in wanted and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", *quiet]
    # A plain path, in which .pth files do not count: an editable installation of ours there must not be found.
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([*pip, "--ignore-installed", *how, str(source)], check=True, env={**os.environ, "PYTHONPATH": ""})
    return python


@pytest.mark.parametrize("how", [["--editable"], []], ids=["editable", "wheel"])
def test_an_installed_command_works_in_such_projects(tmp_path, how):
    python = installed(tmp_path, *how)
    command, env = str(python.with_name("lightning-mods")), {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    for kind in KINDS[:2]:
        mine = project(tmp_path / kind, kind)
        words = [command, "fit", *fit(mine)[1:]]
        done = subprocess.run(words, cwd=tmp_path / kind, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "MINE FROM callbacks.early" in done.stdout


def test_the_long_names_are_the_same_modules_where_nobody_hides_ours():
    code = (
        "import lightning_mods.callbacks.diagnosis as long, callbacks.diagnosis as short, callbacks, lightning_mods;"
        "assert long is short and short.__spec__.name == 'callbacks.diagnosis';"
        "assert lightning_mods.callbacks is callbacks and callbacks.__name__ == 'callbacks'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_script_that_imported_its_own_package_first_gets_both(tmp_path):
    project(tmp_path / "mine", "package")
    code = (
        "import callbacks.loggers, lightning_mods; from lightning_mods.callbacks.diagnosis import diagnose;"
        "assert callbacks.loggers.X and diagnose.__module__.startswith('lightning_mods.callbacks.diagnosis')"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path / "mine", env=env)


@pytest.mark.parametrize("package", [callbacks, datamodules])
def test_type_checkers_see_all_names_of_the_face(package):
    stub = (ROOT / "lightning_mods" / f"{package.__name__.rpartition('.')[2]}.pyi").read_text()
    assert all(f"import {name} as {name}\n" in stub for name in package.__all__)


def command(*words):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "lightning_mods", *words], env=env, capture_output=True, text=True)


def test_the_command_alone_lists_the_verbs():
    done = command()
    assert done.returncode == 0
    for verb in ("fit", "validate", "test", "predict", "export", "study", "diagnose"):
        assert f"\n  {verb} " in done.stdout


def test_a_verb_that_does_not_exist_is_one_line_with_the_nearest():
    done = command("fti")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "did you mean fit?" in done.stderr


def test_listing_the_verbs_imports_no_torch():
    code = "import sys; from lightning_mods.__main__ import main; main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0
