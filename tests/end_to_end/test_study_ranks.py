"""A study whose trials are fits of two processes: pruned together, killed, interrupted, and as the fit by hand."""

import os
import signal
import threading
from pathlib import Path

import pytest
from commands import call_warm, start_warm, warm_up
from study_trials import running, settled, trials, wait_until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_mods import study
from lightning_mods.study import processes

# Lightning 2.6 itself calls names that jsonargparse 5 will drop; the loss of two ranks is the mean of theirs.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"
)

RANKS = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu")
IRIS = ("--data.path=iris", "--data.batch_size=16", "--model.hidden_sizes=[8]", *RANKS)

# Somebody else's model, which meets its troubles on the second of two ranks.
TROUBLED = """
import os, signal, time
from pathlib import Path
import pytorch_lightning as pl
import torch
from torch import nn

class Troubled(pl.LightningModule):
    def __init__(self, lr: float = 0.1, trouble: str = "none"):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(4, 3)

    def on_fit_start(self):
        Path(f"pid_{os.getpid()}").touch()

    def training_step(self, batch, batch_idx):
        trouble, second = self.hparams.trouble, self.global_rank == 1 and self.current_epoch == 1
        while trouble == "wait" and not Path("go").exists():
            time.sleep(0.05)
        if trouble == "memory" and second:
            raise MemoryError("simulated")
        if trouble == "killed" and second:
            os.kill(os.getpid(), signal.SIGKILL)
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        bad = self.hparams.trouble == "nan" and self.current_epoch == 1 and self.global_rank == 0
        self.log("val_loss", loss * float("nan") if bad else loss)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
"""
FOREIGN = ("--model=troubled.Troubled", "--data.path=iris", "--data.batch_size=16", "--trainer.max_epochs=3", *RANKS)


def losses(run):
    return [event.value for event in EventAccumulator(str(run)).Reload().Scalars("val_loss")]


def alive(folder):
    """Processes that have trained in a folder and still run."""
    pids = [path.name.partition("_")[2] for path in folder.glob("pid_*")]
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm_up()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with the foreign model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "troubled.py").write_text(TROUBLED)
    return tmp_path


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The folder of a study of two trials, refitted."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        study.main([*IRIS, "--trainer.max_epochs=3", "--study.n_trials=2", "--study.pruner=none", "--study.refit=true"])
    return folder


def test_every_trial_holds_what_those_of_one_process_hold(searched):
    found = trials(searched)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 2
    for trial in found:
        assert trial.user_attrs["verdict"] in ("underfit", "good", "overfit", "diverged")
        assert trial.user_attrs["epochs"] == len(trial.intermediate_values) == 3
        assert trial.user_attrs["metrics"]["val_loss"] == trial.value == min(trial.intermediate_values.values())
    runs = sorted(path.name for path in (searched / "studies/study").glob("trial_*"))
    assert runs == ["trial_000", "trial_001"]


def test_a_trial_is_the_fit_of_two_processes_by_hand(searched, tmp_path):
    best = min(trials(searched), key=lambda trial: trial.value)
    lr = f"--model.lr={best.params['model.lr']}"
    by_hand = call_warm("fit", *IRIS, "--trainer.max_epochs=3", lr, cwd=tmp_path)
    assert by_hand.returncode == 0, by_hand.stderr
    in_a_trial = losses(searched / f"studies/study/trial_{best.number:03d}")
    assert in_a_trial == losses(tmp_path / "lightning_logs/version_0") == losses(searched / "lightning_logs/version_0")
    assert in_a_trial == pytest.approx(list(best.intermediate_values.values()))


def test_another_number_of_processes_is_another_study(searched, monkeypatch, capsys):
    monkeypatch.chdir(searched)
    assert "begun with --trainer.devices=2" in refused(capsys, "--trainer.max_epochs=3", "--trainer.devices=1")


def test_a_trial_that_fails_on_one_rank_is_one_trial(folder, capfd):
    troubles = ["none", "nan", "memory", "killed"]
    flags = ("--model.lr=0.1", f"--space.model.trouble=[{','.join(troubles)}]", "--study.sampler=grid")
    study.main([*FOREIGN, *flags, "--study.n_trials=4"])
    found = {trial.params["model.trouble"]: trial for trial in trials(folder)}
    ends = {name: (trial.state.name, trial.user_attrs.get("reason", "")) for name, trial in found.items()}
    assert ends["none"] == ("COMPLETE", "")
    assert ends["nan"] == ("PRUNED", "val_loss is nan at step 1")
    assert found["nan"].user_attrs["verdict"] == "diverged"
    assert ends["memory"] == ("FAIL", "out of memory (MemoryError: simulated)")
    assert found["memory"].user_attrs["epochs"] == 2
    assert ends["killed"] == ("FAIL", "RankLost: rank 1 of 2 was killed by signal 9")
    assert alive(folder) == []
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.timeout(600)
def test_ranks_end_with_the_study_that_is_killed_or_interrupted_and_no_trial_is_lost(folder, capfd):
    command = (*FOREIGN, "--model.trouble=wait", "--study.n_trials=2")
    streams = {"out": folder / "out.txt", "err": folder / "err.txt"}
    process = start_warm("study", *command, "--study.workers=2", cwd=folder, **streams)
    wait_until(lambda: process.exitcode is not None or len(alive(folder)) == 4)
    assert process.exitcode is None, streams["err"].read_text()
    killed = {trial.params["model.lr"] for trial in trials(folder)}
    assert len(running(folder)) == 2
    process.kill()
    wait_until(lambda: not alive(folder), timeout=30)

    def interrupt():
        wait_until(lambda: len(alive(folder)) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # CI may ignore it
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(SystemExit) as end:
        study.main(command)
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert end.value.code == 1
    assert alive(folder) == []
    assert "stopped; the same command goes on" in capfd.readouterr().err

    (folder / "go").touch()
    study.main(command)
    found = trials(folder)
    assert sorted(settled(found)) == [0, 1]
    whole = [trial for trial in found if trial.state.name != "FAIL"]
    assert {trial.params["model.lr"] for trial in whole} == killed
    assert [trial.state.name for trial in found].count("RUNNING") == 0
    assert "Traceback" not in capfd.readouterr().err


def refused(capsys, *flags):
    """The one line in which a study of two-process trials ends."""
    with pytest.raises(SystemExit) as end:
        study.main([*IRIS, "--trainer.max_epochs=1", "--study.n_trials=1", *flags])
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_processes_that_cannot_be_started_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def start(process):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(processes.context().Process, "start", start)
    assert "cannot be started: Resource temporarily unavailable" in refused(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_ends_before_it_trains_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "_become_rank", os._exit)  # what its arguments make it do is to fail
    assert "the processes of a trial cannot be started: rank" in refused(capsys)


def test_a_study_that_torchrun_starts_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert "start it once" in refused(capsys)
    assert list(tmp_path.iterdir()) == []
