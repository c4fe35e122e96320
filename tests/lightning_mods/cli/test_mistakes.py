import os
import sys

import pytest
import pytorch_lightning as pl
import torch
from verbs_here import do, succeed

from lightning_mods import fit, study
from lightning_mods.cli.command_line import CommandLine, UsageError, without_secrets_in

# Lightning still uses what jsonargparse has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in):DeprecationWarning")

FIT = (
    "--data.path=t.csv",
    "--trainer.max_epochs=1",
    "--watch=[]",
    "--model.hidden_sizes=[4]",
    "--trainer.logger=false",
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    rows = "".join(f"{i},{i % 3},{i % 2},{'xz'[i % 2]}\n" for i in range(60))
    (tmp_path / "t.csv").write_text("a,1,true,2024-01-01\n" + rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def refused(capsys, *flags, verb=fit):
    with pytest.raises(SystemExit) as end:
        verb.main(list(flags))
    said = capsys.readouterr().err
    assert end.value.code == 2, said
    return said.splitlines()[-1]


@pytest.mark.parametrize("name", ["1", "true", "2024-01-01"])
def test_a_column_may_be_called_like_a_number_a_word_of_yaml_or_a_day(here, capsys, name):
    fit.main([*FIT, f"--data.target={name}"])
    assert f"target: '{name}'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["[x]", "{a: 1}", "1.0"])
def test_a_column_that_is_not_there_is_named_as_it_was_typed(here, capsys, name):
    assert f"no column '{name}'" in refused(capsys, *FIT, f"--data.target={name}")


CONFIGS = {
    "a_list": ("- 1\n", "has none"),
    "a_number": ("5", "has none"),
    "nothing": ("", "has none"),
    "names_that_are_none": ("1: 2", "has none"),
    "itself": ("model: &a\n  init_args: *a\n", "nested more than 30"),
    "a_depth": ("model: " + "[" * 5000, "nested more than 30"),
    "a_billion_laughs": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "\n".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]" for i in range(12)),
        "more than 100000 values",
    ),
    "a_number_of_5000_digits": (f"model: {{lr: {'9' * 5000}}}", "digits"),
    "what_is_no_text": (b"data: \xff\xfe", "can't decode"),
    "a_name_twice": ("data: {path: t.csv}\ndata: {path: u.csv}\n", "line 2: `data` is there twice"),
    "a_tab": ("data:\n\tpath: t.csv\n", "line 2"),
    "a_tag": ("model: !!python/object/apply:os.system [id]", "line 1"),
    "an_impossible_day": ("model: !!timestamp 2024-99-99", "month"),
    "a_class_that_is_no_name": ("model: {class_path: 5}", "`model.class_path:` needs a name, not 5"),
    "arguments_that_are_none": ("model: {init_args: [1]}", "`model.init_args:` needs arguments, not [1]"),
    "a_trainer_that_is_none": ("trainer: [1]", "`trainer:` needs flags, not [1]"),
}


@pytest.mark.parametrize(("text", "says"), CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_that_is_none_is_refused_by_name(here, capsys, text, says):
    (here / "c.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    line = refused(capsys, "--config=c.yaml", *FIT)
    assert "c.yaml" in line
    assert says in line


def test_a_pipe_is_read_once_and_a_device_up_to_a_limit(here, capsys):
    assert "/dev/zero: it is larger than 1 MB" in refused(capsys, "--config=/dev/zero")
    read, write = os.pipe()
    os.write(write, b"model: {lr: 1e-3, x: .nan}\ndata: {target: 2024-01-01}\n")
    os.close(write)
    line = CommandLine.parse("fit", [f"--config=/dev/fd/{read}"])
    assert line.said("model.lr") == 1e-3
    assert line.said("data.target") == "2024-01-01"
    assert line.words == ['--config={"model": {"lr": 0.001, "x": .nan}, "data": {"target": "2024-01-01"}}']


FLAGS = {
    "devices": ("--trainer.devices=0", "devices"),
    "a_million_processes": ("--trainer.devices=1000000", "--trainer.devices=1000000"),
    "a_million_members": ("--ensemble=1000000", "--ensemble=1000000"),
    "no_step_at_all": ("--trainer.accumulate_grad_batches=0", "--trainer.accumulate_grad_batches"),
    "a_nul": ("--trainer.default_root_dir=a\0b", "--trainer.default_root_dir holds a NUL"),
    "a_depth": (f"--model.hidden_sizes={'[' * 900}", "--model.hidden_sizes"),
    "digits": (f"--data.memory_map={'9' * 5000}", "--data.memory_map"),
    "a_seed": ("--data.seed=-1", "--data"),
    "a_seed_of_numpy": ("--seed_everything=-1", "--seed_everything"),
    "a_relative_class": ("--model=.x", ".x is no LightningModule"),
    "a_parent_class": ("--model=..x", "..x is needed as a LightningModule"),
    "a_module_that_fails": ("--model=fails.X", "fails.X is needed as a LightningModule, but cannot be imported: Zero"),
    "a_module_that_ends": ("--model=ends.X", "ends.X is needed as a LightningModule"),
    "a_callback_that_ends": ("--trainer.callbacks=ends.X", "SystemExit"),
    "what_is_no_model": ("--model=json.JSONDecoder", "json.JSONDecoder is no LightningModule"),
    "control_characters": ("--data.target=\x1b[31m", "\\x1b[31m"),
    "a_surrogate": ("--data.path=\udcff.csv", "\\udcff.csv"),
}


@pytest.mark.parametrize(("flag", "says"), FLAGS.values(), ids=FLAGS)
def test_a_flag_that_a_parser_or_constructor_refuses_is_one_line(here, capsys, flag, says):
    (here / "fails.py").write_text("1 / 0\n")
    (here / "ends.py").write_text("import sys\nsys.exit(0)\n")
    for name in ("fails", "ends"):
        sys.modules.pop(name, None)
    assert says in refused(capsys, *FIT, "--data.target=true", flag)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--optimizer=SGD", "--optimizer.lr=-1"), "--optimizer"),
        (("--optimizer=SGD", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=0"), "--lr_scheduler"),
        (("--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=nope"), "--trainer.callbacks.monitor"),
        (("--trainer.check_val_every_n_epoch=0",), "--trainer.check_val_every_n_epoch"),
    ],
)
def test_what_lightning_or_an_optimizer_refuses_names_the_flag(here, capsys, flags, says):
    assert says in refused(capsys, *FIT, "--data.target=true", *flags)


def test_an_error_of_our_own_code_keeps_its_traceback(here, monkeypatch):
    monkeypatch.setattr("lightning_mods.cli.recipe.epochs", None)
    with pytest.raises(TypeError, match="not callable"):
        fit.main([*FIT, "--data.target=true"])


SPACES = ["5", "[1]", "{", "{a: 1}", "1..", "nan..1", "log 0..1", "[null]", "[[1]]", "&a [*a]", "[" * 200, "[x, x]"]


@pytest.mark.parametrize("space", SPACES)
def test_a_space_of_any_form_is_one_line(here, capsys, space):
    flags = (*FIT, "--data.target=true", "--study.n_trials=1")
    if space in SPACES[:4]:
        assert "pace" in refused(capsys, *flags, f"--space={space}", verb=study)
    assert "--space.model.dropout" in refused(capsys, *flags, f"--space.model.dropout={space}", verb=study)


@pytest.mark.parametrize(
    ("word", "hidden"),
    [
        ("--trainer.logger.api_key=KEY", "--trainer.logger.api_key=***"),
        ("--study.storage=postgresql://me:pass@h/x", "--study.storage=postgresql://me:***@h/x"),
        (
            "--trainer.logger={class_path: comet, init_args: {api_key: KEY}}",
            '--trainer.logger={"class_path": "comet", "init_args": {"api_key": "***"}}',
        ),
        ('--config={"model": {"auth_token": "T"}}', '--config={"model": {"auth_token": "***"}}'),
        ("--model.num_tokens=3", "--model.num_tokens=3"),
        ("--data.path=t.csv", "--data.path=t.csv"),
    ],
)
def test_the_words_that_loggers_write_down_have_no_secrets(word, hidden):
    assert without_secrets_in(CommandLine.parse("fit", [word])) == [hidden]


def test_a_configuration_without_its_secret_asks_for_it(here, capsys):
    config = (
        '--config={"trainer": {"callbacks": [{"class_path": "OptunaSearch", "init_args": {"storage": "a://b:***@c"}}]}}'
    )
    assert "give this one anew" in refused(capsys, *FIT, "--data.target=true", config)


def test_a_number_of_5000_digits_is_no_flag_of_ours():
    with pytest.raises(UsageError, match=r"--model\.x"):
        CommandLine.parse("fit", [f"--model.x={'9' * 5000}"])


def test_a_key_among_the_hyperparameters_of_a_module_is_not_logged(here, monkeypatch):
    lines = (
        "from lightning_mods import MLPClassifier",
        "class Keyed(MLPClassifier):",
        "    def __init__(self, in_features: int, num_classes: int, api_key: str = ''):",
        "        super().__init__(in_features, num_classes, hidden_sizes=(4,))",
        "        self.save_hyperparameters()",
    )
    (here / "keyed.py").write_text("\n".join(lines) + "\n")
    flags = ("--data.target=true", "--model=keyed.Keyed", "--model.api_key=KEYSECRET", "--trainer.logger=csv")
    fit.main([*FIT[:3], *flags])
    texts = [path.read_text() for path in here.rglob("*") if path.suffix in (".yaml", ".csv")]
    assert any("api_key: '***'" in text for text in texts)
    assert not any("KEYSECRET" in text for text in texts)


HABITS_OF_NEWCOMERS = [
    (("fit", "table.csv"), "table.csv is no flag; did you mean --data.path=table.csv?"),
    (("predict", "new.csv"), "new.csv is no flag; did you mean --data.predict_path=new.csv?"),
    (("test", "best.ckpt"), "best.ckpt is no flag; did you mean --ckpt_path=best.ckpt?"),
    (("fit", "--data=table.csv"), "--data names a data module; a table is given as --data.path=table.csv."),
    (("fit", "--data.path"), "--data.path needs a value: --data.path=…"),
]


@pytest.mark.parametrize(("words", "line"), HABITS_OF_NEWCOMERS)
def test_what_newcomers_type_is_one_line_that_says_what_is_meant(words, line):
    code, _, err = do(*words)
    assert code == 2
    assert err.strip() == f"{words[0]}: {line}"


@pytest.mark.filterwarnings("default")  # Lightning's, of a module that is not ours
def test_a_checkpoint_of_a_strangers_model_asks_for_its_class_and_its_data_are_set_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classes = (f"--model={__name__}.Stranger", f"--data={__name__}.StrangersData")
    succeed("fit", *classes, "--trainer.max_epochs=1", "--watch=[]")
    for verb in ("test", "export"):
        code, _, err = do(verb)
        assert code == 2
        assert err.strip() == (
            f"{verb}: the checkpoint is of no model of ours; name its class: --model=package.module.Class."
        )
    for verb in ("validate", "test"):
        assert "loss" in succeed(verb, *classes)[0]


class Stranger(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 1)

    def _loss(self, name, batch):
        loss = self.net(batch[0]).square().mean()
        self.log(name, loss)
        return loss

    def training_step(self, batch, batch_idx):
        return self._loss("train_loss", batch)

    def validation_step(self, batch, batch_idx):
        self._loss("val_loss", batch)

    def test_step(self, batch, batch_idx):
        self._loss("test_loss", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class StrangersData(pl.LightningDataModule):
    def setup(self, stage):
        self.rows = torch.utils.data.TensorDataset(torch.ones(8, 2))

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.rows, 4)

    val_dataloader = test_dataloader = train_dataloader
