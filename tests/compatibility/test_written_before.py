"""What an earlier head wrote loads, resumes and goes on; `data/README.md` says what it is."""

import csv
import json
import platform
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from commands import succeed as succeed_in_a_process
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from verbs_here import do, succeed

from datamodules.tabular import UNSAID
from lightning_mods import MLPClassifier, MLPRegressor

# Lightning 2.6 itself calls names that jsonargparse 5 will drop.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning",
    "ignore:.*torch.jit.* is deprecated:DeprecationWarning",
)

DATA = Path(__file__).parent / "data"
RUN = Path("lightning_logs/version_0")
CPU = "--trainer.accelerator=cpu"
LATER = {"lr_schedule": "constant", "ema_epochs": 0.0, "input_scaling": False}  # arguments of models that came later
CLOSE = {"rel": 1e-4, "abs": 1e-6}  # another processor adds in another order

# Where our classes stood, as somebody may have written it into a configuration.
CALLBACKS = [
    "callbacks.FitMonitor",
    "callbacks.GradientLogger",
    "callbacks.GradientMonitor",
    "callbacks.GraphLogger",
    "callbacks.OptunaSearch",
    "callbacks.TensorBoardLayout",
    "callbacks.fit_monitor.FitMonitor",
    "callbacks.gradient_logger.GradientLogger",
    "callbacks.gradient_monitor.GradientMonitor",
    "callbacks.graph_logger.GraphLogger",
    "callbacks.optuna_search.OptunaSearch",
    "callbacks.tensorboard_layout.TensorBoardLayout",
]
LOGGERS = {
    "lightning_mods.event_logger.EventLogger": None,
    "lightning_mods.visdom_logger.VisdomLogger": "visdom",
    "lightning_mods.VisdomLogger": "visdom",
    "lightning_mods.comet_logger.OfflineCometLogger": "comet_ml",
    "lightning_mods.OfflineCometLogger": "comet_ml",
}
MODELS = ["MLPClassifier", "lightning_mods.MLPClassifier", "lightning_mods.classifier.MLPClassifier"]
DATA_MODULES = ["TabularDataModule", "datamodules.TabularDataModule", "datamodules.tabular.TabularDataModule"]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Copies what was written into a folder of its own, and goes there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def copied(name):
        shutil.copytree(DATA / name, tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        return tmp_path / name

    return copied


def rows(path):
    """A table's cells, row by row, numbers as such."""
    with Path(path).open(newline="") as file:
        return [[_number(cell) for cell in row] for row in csv.reader(file)]


def _number(cell):
    try:
        return float(cell)
    except ValueError:
        return cell


def checkpoint(folder, name="last"):
    return torch.load(folder / RUN / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_close(found, wanted):
    """Two states, nested as they may be, hold the same."""
    if isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert_close(found[name], value)
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_close(one, other)
    else:
        assert found == (pytest.approx(wanted, **CLOSE) if isinstance(wanted, float) else wanted)


# ---------------------------------------------------------------------- checkpoints


def test_a_checkpoint_loads_by_its_class_with_weights_and_hyperparameters():
    for kind, name in ((MLPClassifier, "iris"), (MLPRegressor, "houses")):
        path = DATA / name / RUN / "checkpoints" / "last.ckpt"
        module = kind.load_from_checkpoint(path, map_location="cpu", weights_only=True)
        there = checkpoint(DATA / name)
        assert module.state_dict().keys() == there["state_dict"].keys()
        assert all(torch.equal(value, there["state_dict"][key]) for key, value in module.state_dict().items())
        assert dict(module.hparams) == there["hyper_parameters"]


@pytest.mark.parametrize(("name", "table"), [("iris", "iris"), ("houses", "houses.csv")])
def test_a_checkpoint_predicts_what_it_predicted(name, table, written):
    written(name)
    succeed("predict", "--ckpt_path=last", f"--data.predict_path={table}", "--output=again.csv", CPU)
    assert_close(rows("again.csv"), rows("predicted.csv"))


def test_a_test_says_what_it_said(written):
    written("iris")
    out, _ = succeed("test", "--ckpt_path=best", CPU)
    assert out == Path("tested.txt").read_text()


def test_a_run_is_tested_with_its_own_configuration(written):
    written("iris")
    out, _ = succeed("test", f"--config={RUN / 'config.yaml'}", "--ckpt_path=best")
    assert out == Path("tested.txt").read_text()


def test_a_resumed_run_comes_to_what_it_would_have_come_to(written):
    folder = written("iris")
    before = checkpoint(folder)
    succeed("fit", f"--config={RUN / 'config.yaml'}", "--ckpt_path=last", "--trainer.max_epochs=8")
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"]
    after, whole = checkpoint(folder), checkpoint(DATA / "iris_8_epochs")
    for key in ("epoch", "global_step", "state_dict", "optimizer_states"):
        assert_close(after[key], whole[key])
    found, wanted = (
        json.loads((place / RUN / "checkpoints" / "diagnosis.json").read_text())
        for place in (folder, DATA / "iris_8_epochs")
    )
    assert {"changes", "evidence", "plan", "reference_loss"} == found.keys() - wanted.keys()  # which came later
    del found["changes"], found["evidence"], found["plan"], found["reference_loss"]
    assert found.pop("baseline_loss") == pytest.approx(wanted.pop("baseline_loss"), rel=1e-3)  # was the training rows'
    # Words and the rounding of the reason's numbers are not promised; the verdict weighs more than it did.
    worded_anew = {"advice": [], "reason": "", "fit": "", "cause": "", "probabilities": {}, "onset_epoch": None}
    assert_close(found | worded_anew, wanted | worded_anew)
    # Each callback found what it had written, and went on with it; Patience came later.
    assert {key for key in after["callbacks"] if not key.startswith("Patience")} == before["callbacks"].keys()
    assert after["callbacks"]["GradientMonitor"]["steps"] == 2 * before["callbacks"]["GradientMonitor"]["steps"]
    assert after["callbacks"]["GradientLogger"]["counts"] == [56]
    assert after["callbacks"]["GraphLogger"] == before["callbacks"]["GraphLogger"]
    assert_close(after["callbacks"]["TensorBoardLayout"], whole["callbacks"]["TensorBoardLayout"])


def test_a_resumed_run_keeps_the_state_of_its_optimizer_and_its_schedule(written):
    folder = written("houses")
    before = checkpoint(folder)
    succeed("fit", f"--config={RUN / 'config.yaml'}", "--ckpt_path=last", "--trainer.max_epochs=6")
    after = checkpoint(folder)
    assert [checkpoint["lr_schedulers"][0]["last_epoch"] for checkpoint in (before, after)] == [4, 6]
    assert after["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.0001)
    assert {int(state["step"]) for state in after["optimizer_states"][0]["state"].values()} == {36}
    table = rows(RUN / "metrics.csv")
    # Lightning's CSVLogger begins its file anew when a run goes on.
    assert {4, 5} <= {row[table[0].index("epoch")] for row in table[1:]}
    assert after["callbacks"].keys() == before["callbacks"].keys()


def test_the_best_epoch_so_far_is_known_to_a_resumed_run(written):
    folder = written("houses")
    model = "--optimizer.lr=10"  # so that no epoch is better
    succeed("fit", f"--config={RUN / 'config.yaml'}", model, "--ckpt_path=last", "--trainer.max_epochs=5")
    name = next(key for key in checkpoint(folder)["callbacks"] if key.startswith("BestCheckpoint"))
    states = [checkpoint(place)["callbacks"][name] for place in (DATA / "houses", folder)]
    assert float(states[1]["best_model_score"]) <= float(states[0]["best_model_score"])


# ---------------------------------------------------------------------- configurations


def test_a_configuration_fits_anew_to_the_same_weights(written):
    folder = written("iris")
    succeed("fit", f"--config={RUN / 'config.yaml'}", "--watch=[]")
    assert_close(
        torch.load("lightning_logs/version_1/checkpoints/last.ckpt", weights_only=True)["state_dict"],
        checkpoint(folder)["state_dict"],
    )


def test_a_configuration_that_names_our_callbacks_and_loggers_serves_a_fit_and_goes_on(written):
    folder = written("named")
    config = RUN / "config.yaml"
    before = checkpoint(folder)
    succeed("fit", f"--config={config}", "--ckpt_path=last", "--trainer.max_epochs=3")
    after = checkpoint(folder)
    assert (before["epoch"], after["epoch"]) == (2, 3)
    assert {key for key in after["callbacks"] if not key.startswith("Patience")} == before["callbacks"].keys()
    assert after["callbacks"]["GradientMonitor"]["steps"] == 21
    there = yaml.safe_load((DATA / "named" / config).read_text())
    there["trainer"]["max_epochs"] = 3
    there["data"]["init_args"] |= UNSAID  # flags that came later
    there["model"]["init_args"] |= LATER
    there |= {
        "recipe": "plain",
        "patience": "auto",
        "ensemble": None,
        "trust": None,
        "reference": True,
        "calibrate": False,
        "improve": 0,
    }
    there["importance"] = False
    for callback in there["trainer"]["callbacks"]:
        if callback["class_path"].endswith("FitMonitor"):
            callback["init_args"] |= {"reference_loss": None, "silent": False}
    assert yaml.safe_load(config.read_text()) == there  # the classes under the same names


@pytest.mark.timeout(600)
def test_a_configuration_that_names_services_serves_a_fit(written):
    pytest.importorskip("visdom")
    pytest.importorskip("comet_ml")
    folder = written("services")
    config = folder / RUN / "config.yaml"
    asked = yaml.safe_load(config.read_text())["trainer"]["logger"]
    done = succeed_in_a_process("fit", f"--config={config}", cwd=folder)
    assert "comet upload lightning_logs/version_1/" in done.stdout
    assert "http://127.0.0.1:9/env/services_version_1" in done.stdout
    now = yaml.safe_load((folder / "lightning_logs/version_1/config.yaml").read_text())
    assert now["trainer"]["logger"] == asked


@pytest.mark.parametrize("path", CALLBACKS)
def test_a_callback_is_found_where_it_stood(path, written):
    written("iris")
    out, _ = succeed("test", "--ckpt_path=best", CPU, f"--trainer.callbacks+={path}")
    assert out == Path("tested.txt").read_text()


def test_our_checkpoint_is_found_where_it_stood(written):
    folder = written("iris")
    path = "lightning_mods.runs.checkpoints.BestCheckpoint"
    succeed("fit", f"--config={RUN / 'config.yaml'}", "--watch=[]", f"--trainer.callbacks+={path}")
    made = torch.load(folder / "lightning_logs/version_1/checkpoints/best.ckpt", weights_only=True)
    assert_close(made["state_dict"], checkpoint(folder, "best")["state_dict"])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("data", DATA_MODULES)
def test_a_model_and_its_data_are_found_where_they_stood(model, data, written):
    folder = written("iris")
    Path("old.yaml").write_text(
        yaml.safe_dump({"model": {"class_path": model}, "data": {"class_path": data, "init_args": {"path": "iris"}}})
    )
    out, _ = succeed("test", "--config=old.yaml", "--ckpt_path=best", CPU)
    assert out == Path("tested.txt").read_text()
    code, _, err = do("fit", "--config=old.yaml", "--model.lrr=1")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean --model.lr?" in err
    assert folder == Path.cwd()


@pytest.mark.parametrize("path", LOGGERS)
def test_a_logger_is_found_where_it_stood(path, written):
    if LOGGERS[path]:
        pytest.importorskip(LOGGERS[path])
    folder = written("iris")
    wanted = {"save_dir": "."} if "Comet" not in path else {}
    wanted |= {"port": 9} if "Visdom" in path else {}
    logger = [{"class_path": path, "init_args": wanted}]
    Path("old.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger}}))
    done = succeed_in_a_process(
        "fit", "--config=old.yaml", "--data.path=iris", "--trainer.max_epochs=1", "--watch=[]", CPU, cwd=folder
    )
    assert "lightning_logs/version_1/checkpoints/best.ckpt" in done.stdout


# ---------------------------------------------------------------------- exports


@pytest.mark.parametrize(("name", "needs"), [("model.onnx", "onnxruntime"), ("model.pt2", "torch")])
def test_an_exported_model_predicts_what_it_predicted(name, needs, written):
    pytest.importorskip(needs)
    written("iris")
    succeed("predict", f"--exported={name}", "--data.predict_path=iris", "--output=again.csv")
    assert_close(rows("again.csv"), rows("predicted.csv"))


def test_an_old_checkpoint_is_exported_with_the_schema_that_it_had(written):
    pytest.importorskip("onnxruntime")
    written("iris")
    succeed("export", "--ckpt_path=last", "--output=again.onnx", CPU)
    again, there = (json.loads(Path(f"{name}.onnx.json").read_text()) for name in ("again", "model"))
    del again["sha256"], there["sha256"]  # lines of the source stand in it
    del again["checksum"]  # which schemas have since they are checked for damage
    assert again == there
    succeed("predict", "--exported=again.onnx", "--data.predict_path=iris", "--output=again.csv")
    assert_close(rows("again.csv"), rows("predicted.csv"))


# ---------------------------------------------------------------------- studies


def brought_here(folder):
    """Make a killed worker's machine this one, on which its process cannot be; a stranger's silence takes a minute."""
    here = json.dumps(platform.node())
    for path in folder.rglob("*.journal"):
        path.write_text(path.read_text().replace('"host":"there"', f'"host":{here}'))
    for path in folder.rglob("*.db"):
        with closing(sqlite3.connect(path)) as base, base:
            table = "UPDATE trial_user_attributes SET value_json = replace(value_json, ?, ?) WHERE key = 'owner'"
            base.execute(table, ('"there"', here))


def trials(storage, name="study"):
    if storage.endswith(".journal"):
        storage = JournalStorage(JournalFileBackend(storage))
    return optuna.load_study(study_name=name, storage=storage).trials


# The recipe is what studies had before there were any.
SEARCH = (
    "--recipe=plain",
    "--data.path=iris",
    "--model.hidden_sizes=[8]",
    "--trainer.max_epochs=3",
    CPU,
    "--space.model.dropout=0..0.5",
)
SQLITE = (
    "--study.storage=sqlite:///trials.db",
    "--study.fused=false",
    "--trainer.callbacks+=EarlyStopping",
    "--trainer.callbacks.monitor=val_loss",
)


def go_on(storage, flags, n_trials):
    """The trials after the command was given again."""
    brought_here(Path.cwd())
    before = trials(storage)
    lost = [trial for trial in before if trial.state.name == "RUNNING"]
    assert len(lost) == 1
    _, err = succeed("study", *SEARCH, *flags, f"--study.n_trials={n_trials}")
    assert f"{n_trials}/{n_trials} trials" in err
    after = trials(storage)
    # What was done stays as it was, what was lost is tried again with the same values, and no trial is one too many.
    for old, new in zip(before, after, strict=False):
        assert new.params == old.params
        if old.state.name == "COMPLETE":
            assert new == old
    assert after[lost[0].number].state.name == "FAIL"
    (again,) = [trial for trial in after if trial.user_attrs.get("origin") == lost[0].number]
    assert (again.params, again.user_attrs["attempt"]) == (lost[0].params, 1)
    ended = [trial for trial in after if trial.state.name in ("COMPLETE", "PRUNED")]
    assert sorted(trial.user_attrs["place"] for trial in ended) == list(range(n_trials))
    assert len(after) == n_trials + 1
    return after


def test_a_study_in_a_journal_goes_on_with_exactly_the_missing_trials(written):
    written("study_journal")
    go_on("studies/study/study.journal", [], 8)


def test_a_study_in_sqlite_goes_on_with_exactly_the_missing_trials(written):
    written("study_sqlite")
    after = go_on("sqlite:///trials.db", SQLITE, 4)
    # It comes to what the other study, which drew the same, came to in trials trained together.
    there = trials(str(DATA / "study_journal/studies/study/study.journal"))
    found = {trial.user_attrs["place"]: trial for trial in after if trial.state.name in ("COMPLETE", "PRUNED")}
    assert_close(found[2].params, there[2].params)
    assert_close(found[2].intermediate_values, there[2].intermediate_values)


def test_a_study_that_is_complete_is_not_searched_again(written):
    written("study_journal")
    brought_here(Path.cwd())
    succeed("study", *SEARCH, "--study.n_trials=6")
    before = Path("studies/study/study.journal").read_text().count('"op_code":4')
    _, err = succeed("study", *SEARCH, "--study.n_trials=6")
    assert "is finished" in err
    assert Path("studies/study/study.journal").read_text().count('"op_code":4') == before


def test_a_study_still_refuses_other_flags_than_it_was_begun_with(written):
    written("study_journal")
    code, _, err = do("study", *SEARCH, "--model.nesterov=true")
    assert code == 2
    assert "was begun with --model.nesterov=False" in err


def test_a_study_from_before_there_were_recipes_says_how_it_goes_on(written):
    written("study_journal")
    code, _, err = do("study", *SEARCH[1:])
    assert code == 2
    assert "One from before there were recipes goes on with --recipe=plain." in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["study_journal", "study_sqlite"])
def test_the_best_configuration_of_a_study_is_fitted(name, written):
    written(name)
    succeed("fit", "--config=studies/study/best.yaml", "--trainer.max_epochs=1", "--watch=[]")
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert (
        config["model"]["init_args"]["lr"]
        == yaml.safe_load(Path("studies/study/best.yaml").read_text())["model"]["init_args"]["lr"]
    )


def test_a_search_before_a_fit_goes_on_with_its_own_study(written):
    folder = written("search")
    brought_here(folder)
    flags = ("--data.path=iris", "--model.hidden_sizes=[8]", "--model.dropout=0.1", "--data.batch_size=16", CPU)
    succeed(
        "fit",
        "--recipe=plain",
        *flags,
        "--trainer.max_epochs=3",
        "--watch=[fit]",
        "--trainer.callbacks+=OptunaSearch",
        "--trainer.callbacks.n_trials=3",
    )
    storage = JournalStorage(JournalFileBackend("lightning_logs/search.journal"))
    (name,) = optuna.get_all_study_names(storage)  # by what it searches; another name would begin anew
    found = trials("lightning_logs/search.journal", name)
    assert [trial.state.name for trial in found[:2]] == ["FAIL", "FAIL"]
    ended = {trial.user_attrs["place"]: trial for trial in found[2:]}
    assert sorted(ended) == [0, 1, 2]
    assert [ended[place].params for place in (0, 1)] == [trial.params for trial in found[:2]]
    assert {trial.state.name for trial in found[2:]} <= {"COMPLETE", "PRUNED"}


# ---------------------------------------------------------------------- logs


def test_old_logs_are_diagnosed_as_they_were(written):
    folder = written("houses")
    out, _ = succeed("diagnose", str(RUN / "metrics.csv"), "--json")
    found = json.loads(out)
    wanted = json.loads((folder / RUN / "checkpoints" / "diagnosis.json").read_text())
    assert wanted["fit"] in json.dumps(found)
    assert wanted["cause"] in json.dumps(found)


def test_an_old_event_file_is_read(written):
    written("study_sqlite")
    out, _ = succeed("diagnose", "studies/study/trial_000", "--json")
    assert "There are 3 evaluations of the validation loss" in out


def test_the_data_holds_no_path_of_the_machine_that_wrote_it():
    for path in DATA.rglob("*"):
        if path.is_file():
            folders = [f"/{name}/".encode() for name in ("tmp", "work", "root", "home")]
            for place in (*folders, sys.prefix.encode() + b"/lib"):
                assert place not in path.read_bytes(), path
