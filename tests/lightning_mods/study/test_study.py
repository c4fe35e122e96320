"""`study` from the command line: what it searches, what it leaves behind, and that it goes on."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest
import pytorch_lightning as pl
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from datamodules import TabularDataModule
from lightning_mods import fit, study
from lightning_mods.cli.command_line import CommandLine
from lightning_mods.runs.checkpoints import metrics_in, read_checkpoint
from lightning_mods.study.command import StudyCommand
from lightning_mods.study.trial_cli import fold

# Lightning 2.6 itself calls names that jsonargparse 5 will drop.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"
)

IRIS = ("--data.path=iris", "--trainer.max_epochs=3", "--model.hidden_sizes=[8]")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(name="study", storage=None):
    if storage is None:
        backend = optuna.storages.journal.JournalFileBackend(f"studies/{name}/study.journal")
        storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name=name, storage=storage)


def states(found):
    return [trial.state.name for trial in found.trials]


def refused(capsys, *flags):
    """The one line that a wrong command ends in."""
    with pytest.raises(SystemExit) as end:
        study.main([*IRIS, *flags])
    said = capsys.readouterr()
    assert end.value.code == 2
    lines = [line for line in said.err.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1, said.err
    return lines[0]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A study of six trials with three names beside the learning rate and the batch size, refitted."""
    folder = tmp_path_factory.mktemp("study")
    flags = [*IRIS[:2], f"--trainer.default_root_dir={folder}", "--study.n_trials=6", "--study.refit=true"]
    flags += ["--space.model.hidden_sizes=[[4],[8,8]]", "--space.model.dropout=0..0.3", "--study.pruner=none"]
    flags += ["--study.prune_hopeless=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        study.main(flags)
    return folder, flags


def test_a_study_searches_what_was_asked_beside_the_learning_rate_and_the_batch_size(searched, monkeypatch):
    monkeypatch.chdir(searched[0])
    found = load()
    assert states(found) == ["COMPLETE"] * 6
    assert set(found.trials[0].params) == {"model.lr", "log2_data.batch_size", "model.hidden_sizes", "model.dropout"}
    lr, rows = (found.trials[0].distributions[name] for name in ("model.lr", "log2_data.batch_size"))
    assert (lr.low, lr.high, lr.log) == (0.02, 2.0, True)
    assert (rows.low, rows.high) == (3, 5)  # 106 training rows: 8, 16 and 32


def test_every_trial_holds_its_diagnosis_and_the_metrics_of_its_best_epoch(searched, monkeypatch):
    monkeypatch.chdir(searched[0])
    for trial in load().trials:
        assert trial.user_attrs["verdict"] in ("underfit", "good", "overfit", "diverged")
        assert trial.user_attrs["cause"] != "too_few_epochs"
        assert trial.user_attrs["epochs"] == 3
        assert trial.user_attrs["metrics"]["val_loss"] == trial.value == min(trial.intermediate_values.values())
        assert trial.intermediate_values[trial.user_attrs["best_epoch"]] == trial.value


@pytest.mark.parametrize("fused", ["auto", "false"])
def test_every_trial_gets_a_verdict_pruned_or_not_and_the_end_says_where_to_look_further(tmp_path, capsys, fused):
    flags = ["--data.path=wine", "--trainer.max_epochs=6", "--model.hidden_sizes=[8]", "--trainer.logger=false"]
    flags += [f"--study.fused={fused}", "--space.model.lr=log 1e-4..5e-2", "--data.batch_size=16"]
    study.main([*flags, "--study.n_trials=12"])
    found = load()
    assert {"PRUNED", "COMPLETE"} == set(states(found))
    assert {trial.user_attrs["verdict"] for trial in found.trials} <= {"underfit", "good", "overfit", "diverged"}
    said = capsys.readouterr().out
    assert "Where the verdicts fall:" in said
    assert re.search(r"\d underfit", said)
    edge = next(line for line in said.splitlines() if "edge of the space" in line)
    assert "lr 0.0" in edge
    further = shlex.split(edge.partition(": ")[2].removesuffix(" looks further"))
    assert further == ["--study.name=study_wider", "--space.model.lr=log 0.0001..0.5"]
    study.main([*flags, *further, "--study.n_trials=2"])
    assert len(load("study_wider").trials) == 2


def test_the_best_configuration_gives_the_trials_fit_bit_for_bit(searched, tmp_path):
    folder, _ = searched
    best = optuna.load_study(
        study_name="study",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(folder / "studies/study/study.journal"))
        ),
    ).best_trial
    fit.main([f"--config={folder / 'studies/study/best.yaml'}", f"--trainer.default_root_dir={tmp_path}"])
    run = tmp_path / "lightning_logs/version_0"
    events = EventAccumulator(str(run)).Reload()
    losses = [event.value for event in events.Scalars("val_loss")]
    assert losses == [torch.tensor(value).item() for value in best.intermediate_values.values()]
    assert metrics_in(read_checkpoint(run / "checkpoints/best.ckpt"))["val_loss"] == best.value


def test_a_refit_leaves_a_run_and_is_done_once(searched, capsys, monkeypatch):
    folder, flags = searched
    monkeypatch.chdir(folder)
    assert (folder / "lightning_logs/version_0/checkpoints/best.ckpt").is_file()
    study.main(flags)
    said = capsys.readouterr()
    assert "is finished" in said.err
    assert "was fitted already" in said.err
    assert not (folder / "lightning_logs/version_1").exists()
    assert "fit --config" in said.out


def test_one_tensorboard_run_a_trial_with_its_values_and_the_metric(searched):
    folder = searched[0] / "studies/study"
    runs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert runs == ["study", *(f"trial_{number:03d}" for number in range(6))]
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(folder / "trial_002")).Reload()
    content = events.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info
    assert set(start.hparams) == {"lr", "batch_size", "hidden_sizes", "dropout"}
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    assert experiment.metric_infos[0].name.tag == "hp/val_loss"
    assert events.Scalars("hp/val_loss")[-1].value == min(event.value for event in events.Scalars("val_loss"))


def test_the_studys_own_run_holds_the_pictures_and_the_report(searched):
    events = EventAccumulator(str(searched[0] / "studies/study/study"), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["search", "history"]
    assert len(events.Images("search")[0].encoded_image_string) > 5000
    assert b"6 trials (6 complete)" in events.Tensors("report/text_summary")[0].tensor_proto.string_val[0]
    assert (searched[0] / "studies/study/search.png").stat().st_size > 5000


def test_the_same_command_with_more_trials_goes_on(capsys):
    study.main([*IRIS, "--study.n_trials=2"])
    before = [trial.params for trial in load().trials]
    study.main([*IRIS, "--study.n_trials=4"])
    found = load()
    assert len(found.trials) == 4
    assert [trial.params for trial in found.trials[:2]] == before
    assert "4/4 trials" in capsys.readouterr().err


def test_a_flag_given_by_hand_is_not_searched(capsys):
    study.main([*IRIS, "--study.n_trials=1", "--model.lr=0.1", "--space.model.lr=0.1..0.2"])
    assert set(load().trials[0].params) == {"log2_data.batch_size"}
    assert "note: --model.lr is given, so it is not searched." in capsys.readouterr().err
    text = yaml.safe_load(Path("studies/study/best.yaml").read_text())
    assert text["model"]["init_args"]["lr"] == 0.1


def test_whole_bounds_of_a_float_make_a_range_of_floats():
    ranges = {"model.weight_decay": "0..1", "trainer.gradient_clip_val": "1..5", "optimizer.lr": "log 1..2"}
    ranges |= {"trainer.accumulate_grad_batches": "1..2", "data.batch_size": "8..9", "model.dropout": "[0, 0.1]"}
    flags = [f"--space.{name}={text}" for name, text in ranges.items()]
    space = StudyCommand(CommandLine.parse("study", [*IRIS, "--optimizer=Adam", *flags])).space
    assert {name: str(space[name]) for name in ranges} == {
        "model.weight_decay": "0.0..1.0",
        "trainer.gradient_clip_val": "1..5",  # a whole number stays one there
        "optimizer.lr": "log 1.0..2.0",
        "trainer.accumulate_grad_batches": "1..2",
        "data.batch_size": "8..9",
        "model.dropout": "[0, 0.1]",
    }


def test_a_fits_own_search_is_left_out_of_the_trials(capsys):
    study.main([*IRIS, "--study.n_trials=1", "--trainer.callbacks+=OptunaSearch", "--trainer.callbacks.n_trials=9"])
    assert "note: OptunaSearch is left out" in capsys.readouterr().err
    assert states(load()) == ["COMPLETE"]
    assert "OptunaSearch" not in Path("studies/study/best.yaml").read_text()
    assert list(Path().rglob("search.journal")) == []


def test_a_configuration_file_may_hold_the_study_and_the_space():
    content = {
        "study": {"name": "mine", "n_trials": 2, "sampler": "random"},
        "space": {"model": {"dropout": "0..0.5"}, "data": {"batch_size": [16]}},
    }
    Path("search.yaml").write_text(yaml.safe_dump(content))
    study.main([*IRIS, "--config=search.yaml"])
    found = load("mine")
    assert set(found.trials[0].params) == {"model.lr", "model.dropout", "data.batch_size"}
    assert found.trials[0].params["data.batch_size"] == 16
    fit.main([*IRIS, "--config=search.yaml"])  # the same file serves every verb
    assert Path("lightning_logs/version_0/checkpoints/best.ckpt").is_file()


def test_the_optimizers_learning_rate_takes_the_place_of_the_models():
    study.main([*IRIS, "--optimizer=Adam", "--study.n_trials=1", "--data.batch_size=32"])
    assert set(load().trials[0].params) == {"optimizer.lr"}
    best = yaml.safe_load(Path("studies/study/best.yaml").read_text())
    assert best["optimizer"]["init_args"]["lr"] == load().trials[0].params["optimizer.lr"]


def test_several_seeds_make_one_objective():
    study.main([*IRIS, "--study.n_trials=2", "--study.seeds=2", "--study.pruner=none", "--study.prune_hopeless=false"])
    trial = load().trials[0]
    steps = list(trial.intermediate_values.values())
    assert len(steps) == 6
    assert trial.value == pytest.approx((min(steps[:3]) + min(steps[3:])) / 2, rel=1e-12)
    assert steps[:3] != steps[3:]
    assert trial.user_attrs["epochs"] == 6


@pytest.mark.parametrize("mapped", [(False, False), (True, True), (True, False)])
def test_folds_of_a_mapped_table_have_its_bins(tmp_path, monkeypatch, mapped):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lines = ["a,b,y", *(f"{i % 13},{i * i % 31},{'pqr'[i % 3]}" for i in range(90))]
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    held = []
    for maps in ((False, False), mapped):
        given = {"val_path": "val.csv", "test_fraction": 0, "bins": 8, "batch_size": 16}
        data = TabularDataModule("train.csv", "y", **given)
        data._work._mapping = {str(each): on for each, on in zip(("train.csv", "val.csv"), maps, strict=True)}
        assert [data._work.rows(s).expansion is not None for s in ("train", "val")] == [*maps]
        fold(data, 1, 3)
        held.append([torch.cat([x for x, _ in loader()]) for loader in (data.train_dataloader, data.val_dataloader)])
    for one, other in zip(*held, strict=True):
        assert one.shape[1] == 18
        assert torch.equal(one, other)


def test_folds_validate_on_every_row_but_those_of_the_test_once():
    study.main([*IRIS, "--study.n_trials=1", "--study.folds=4", "--study.pruner=none", "--model.lr=0.1"])
    trial = load().trials[0]
    steps = list(trial.intermediate_values.values())
    assert len(steps) == 12
    assert trial.value == pytest.approx(sum(min(steps[i : i + 3]) for i in (0, 3, 6, 9)) / 4, rel=1e-12)
    data = TabularDataModule("iris", batch_size=16)
    rows = torch.cat([data.train_dataloader().dataset.x, data.val_dataloader().dataset.x])
    held = []
    for index in range(4):
        folded = TabularDataModule("iris", batch_size=16)
        fold(folded, index, 4)
        train, val = folded.train_dataloader().dataset, folded.val_dataloader().dataset
        assert len(train) + len(val) == len(rows)
        assert val.y.bincount().max() - val.y.bincount().min() <= 1
        held.append(val.x)
    assert sorted(torch.cat(held).tolist()) == sorted(rows.tolist())


def test_several_metrics_end_in_a_pareto_front(capsys):
    study.main([*IRIS, "--study.n_trials=4", "--study.metric=[val_loss,val_accuracy]"])
    found = load()
    assert [way.name for way in found.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert found.metric_names == ["val_loss", "val_accuracy"]
    assert all(len(trial.values) == 2 for trial in found.trials if trial.state.name == "COMPLETE")
    assert "a Pareto front" in capsys.readouterr().out


class Diverging(pl.LightningModule):
    """Somebody else's model: its loss is NaN from the second epoch on where the rate is above a half."""

    def __init__(self, lr: float = 0.1, trouble: str = "nan"):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(4, 3)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        bad = self.hparams.lr > 0.5 and self.current_epoch > 0
        if bad and self.hparams.trouble == "raise":
            raise RuntimeError("the rate is too high")
        if bad and self.hparams.trouble == "memory":
            raise MemoryError("simulated")
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("val_loss", loss * float("nan") if bad else loss)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


@pytest.mark.parametrize(
    ("trouble", "state", "reason"),
    [("nan", "PRUNED", "val_loss is nan"), ("raise", "FAIL", "the rate is too high"), ("memory", "FAIL", "memory")],
)
def test_a_trial_that_fails_is_one_trial(trouble, state, reason, capsys):
    flags = [f"--model={__name__}.Diverging", "--data=TabularDataModule", "--data.path=iris", "--trainer.max_epochs=3"]
    flags += [f"--model.trouble={trouble}", "--space.model.lr=[0.01,0.9]", "--data.batch_size=32"]
    study.main([*flags, "--study.n_trials=2", "--study.sampler=grid"])
    found = {trial.params["model.lr"]: trial for trial in load().trials}
    assert found[0.01].state.name == "COMPLETE"
    assert found[0.9].state.name == state
    assert reason in found[0.9].user_attrs["reason"]
    assert found[0.9].user_attrs["verdict"] == ("diverged" if trouble == "nan" else "unknown")
    assert "best val_loss" in capsys.readouterr().err


RANKS = ("--trainer.devices=2", "--trainer.accelerator=cpu")
BAD = [
    (["--space.model.dropuot=0..0.5"], ["--space.model.dropuot", "did you mean --space.model.dropout"]),
    (["--space.model.in_features=1..4"], ["--space.model.in_features", "not a flag"]),
    (["--space.model.dropout=0.5..0"], ["--space.model.dropout", "0..0.5"]),
    (["--space.model.dropout=0..1.5"], ["--space.model.dropout", "1.5", "[0, 1)"]),
    (["--space.model.activation=[relu,foo]"], ["--space.model.activation", "foo"]),
    (["--space.data.batch_size=pow2 16..4096"], ["batch_size", "106 training rows"]),
    (["--space.optimizer.lr=0.1..0.2"], ["--space.optimizer.lr", "--optimizer=Adam"]),
    (["--study.n_trial=3"], ["--study.n_trial ", "--study.n_trials"]),
    (["--study.n_trials=0"], ["--study.n_trials", "at least 1", "0"]),
    (["--study.n_trials=many"], ["--study.n_trials", "int", "many"]),
    (["--study.workers=0"], ["--study.workers", "at least 1"]),
    (["--study.sampler=tpee"], ["sampler", "tpe", "tpee"]),
    (["--study.pruner=meidan"], ["pruner", "median", "meidan"]),
    (["--study.folds=1"], ["--study.folds", "at least 2"]),
    (["--study.folds=100"], ["--study.folds=100", "200 rows", "128"]),
    (["--study.timeout=-1"], ["timeout", "-1"]),
    (["--study.direction=up"], ["--study.direction", "minimize", "up"]),
    (["--study.direction=[minimize,maximize]"], ["--study.direction", "val_loss"]),
    (["--study.name=a/b"], ["--study.name", "a/b"]),
    (["--study.storage=trials.txt"], [".journal", "trials.txt"]),
    (["--study.storage=postgresql://nobody@127.0.0.1:1/none"], ["127.0.0.1"]),
    (["--study.storage=sqlite:////proc/none/study.db"], ["/proc/none"]),
    (["--study.metric=val_acuracy", "--study.n_trials=2"], ["val_acuracy", "val_accuracy", "val_loss"]),
    (["--study.metric=[val_loss,val_r2]", "--study.n_trials=2"], ["val_r2", "val_accuracy"]),
    (["--data.val_fraction=0", "--study.n_trials=2"], ["val_loss", "train_loss"]),
    (["--trainer.strategy=ddp_spawn", *RANKS], ["--trainer.strategy=ddp."]),
    (["--trainer.num_nodes=2", *RANKS], ["--trainer.num_nodes=1", "not 2"]),
    (["--space.data.batch_size=[64]", *RANKS], ["64", "53 training rows"]),
    (["--model.lr=0.1", "--data.batch_size=8"], ["nothing to search"]),
]
if find_spec("cmaes") is None:
    BAD.append((["--study.sampler=cmaes"], ["pip install cmaes"]))


@pytest.mark.parametrize(("flags", "words"), BAD, ids=[flags[0].lstrip("-").replace("/", "-") for flags, _ in BAD])
def test_a_wrong_command_is_one_line_and_leaves_nothing(flags, words, capsys, tmp_path):
    line = refused(capsys, *flags)
    assert [word for word in words if word not in line] == [], line
    assert list(tmp_path.iterdir()) == []


def test_an_existing_study_of_another_kind_is_refused_and_left_as_it_is(capsys):
    study.main([*IRIS, "--study.n_trials=1"])
    before = [str(trial) for trial in load().trials]
    capsys.readouterr()
    assert "another space" in refused(capsys, "--space.model.dropout=0..0.5")
    assert "minimize" in refused(capsys, "--study.direction=maximize")
    assert "--trainer.max_epochs=3" in refused(capsys, "--trainer.max_epochs=4")
    assert "--study.metric" in refused(capsys, "--study.metric=val_rmse")
    assert [str(trial) for trial in load().trials] == before


def test_help_shows_the_flags_of_the_study_first(capsys):
    study.main(["--help"])
    said = capsys.readouterr().out
    assert said.index("--study.n_trials") < said.index("--space") < said.index("--trainer.max_epochs")
    assert "Trials of the whole study" in said
    assert "--ckpt_path" not in said
