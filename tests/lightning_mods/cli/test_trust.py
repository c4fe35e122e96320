import inspect
import re
import sys
import typing
from importlib import import_module

import pytest
import torch
import yaml

import callbacks
from callbacks.host.packages import main_package
from datamodules import TabularDataModule
from lightning_mods import fit, predict, study
from lightning_mods.cli.trust import CLASSES, REFUSED_ARGUMENTS
from lightning_mods.loggers.tensorboard import EventLogger
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.ensemble import MLPEnsemble
from lightning_mods.models.regressor import MLPRegressor

# Lightning still uses what jsonargparse has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in):DeprecationWarning")

FIT = ("--data.path=iris", "--trainer.max_epochs=1", "--watch=[]", "--model.hidden_sizes=[4]")
BAD = {"class_path": "canary.Thing", "init_args": {"command": "id"}}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a module that would be noticed if anybody imported it."""
    (tmp_path / "canary.py").write_text("class Thing:\n    pass\n\ndef call(*args):\n    raise AssertionError\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    assert "canary" not in sys.modules
    sys.modules.pop("canary", None)


def refused(verb, *flags, capsys):
    with pytest.raises(SystemExit) as end:
        verb.main([*flags, "--trust=false"])
    said = capsys.readouterr().err
    assert end.value.code == 2, said
    assert len(said.splitlines()) == 1
    return said


CONFIGS = {
    "a_callback_that_calls": {
        "trainer": {
            "callbacks": [
                {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": "os.abort"}}
            ]
        }
    },
    "its_short_name": {"trainer": {"callbacks": "LambdaCallback"}},
    "a_model": {"model": BAD},
    "a_model_by_name": {"model": "canary.Thing"},
    "a_file_of_a_model": {"model": "model.yaml"},
    "a_data_module": {"data": {"class_path": "canary.Thing"}},
    "an_optimizer": {"optimizer": BAD},
    "a_schedule": {"lr_scheduler": {"class_path": "canary.Thing"}},
    "a_schedule_by_a_function": {
        "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": "canary.call"}}
    },
    "a_function_in_a_schedule": {
        "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.CyclicLR", "init_args": {"scale_fn": "canary.call"}}
    },
    "something_in_the_place_of_a_number": {
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": "canary.Thing"}}
    },
    "a_class_in_the_place_of_a_number": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": BAD}}},
    "a_logger": {"trainer": {"logger": BAD}},
    "a_list_of_loggers": {"trainer": {"logger": ["csv", "canary.Thing"]}},
    "a_logger_with_a_server": {"trainer": {"logger": "mlflow"}},
    "a_logger_with_more": {"trainer": {"logger": {"class_path": "csv", "dict_kwargs": BAD}}},
    "a_strategy": {"trainer": {"strategy": "canary.Thing"}},
    "a_strategy_of_a_class": {"trainer": {"strategy": BAD}},
    "an_accelerator": {"trainer": {"accelerator": "canary.Thing"}},
    "a_precision": {"trainer": {"precision": BAD}},
    "a_plugin": {"trainer": {"plugins": [BAD]}},
    "a_plugin_by_name": {"trainer": {"plugins": "canary.Thing"}},
    "a_profiler": {"trainer": {"profiler": "canary.Thing"}},
    "a_registry": {"trainer": {"model_registry": "elsewhere"}},
    "a_file_of_the_trainer": {"trainer": "trainer.yaml"},
    "another_file": {"config": "other.yaml"},
    "a_class_within_a_plain_value": {
        "model": {"class_path": "MLPEnsemble", "init_args": {"member": "MLPClassifier", "settings": [{"lr": BAD}]}}
    },
    "an_unknown_section": {"nonsense": BAD},
    "a_search_elsewhere": {
        "trainer": {"callbacks": [{"class_path": "OptunaSearch", "init_args": {"storage": "postgresql://h/x"}}]}
    },
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("package", ["fit", "predict"])
def test_a_configuration_that_names_other_code_is_refused_before_that_is_imported(here, capsys, config, package):
    (here / "c.yaml").write_text(yaml.safe_dump(config))
    for name in ("model", "trainer", "other"):
        (here / f"{name}.yaml").write_text(yaml.safe_dump(BAD))
    said = refused({"fit": fit, "predict": predict}[package], "--config=c.yaml", *FIT[:1], capsys=capsys)
    assert "--config=c.yaml" in said
    assert "--trust=false" in said or "`trainer:` needs flags" in said


@pytest.mark.parametrize(
    "flag",
    [
        *(
            "--model=canary.Thing",
            "--model.class_path=canary.Thing",
            "--model.help=canary.Thing",
            "--data=canary.Thing",
        ),
        *("--trainer.callbacks+=canary.Thing", "--trainer.callbacks={class_path: canary.Thing}"),
        *("--trainer.callbacks.help=canary.Thing", "--trainer.logger=[csv,canary.Thing]", "--optimizer=canary.Thing"),
        *("--trainer={callbacks: [canary.Thing]}", "--trainer=trainer.yaml", "--trainer.strategy=canary.Thing"),
        "--trainer.callbacks.init_args.x.class_path=canary.Thing",
    ],
)
def test_a_flag_is_held_to_the_same(here, capsys, flag):
    assert flag.partition("=")[0].rstrip("+") in refused(fit, *FIT, flag, capsys=capsys)


@pytest.mark.parametrize(
    "space", [{"trainer": {"callbacks": [[BAD]]}}, {"trainer.logger": ["canary.Thing"]}, {"model": {"lr": [BAD]}}]
)
def test_a_space_has_no_classes_among_its_choices(here, capsys, space):
    (here / "c.yaml").write_text(yaml.safe_dump({"space": space}))
    assert "--config=c.yaml has" in refused(study, *FIT, "--config=c.yaml", capsys=capsys)


def test_in_a_project_with_such_a_folder_its_classes_are_not_ours(here, capsys, monkeypatch):
    monkeypatch.setattr("lightning_mods.cli.trust.shadowed", lambda: ["callbacks"])
    flag = "--trainer.callbacks=callbacks.fit.monitor.FitMonitor"
    assert "trainer.callbacks" in refused(fit, *FIT, flag, capsys=capsys)


def test_what_a_fit_of_ours_wrote_down_is_loaded(here, capsys):
    more = ("--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val_loss", "--trainer.logger=csv")
    schedule = ("--lr_scheduler=StepLR", "--lr_scheduler.step_size=2")
    fit.main([*FIT, *more, "--optimizer=Adam", "--optimizer.lr=0.01", *schedule, "--trust=false"])
    (here / "rows.csv").write_text("a,b,c,d\n1,2,3,4\n")
    written = "--config=lightning_logs/version_0/config.yaml"
    fit.main([written, "--trust=false"])
    header = "sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)\n5,3,1,0.2\n"
    (here / "rows.csv").write_text(header)
    predict.main([written, "--data.predict_path=rows.csv", "--trust=false"])
    assert (here / "predictions.csv").exists()


def test_without_it_any_class_is_loaded_again_afterwards(here, capsys):
    refused(fit, *FIT, "--model=canary.Thing", capsys=capsys)
    (here / "own.py").write_text("from callbacks.host.packages import Callback\nclass Own(Callback):\n    pass\n")
    fit.main([*FIT, "--trust=false"])
    fit.main([*FIT, "--trainer.callbacks=own.Own"])
    assert "own" in sys.modules
    del sys.modules["own"]


def test_only_what_is_typed_counts(here, capsys):
    (here / "c.yaml").write_text("trust: true\nmodel: canary.Thing\n")
    assert "--config=c.yaml has 'canary.Thing'" in refused(fit, "--config=c.yaml", *FIT, capsys=capsys)
    with pytest.raises(SystemExit):
        fit.main([*FIT, "--trust=perhaps"])
    assert capsys.readouterr().err == "fit: --trust needs true or false, not perhaps.\n"


def _classes():
    package = main_package()
    ours = {each.__name__: each for each in (MLPClassifier, MLPRegressor, MLPEnsemble, TabularDataModule, EventLogger)}
    ours |= {name: getattr(callbacks, name) for name in callbacks.__all__}
    modules = {"optimizer": torch.optim, "lr_scheduler": torch.optim.lr_scheduler}
    for position, known in CLASSES.items():
        for name in sorted({name for names in known.values() for name in names}):
            where = {"trainer.callbacks": "callbacks", "trainer.logger": "loggers"}.get(position)
            module = import_module(f"{package}.{where}") if where else modules.get(position)
            yield position, ours.get(name) or getattr(module, name)


@pytest.mark.parametrize(("position", "kind"), list(_classes()), ids=lambda each: getattr(each, "__name__", each))
def test_no_class_that_is_taken_can_be_given_a_function(position, kind):
    init = next(vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base))
    try:
        hints = typing.get_type_hints(init)
    except NameError:
        hints = {name: each.annotation for name, each in inspect.signature(init).parameters.items()}
    taken = {name: str(hint) for name, hint in hints.items() if name not in (*REFUSED_ARGUMENTS, "return")}
    assert not {name: hint for name, hint in taken.items() if re.search(r"Callable|\btype\[|ModuleType", hint)}
