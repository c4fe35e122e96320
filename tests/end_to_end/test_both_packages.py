"""`pytorch_lightning` and `lightning.pytorch`: whichever a person imports, in whichever order, alone or both."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from commands import TIMEOUT, environment

PACKAGES = ["pytorch_lightning", "lightning.pytorch"]
TOP = {"pytorch_lightning": "pytorch_lightning", "lightning.pytorch": "lightning"}
MINE = """
import torch
import {package} as L
from torch.utils.data import DataLoader, TensorDataset

class Module(L.LightningModule):
    def __init__(self, lr: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.net = lr, torch.nn.Linear(3, 1)
    def loss(self, batch):
        return (self.net(batch[0]).squeeze(1) - batch[1]).square().mean()
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))
    def predict_step(self, batch, batch_idx):
        return self.net(batch[0])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)

class Data(L.LightningDataModule):
    def __init__(self, batch_size: int = 16):
        super().__init__()
        self.batch_size = batch_size
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        self.rows = TensorDataset(x, x.sum(1))
    def train_dataloader(self):
        return DataLoader(self.rows, batch_size=self.batch_size, shuffle=True)
    def val_dataloader(self):
        return DataLoader(self.rows, batch_size=64)
    predict_dataloader = val_dataloader
"""
OURS = "FitMonitor(), GradientLogger(), GradientMonitor(), GraphLogger(), TensorBoardLayout()"
FIT = f"""
trainer = L.Trainer(
    max_epochs=4, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, default_root_dir="runs",
    logger=getattr(L, "pytorch", L).loggers.TensorBoardLogger("runs"),
    callbacks=[{OURS}],
)
trainer.fit(Module(), datamodule=Data())
assert trainer.callbacks[0].diagnosis is not None
"""
NAMES = "from callbacks import FitMonitor, GradientLogger, GradientMonitor, GraphLogger, TensorBoardLayout"
HIDDEN = "import sys\nfor name in {names}:\n    sys.modules[name] = None  # as where it is not installed\n"
ALL_OF = {"pytorch_lightning": ("pytorch_lightning", "lightning_fabric"), "lightning.pytorch": ("lightning",)}


def other(package):
    return next(name for name in PACKAGES if name != package)


@pytest.fixture(params=PACKAGES)
def package(request):
    return request.param


@pytest.fixture
def folder(tmp_path, package):
    (tmp_path / "mine.py").write_text(MINE.format(package=package))
    return tmp_path


def run(folder, *words, **env):
    """Run a script, or a module with its arguments, with warnings as they come."""
    command = [sys.executable, *words] if len(words) > 1 else [sys.executable, "-c", textwrap.dedent(words[0])]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, **env),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return done


def succeed(folder, *words, **env):
    done = run(folder, *words, **env)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "failed" not in done.stderr
    return done


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours_first", "lightning_first"])
def test_the_package_that_is_imported_is_the_only_one_that_is_loaded(folder, package, ours_first):
    lines = [NAMES, f"import {TOP[package]} as L\nfrom mine import Module, Data"]
    lines = lines if ours_first else lines[::-1]
    succeed(folder, "\n".join([*lines, FIT, f"import sys\nassert {other(package)!r} not in sys.modules"]))
    run_of = folder / "runs" / "lightning_logs" / "version_0"
    assert list(run_of.glob("events.*"))  # all of it is in the logger's own folder
    assert not list(folder.glob("*.svg"))
    assert not (folder / "graphs").exists()


def test_a_single_callback_of_ours_needs_no_list(folder, package):
    single = f"import {package} as L\ntrainer = L.Trainer(callbacks=FitMonitor(), logger=False)"
    succeed(folder, f"{NAMES}\n{single}\nassert any(isinstance(each, FitMonitor) for each in trainer.callbacks)")


def test_where_one_package_is_missing_the_other_does_all(folder, package):
    hide = HIDDEN.format(names=ALL_OF[other(package)])
    (folder / "sitecustomize.py").write_text(hide)
    succeed(folder, "\n".join([NAMES, f"import {TOP[package]} as L\nfrom mine import Module, Data", FIT]))
    fit = ("-m", "lightning_mods.fit", "--trainer.max_epochs=3", "--trainer.accelerator=cpu")
    done = succeed(folder, *fit, "--data.path=iris", PYTHONPATH=str(folder))
    assert "verdict" in done.stdout


def test_where_both_are_missing_one_line_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDDEN.format(names=(*ALL_OF[PACKAGES[0]], *ALL_OF[PACKAGES[1]])))
    done = run(tmp_path, "-m", "lightning_mods.fit", "--data.path=iris", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "pip install" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_our_models_and_data_train_in_either_trainer_of_one_process(tmp_path):
    script = """
        import pytorch_lightning, lightning.pytorch, torch
        from datamodules import TabularDataModule
        from lightning_mods import MLPClassifier
        from callbacks import FitMonitor
        weights = []
        for L in (pytorch_lightning, lightning.pytorch):
            L.seed_everything(1, verbose=False)
            data = TabularDataModule("iris", batch_size=16)
            model = MLPClassifier(in_features=4, num_classes=3, hidden_sizes=[8])
            trainer = L.Trainer(
                max_epochs=4, accelerator="cpu", logger=False, callbacks=[FitMonitor()], enable_progress_bar=False,
                enable_model_summary=False, enable_checkpointing=False,
            )
            trainer.fit(model, datamodule=data)
            weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert torch.equal(*weights)
    """
    succeed(tmp_path, script)


@pytest.mark.parametrize("package", PACKAGES[1:])  # a verb runs on the first everywhere else
def test_a_verb_runs_on_the_package_of_the_users_classes(folder, package):
    fit = ("-m", "lightning_mods.fit", "--model=mine.Module", "--data=mine.Data", "--trainer.accelerator=cpu")
    theirs = (
        f"--trainer.callbacks+={package}.callbacks.LearningRateMonitor",
        f"--trainer.logger={package}.loggers.CSVLogger",
    )
    (folder / "sitecustomize.py").write_text(HIDDEN.format(names=ALL_OF[other(package)]))  # whoever asks for it fails
    done = succeed(folder, *fit, *theirs, "--trainer.max_epochs=4", PYTHONPATH=str(folder))
    assert "verdict" in done.stdout
    assert (folder / "lightning_logs" / "version_0" / "metrics.csv").exists()
    done = succeed(folder, *fit, "--trainer.max_epochs=5", "--ckpt_path=last", PYTHONPATH=str(folder))
    assert "epoch        4 (of 0 to 4)" in done.stdout
    study = (
        "-m",
        "lightning_mods.study",
        *fit[2:],
        "--trainer.max_epochs=2",
        "--study.n_trials=2",
        "--study.workers=2",
    )
    succeed(folder, *study, "--space.model.lr=0.01..0.1", PYTHONPATH=str(folder))


def test_a_configuration_that_names_lightnings_classes_runs_on_their_package(tmp_path):
    package = PACKAGES[1]
    (tmp_path / "mine.yaml").write_text(f"trainer:\n  logger: {package}.loggers.CSVLogger\n  max_epochs: 2\n")
    fit = ("-m", "lightning_mods.fit", "--config=mine.yaml", "--data.path=iris", "--trainer.accelerator=cpu")
    succeed(tmp_path, *fit)
    assert (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").exists()


def test_classes_of_two_packages_are_one_line(tmp_path):
    for name, package in zip(("one", "two"), PACKAGES, strict=True):
        (tmp_path / f"{name}.py").write_text(MINE.format(package=package))
    done = run(tmp_path, "-m", "lightning_mods.fit", "--model=one.Module", "--data=two.Data", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "fit: all classes of a run must be of one Lightning package; --model=one.Module is a class of "
        "`pytorch_lightning` and --data=two.Data is a class of `lightning.pytorch`."
    ]


def test_the_command_line_of_either_package_takes_our_callbacks(folder, package):
    cli = f"{NAMES}\nfrom {package}.cli import LightningCLI\nfrom mine import Data, Module\nLightningCLI(Module, Data)"
    (folder / "main.py").write_text(cli)
    names = ("FitMonitor", "GradientLogger", "GradientMonitor", "GraphLogger", "TensorBoardLayout")
    added = [f"--trainer.callbacks+=callbacks.{name}" for name in names]
    few = ("--trainer.max_epochs=4", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")
    search = ("--trainer.callbacks+=callbacks.OptunaSearch", "--trainer.callbacks.n_trials=2")
    done = succeed(folder, str(folder / "main.py"), "fit", *few, *added, *search)
    assert "\nverdict      " in done.stderr
    assert (folder / "lightning_logs" / "version_0" / "found.yaml").exists()


def test_a_checkpoint_of_one_package_goes_on_in_the_other(tmp_path):
    Path(tmp_path, "one.py").write_text(MINE.format(package=PACKAGES[0]))
    Path(tmp_path, "two.py").write_text(MINE.format(package=PACKAGES[1]))
    script = f"""
        {NAMES}
        import pytorch_lightning as L
        import one, two
        import lightning.pytorch
        def trainer(L, epochs):
            return L.Trainer(
                max_epochs=epochs, accelerator="cpu", logger=L.loggers.CSVLogger("."), enable_progress_bar=False,
                enable_model_summary=False, callbacks=[{OURS}],
            )
        first = trainer(L, 3)
        first.fit(one.Module(), datamodule=one.Data())
        second = trainer(lightning.pytorch, 5)
        second.fit(two.Module(), datamodule=two.Data(), ckpt_path=first.checkpoint_callback.best_model_path)
        assert second.current_epoch == 5
    """
    succeed(tmp_path, script)
