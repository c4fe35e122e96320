"""`StudyCLI`: one parsed command line from which the fit of any trial is made; and the space that it searches."""

import copy
import inspect
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from jsonargparse import ArgumentParser, Namespace
from torch.nn import Parameter
from torch.optim import Optimizer

from callbacks import OptunaSearch
from callbacks.host.inputs import as_yaml, load_yaml
from callbacks.host.lightning import (
    Checkpoint,
    ProgressBar,
    TensorBoardLogger,
    Trainer,
    instantiate_class,
    seed_everything,
)
from callbacks.host.packages import Callback
from callbacks.host.secrets import hidden_in
from callbacks.search.plan import SearchError
from callbacks.search.space import Space, batch_sizes, parse_space
from callbacks.tuning.ensembles import GREEDY
from datamodules import TabularDataModule
from datamodules.rows.batching import Rows, eval_loader, train_loader
from datamodules.splits import deal_out
from lightning_mods.cli.classes import import_class, made_from_flags, own_arguments
from lightning_mods.cli.command_line import CommandLine, UsageError, error_line, read_config
from lightning_mods.cli.flags import LINKED, StudyFlags
from lightning_mods.cli.lightning_cli import ModsCLI
from lightning_mods.cli.loggers import RunPlace, as_list, asks_for_logger, with_places
from lightning_mods.loggers.progress import CloseLoggers
from lightning_mods.loggers.terminal import say
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.regressor import MLPRegressor


def check_folds(data: object, folds: int) -> None:
    """Raise a UsageError if the data module cannot be folded: it is not ours, or has too few rows."""
    if not isinstance(data, TabularDataModule):
        raise UsageError("--study.folds needs --data=TabularDataModule; --study.seeds works with any data.")
    rows = len(_both(data))
    if rows < 2 * folds:
        raise UsageError(f"--study.folds={folds} needs {2 * folds} rows to train and validate on; there are {rows}.")


def check_greedy(cli: "StudyCLI", space: Space) -> None:
    """Raise a UsageError if a study cannot end in an ensemble of its trials."""
    asked = cli.config.ensemble
    if asked != GREEDY:
        best = "`fit --config=…/best.yaml --ensemble=8` fits the best trial so many times"
        raise UsageError(f"--ensemble of a study needs `{GREEDY}`, not {asked}; {best}.")
    why = ""
    if type(cli.model) not in (MLPClassifier, MLPRegressor) or type(cli.datamodule) is not TabularDataModule:
        why = "needs an MLP and a data module of ours"
    elif cli.study.folds:
        why = "needs trials that validate on the same rows; --study.folds gives each its own"
    elif cli.trainer.world_size > 1:
        why = "needs trials of one process each; --study.workers trains several at once"
    elif not cli.datamodule.val_fraction and not cli.datamodule.val_path:
        why = "needs validation rows"
    elif cli.datamodule.weight is not None:
        why = "needs rows that count alike, and --data.weight is given"
    elif others := [name for name in space if name.startswith("data.") and name != "data.batch_size"]:
        why = f"needs trials that see the same columns and rows; --space.{others[0]} changes them"
    if why:
        raise UsageError(f"--ensemble={GREEDY} {why}.")


def fold(data: TabularDataModule, index: int, folds: int) -> None:
    """Let a data module, a copy that nobody else uses, train on all folds but one, and validate on that one.

    Every fold has its share of each class, or of low and high targets. The columns stay encoded as they were learned
    from the training rows of the fit.
    """
    rows = _both(data)
    assert rows.y is not None
    held = deal_out(rows.y.numpy(), folds, data.learned.seed) == index
    train, val = (rows.taken(torch.from_numpy(part)) for part in (~held, held))
    size, seed = data.resolved_batch_size, data.learned.seed
    data.train_dataloader = lambda: train_loader(train, min(size, len(train)), seed)  # type: ignore[method-assign]
    data.val_dataloader = lambda: eval_loader(val, 1)  # type: ignore[method-assign]


def _both(data: TabularDataModule) -> Rows:
    """The training rows, and after them those to validate on."""
    parts = [data.train_dataloader().dataset]
    loader = data.val_dataloader()
    parts += [] if isinstance(loader, list) else [loader.dataset]
    return Rows.joined([part for part in parts if isinstance(part, Rows)])


_SECTIONS = ("model", "data", "optimizer", "lr_scheduler")


class StudyCLI(ModsCLI):
    """The CLI of a study: its own model, data and trainer are only looked at; each trial gets fresh ones."""

    def __init__(self, line: CommandLine) -> None:
        self.trial_callbacks: list[Callback] = []
        self.trial_folder: Path | None = None
        super().__init__(line)
        self.base_seed = int(self.config.seed_everything)

    @property
    def study(self) -> StudyFlags:
        """Return the flags `--study.*`."""
        return StudyFlags(**self.config.study.as_dict())

    def before_instantiate_classes(self) -> None:
        """Leave out the search of a `fit`: the study does it, and a trial must not search in turn."""
        super().before_instantiate_classes()
        given = as_list(self.config.trainer.callbacks)
        kept = [each for each in given if each.class_path.rpartition(".")[2] != OptunaSearch.__name__]
        if len(kept) < len(given):
            say("note: OptunaSearch is left out, the study searches.")
            self.config.trainer.callbacks = kept

    # -------------------------------------------------------------------- looking

    def class_of(self, section: str) -> type | None:
        """Return the class chosen for `model`, `data`, `optimizer` or `lr_scheduler`; None for none."""
        chosen = self.config.get(section)
        found: type | None = None if chosen is None else import_class(chosen.class_path)
        return found

    def value(self, name: str) -> Any:
        """Return what a flag such as `model.lr` is set to."""
        return _holder(self.config, name).get(name.partition(".")[2])

    def by_recipe(self, name: str) -> Any:
        """Return what the recipe sets a flag to; None for one that it leaves alone."""
        return self.line.front.said(name)

    def training_rows(self) -> int | None:
        """Return the rows that each process of a fit trains on, where the data module or its loader tells."""
        rows = getattr(self.datamodule, "n_train", None)
        if isinstance(rows, int):
            return rows // self.trainer.world_size
        try:
            self.datamodule.prepare_data()
            self.datamodule.setup("fit")
            return len(self.datamodule.train_dataloader().dataset) // self.trainer.world_size
        except (AttributeError, TypeError):
            return None

    # --------------------------------------------------------------------- making

    def config_with(self, values: Mapping[str, Any], seed: int) -> Namespace:
        """Return the configuration of a trial's fit, with its seed and the values of flags such as `model.lr`."""
        config: Namespace = self.config.clone()
        config.seed_everything = seed
        for name, value in values.items():
            _holder(config, name)[name.partition(".")[2]] = value
        return config

    def config_text(self, values: Mapping[str, Any], *, hide: bool = True) -> str:
        """Return the whole configuration of a trial's fit as YAML, with `***` for each secret."""
        config = self.config_with(values, self.base_seed)
        for own in ("study", "space", "config", "ensemble"):
            config.pop(own, None)
        return str(self.parser.dump(config, skip_validation=True, skip_unset=False, hide=hide))

    def secret_config(self, values: Mapping[str, Any]) -> str:
        """Return a trial's configuration in one line for a parser in this process; empty if it has no secret."""
        has_secrets = hidden_in(load_yaml(self.config_text(values)))
        return as_yaml(load_yaml(self.config_text(values, hide=False))) if has_secrets else ""

    def variant(
        self,
        values: Mapping[str, Any],
        seed: int,
        *,
        folder: Path | None = None,  # where its logger writes; None for no logger
        callbacks: Sequence[Callback] = (),
        held_out: int | None = None,  # the fold to validate on; None for the validation rows
    ) -> "StudyCLI":
        """Make a fit with other values: a fresh model, data module and trainer, as a command of its own would."""
        twin = copy.copy(self)
        twin.config = self.config_with(values, seed)
        twin.trial_callbacks, twin.trial_folder = list(callbacks), folder
        seed_everything(seed, workers=True, verbose=False)
        shared = self._shared_data(values)
        if shared is not None:
            twin.config.data = shared
        twin.instantiate_classes()
        if held_out is not None:
            fold(twin.datamodule, held_out, self.study.folds)
        return twin

    def optimizer_for(self, values: Mapping[str, Any]) -> tuple[Optimizer, Any]:
        """Return the optimizer of a trial, and its schedule or None, over a parameter that stands for its model's."""
        config = self.config_with(values, self.base_seed)
        with made_from_flags("--optimizer"):
            optimizer: Optimizer = instantiate_class([Parameter(torch.zeros(()))], config.optimizer.as_dict())
        schedule = config.get("lr_scheduler")
        with made_from_flags("--lr_scheduler"):
            return optimizer, None if schedule is None else instantiate_class(optimizer, schedule.as_dict())

    def _shared_data(self, values: Mapping[str, Any]) -> TabularDataModule | None:
        """A copy that shares the table that was read, where a trial changes no more of it than the batch size."""
        data = self.datamodule
        changed = {name for name in values if name.startswith("data.")} - {"data.batch_size"}
        if not isinstance(data, TabularDataModule) or changed:
            return None
        twin = copy.copy(data)
        twin.trainer = None
        twin.batch_size = values.get("data.batch_size", data.batch_size)
        twin.save_hyperparameters({**data.hparams, "batch_size": twin.batch_size})
        return twin

    def _placed(self, asked: Any) -> Any:
        """Loggers for a trial that writes; none where a fit is made to be looked at alone."""
        if not asks_for_logger(asked):
            return asked
        folder = self.trial_folder
        return False if folder is None else with_places(asked, RunPlace(folder.parent, folder))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make a trainer that is quick and quiet: no bar, no checkpoints unless asked for, one TensorBoard run."""
        config = self.config_init.trainer
        if self.trial_folder is not None and config.logger in (None, True):
            root, run = self.trial_folder.parent, self.trial_folder.name
            config.logger = TensorBoardLogger(root, name="", version=run, default_hp_metric=False)
        if self.line.said("trainer.devices") is None:
            config.devices = 1
        return super().instantiate_trainer(**kwargs)

    @property
    def root(self) -> Path:
        """Return the folder that holds the runs; a trial's own for what its callbacks write."""
        return super().root if self.trial_folder is None else self.trial_folder

    def _callbacks(self, config: Namespace) -> list[Any]:
        given = [each for each in as_list(config.callbacks) if not isinstance(each, ProgressBar)]
        config.enable_progress_bar = False
        config.enable_checkpointing = bool(config.enable_checkpointing) or any(isinstance(c, Checkpoint) for c in given)
        return [*given, *self.trial_callbacks, *([CloseLoggers()] if self.trial_folder is not None else [])]


def _holder(config: Namespace, name: str) -> Any:
    """The part of a configuration that holds a flag."""
    section = name.partition(".")[0]
    return config[section].init_args if section in _SECTIONS else config[section]


def default_of(cli: StudyCLI, name: str) -> Any:
    """Return what a flag of the model, data or optimizer is when nobody sets it."""
    recipe = cli.by_recipe(name)
    if recipe is not None:
        return recipe
    chosen = cli.class_of(name.partition(".")[0])
    for each in chosen.__mro__ if chosen else ():
        made = vars(each).get("__init__")
        found = inspect.signature(made).parameters.get(name.partition(".")[2]) if made else None
        if found is not None:
            return None if found.default is found.empty else found.default
    return None


def takes_floats(cli: StudyCLI, name: str) -> bool:
    """Whether a whole number given to a flag of the model, data, optimizer or trainer becomes a float."""
    section, _, argument = name.partition(".")
    chosen = Trainer if section == "trainer" else cli.class_of(section)
    if chosen is None:
        return False
    parser = ArgumentParser(exit_on_error=False)
    if int in _flattened(_annotation(chosen, argument)):  # typing gives `float | int` for `int | float` made later
        return False
    # Without the others, since some of them are required.
    parser.add_class_arguments(chosen, skip={*own_arguments(chosen)} - {argument}, fail_untyped=False)
    try:
        return isinstance(parser.parse_object({argument: 1})[argument], float)
    except ArgumentError:  # it takes no number
        return False


def _annotation(chosen: type, argument: str) -> Any:
    for each in chosen.__mro__:
        with suppress(NameError):  # a type that only a type checker imports
            hints = get_type_hints(vars(each)["__init__"]) if "__init__" in vars(each) else {}
            if argument in hints:
                return hints[argument]
    return None


def _flattened(annotation: Any) -> list[Any]:
    parts = get_args(annotation)
    return [inner for part in parts for inner in _flattened(part)] if parts else [annotation]


def refused(cli: StudyCLI, values: Mapping[str, Any]) -> str:
    """Return why flags cannot have some values; empty if they can. Makes a model and a data module to see."""
    try:
        cli.parser.validate(cli.config_with(values, cli.base_seed))
        twin = cli.variant(values, cli.base_seed)
        if isinstance(twin.datamodule, TabularDataModule):
            size, rows = twin.datamodule.resolved_batch_size, cli.training_rows() or 0
            chosen = values.get("data.batch_size")
            if cli.trainer.world_size > 1 and isinstance(chosen, int) and size > rows:
                return f"each of the {cli.trainer.world_size} devices has {rows} training rows."
    except (ValueError, TypeError) as error:
        return error_line(error)
    return ""


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return the last word of each flag, `lr` for `model.lr`; the whole one where two would be alike."""
    names = list(names)
    last = [name.rpartition(".")[2] for name in names]
    return {name: short if last.count(short) == 1 else name for name, short in zip(names, last, strict=True)}


def shown(value: Any) -> str:
    """Return a value in few letters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# Of the learning rate, by recipe: where gradients are clipped, steps at low rates are short ones.
LR = {"plain": "log 1e-4..1", "default": "log 0.02..2"}


def asked_space(line: CommandLine) -> tuple[CommandLine, dict[str, Any]]:
    """Return the line with the whole space as one `--space`, and the space: name to what was said of it last."""
    asked: dict[str, Any] = {}
    for flag in line.flags:
        name, value = flag.name, flag.value
        if flag.config is not None:
            asked |= _flat(flag.config.get("space") or {}, str(value))
        elif name == "space" and value is not None:
            asked |= _flat(read_config(value, "--space") if value.lstrip().startswith("{") else value, "--space")
        elif name.startswith("space."):
            if value is None:
                raise UsageError(f"--{name} needs a range such as 0..0.5, or a list.")
            asked[name.removeprefix("space.")] = value
    rest = line.without("space")
    return rest.extended(after=[f"--space={as_yaml(asked)}"] if asked else []), asked


def _flat(found: Any, where: str, above: str = "") -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise UsageError(f"`space` is a mapping, such as {{model: {{dropout: 0..0.5}}}}; {where} has {found!r}.")
    flat: dict[str, Any] = {}
    for key, value in found.items():
        flat |= _flat(value, where, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def build_space(cli: StudyCLI, line: CommandLine, asked: Mapping[str, Any]) -> Space:
    """Return the space that is asked for and left to the study, without what the line as it was typed gives by hand."""
    known = _flags_there_are(cli)
    for name in asked:
        group = name.partition(".")[0]
        if group in _EXAMPLE and "." in name and cli.config.get(group) is None:
            raise UsageError(f"--space.{name} needs --{group}=CLASS, such as --{group}={_EXAMPLE[group]}.")
    searched = CommandLine.parse("study", [f"--space.{name}=" for name in asked])
    searched.refuse_unknown(f"space.{name}" for name in known)
    by_hand = line.typed
    space = {}
    for name, text in asked.items():
        if name in by_hand:
            say(f"note: --{name} is given, so it is not searched.")
        else:
            space[name] = _parse(cli, name, text)
    for name, text in _default(cli, known, asked).items():
        if name not in by_hand and cli.value(name) in (None, default_of(cli, name)):
            space[name] = parse_space(text)
    if not space:
        raise UsageError("there is nothing to search: give --space.model.NAME=0..1, or leave a flag to the study.")
    return space


def check_space(cli: StudyCLI, space: Space) -> None:
    """Raise a UsageError if a flag does not take what may be drawn: the bounds of a range, every choice of a list."""
    tried = {name: dimension.levels(2)[:_MANY] for name, dimension in space.items()}
    # All first values together, then all second ones, and so on: each look makes a model.
    rounds = zip_longest(*([(name, value) for value in values] for name, values in tried.items()))
    if not any(refused(cli, dict(filter(None, each))) for each in rounds):
        return
    for name, values in tried.items():
        for value in values:
            if reason := refused(cli, {name: value}):
                raise UsageError(f"--space.{name} includes {value!r}: {reason}")


_MANY = 50  # choices to try beforehand; each makes a model
_EXAMPLE = {"optimizer": "Adam", "lr_scheduler": "StepLR"}


def _parse(cli: StudyCLI, name: str, text: Any) -> Any:
    try:
        return parse_space(text, floats=takes_floats(cli, name))
    except SearchError as error:
        raise UsageError(f"--space.{name}: {error}") from None


def _flags_there_are(cli: StudyCLI) -> list[str]:
    known = [name for name in cli.parser.get_defaults().keys() if name.startswith("trainer.")]  # noqa: SIM118
    for section in ("model", "data", "optimizer", "lr_scheduler"):
        chosen = cli.class_of(section)
        known += [f"{section}.{name}" for name in (own_arguments(chosen) if chosen else []) if name not in LINKED]
    return known


def _default(cli: StudyCLI, known: Sequence[str], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Learning rate and batch size, where there are such flags and nothing else was said."""
    # An optimizer of the user's own brings its own learning rate: the model's is dead then.
    lr = "model.lr" if cli.class_of("optimizer") is None else "optimizer.lr"
    default = (
        {lr: LR[cli.config.recipe if lr == "model.lr" else "plain"]}
        if lr in known and not {"optimizer.lr", "model.lr"} & {*asked}
        else {}
    )
    rows = cli.training_rows()
    if "data.batch_size" in known and "data.batch_size" not in asked and rows is not None:
        default["data.batch_size"] = str(batch_sizes(rows))
    return default
