"""`--trust=false`: configurations, from a stranger perhaps, with no code but what is listed here.

A configuration names classes and functions, which are imported and called. What is looked at here are names alone, and
before any of them is imported.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from callbacks.host.secrets import without_passwords
from lightning_mods.cli.command_line import CommandLine, Flag, UsageError, from_yaml, shortened_value
from lightning_mods.cli.siblings import NAMES, shadowed

_LIGHTNING = r"(?:pytorch_lightning|lightning\.pytorch)"
_CALLBACKS = (
    *("EarlyStopping", "ModelCheckpoint", "LearningRateMonitor", "DeviceStatsMonitor", "ModelSummary"),
    *("RichModelSummary", "RichProgressBar", "TQDMProgressBar", "Timer", "BatchSizeFinder", "LearningRateFinder"),
    *("GradientAccumulationScheduler", "OnExceptionCheckpoint", "StochasticWeightAveraging"),
)
_OUR_CALLBACKS = ("FitMonitor", "GradientMonitor", "GradientLogger", "GraphLogger", "OptunaSearch", "TensorBoardLayout")
_OPTIMIZERS = (
    *("SGD", "Adam", "AdamW", "Adamax", "Adadelta", "Adagrad", "Adafactor", "ASGD", "LBFGS", "Muon", "NAdam", "RAdam"),
    *("RMSprop", "Rprop", "SparseAdam"),
)
_SCHEDULERS = (
    *("StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR", "CosineAnnealingLR"),
    *("CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR", "ReduceLROnPlateau"),
)
# What each flag that takes a class may name, and the modules in which such a name is one of ours or of theirs.
CLASSES: dict[str, dict[str, tuple[str, ...]]] = {
    "model": {r"lightning_mods(?:\.models(?:\.\w+)*)?": ("MLPClassifier", "MLPRegressor", "MLPEnsemble")},
    "data": {r"(?:lightning_mods\.)?datamodules(?:\.tabular)?": ("TabularDataModule",)},
    "optimizer": {r"torch\.optim(?:\.\w+)*": _OPTIMIZERS},
    "lr_scheduler": {r"torch\.optim\.lr_scheduler": _SCHEDULERS, rf"{_LIGHTNING}\.cli": ("ReduceLROnPlateau",)},
    "trainer.callbacks": {
        rf"{_LIGHTNING}\.callbacks(?:\.\w+)*": _CALLBACKS,
        r"(?:lightning_mods\.)?callbacks(?:\.\w+)*": _OUR_CALLBACKS,
    },
    "trainer.logger": {  # those that write files, and send nothing to a server that a stranger names
        rf"{_LIGHTNING}\.loggers(?:\.\w+)*": ("TensorBoardLogger", "CSVLogger"),
        r"lightning_mods\.loggers\.tensorboard": ("EventLogger",),
    },
}
# Flags of the trainer that take a class too, of which its own words alone are taken.
WORDS_ALONE = ("trainer.accelerator", "trainer.strategy", "trainer.precision", "trainer.profiler")
# What takes functions, kinds of functions, or modules of code or of weights elsewhere.
REFUSED_ARGUMENTS = ("avg_fn", "scale_fn", "device", "dict_kwargs")
NOTHING_ALONE = ("trainer.plugins", "trainer.model_registry")
# Their classes take no functions, and the arguments of theirs that are texts are names of columns or files.
_PLAIN = ("model", "data", "study")
_FILES = (
    *("default_root_dir", "dirpath", "filename", "save_dir", "sub_dir", "name", "version", "storage", "max_time"),
    *("output", "exported", "ckpt_path", "keep"),
)
_WORD = re.compile(r"[\w-]{0,40}")
_DOTTED = re.compile(r"\s*[^\W\d]\w*(?:\.[^\W\d]\w*)+\s*")
_SHORT_NAMES = {"tensorboard": "EventLogger", "csv": "CSVLogger"}


def checked_for_trust(line: CommandLine) -> CommandLine:
    """Raise a UsageError for what `--trust=false` forbids; return the line with the configurations that were looked at.

    A `--trust` that is neither true nor false is one too.
    """
    trust = line.typed.get("trust", "true")
    if trust not in ("true", "false"):
        raise UsageError(f"--trust needs true or false, not {trust}.")
    if trust == "true":
        return line
    flags = []
    for flag in line.flags:
        if flag.config is not None:
            for section, said in flag.config.items():
                _check(section, said, f"--config={flag.value}"[:200])
        elif flag.name and flag.name not in ("trust", "config", "c"):
            _check_flag(flag)
        elif not flag.name:
            raise UsageError(f"{flag.words[0]} belongs to no flag.")
        flags.append(flag if flag.config is None else flag.with_config(flag.config))  # the file may change meanwhile
    return replace(line, flags=tuple(flags))


def _check_flag(flag: Flag) -> None:
    name = flag.name.removesuffix(".help").replace(".init_args", "").removesuffix(".class_path")
    value = None if flag.value is None else from_yaml(flag.value)
    if "class_path" in name or "dict_kwargs" in name:
        raise UsageError(f"--{flag.name} is for a class of its own, which --trust=false does not take.")
    _check(name, value, f"--{flag.name}")


def _check(name: str, said: Any, where: str) -> None:
    """Check what is said of a dotted name: a class, a section of names, or a plain value."""
    if said is None or isinstance(said, bool | int | float):
        return
    if name in CLASSES:
        _check_classes(name, said, where)
    elif name == "trainer" and isinstance(said, Mapping):
        for key, each in said.items():
            _check(f"trainer.{key}", each, where)
    elif name == "space" or name.startswith("space."):
        _check_space(name.removeprefix("space").lstrip("."), said, where)
    elif name in WORDS_ALONE:
        if not isinstance(said, str) or not _WORD.fullmatch(said):
            raise _refusal(where, name, said, "a word of Lightning's")
    elif name in NOTHING_ALONE:
        if said not in ([], ""):
            raise _refusal(where, name, said, "nothing")
    elif name in ("config", "trainer"):
        raise _refusal(where, name, said, "no other file")
    else:
        _check_argument(name, said, where)


def _check_classes(name: str, said: Any, where: str) -> None:
    if isinstance(said, list):
        for each in said:
            _check_classes(name, each, where)
    elif isinstance(said, str) and said[:1] in ("[", "{"):
        _check_classes(name, from_yaml(said), where)
    elif isinstance(said, str) and said not in ("", "true", "false", "null"):
        for each in said.split(","):
            _check_class(name, each.strip(), where)
    elif isinstance(said, Mapping):
        arguments = said if "class_path" not in said and "init_args" not in said else said.get("init_args")
        if said is not arguments and {*said} - {"class_path", "init_args"}:
            raise _refusal(where, name, said, "`class_path` and `init_args`")
        _check_classes(name, said.get("class_path") if said is not arguments else None, where)
        for key, each in (arguments or {}).items():
            _check_argument(f"{name}.{key}", each, where)
    elif said is not None and not isinstance(said, bool) and said != "":
        raise _refusal(where, name, said, "the name of a class")


def _check_class(name: str, path: str, where: str) -> None:
    module, _, short = path.rpartition(".")
    short = _SHORT_NAMES.get(short, short) if name == "trainer.logger" else short
    for place, known in CLASSES[name].items():
        # Where the user has a folder that is called as ours is, what is below it is his.
        is_ours = module.partition(".")[0] not in shadowed() if module.partition(".")[0] in NAMES else True
        if short in known and is_ours and (not module or re.fullmatch(place, module)):
            return
    raise _refusal(where, name, path, f"{', '.join(sorted(n for names in CLASSES[name].values() for n in names))}")


def _check_space(name: str, said: Any, where: str) -> None:
    if isinstance(said, Mapping):
        for key, each in said.items():
            _check_space(f"{name}.{key}".lstrip("."), each, where)
        return
    if name in CLASSES or name in WORDS_ALONE or name in NOTHING_ALONE or name.startswith(tuple(CLASSES)[4:]):
        raise _refusal(where, f"space.{name}", said, "flags of numbers and words")
    value = from_yaml(said) if isinstance(said, str) else said
    for each in value if isinstance(value, list) else [value]:
        _check_argument(name, each, where)


def _check_argument(name: str, said: Any, where: str) -> None:
    """Check a value that is no class: it names nothing that could be imported, at no depth."""
    last = name.rpartition(".")[2]
    if last in REFUSED_ARGUMENTS:
        raise _refusal(where, name, said, "nothing")
    if isinstance(said, Mapping):
        for key, each in said.items():
            if key in ("class_path", "init_args", "dict_kwargs"):
                raise _refusal(where, name, said, "no class")
            _check_argument(f"{name}.{key}", each, where)
    elif isinstance(said, list):
        for each in said:
            _check_argument(name, each, where)
    elif isinstance(said, str) and not name.startswith(_PLAIN) and last not in _FILES and _DOTTED.fullmatch(said):
        raise _refusal(where, name, said, "nothing that could be imported")
    elif last == "storage" and "://" in str(said) and not str(said).startswith("sqlite:") and where[:8] == "--config":
        raise _refusal(where, name, without_passwords(str(said)), "a file, not a server")


def _refusal(where: str, name: str, came: Any, needed: str) -> UsageError:
    said = "" if where == f"--{name}" else f" for `{name}`"
    return UsageError(f"{where} has {shortened_value(came)}{said}, where --trust=false takes {needed}.")


@contextmanager
def distrusting(line: CommandLine) -> Iterator[None]:
    """Let the parser import nothing but torch, Lightning and ours while the work of a line with `--trust=false` lasts.

    The second lock, should a name have slipped through. jsonargparse has no public way to open it again: where its
    settings are kept elsewhere than in 4.53, it stays closed for this process.
    """
    if line.typed.get("trust") != "false":
        yield
        return
    from jsonargparse import _common, set_parsing_settings

    settings: dict[str, Any] = getattr(_common, "parsing_settings", {})
    before = dict(settings)
    allowed = [
        "torch",
        "pytorch_lightning",
        "lightning",
        "lightning_fabric",
        "lightning_mods",
        "callbacks",
        "datamodules",
    ]
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)
    try:
        yield
    finally:
        settings.update(before)
