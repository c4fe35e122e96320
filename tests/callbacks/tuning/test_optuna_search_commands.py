import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import torch
from foreign_modules import same
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from lightning_mods import fit

ROOT = Path(__file__).parents[3]


def study(folder):
    storage = JournalStorage(JournalFileBackend(str(next(folder.rglob("search.journal")))))
    return optuna.load_study(study_name=None, storage=storage)


def last_checkpoint(root):
    return torch.load(next(root.rglob("last.ckpt")), weights_only=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning's CLI calls names that jsonargparse will drop
@pytest.mark.parametrize(
    "optimizer",
    [
        ["--optimizer=SGD", "--optimizer.lr={lr}", "--optimizer.momentum=0.9"],
        ["--optimizer=Adam", "--optimizer.lr={lr}"],
    ],
)
def test_on_the_command_line_the_rate_reaches_the_optimizer_that_is_named_there(tmp_path, optimizer):
    flags = ["--data.path=iris", "--trainer.max_epochs=2", "--model.hidden_sizes=[8]", "--model.dropout=0.2"]
    flags += ["--lr_scheduler=CosineAnnealingLR", "--lr_scheduler.T_max=4"]
    searching = ["--trainer.callbacks+=OptunaSearch", "--trainer.callbacks.n_trials=4"]
    given = [flag.format(lr=0.0001) for flag in optimizer]
    fit.main([*flags, *given, *searching, f"--trainer.default_root_dir={tmp_path / 'a'}"])
    found = study(tmp_path).best_params
    lr, batch_size = found["lr"], 2 ** found["log2_batch_size"]
    given = [flag.format(lr=0.0001) for flag in optimizer]
    fragment = next(tmp_path.rglob("found.yaml"))
    fit.main([*flags, *given, f"--config={fragment}", f"--trainer.default_root_dir={tmp_path / 'b'}"])
    searched, by_hand = last_checkpoint(tmp_path / "a"), last_checkpoint(tmp_path / "b")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(searched[part], by_hand[part]), part
    assert searched["optimizer_states"][0]["param_groups"][0]["initial_lr"] == lr
    assert searched["hyper_parameters"]["lr"] == lr
    assert searched["datamodule_hyper_parameters"]["batch_size"] == batch_size


SCRIPT = """
import sys, time, warnings
from functools import partial
from pathlib import Path
warnings.simplefilter("ignore")
from search_fits import Data, Foreign, fit
from callbacks import OptunaSearch

class Slow(Foreign):
    def on_train_epoch_end(self):
        time.sleep(float(sys.argv[2]))

if __name__ == "__main__":
    search = OptunaSearch(6, max_epochs=2, lr_name="learning_rate", batch_size_name="rows_a_batch", pruner="none")
    fit(Path(sys.argv[1]), Slow, Data, search)
    print("found", search.found)
"""


def start(tmp_path, script, *arguments, timeout=150):
    path = tmp_path / "script.py"
    path.write_text(script)
    return subprocess.Popen(
        ["timeout", "-k", "5", str(timeout), sys.executable, str(path), *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_search_that_was_killed_goes_on_with_the_same_command(tmp_path):
    killed = start(tmp_path, SCRIPT, tmp_path / "run", 0.2)
    for _ in range(600):
        journals = list(tmp_path.rglob("search.journal"))
        if journals and '"verdict"' in journals[0].read_text() and len(study(tmp_path).trials) > 2:
            break
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = study(tmp_path).trials
    done = [trial.number for trial in before if trial.state.is_finished()]
    assert done
    assert len(done) < 6
    said, complaint = start(tmp_path, SCRIPT, tmp_path / "run", 0).communicate()
    assert "found" in said, complaint
    after = study(tmp_path).trials
    assert [trial for trial in after if trial.number in done] == [before[number] for number in done]
    assert [trial.state.name for trial in after].count("COMPLETE") == 6
    assert {trial.state.name for trial in after} <= {"COMPLETE", "FAIL"}
    assert len({trial.user_attrs["place"] for trial in after if trial.state.name == "COMPLETE"}) == 6


RANKS = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import pytorch_lightning as pl
import torch
from callbacks import OptunaSearch
from callbacks.tuning import study
from datamodules import TabularDataModule
from lightning_mods import MLPClassifier

study.PULSE = 0.0  # a sign of life at every report

def fit(root, callbacks, batch_size="auto", **kwargs):
    pl.seed_everything(3)
    module, data = MLPClassifier(4, 3, hidden_sizes=[8], **kwargs), TabularDataModule("iris", batch_size=batch_size)
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False, callbacks=callbacks,
                         default_root_dir=root, enable_progress_bar=False, enable_model_summary=False,
                         enable_checkpointing=False)
    trainer.fit(module, datamodule=data)
    return trainer

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    search = OptunaSearch(3)
    trainer = fit(folder / "a", [search])
    (folder / f"loss{trainer.global_rank}.txt").write_text(repr(float(trainer.callback_metrics["val_loss"])))
    weights = [value.clone() for value in trainer.lightning_module.state_dict().values()]
    made = fit(folder / "b", [], **search.found).lightning_module.state_dict().values()
    equal = all(map(torch.equal, weights, made))
    name = f"rank{trainer.global_rank}.txt"
    (folder / name).write_text(f"{sorted(search.found.items())} {equal} {trainer.datamodule.batch_size}")
    fit(folder / "c", [OptunaSearch(3, monitor="nothing")])
    (folder / name).write_text("went on")
"""


def test_two_processes_train_the_trials_fit_with_what_was_found_and_what_fails_in_a_trial_ends_both(tmp_path):
    run = start(tmp_path, RANKS, tmp_path)
    _, complaint = run.communicate()
    zero, one = ((tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1))
    found = study(tmp_path / "a").best_params
    assert zero == one
    assert f"{found['lr']}" in zero
    assert zero.endswith(f"True {2 ** found['log2_batch_size']}")
    assert 2 ** found["log2_batch_size"] <= 105 // 2 // 2
    # The best trial was the fit of two processes, to the last bit.
    assert study(tmp_path / "a").best_value == float((tmp_path / "loss0.txt").read_text())
    assert complaint.count("search: 3 trials of up to 2 epochs") == 2  # of three fits with two processes each
    assert run.returncode == 1, complaint
    assert "TrialPruning reads 'nothing', which was not logged" in complaint
