"""What we make reaches every logger: read back from what the real packages have written, with no server of theirs."""

import csv
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import call_warm, environment
from logger_readers import ask_visdom, comet_run, lines_of, visdom_server, wandb_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TIMEOUT = 180
# One layer's gradients, one result of the best epoch, one curve of the module's own, one of the verdict.
PICTURES = {"fit/curves", "gradients/flow", "calibration", "confusion_matrix"}
SCALARS = ("grad_norm/network.layers.0", "hp/val_loss", "val_loss", "fit/probability_good")
FOREIGN = """
import sys, os
import pytorch_lightning as pl, torch
from torch import nn
from torch.utils.data import DataLoader
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, WandbLogger
from callbacks import FitMonitor, GradientLogger, GradientMonitor, GraphLogger
from lightning_mods import OfflineCometLogger

class Foreign(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.net(batch["x"]).square().mean()
        optimizer.zero_grad(); self.manual_backward(loss); optimizer.step()
        self.log("my loss", loss, on_step=False, on_epoch=True)
        return {"loss": loss}
    def validation_step(self, batch, batch_idx):
        self.log("my val", self.net(batch["x"]).square().mean())
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)

class Dicts(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return {"x": torch.full((3,), i / 8)}

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
kind = sys.argv[1]
loggers = {
    "all": lambda: [
        WandbLogger(save_dir="w", offline=True), OfflineCometLogger("c", log_env_details=False),
        MLFlowLogger(save_dir="m"), CSVLogger("t"),
    ],
    "none": lambda: False,
}[kind]()
trainer = pl.Trainer(
    max_epochs=3, accelerator="cpu", logger=loggers, enable_progress_bar=False, enable_model_summary=False,
    enable_checkpointing=False, default_root_dir="root", num_sanity_val_steps=0,
    callbacks=[FitMonitor("my loss", "my val"), GradientMonitor(), GraphLogger(),
               GradientLogger(every=1, write_every=1, histograms_every=2)],
)
trainer.fit(Foreign(), DataLoader(Dicts(), 4), DataLoader(Dicts(), 4))
if kind == "all":
    trainer.loggers[0].experiment.finish()
"""


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory):
    """A fit with six loggers at once."""
    for package in ("wandb", "comet_ml", "mlflow"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    cwd = tmp_path_factory.mktemp("everywhere")
    nobody = {"HOME": str(cwd), "NETRC": str(cwd / "netrc")}
    names = ["csv", "wandb", "comet", "mlflow", "tensorboard"]
    flags = ["--data.path=iris", "--trainer.max_epochs=4", f"--trainer.logger=[{','.join(names)}]"]
    done = call_warm("fit", *flags, cwd=cwd, **nobody)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return cwd, done


def test_the_last_word_says_how_to_look_at_each(everywhere):
    cwd, done = everywhere
    look = done.stdout.partition("look at it")[2].partition("\n\n")[0]
    assert "wandb sync lightning_logs/version_0/wandb/offline-run-" in look
    assert "comet upload lightning_logs/version_0/" in look
    assert f"mlflow ui --backend-store-uri {cwd / 'mlruns'}" in look
    assert "tensorboard --logdir lightning_logs" in look
    assert done.stderr.count("it is offline") == 2
    assert " failed (" not in done.stderr


def test_the_runs_folder_holds_checkpoints_configuration_and_files(everywhere):
    run = everywhere[0] / "lightning_logs/version_0"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "diagnosis.json"}
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert {each["class_path"].rpartition(".")[2] for each in config["trainer"]["logger"]} >= {"WandbLogger"}
    assert str(run) not in (run / "config.yaml").read_text()  # else the next run with it would write here
    assert (run / "fit_curves.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "graphs/backward.svg").read_text().startswith("<svg")
    with (run / "metrics.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert set(SCALARS) <= set(rows[0])
    assert len([row for row in rows if row["val_loss"]]) == 4


def _val_losses(cwd):
    with (cwd / "lightning_logs/version_0/metrics.csv").open() as table:
        return [float(row["val_loss"]) for row in csv.DictReader(table) if row["val_loss"]]


def test_wandb_has_it_all(everywhere):
    run = wandb_run(everywhere[0])
    assert [row["val_loss"] for row in run["history"] if "val_loss" in row] == pytest.approx(_val_losses(everywhere[0]))
    assert all(any(tag in row for row in run["history"]) for tag in SCALARS)
    assert run["media"]["fit/curves"] == run["media"]["gradients/flow"] == "images/separated"
    assert run["media"]["weights/network.layers.0.weight"] == "histogram"
    assert run["media"]["graphs/forward"] == run["media"]["graphs/backward"] == "html-file"
    assert "epoch" in run["summary"]["fit/verdict_text"]
    assert any("<svg" in page.read_text() for page in run["folder"].rglob("*.html"))
    assert any(page.read_text().startswith("<pre>") for page in run["folder"].glob("media/html/fit/verdict*"))
    assert list(run["folder"].glob("media/images/fit/curves*.png"))
    assert run["config"]["lr"]


def test_comet_has_it_all(everywhere):
    run = comet_run(everywhere[0])
    curve = [run["metrics"]["val_loss", step] for step in range(4)]
    assert [float(value) for value in curve] == pytest.approx(_val_losses(everywhere[0]))
    assert set(SCALARS) <= {name for name, _ in run["metrics"]}
    assert set(run["pictures"]) == PICTURES
    assert "weights/network.layers.0.weight" in run["histograms"]
    assert {"graphs/forward.svg", "graphs/backward.svg"} <= set(run["assets"])
    assert any("max_epochs: 4" in text for text in run["texts"])
    assert any("checkpoint of epoch" in text or "alidation loss" in text for text in run["texts"])
    assert "lr" in run["parameters"]


def test_mlflow_has_it_all(everywhere):
    (run,) = {path.parent.parent for path in everywhere[0].glob("mlruns/*/*/metrics/val_loss")}
    curve = [float(line.split()[1]) for line in (run / "metrics/val_loss").read_text().splitlines()]
    assert curve == pytest.approx(_val_losses(everywhere[0]))
    assert all((run / "metrics" / tag).exists() for tag in SCALARS)
    assert (run / "params/lr").read_text()
    artifacts = run / "artifacts"
    assert "alidation loss" in (artifacts / "fit/verdict.txt").read_text()
    assert next((artifacts / "fit/curves").glob("*.png")).read_bytes().startswith(b"\x89PNG")
    assert next((artifacts / "gradients/flow").glob("*.png")).read_bytes().startswith(b"\x89PNG")
    drawn = json.loads((artifacts / "histograms/00000000.json").read_text())
    assert sum(drawn["weights/network.layers.0.weight"]["counts"]) > 0
    assert {path.name for path in (artifacts / "graphs").iterdir()} == {"forward.svg", "backward.svg"}


def test_tensorboard_has_the_same_beside_the_others(everywhere):
    found = EventAccumulator(str(everywhere[0] / "lightning_logs/version_0"), size_guidance={"scalars": 0}).Reload()
    assert [event.value for event in found.Scalars("val_loss")] == pytest.approx(_val_losses(everywhere[0]))
    assert set(SCALARS) <= set(found.Tags()["scalars"])
    assert "weights/network.layers.0.weight" in found.Tags()["histograms"]
    assert set(found.Tags()["images"]) == PICTURES


def test_the_real_command_shows_a_run_on_a_visdom_server(everywhere, tmp_path):
    pytest.importorskip("visdom", reason="visdom is not installed: see docs/loggers.md")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--data.path=iris", "--trainer.max_epochs=4", "--trainer.logger=visdom", f"--trainer.logger.port={port}"]
    with visdom_server(port, tmp_path):
        done = call_warm("fit", *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        env = f"{tmp_path.name}_version_0"
        windows = ask_visdom(port, "win_data", win=None, eid=env)
    assert set(lines_of(windows["loss"])) >= {"train_loss", "val_loss"}
    assert lines_of(windows["loss"])["val_loss"][1] == pytest.approx(_val_losses(everywhere[0]))
    assert {"fit/curves", "gradients/flow", "graphs/forward", "fit/verdict", "settings", "hyperparameters"} <= set(
        windows
    )
    assert f"http://127.0.0.1:{port}/env/{env}\n" in done.stdout
    assert (tmp_path / "lightning_logs/version_0/checkpoints/best.ckpt").exists()
    assert (tmp_path / "lightning_logs/version_0/config.yaml").exists()


def _foreign(kind, cwd):
    (cwd / "script.py").write_text(FOREIGN)
    command = [sys.executable, "script.py", kind]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(cwd, PYTHONPATH=root),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert " failed (" not in done.stderr
    return cwd


def test_a_foreign_modules_run_reaches_several_loggers_at_once(tmp_path):
    for package in ("wandb", "comet_ml", "mlflow"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    cwd = _foreign("all", tmp_path)
    weights = wandb_run(cwd / "w")
    assert weights["media"]["weights/net.0.weight"] == "histogram"
    assert weights["media"]["fit/curves"] == "images/separated"
    comet = comet_run(cwd / "c")
    assert set(comet["pictures"]) == {"fit/curves", "gradients/flow"}
    assert ("grad_norm/total", 5) in comet["metrics"]
    assert "gradients/net.2.weight" in comet["histograms"]
    (run,) = {path.parent.parent.parent for path in cwd.glob("m/*/*/metrics/grad_norm/total")}
    assert len((run / "metrics/grad_norm/total").read_text().splitlines()) == 6
    assert (run / "artifacts/gradients/health.txt").exists()
    (table,) = cwd.glob("t/lightning_logs/version_0/metrics.csv")
    assert "grad_norm/total" in table.read_text()
    assert (table.parent / "graphs/forward.svg").exists()
    assert len((table.parent / "histograms.jsonl").read_text().splitlines()) == 3


def test_without_a_logger_everything_is_a_file_in_the_root_folder(tmp_path):
    root = _foreign("none", tmp_path) / "root"
    rows = [json.loads(line) for line in (root / "scalars.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows if "grad_norm/net.0" in row} == set(range(6))
    assert any("fit/probability_good" in row for row in rows)
    for picture in ("fit_curves.png", "gradient_flow.png"):
        assert (root / picture).read_bytes().startswith(b"\x89PNG")
    assert (root / "graphs/forward.svg").read_text().startswith("<svg")
    assert (root / "fit_verdict.txt").read_text().strip()
    drawn = [json.loads(line) for line in (root / "histograms.jsonl").read_text().splitlines()]
    assert [row["step"] for row in drawn] == [0, 2, 4]
