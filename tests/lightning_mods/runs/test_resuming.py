"""A fit that goes on, and one that fails: what they leave of the runs that were there."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from verbs_here import do, succeed

from callbacks.host.files import locked
from lightning_mods import MLPClassifier
from lightning_mods.runs.claim import RunClaim

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]
QUICK = ("--trainer.max_epochs=2", "--watch=[]", "--trainer.enable_progress_bar=false", "--model.hidden_sizes=[8]")
IRIS = ("--data.path=iris", *QUICK)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run of two epochs."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeed("fit", *IRIS, "--seed_everything=3")
    return folder


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of that run's folder, in the folder where the test works."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("lightning_logs/version_0")


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


REFUSED = [
    ("--model.hidden_sizes=[16]", "[16]", "[8]"),
    ("--model.lr=0.123", "0.123", "0.5"),
    ("--data.val_fraction=0.3", "0.3", "0.15"),
    ("--data.drop=[petal length (cm)]", '["petal length (cm)"]', "none"),
    ("--data.seed=5", "5", "none"),
    ("--data.target=sepal width (cm)", "sepal width (cm)", "none"),
    ("--data.path=wine", "wine", "iris"),
    ("--data.bins=4", "4", "16"),
    ("--recipe=plain", "plain", "default"),
    ("--seed_everything=4", "4", "3"),
]


@pytest.mark.parametrize(("flag", "now", "before"), REFUSED, ids=[flag.partition("=")[0] for flag, *_ in REFUSED])
def test_what_a_resume_would_not_do_is_refused_and_changes_nothing(run, flag, now, before):
    whole = contents(Path("lightning_logs"))
    code, _, err = do("fit", "--ckpt_path=last", "--trainer.max_epochs=3", flag)
    (line,) = [line for line in err.splitlines() if line.startswith("fit: ")]
    assert code == 2
    name = flag.partition("=")[0]
    assert f"{name}={now} does not fit lightning_logs/version_0/checkpoints/last.ckpt, trained with {before};" in line
    assert contents(Path("lightning_logs")) == whole


def test_another_optimizer_is_refused_and_so_is_a_smaller_number_of_epochs(run):
    whole = contents(Path("lightning_logs"))
    code, _, err = do("fit", "--ckpt_path=last", "--optimizer=Adam")
    assert (code, "--optimizer=" in err, "does not fit" in err) == (2, True, True)
    code, _, err = do("fit", "--ckpt_path=last", "--trainer.max_epochs=1")
    assert (code, "--trainer.max_epochs=1 is less than the 2 epochs" in err) == (2, True)
    assert contents(Path("lightning_logs")) == whole


def test_what_changes_no_row_may_change_and_the_rest_is_written_down_again(run):
    said = ("--data.batch_size=16", "--data.memory_map=false", "--data.target=target", "--data.task=classification")
    _, err = succeed("fit", "--ckpt_path=last", "--trainer.max_epochs=3", "--watch=[]", *said)
    assert f"training goes on from {run}/checkpoints/last.ckpt, with 2 epochs done." in err
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["seed_everything"], config["data"]["init_args"]["batch_size"]) == (3, 16)
    assert config["trainer"]["max_epochs"] == 3
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"]


def test_a_table_that_was_moved_is_known_again_and_another_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 7},{i * i % 11},{'ab'[i % 2]}" for i in range(80)]
    Path("one.csv").write_text("\n".join(["x,z,y", *rows]))
    succeed("fit", "--data.path=one.csv", "--data.target=y", *QUICK)
    Path("one.csv").rename("moved.csv")
    again = ("--ckpt_path=last", "--trainer.max_epochs=3", "--watch=[]")
    Path("other.csv").write_text("\n".join(["x,z,y", *rows[::-1][:-1], "5,5,a"]))
    code, _, err = do("fit", "--data.path=other.csv", *again)
    assert (code, "--data.path=other.csv does not fit" in err) == (2, True)
    succeed("fit", "--data.path=moved.csv", *again)


class FailsInItsStart(MLPClassifier):
    """Cannot be trained."""

    def on_fit_start(self):
        raise RuntimeError("no")


class FailsInItsFirstEpoch(MLPClassifier):
    """Cannot take a step."""

    def on_train_batch_start(self, batch, batch_idx):
        raise RuntimeError("no")


def test_a_fit_that_fails_before_it_trains_leaves_no_folder(run):
    for flags in (["--model.lr=-1"], ["--data.path=nowhere.csv"], ["--trainer.max_time=never"]):
        assert do("fit", *IRIS, *flags)[0] == 2
    with pytest.raises(RuntimeError, match="no"):
        do("fit", f"--model={__name__}.FailsInItsStart", *IRIS)
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"]


def test_a_fit_that_fails_in_its_first_epoch_hides_no_run_and_is_named(run):
    with pytest.raises(RuntimeError, match="no"):
        do("fit", f"--model={__name__}.FailsInItsFirstEpoch", *IRIS)
    _, err = succeed("validate")
    assert "note: lightning_logs/version_1, the newest run, has no `best` checkpoint" in err
    assert "lightning_logs/version_0/checkpoints/best.ckpt is taken" in err


def test_a_run_in_which_a_fit_is_going_on_is_not_written_to_by_another(run):
    whole = contents(Path("lightning_logs"))
    with locked(run) as mine:
        assert mine
        code, _, err = do("fit", "--ckpt_path=last", "--trainer.max_epochs=3")
    assert (code, f"fit: another fit is writing to {run}; wait until it is over, or stop it." in err) == (2, True)
    assert contents(Path("lightning_logs")) == whole
    succeed("fit", "--ckpt_path=last", "--trainer.max_epochs=3", "--watch=[]")


def test_the_folder_of_a_new_run_is_taken_by_one_fit_alone(tmp_path):
    with RunClaim() as one, RunClaim() as other, RunClaim(leads=False) as rank:
        first = one.begin(tmp_path)
        assert rank.begin(tmp_path) == first  # as it was started by that one
        assert other.begin(tmp_path) == tmp_path / "version_1"
        (first / "config.yaml").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["version_0"]  # in the other nothing was trained


def scalars(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0}).Reload()
    tags = events.Tags()
    found = {tag: [event.step for event in events.Scalars(tag)] for tag in tags["scalars"]}
    found |= {f"{tag} (histogram)": [e.step for e in events.Histograms(tag)] for tag in tags["histograms"]}
    # The test set's stand where Lightning's own count of steps has come to, which a resume does not restore exactly.
    return {tag: steps for tag, steps in found.items() if not tag.startswith("test_") and tag != "epoch"}


@pytest.fixture
def checkpoints_each_epoch(tmp_path, monkeypatch):
    """Write `last.ckpt` at the beginning of every epoch, however short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_mods.runs.checkpoints.WRITING", 1.0)


class Stops(MLPClassifier):
    """Is killed in the middle of its fourth epoch, after it has logged something there."""

    def on_train_batch_start(self, batch, batch_idx):
        if self.current_epoch == 3 and batch_idx == 2 and not Path("mended").exists():
            raise RuntimeError("killed")


def test_an_interrupted_run_shows_the_curves_of_one_left_alone_on_both_axes(checkpoints_each_epoch):
    flags = (*IRIS[:1], "--trainer.max_epochs=5", f"--model={__name__}.Stops", "--model.hidden_sizes=[8]")
    watched = (
        "--trainer.callbacks+=GradientLogger",
        "--trainer.callbacks.every=1",
        "--trainer.callbacks.write_every=1",
    )
    flags = (*flags, *watched, "--trainer.callbacks.updates_every=4", "--trainer.callbacks.histograms_every=5")
    flags = (*flags, "--data.batch_size=16", "--watch=[]")
    with pytest.raises(RuntimeError, match="killed"):
        do("fit", *flags, "--trainer.default_root_dir=cut")
    Path("mended").touch()
    succeed("fit", *flags, "--trainer.default_root_dir=cut", "--ckpt_path=last")
    succeed("fit", *flags, "--trainer.default_root_dir=whole")
    whole, cut = (scalars(Path(root, "lightning_logs/version_0")) for root in ("whole", "cut"))
    assert max(whole["grad_norm/total"]) > 20 > max(whole["train_loss"])
    assert whole == cut


def test_an_interrupted_run_keeps_the_rows_of_its_table(checkpoints_each_epoch):
    flags = ("--data.path=iris", "--trainer.max_epochs=5", "--recipe=plain", "--watch=[fit]", "--trainer.logger=csv")
    flags = (*flags, f"--model={__name__}.Stops", "--data.batch_size=16")
    with pytest.raises(RuntimeError, match="killed"):
        do("fit", *flags, "--trainer.default_root_dir=cut")
    code, _, _ = do("fit", *flags, "--trainer.default_root_dir=cut", "--ckpt_path=last", "--trainer.max_epochs=2")
    assert code == 2  # which loses no row
    Path("mended").touch()
    succeed("fit", *flags, "--trainer.default_root_dir=cut", "--ckpt_path=last")
    succeed("fit", *flags, "--trainer.default_root_dir=whole")
    whole, cut = (read_table(Path(root, "lightning_logs/version_0")) for root in ("whole", "cut"))
    assert whole == cut
    assert [path.name for path in Path("cut/lightning_logs/version_0").glob("metrics*.csv")] == ["metrics.csv"]


def read_table(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    return [row for row in rows if "val_loss" in row or "train_loss" in row]


def test_a_checkpoint_of_weights_that_are_no_numbers_predicts_nothing(run):
    path = run / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    first = next(iter(content["state_dict"].values()))
    first[:] = float("nan")
    torch.save(content, path)
    for verb in ("validate", "test", "predict", "export"):
        code, _, err = do(verb, *(["--data.predict_path=iris"] if verb == "predict" else []))
        assert (code, "best.ckpt holds weights that are NaN or infinite" in err) == (2, True)
