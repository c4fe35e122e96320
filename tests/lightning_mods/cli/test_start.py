"""A verb answers what it can before it imports anything heavy, and imports no more than it needs."""

import gc
import json
import re
import subprocess
import sys

import pytest

from datamodules import preparation
from lightning_mods import fit
from lightning_mods.cli import lightning_cli, start
from lightning_mods.cli.command_line import CommandLine
from lightning_mods.cli.flags import HABITS, LINKED, TRAINER_HELP
from lightning_mods.cli.lightning_cli import ModsCLI, reference

HEAVY = [
    "torch",
    "pytorch_lightning",
    "jsonargparse",
    "tensorboard",
    "optuna",
    "pandas",
    "sklearn",
    "matplotlib",
    "scipy",
]
VERBS = ["fit", "study", "validate", "test", "predict", "export"]


@pytest.fixture(autouse=True, scope="module")
def _a_cache_of_its_own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lightning_mods" / "help"


@pytest.fixture
def asked(monkeypatch):
    """The verbs that the parser was asked about."""
    verbs = []

    def note(line):
        verbs.append(line.verb)
        return reference(line)

    monkeypatch.setattr(lightning_cli, "reference", note)
    return verbs


def command(verb, *args):
    """Run a verb as a command of its own does, in a process that has asked nothing yet."""
    start._HERE.clear()
    try:
        start.start(verb, list(args), whole_process=True)
    finally:
        gc.unfreeze()


def parse(verb, *args):
    return CommandLine.parse(verb, args)


def refused(verb, *args):
    with pytest.raises(SystemExit) as ended:
        command(verb, *args)
    assert ended.value.code == 2


def loaded(code):
    """The standard output of a fresh process, and which heavy packages it has imported at its end."""
    code = f"import sys\ntry:\n    {code}\nexcept SystemExit as end:\n    print('code', end.code)\n"
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("verb", VERBS)
def test_from_the_second_time_on_help_and_a_misspelt_flag_import_nothing_heavy(verb, capsys):
    command(verb, "--help")
    told = capsys.readouterr().out
    calls = f"from lightning_mods.{verb} import main; main(['--help']); main(['--trainer.max_epoch=5'])"
    done = loaded(calls)
    assert done.stdout == f"{told}code 2\n[]\n"
    assert "--ckpt_path CKPT_PATH" in told or verb == "study"
    assert done.stderr.splitlines() == [
        f"{verb}: --trainer.max_epoch is not a flag; did you mean --trainer.max_epochs?; `--help` lists them."
    ]


def test_a_misspelt_flag_is_refused_before_the_table_is_looked_at_and_the_parser_asked_once(empty_cache, asked, capsys):
    for _ in range(2):
        refused("fit", "--data.path=absent.csv", "--data.traget=x")
        assert capsys.readouterr().err.startswith("fit: --data.traget is not a flag; did you mean --data.target?")
    assert asked == ["fit"]


@pytest.mark.parametrize("change", ["libraries", "sources", "python"])
def test_what_was_kept_is_not_used_with_other_versions(change, empty_cache, asked, capsys):
    command("fit", "--help")
    (file,) = empty_cache.rglob("*.json")
    kept = json.loads(file.read_text())
    assert kept["made_with"][change]
    kept["made_with"][change] = "another"
    file.write_text(json.dumps({**kept, "text": "old"}))
    command("fit", "--help")
    assert asked == ["fit", "fit"]
    assert "old" not in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"made_with": 1}'])
def test_a_torn_file_in_the_cache_is_made_anew(text, empty_cache, asked, capsys):
    command("fit", "--help")
    (file,) = empty_cache.rglob("*.json")
    file.write_text(text)
    command("fit", "--help")
    command("fit", "--help")
    assert asked == ["fit", "fit"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, asked, capsys):
    (tmp_path / "lightning_mods").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command("fit", "--help")
    command("fit", "--help")
    assert asked == ["fit", "fit"]
    assert "Traceback" not in capsys.readouterr().err


def test_a_process_that_goes_on_asks_once_and_keeps_nothing_for_others(empty_cache, asked, capsys):
    start._HERE.clear()
    fit.main(["--help"])
    fit.main(["--help"])
    assert asked == ["fit"]
    assert not empty_cache.exists()


def test_each_width_of_a_terminal_has_its_own_text(empty_cache, monkeypatch, capsys):
    for columns in ("80", "160"):
        monkeypatch.setenv("COLUMNS", columns)
        command("fit", "--help")
    assert len(list(empty_cache.rglob("*.json"))) == 2


class _Stop(Exception):
    pass


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("model", ["MLPClassifier", "MLPRegressor"])
def test_the_flags_that_are_kept_are_those_that_the_parser_takes(verb, model, monkeypatch):
    taken = set()

    def note(line, known, habits):
        taken.update(known)
        raise _Stop

    line = parse(verb, f"--model={model}", "--data=TabularDataModule")
    known = reference(line).known
    monkeypatch.setattr(CommandLine, "refuse_unknown", note)
    with pytest.raises(_Stop):
        ModsCLI(line)
    assert set(known) == taken


def test_without_a_model_the_flags_of_both_are_taken():
    known = reference(parse("fit", "--data.path=diabetes")).known
    assert {"model.class_weight", "model.target_std"} <= {*known}


def test_the_help_tells_type_default_and_meaning_of_the_named_model(capsys):
    fit.main(["--model=lightning_mods.MLPRegressor", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--model.weight_decay WEIGHT_DECAY L2 penalty of SGD, at least 0" in said
    assert "--trainer.max_epochs MAX_EPOCHS" in said
    assert "default: (128, 128))" in said
    assert "class_weight" not in said
    assert not any(f"--model.{name}" in said for name in LINKED)


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_that_the_help_shows_says_what_it_does(verb):
    asked = reference(parse(verb))
    for text, least in ((asked.text, 8), (asked.all_flags, 60)):
        entries = text.split("\n  --")[1:]
        about = {entry.split()[0]: re.split(r"\s{2,}", entry, maxsplit=1)[1] for entry in entries}
        assert len(about) > least
        assert [name for name, text in about.items() if not text[0].isalpha() and text[0] not in '`"['] == []


def flags_in(text):
    return {*re.findall(r"^  --([\w.]+)", text, re.MULTILINE)}


def test_the_help_lists_our_flags_and_twenty_of_lightnings_and_all_lists_the_rest(capsys):
    command("fit", "--help")
    short = capsys.readouterr().out
    command("fit", "--help=all")
    whole = capsys.readouterr().out
    assert flags_in(short) < flags_in(whole)
    assert sum(name.startswith("trainer.") for name in flags_in(short)) == len(TRAINER_HELP) == 20
    ours = {name for name in flags_in(whole) if not name.startswith("trainer.")}
    assert ours - flags_in(short) <= {"data.predict_path", "trainer"}
    assert "--help=all lists all flags" in " ".join(short.split())
    assert "--help=all" not in whole


@pytest.mark.parametrize("verb", ["validate", "test", "predict", "export"])
def test_a_verb_that_trains_nothing_lists_its_own_flags_alone(verb, capsys):
    command(verb, "--help")
    listed = flags_in(capsys.readouterr().out)
    assert not any(name.startswith("model.") for name in listed)
    assert not {"trainer.max_epochs", "optimizer", "data.val_fraction"} & listed
    assert ("data.predict_path" in listed) == (verb == "predict")
    assert ("data.test_path" in listed) == (verb == "test")


def test_a_foreign_model_has_its_flags_listed_by_every_verb(capsys):
    command("test", "--model", "lightning_mods.models.module.MLPModule", "--help")
    assert "model.dropout" in flags_in(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--lr=0.1", "--model.lr"),
        ("--learning-rate=0.1", "--model.lr"),
        ("--model.learning_rate_init=0.1", "--model.lr"),
        ("--epochs=3", "--trainer.max_epochs"),
        ("--max-epochs=3", "--trainer.max_epochs"),
        ("--bs=32", "--data.batch_size"),
        ("--csv=t.csv", "--data.path"),
        ("--random_state=1", "--seed_everything"),
    ],
)
def test_what_other_programs_call_a_flag_is_understood(typed, meant, capsys):
    refused("fit", typed)
    assert f"is not a flag; did you mean {meant}?" in capsys.readouterr().err


def test_every_flag_that_a_habit_means_is_one():
    known = {*reference(parse("fit")).known, *reference(parse("study")).known}
    assert {*HABITS.values()} <= known


def test_a_foreign_class_is_left_to_the_parser_which_knows_its_flags(asked, empty_cache, capsys):
    refused("fit", "--model=somewhere.Model", "--help")
    assert "somewhere.Model is needed as a LightningModule, but cannot be imported" in capsys.readouterr().err
    command("fit", "--model", "lightning_mods.models.module.MLPModule", "--help")
    assert not empty_cache.exists()


def test_a_space_may_have_any_name_in_a_study_and_none_in_a_fit(capsys, monkeypatch):
    monkeypatch.setattr("lightning_mods.study.command.study", lambda line: None)
    command("study", "--space.model.lr=0..1")
    refused("fit", "--space.model.lr=0..1")
    assert capsys.readouterr().err.startswith("fit: --space.model.lr is not a flag; did you mean --model.lr?")


def test_a_configuration_that_cannot_be_read_is_said_at_once():
    done = loaded("from lightning_mods.fit import main; main(['--config=nowhere.yaml'])")
    assert done.stdout.splitlines() == ["code 2", "[]"]
    assert done.stderr.startswith("fit: --config needs a YAML file that can be read; nowhere.yaml: No such file")


def test_a_verb_called_from_other_code_leaves_its_garbage_collection_alone(monkeypatch):
    done = []
    monkeypatch.setattr("lightning_mods.fit.command.fit", lambda line: done.append(line.words))
    before, enabled = gc.get_freeze_count(), gc.isenabled()
    fit.main(["--trainer.max_epochs=1"])
    assert (gc.get_freeze_count(), gc.isenabled()) == (before, enabled)
    assert done == [["--trainer.max_epochs=1"]]


def test_a_command_does_not_look_for_garbage_among_what_it_imported():
    code = (
        "import gc, sys, types\n"
        "work = sys.modules['lightning_mods.cli.verbs'] = types.ModuleType('evaluating')\n"
        "work.test = lambda args: print(args.words, gc.isenabled(), gc.get_freeze_count() > 0)\n"
        "sys.argv = ['test', '--ckpt_path=best']\n"
        "from lightning_mods.test import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['--ckpt_path=best'] True True\n"


def test_ctrl_c_while_a_table_is_read_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preparation, "open_table", interrupted)
    with pytest.raises(SystemExit) as ended:
        command("fit", "--data.path=iris")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "fit: stopped.\n"
    assert not list(tmp_path.glob("lightning_logs"))
