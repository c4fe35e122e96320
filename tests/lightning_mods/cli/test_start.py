"""A verb answers what it can before it imports anything heavy, and imports no more than it needs."""

import gc
import subprocess
import sys

import pytest

from lightning_mods import fit
from lightning_mods.cli import help as quick
from lightning_mods.cli import lightning_cli
from lightning_mods.cli.flags import LINKED
from lightning_mods.cli.help import FlagBook, described, flags_in, flags_of
from lightning_mods.cli.lightning_cli import ModsCLI

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


def loaded(code):
    """The standard output of a fresh process, and which heavy packages it has imported at its end."""
    code = f"import sys\ntry:\n    {code}\nexcept SystemExit as end:\n    print('code', end.code)\n"
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("verb", VERBS)
def test_help_and_a_misspelt_flag_import_nothing_heavy(verb):
    calls = f"from lightning_mods.{verb} import main; main(['--help']); main(['--trainer.max_epoch=5'])"
    done = loaded(calls)
    assert done.stdout.splitlines()[-2:] == ["code 2", "[]"]
    assert "--trainer.max_epochs MAX_EPOCHS" in done.stdout
    assert done.stderr.splitlines() == [
        f"{verb}: --trainer.max_epoch is not a flag; did you mean --trainer.max_epochs?; `--help` lists them."
    ]


class _Stop(Exception):
    pass


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("model", ["MLPClassifier", "MLPRegressor"])
def test_the_flags_read_from_sources_are_those_that_the_parser_takes(verb, model, monkeypatch):
    taken = set()

    def note(args, known):
        taken.update(known)
        raise _Stop

    monkeypatch.setattr(lightning_cli, "refuse_unknown", note)
    args = [f"--model={model}", "--data=TabularDataModule"]
    with pytest.raises(_Stop):
        ModsCLI(verb, args)
    assert FlagBook(verb, args).known == taken


def test_without_a_model_the_flags_of_both_are_taken(capsys):
    known = FlagBook("fit", ["--data.path=diabetes"]).known
    assert {"model.class_weight", "model.target_std"} <= known


def test_the_help_tells_type_default_and_meaning_of_the_named_model(capsys):
    fit.main(["--model=lightning_mods.MLPRegressor", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--model.weight_decay WEIGHT_DECAY L2 penalty of SGD, at least 0. (type: float, default: 0.001)" in said
    assert "--trainer.max_epochs MAX_EPOCHS" in said
    assert "default: 30)" in said
    assert "class_weight" not in said
    assert not any(f"--model.{name}" in said for name in LINKED)


def test_every_flag_that_the_help_shows_says_what_it_does():
    for verb in VERBS:
        chapters = FlagBook(verb, []).chapters.values()
        shown = [flag for chapter in chapters for flag in chapter if flag.name.rpartition(".")[2] not in LINKED]
        assert [flag.name for flag in shown if not flag.about] == []
        assert len(shown) > 60


def test_a_foreign_class_is_left_to_the_parser_which_knows_its_flags():
    assert not quick.answered("fit", ["--model=somewhere.Model", "--model.width=3", "--help"])
    assert not quick.answered("fit", ["--data", "Mine", "--trainer.max_epoch=5"])


def test_a_space_may_have_any_name_in_a_study_and_none_in_a_fit(capsys):
    assert not quick.answered("study", ["--space.model.lr=0..1"])
    with pytest.raises(SystemExit):
        fit.main(["--space.model.lr=0..1"])
    assert capsys.readouterr().err.startswith("fit: --space.model.lr is not a flag; did you mean --model.lr?")


def test_a_configuration_that_cannot_be_read_is_said_at_once():
    done = loaded("from lightning_mods.fit import main; main(['--config=nowhere.yaml'])")
    assert done.stdout.splitlines() == ["code 2", "[]"]
    assert done.stderr.startswith("fit: --config needs a YAML file that can be read; nowhere.yaml: No such file")


SOURCE = '''
class Base: ...

class Net(Base):
    """A net.

    More of it.

    Args:
        width: Units, of
            each layer.

        names: What: they are called.

    Raises:
        ValueError: never: this is no argument.
    """

    def __init__(self, width: int, *, names: Optional[List[str]] = None, mode: Literal["a", "b"] = "a",
                 io: Union[_PRIVATE, int] = 1, rate: torch.Rate | None = 1e-3, on: bool = True, alias: Kind = "x"):
        pass
'''


def test_a_class_is_described_by_its_source(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(SOURCE)
    title, flags = flags_in(file, "Net", "model")
    assert title == "A net"
    assert [(flag.name, flag.kind, flag.default) for flag in flags] == [
        ("model.width", "int", None),
        ("model.names", "List[str] | null", "null"),
        ("model.mode", "a | b", "a"),
        ("model.io", "", "1"),
        ("model.rate", "Rate | null", "0.001"),
        ("model.on", "bool", "true"),
        ("model.alias", "", "x"),
    ]
    assert flags[0].about == "Units, of each layer."
    assert flags[1].about == "What: they are called."
    with pytest.raises(LookupError, match="no class Other"):
        flags_in(file, "Other", "model")


def test_a_docstring_without_arguments_describes_none():
    assert dict(described("One line.")) == {}
    assert flags_of(lambda: 0, "x") == ("", [])


def test_scipys_signals_are_put_off_and_real_when_they_are_used():
    code = (
        "import sys, inspect, lightning_mods.fused.imports as lean, torchmetrics\n"
        "assert 'scipy.signal' not in sys.modules\n"
        "put_off = sys.modules['scipy.signal'] = lean._Deferred('scipy.signal')\n"
        "inspect.getmodule(sys._getframe())\n"  # it asks all modules for their files
        "assert put_off.hamming is None and sys.modules['scipy.signal'] is put_off\n"
        "from scipy.signal import lfilter\n"
        "from scipy.signal.windows import hamming\n"
        "assert sys.modules['scipy.signal'] is not put_off and hamming(3).shape == (3,)\n"
        "assert put_off.lfilter is lfilter is sys.modules['scipy.signal'].lfilter\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_verb_called_from_other_code_leaves_its_garbage_collection_alone(monkeypatch):
    done = []
    monkeypatch.setattr("lightning_mods.cli.fit.fit", done.append)
    before, enabled = gc.get_freeze_count(), gc.isenabled()
    fit.main(["--trainer.max_epochs=1"])
    assert (gc.get_freeze_count(), gc.isenabled()) == (before, enabled)
    assert done == [["--trainer.max_epochs=1"]]


def test_a_command_does_not_look_for_garbage_among_what_it_imported():
    code = (
        "import gc, sys, types\n"
        "work = sys.modules['lightning_mods.cli.evaluate'] = types.ModuleType('evaluating')\n"
        "work.test = lambda args: print(args, gc.isenabled(), gc.get_freeze_count() > 100_000)\n"
        "sys.argv = ['test', '--ckpt_path=best']\n"
        "from lightning_mods.test import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['--ckpt_path=best'] True True\n"
