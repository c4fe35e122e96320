"""What hangs together by a name in a string, and would silently stop to act when a file or a class moves."""

import ast
import json
import multiprocessing.context
import os
import runpy
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
import torch
import warm
import yaml
from commands import write_table
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from verbs_here import do, succeed

import callbacks
import datamodules
import lightning_mods
from datamodules import TabularDataModule
from lightning_mods import MLPClassifier, MLPModule, MLPRegressor

# Lightning 2.6 itself calls names that jsonargparse 5 will drop.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"
)

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
PACKAGES = (callbacks, datamodules, lightning_mods)
CPU = "--trainer.accelerator=cpu"
SMALL = ("--data.path=iris", "--model.hidden_sizes=[8]", CPU)
# The only modules that are named here.
CHECKPOINTS = "lightning_mods.runs.checkpoints"
# Also as they stood before the move into rooms.
MODELS = {
    "MLPClassifier": ["lightning_mods.MLPClassifier", "lightning_mods.classifier.MLPClassifier"],
    "MLPRegressor": ["lightning_mods.MLPRegressor", "lightning_mods.regressor.MLPRegressor"],
}
DATA_MODULES = ["TabularDataModule", "datamodules.TabularDataModule", "datamodules.tabular.TabularDataModule"]
ON_THE_COMMAND_LINE = ["FitMonitor", "GradientLogger", "GradientMonitor", "GraphLogger", "OptunaSearch"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------------- names that load on first use


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_name_of_a_face_loads(package):
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = package.Nothing


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_name_that_a_face_loads_on_first_use_is_there(package):
    tables = [value for name, value in vars(package).items() if name.startswith("_HOME")]
    for name in {name for table in tables for name in table}:
        assert getattr(package, name).__name__ == name
        assert name in package.__all__


def test_no_module_that_a_string_literal_names_is_missing():
    # import_module("…"), find_spec("…"), forkserver preloads and class paths of ours.
    tops = tuple(f"{package.__name__}." for package in PACKAGES)
    missing = []
    for path in [path for top in PACKAGES for path in (ROOT / top.__name__).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if text.startswith(tops) and all(part.isidentifier() for part in text.split(".")) and not _is_there(text):
                missing.append(f"{path.relative_to(ROOT)}: {text}")
    assert missing == []


def _is_there(name):
    parent, _, last = name.rpartition(".")
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name and not (error.name or "").startswith(("callbacks", "datamodules", "lightning_mods")):
            return True  # a package that is not installed
        try:
            return hasattr(import_module(parent), last)
        except ModuleNotFoundError as inner:
            return not (inner.name or "").startswith(("callbacks", "datamodules", "lightning_mods"))
    return True


def test_every_module_imports():
    optional = ("comet_ml", "visdom", "wandb", "mlflow", "executorch", "onnxruntime", "onnx")
    for top in PACKAGES:
        for path in (ROOT / top.__name__).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if name.endswith(".__main__"):
                continue
            try:
                import_module(name)
            except ModuleNotFoundError as error:
                if error.name not in optional:
                    raise


def test_the_wheel_holds_every_file_of_the_packages(tmp_path):
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    names = [name for name in tracked.decode().split("\0") if name and (ROOT / name).is_file()]
    source = tmp_path / "source"
    for name in names:
        if not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    ours = {name for name in names if name.startswith(tuple(f"{top.__name__}/" for top in PACKAGES))}
    assert ours - set(zipfile.ZipFile(wheel).namelist()) == set()


# ---------------------------------------------------------------------- verbs and flags


@pytest.mark.parametrize(
    ("verb", "flags", "why"),
    [
        ("validate", ["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
        ("test", ["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
        ("predict", ["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
        ("predict", ["--exported=nowhere.onnx", "--data.predict_path=iris"], "nowhere.onnx"),
        ("export", ["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
        ("study", ["--study.n_trials=0"], "--study.n_trials must be at least 1"),
        ("fit", ["--data.path=nowhere.csv"], "nowhere.csv"),
        ("diagnose", ["nowhere.csv"], "nowhere.csv"),
    ],
)
def test_every_verb_finds_its_work(verb, flags, why):
    code, _, err = do(verb, *flags)
    assert (code, err.count("\n")) == (2, 1), err
    assert why in err


@pytest.fixture(scope="module")
def asked_before(tmp_path_factory):
    """A folder for what the parser printed the first time."""
    return str(tmp_path_factory.mktemp("cache"))


def answer_and_torch(cache, *args):
    """What `fit` says in a process of its own the second time, and whether it needed torch for that."""
    code = "import sys; from lightning_mods.fit import main\ntry: main()\n"
    code += "except SystemExit as end: print('code', end.code)\nprint('torch' in sys.modules)"
    command = [sys.executable, "-c", code, *args]
    for _ in range(2):
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout, done.stderr


@pytest.mark.parametrize("model", [name for short, more in MODELS.items() for name in (short, *more)])
def test_the_help_of_our_models_needs_no_torch_however_they_are_named(model, asked_before):
    out, _ = answer_and_torch(asked_before, f"--model={model}", "--help")
    assert out.endswith("False\n")
    assert "--model.hidden_sizes " in out
    assert ("--model.class_weight" in out) == ("Classifier" in model)


@pytest.mark.parametrize("data", DATA_MODULES)
def test_a_misspelt_flag_of_our_data_module_needs_no_torch_however_it_is_named(data, asked_before):
    out, err = answer_and_torch(asked_before, f"--data={data}", "--data.batchsize=3")
    assert out == "code 2\nFalse\n"
    assert "did you mean --data.batch_size?" in err


@pytest.mark.parametrize("name", ON_THE_COMMAND_LINE)
def test_the_help_of_a_callback_is_its_docstring(name):
    code, out, _ = do("fit", f"--trainer.callbacks.help={name}")
    made = getattr(callbacks, name)
    assert code == 0
    described = made.__doc__.partition("Args:")[2].strip().partition(":")
    assert f"--trainer.callbacks.{described[0]} " in out
    assert "".join(described[2].split("\n")[0].split()) in "".join(out.split())  # lines break elsewhere


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("tensorboard", "tensorboard"),
        ("csv", "csv"),
        ("wandb", "wandb"),
        ("comet", "comet_ml"),
        ("mlflow", "mlflow"),
        ("visdom", "visdom"),
        ("OfflineCometLogger", "comet_ml"),
        ("EventLogger", "tensorboard"),
        ("VisdomLogger", "visdom"),
    ],
)
def test_every_logger_of_a_short_name_is_there(name, needs):
    pytest.importorskip(needs)
    out, _ = succeed("fit", f"--trainer.logger={name}", "--data.path=iris", "--print_config")
    asked = yaml.safe_load(out)["trainer"]["logger"]
    (asked,) = asked if isinstance(asked, list) else [asked]
    module, _, short = asked["class_path"].rpartition(".")
    assert issubclass(getattr(import_module(module), short), Logger)


def test_the_configuration_names_our_classes_by_the_face_so_that_it_outlives_a_move():
    names = [f"--trainer.callbacks+={name}" for name in ON_THE_COMMAND_LINE]
    for model in MODELS:
        path = "iris" if model == "MLPClassifier" else "diabetes"
        out, _ = succeed("fit", f"--model={model}", f"--data.path={path}", *names, "--print_config")
        config = yaml.safe_load(out)
        assert config["model"]["class_path"] == f"lightning_mods.{model}"
        assert config["data"]["class_path"] == "datamodules.TabularDataModule"
        found = [each["class_path"] for each in config["trainer"]["callbacks"]]
        assert found == [f"callbacks.{name}" for name in ON_THE_COMMAND_LINE]


# ---------------------------------------------------------------------- what goes by a class's package


def fitted(monkeypatch, *flags):
    """The trainer of a fit, and how many mini-batches its loop was handed."""
    trainers, seen = [], []
    begin, step = Trainer.fit, MLPModule.training_step
    monkeypatch.setattr(Trainer, "fit", lambda self, *a, **how: (trainers.append(self), begin(self, *a, **how))[1])
    monkeypatch.setattr(MLPModule, "training_step", lambda self, *a: (seen.append(a[-1]), step(self, *a))[1])
    succeed("fit", *SMALL, *flags)
    return trainers[0], len(seen)


def test_none_of_our_watchers_keeps_the_mini_batches_in_the_loop(monkeypatch):
    # By the names of methods (`steps_free`, `read_gradients`), and the package of hooks on the optimizer.
    flags = ("--trainer.max_epochs=4", "--data.batch_size=4", "--watch")
    for watch in ("fit", "health", "gradients", "graph", "[fit,health,gradients,graph]"):
        with monkeypatch.context() as patch:
            trainer, seen = fitted(patch, *flags[:2], f"--watch={watch}")
        assert trainer.global_step == 4 * 27
        assert seen < trainer.global_step * 2 / 3, watch


def test_our_models_train_trials_together_and_another_class_does_not():
    data = TabularDataModule(path="iris", batch_size=16)
    facts = {"in_features": data.in_features, "num_classes": data.num_classes, "class_counts": data.class_counts}

    class Theirs(MLPClassifier):
        """A subclass of somebody's may have hooks."""

    def group(module):
        return module.trial_group([{"lr": 0.1}, {"lr": 0.2}], seed=0, train=loaders[0], val=loaders[1])

    data.prepare_data()
    data.setup("fit")
    loaders = data.train_dataloader(), data.val_dataloader()
    assert group(MLPClassifier(**facts)) is not None
    assert group(Theirs(**facts)) is None
    houses = TabularDataModule(path="diabetes", batch_size=64)
    houses.prepare_data()
    houses.setup("fit")
    loaders = houses.train_dataloader(), houses.val_dataloader()
    told = {"target_mean": houses.target_mean, "target_std": houses.target_std}
    assert group(MLPRegressor(houses.in_features, **told)) is not None


@pytest.fixture
def groups(monkeypatch):
    """How many trials each group that was made had."""
    made, real = [], MLPModule.trial_group

    def noted(self, rates, **how):
        found = real(self, rates, **how)
        made.append(len(rates) if found is not None else 0)
        return found

    monkeypatch.setattr(MLPModule, "trial_group", noted)
    return made


def test_a_study_trains_together_and_draws_what_it_found(groups):
    succeed("study", *SMALL, "--data.batch_size=16", "--trainer.max_epochs=2", "--study.n_trials=4")
    assert sum(groups) == 4
    assert max(groups) > 1
    assert Path("studies/study/search.png").stat().st_size > 1000
    assert Path("studies/study/history.png").stat().st_size > 1000


def test_a_search_before_a_fit_trains_together(groups):
    search = (
        "--trainer.callbacks+=OptunaSearch",
        "--trainer.callbacks.n_trials=4",
        "--trainer.callbacks.batch_size=null",
    )
    succeed("fit", *SMALL, "--data.batch_size=16", "--trainer.max_epochs=2", "--watch=[]", *search)
    assert sum(groups) == 4
    assert max(groups) > 1


def test_a_study_leaves_the_search_of_a_fit_out_by_its_name():
    search = ("--trainer.callbacks+=OptunaSearch", "--trainer.callbacks.n_trials=4")
    _, err = succeed("study", *SMALL, "--trainer.max_epochs=1", "--study.n_trials=1", *search)
    assert "OptunaSearch is left out" in err


def test_the_verdict_knows_the_baseline_and_the_loss_of_training_rows_of_our_models():
    monitor = ("--trainer.callbacks+=FitMonitor", "--trainer.callbacks.train_slice=32")
    succeed("fit", *SMALL, "--trainer.max_epochs=2", *monitor)
    found = json.loads(Path("lightning_logs/version_0/checkpoints/diagnosis.json").read_text())
    assert found["baseline_loss"] == pytest.approx(1.0986, abs=0.01)  # `baseline_loss` of the module
    assert len(found["curves"]["fair_loss"]) == 2  # its `evaluation_loss`


def test_a_verdict_is_drawn(tmp_path):
    # The module that draws is imported where it is needed; that it is missing would pass for a missing matplotlib.
    log = DATA / "houses" / "lightning_logs" / "version_0" / "metrics.csv"
    succeed("diagnose", str(log), "--plot=curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


# ---------------------------------------------------------------------- checkpoints


def test_a_checkpoint_names_our_classes_and_their_state_as_it_always_did():
    write_table("table.csv", 80)
    plain = ("--recipe=plain", "--patience=0")
    succeed("fit", "--data.path=table.csv", "--data.target=kind", "--trainer.max_epochs=1", *plain, CPU)
    now, then = (
        torch.load(folder / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
        for folder in (Path(), DATA / "iris")
    )
    assert now.keys() == then.keys()
    assert then["lightning_mods"] == {"model": "MLPClassifier", "data": "TabularDataModule"}
    assert now["lightning_mods"].pop("time") > 0
    assert now["lightning_mods"] == {**then["lightning_mods"], "recipe": "plain", "settings": {"seed_everything": "0"}}
    assert now["callbacks"].keys() == then["callbacks"].keys()
    gone = {"GradientMonitor": {"probe"}}  # a second copy of its findings
    more = {"GradientMonitor": {"pending", "questions"}}
    for name, state in then["callbacks"].items():
        known = (state.keys() - gone.get(name, set())) | more.get(name, set())
        assert now["callbacks"][name].keys() == known, name
    assert now["TabularDataModule"].keys() == then["TabularDataModule"].keys()
    assert now["hyper_parameters"].keys() == then["hyper_parameters"].keys()
    assert now["datamodule_hyper_parameters"].keys() == then["datamodule_hyper_parameters"].keys()


def test_what_a_held_back_checkpoint_does_not_copy_is_named_as_in_the_checkpoint():
    then = torch.load(DATA / "iris/lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert set(import_module(CHECKPOINTS).UNCHANGING) <= then.keys()


# ---------------------------------------------------------------------- processes that are forked from a warm one


class _Stop(Exception):
    pass


def preloads(monkeypatch, begin):
    """The modules that the process to fork from is told to import."""
    told = []

    def note(self, modules):
        told.append(list(modules))
        raise _Stop

    monkeypatch.setattr(multiprocessing.context.BaseContext, "set_forkserver_preload", note)
    with pytest.raises(_Stop):
        begin()
    return told[0]


def imported_with(modules):
    """What a fresh process has imported after these; it must find them all, what the real one does not say."""
    code = (
        "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


def test_what_a_studys_workers_are_forked_from_has_imported_all_that_a_trial_needs(monkeypatch):
    found = preloads(monkeypatch, lambda: do("study", *SMALL, "--study.workers=2", "--trainer.max_epochs=1"))
    imported = imported_with(found)
    needed = {type(each).__module__ for each in (callbacks.FitMonitor(), TabularDataModule(path="iris"))}
    needed |= {kind.__module__ for kind in (MLPClassifier, MLPModule, LightningModule, Trainer)}
    assert needed | {"optuna", "torch", "torch._dynamo", "torchmetrics", "jsonargparse"} <= imported


def test_what_the_tests_commands_are_forked_from_has_imported_all_that_a_verb_needs(monkeypatch):
    found = preloads(monkeypatch, lambda: runpy.run_path(warm.__file__))
    imported = imported_with(found)
    needed = {type(each).__module__ for each in (callbacks.FitMonitor(), TabularDataModule(path="iris"))}
    assert needed | {MLPClassifier.__module__, "torch", "torch._dynamo", "torchmetrics", "jsonargparse"} <= imported
