import os

import pytest
from jsonargparse import Namespace

from lightning_mods.cli.loggers import RunPlace, with_places

LIGHTNING = "pytorch_lightning.loggers"


@pytest.fixture(autouse=True)
def _nobody_is_known(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "COMET_API_KEY", "COMET_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)


def asked(name, /, **args):
    path = name if "." in name else f"{LIGHTNING}.{name}"
    return Namespace(class_path=path, init_args=Namespace(**args))


def place(tmp_path, epochs=None):
    return RunPlace(tmp_path, tmp_path / "lightning_logs/version_3", epochs)


def test_what_was_said_stays_and_the_configuration_is_not_changed(tmp_path):
    given = asked("WandbLogger", save_dir="mine", name="a", offline=True)
    found = with_places(given, place(tmp_path))
    assert (found.init_args.save_dir, found.init_args.name) == ("mine", "a")
    given = asked("WandbLogger", save_dir=".", name=None, offline=True)
    assert with_places(given, place(tmp_path)).init_args.save_dir == str(place(tmp_path).folder)
    assert given.init_args.save_dir == "."
    assert with_places(True, place(tmp_path)) is True
    other = asked("somewhere.Logger", save_dir=".")
    assert with_places([other], place(tmp_path)) == [other]


@pytest.mark.parametrize("how", ["environment", "file", "mode", "nothing"])
def test_wandb_is_offline_where_there_is_no_key_and_says_so(tmp_path, monkeypatch, capsys, how):
    if how == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "x")
    elif how == "file":
        (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
        (tmp_path / "netrc").chmod(0o600)
    elif how == "mode":
        monkeypatch.setenv("WANDB_MODE", "online")
    found = with_places(asked("WandbLogger", save_dir=".", offline=False), place(tmp_path))
    assert found.init_args.offline is (how == "nothing")
    assert ("it is offline" in capsys.readouterr().err) is (how == "nothing")


@pytest.mark.parametrize("how", ["environment", "file", "argument", "nothing", "asked"])
def test_comet_really_logs_offline_where_there_is_no_key(tmp_path, monkeypatch, capsys, how):
    if how == "environment":
        monkeypatch.setenv("COMET_API_KEY", "x")
    elif how == "file":
        (tmp_path / ".comet.config").write_text("[comet]\napi_key = x\n")
    key, online = ("x" if how == "argument" else None), (False if how == "asked" else None)
    found = with_places(asked("CometLogger", api_key=key, online=online, project="p"), place(tmp_path))
    if how in ("nothing", "asked"):
        assert found.class_path.endswith("OfflineCometLogger")
        assert found.init_args.offline_directory == str(place(tmp_path).folder)
        assert found.init_args.project == "p"
    else:
        assert found.class_path.endswith(".CometLogger")
        assert found.dict_kwargs["offline_directory"] == str(place(tmp_path).folder)
    assert ("it is offline" in capsys.readouterr().err) is (how == "nothing")


def test_a_run_that_goes_on_finds_its_name_again(tmp_path):
    here = place(tmp_path, epochs=4)
    for stamp, name in (("20260101_000000", "old"), ("20260102_000000", "abc")):
        (here.folder / f"wandb/offline-run-{stamp}-{name}").mkdir(parents=True)
    found = with_places(asked("WandbLogger", save_dir=".", offline=True, id=None), here)
    assert found.init_args.id == "abc"
    for run, name in (("1", "version_2"), ("2", "version_3")):
        tag = tmp_path / f"mlruns/7/{run}/tags/mlflow.runName"
        tag.parent.mkdir(parents=True)
        tag.write_text(name)
    found = with_places(asked("MLFlowLogger", save_dir="./mlruns", tracking_uri=None, run_id=None), here)
    assert found.init_args.run_id == "2"
    (here.folder / "metrics.csv").write_text("a\n1\n")
    found = with_places(asked("CSVLogger", save_dir="."), here)
    assert (here.folder / "metrics.0.csv").read_text() == "a\n1\n"
    assert (found.init_args.save_dir, found.init_args.version) == (str(tmp_path), "version_3")
    found = with_places(asked("lightning_mods.loggers.tensorboard.EventLogger", save_dir="."), here)
    assert (found.init_args.get("purge_step"), found.init_args.default_hp_metric) == (None, False)


def test_mlflow_is_told_that_its_files_are_meant_on_this_machine_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")

    with_places(asked("MLFlowLogger", tracking_uri="http://127.0.0.1:5000"), place(tmp_path))
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    with_places(asked("MLFlowLogger", tracking_uri=None, save_dir="./mlruns"), place(tmp_path))
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"
