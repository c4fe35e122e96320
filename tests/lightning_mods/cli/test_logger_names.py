import json

import pytest

from lightning_mods.cli.command_line import CommandLine, UsageError
from lightning_mods.cli.loggers import with_named_loggers
from lightning_mods.fit import main

WANDB = "pytorch_lightning.loggers.WandbLogger"
CSV = {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": "."}}


@pytest.fixture(autouse=True)
def _all_is_installed(monkeypatch):
    monkeypatch.setattr("lightning_mods.cli.loggers.find_spec", lambda name: object())


def named_loggers(args):
    return with_named_loggers(CommandLine.parse("fit", args)).words


@pytest.mark.parametrize("word", ["wandb", "WandB", "WandbLogger", WANDB])
def test_a_short_name_is_a_class(word):
    assert named_loggers([f"--trainer.logger={word}"]) == [f"--trainer.logger={WANDB}"]
    assert named_loggers(["--trainer.logger", word, "--trainer.logger.project=x"]) == [
        f"--trainer.logger={WANDB}",
        "--trainer.logger.project=x",
    ]


@pytest.mark.parametrize("words", ["[wandb,csv]", "[wandb, csv]", "wandb,csv", '["wandb", "csv"]'])
def test_several_are_a_list(words):
    (flag,) = named_loggers([f"--trainer.logger={words}"])
    assert json.loads(flag.removeprefix("--trainer.logger=")) == [WANDB, CSV]


def test_one_more_is_added_to_those_before():
    assert (
        named_loggers(["--trainer.logger=wandb", "--trainer.logger+=csv"])[1] == f"--trainer.logger+={json.dumps(CSV)}"
    )


@pytest.mark.parametrize("word", ["true", "false", "null", "my.package.Logger", "MyLogger"])
def test_other_words_are_left_as_they_are(word):
    assert named_loggers([f"--trainer.logger={word}", "--model.lr=0.1"]) == [
        f"--trainer.logger={word}",
        "--model.lr=0.1",
    ]


def test_a_configuration_file_may_use_short_names(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("trainer: {logger: [wandb, csv], max_epochs: 3}\nmodel: {lr: 0.1}\n")
    (flag,) = named_loggers([f"--config={file}"])
    content = json.loads(flag.removeprefix("--config="))
    assert content == {"trainer": {"logger": [WANDB, CSV], "max_epochs": 3}, "model": {"lr": 0.1}}
    file.write_text("trainer: {max_epochs: 3}\n")
    assert named_loggers([f"--config={file}"]) == [f"--config={file}"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [("wanb", "wandb"), ("tensorbord", "tensorboard"), ("[csv,comt]", "comet"), ("WandLogger", "wandb")],
)
def test_a_misspelt_name_is_one_line_with_the_nearest_and_code_2(word, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        main([f"--trainer.logger={word}"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"did you mean {meant}?" in line
    assert "tensorboard, wandb, comet, visdom, mlflow, csv, false" in line


@pytest.mark.parametrize("name", ["wandb", "comet", "visdom", "mlflow"])
def test_a_package_that_is_missing_is_one_line_with_the_command(name, monkeypatch, capsys):
    monkeypatch.setattr("lightning_mods.cli.loggers.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        main([f"--trainer.logger=[csv,{name}]"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"pip install 'lightning-mods[{name}]'" in line


def test_what_is_neither_name_nor_class_is_refused():
    with pytest.raises(UsageError, match="knows no `5`"):
        named_loggers(["--trainer.logger=5"])
    with pytest.raises(UsageError, match=r"takes tensorboard, .*; not 5"):
        named_loggers(["--trainer.logger=[5]"])
