"""Passwords and keys reach no file and no terminal, whatever logger there is."""

import subprocess
import sys
import zipfile

import pytest
from commands import call_warm, environment

KEY, PASSWORD = "KEYSECRET123", "WORDSECRET123"
COMET = f"{{class_path: comet, init_args: {{api_key: {KEY}, online: false}}}}"
LOGGERS = f"[wandb,csv,tensorboard,mlflow,{COMET}]"
SEARCH = (
    *("--trainer.callbacks=OptunaSearch", "--trainer.callbacks.n_trials=1"),
    f"--trainer.callbacks.storage=sqlite:///o.db?password={PASSWORD}",
)
FIT = ("--data.path=iris", "--trainer.max_epochs=1", "--watch=[]")


def holding(folder, secret):
    """The files below a folder that hold a text, also within archives."""
    found = [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    for path in folder.rglob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            found += [(path, name) for name in archive.namelist() if secret.encode() in archive.read(name)]
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    for package in ("wandb", "comet_ml", "mlflow"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    cwd = tmp_path_factory.mktemp("secrets")
    env = environment(cwd, HOME=str(cwd), NETRC=str(cwd / "netrc"))
    command = [sys.executable, "-m", "lightning_mods.fit", *FIT, f"--trainer.logger={LOGGERS}", *SEARCH]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return cwd, done


@pytest.mark.parametrize("secret", [KEY, PASSWORD])
def test_no_logger_no_configuration_and_no_line_holds_a_secret(run, secret):
    cwd, done = run
    assert secret not in done.stdout + done.stderr
    assert holding(cwd, secret) == []


def test_the_configuration_says_where_a_secret_was(run):
    text = next(run[0].rglob("config.yaml")).read_text()
    assert "api_key: '***'" in text
    assert "storage: sqlite:///o.db?password=***" in text


def test_the_configuration_used_again_asks_for_the_secret(run):
    cwd, _ = run
    config = next(cwd.rglob("config.yaml"))
    done = call_warm("fit", f"--config={config}", cwd=cwd)
    assert done.returncode == 2
    assert "give this one anew" in done.stderr.splitlines()[-1]


def test_a_storage_that_cannot_be_reached_is_named_without_its_password(tmp_path):
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    flags = (f"--study.storage=postgresql://me:{PASSWORD}@127.0.0.1:1/x", "--study.n_trials=1")
    done = call_warm("study", *FIT, *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert "postgresql://me:***@127.0.0.1:1/x cannot be opened" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_a_study_fits_its_best_trial_with_the_secret_that_it_does_not_write_down(tmp_path):
    pytest.importorskip("comet_ml", reason="comet_ml is not installed")
    logger = ("--trainer.logger=comet", f"--trainer.logger.api_key={KEY}", "--trainer.logger.online=false")
    command = [
        *(sys.executable, "-m", "lightning_mods.study"),
        *FIT,
        *logger,
        "--study.n_trials=1",
        "--study.refit=true",
    ]
    env = environment(tmp_path, HOME=str(tmp_path))
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert holding(tmp_path, KEY) == []
