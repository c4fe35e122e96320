"""The Lightning CLI of the verbs: the place where the three packages meet."""

import os
from argparse import SUPPRESS
from collections.abc import Mapping
from functools import cached_property, partial
from inspect import signature
from pathlib import Path
from types import MethodType
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from callbacks import FitMonitor, GradientLogger, GradientMonitor, GraphLogger, OptunaSearch, TensorBoardLayout
from callbacks.host.lightning import (
    Callback,
    Checkpoint,
    CheckpointIO,
    CSVLogger,
    EarlyStopping,
    LightningArgumentParser,
    LightningCLI,
    LightningDataModule,
    LightningModule,
    Logger,
    LRSchedulerTypeTuple,
    ModelCheckpoint,
    TensorBoardLogger,
    Trainer,
    instantiate_class,
)
from callbacks.host.secrets import HIDDEN, hidden_in, without_secrets
from datamodules import TabularDataModule
from datamodules.tabular import UNSAID
from lightning_mods.cli.classes import (
    BY_TASK,
    CLASS_KEYS,
    OURS,
    ModsParser,
    find_class,
    made_from_flags,
    own_arguments,
    with_classes,
)
from lightning_mods.cli.command_line import CommandLine, UsageError, mistakes_named
from lightning_mods.cli.flags import (
    ABOUT,
    BY_RECIPE,
    EXAMPLES,
    HABITS,
    LINKED,
    MAX_EPOCHS,
    TRAINER_HELP,
    Reference,
    add_verb_arguments,
    is_listed,
    trainer_flags,
)
from lightning_mods.cli.loggers import LOGGER_FLAG, RunPlace, as_list, asks_for_logger, with_places
from lightning_mods.cli.recipe import with_recipe
from lightning_mods.cli.run_record import RunRecord, kept_settings
from lightning_mods.loggers.progress import Announcement, EpochTimer, ProgressLines, progress_callbacks
from lightning_mods.loggers.tensorboard import EventLogger
from lightning_mods.loggers.terminal import say
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.ensemble import MLPEnsemble
from lightning_mods.models.fused.lightning_internals import epochs_done
from lightning_mods.models.fused.limits import NoProfiler
from lightning_mods.models.module import MLPModule
from lightning_mods.models.regressor import MLPRegressor
from lightning_mods.runs import RUN_MARK, run_of
from lightning_mods.runs.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from lightning_mods.runs.claim import RunClaim
from lightning_mods.runs.patience import Patience, auto_patience
from lightning_mods.runs.resuming import ResumeCheck

# Flags that take a class by its short name, and what the class must be.
_CHOICES: dict[str, type] = {"optimizer": Optimizer, "lr_scheduler": LRScheduler}
_CHOICES |= {"trainer.callbacks": Callback, "trainer.logger": Logger}


MOST_MEMBERS = 1000  # of an ensemble
_STRICT = {"allow_abbrev": False, "exit_on_error": False}


class ModsCLI(LightningCLI):
    """Lightning's CLI without subcommands, around any LightningModule and data module.

    The content of the `checkpoint` that `--ckpt_path` means knows the classes, and the data module's state; in the
    folder of the one from which a fit is `resumed` is written on. A `folder` is that of a fit which is part of a run.
    """

    def __init__(
        self,
        line: CommandLine,
        *,
        checkpoint: dict[str, Any] | None = None,
        resumed: Path | None = None,
        claim: RunClaim | None = None,
        folder: Path | None = None,
    ) -> None:
        with made_from_flags("--data"):
            self.line, self._table = with_recipe(*with_classes(line, checkpoint), checkpoint)
        self.verb, self.asked = line.verb, line
        self.data_state = checkpoint.get(TabularDataModule.__qualname__) if checkpoint else None
        self.resumed = resumed
        self._epochs = epochs_done(checkpoint) if checkpoint and resumed else None
        self._claim = claim or RunClaim(leads=False)
        self._folder = folder
        self._resume = ResumeCheck(resumed, checkpoint, OURS) if checkpoint and resumed else None
        super().__init__(
            None,
            None,
            run=False,
            args=self.line.words,
            seed_everything_default=0,
            trainer_defaults={"max_epochs": MAX_EPOCHS},
            parser_class=ModsParser,
            save_config_callback=RunRecord if self.verb == "fit" else None,
            parser_kwargs={"prog": f"python -m lightning_mods.{self.verb}", "dump_header": [RUN_MARK], **_STRICT},
            # Our own binding (below) makes the optimizer when it is asked for, so that copies of a model get theirs.
            auto_configure_optimizers=False,
            # Plain hyperparameters: `load_from_checkpoint` then needs no CLI, and runs no code named in a file.
            load_from_checkpoint_support=False,
        )

    # ------------------------------------------------------------------ parsing

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the flags of the verbs, and hand the model what it takes from the data."""
        add_verb_arguments(parser, self.verb)
        parser.add_optimizer_args((Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        for name in LINKED:
            fact = partial(self._fact, name)
            parser.link_arguments("data", f"model.init_args.{name}", compute_fn=fact, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, after refusing misspelt flags by name."""
        known = [*parser.get_defaults().keys(branches=True), "config", "print_config", "help"]
        for section, base in (("model", LightningModule), ("data", LightningDataModule)):
            name = self.line.section(section).get("class_path")
            if isinstance(name, str):
                known += [f"{section}.{key}" for key in (*own_arguments(find_class(name, base)), *CLASS_KEYS)]
        self.line.refuse_unknown(known, HABITS)
        for flag in self.line.flags:
            value = flag.value or ""
            if flag.name in _CHOICES and value.isidentifier() and value not in ("null", "true", "false"):
                find_class(value, _CHOICES[flag.name])
        with mistakes_named("the flags cannot be read"):
            self.config = parser.parse_args(args)
        if self.verb in ("fit", "study") and (left_out := hidden_in(self.config)):
            name = left_out[0].replace(".init_args.", ".")
            raise UsageError(f"--{name}={HIDDEN}: a configuration is written without its secrets; give this one anew.")
        for name in self.line.typed:
            if name.removeprefix("model.") in LINKED:
                say(f"note: --{name} is ignored, it comes from the data.")

    def before_instantiate_classes(self) -> None:
        """Keep what was asked of this call alone out of the configuration that is written down."""
        self.config.ckpt_path = self.config.trust = None

    def _fact(self, name: str, data: Any) -> Any:
        self._hand_over_state(data)
        value = getattr(data, name, None)
        model = OURS.get(self.config.model.class_path.rpartition(".")[2])
        if value is None and model and name in own_arguments(model) and isinstance(data, TabularDataModule):
            fits, other = BY_TASK[data.task]
            but = f"the target makes this a {data.task}; take --model={fits}, or say --data.task={other}."
            raise UsageError(f"the model needs `{name}`, but {but}")
        return value

    def _hand_over_state(self, data: Any) -> None:
        """Give the data module what the checkpoint knows, before it learns it anew from a table."""
        if self.data_state and isinstance(data, TabularDataModule):
            data.load_state_dict(self.data_state)
            self.data_state = None

    # ------------------------------------------------------------------ instantiation

    def instantiate_classes(self) -> None:
        """Make data module, model and trainer; what their constructors refuse is a wrong use."""
        logger, self._asked_data = self.config.trainer.logger, self.config.data
        self.config.trainer.logger = self._placed(logger)
        table, self._table = self._table, None
        if table is not None and {**UNSAID, **table.hparams} == self.config.data.init_args.as_dict():
            self.config.data = table  # it has read the table already
        try:
            with made_from_flags("what --config names"):
                super().instantiate_classes()
        finally:
            # config.yaml is for other runs too
            self.config.trainer.logger, self.config.data = logger, self._asked_data
        self._hand_over_state(self.datamodule)  # a foreign model asked for nothing
        for module in (self.model, self.datamodule):
            _log_no_secrets(module)
        if self.verb != "study":
            self.model = _ensemble_of(self.model, self.config.ensemble)
        if self._resume is not None:
            self._resume.settings(kept_settings(self.config), self.config.recipe)
            self._resume.data(self.datamodule)
            self._resume.model(self.model)
        steps = self.config.steps_per_execution
        if steps not in ("auto", "graph") and (isinstance(steps, str) or steps < 1):
            needed = "`auto`, `graph` or a whole number of at least 1"
            raise UsageError(f"--steps_per_execution must be {needed}, not {steps}.")
        if isinstance(self.model, MLPModule):
            self.model.steps_per_execution = steps
        elif self.line.said("steps_per_execution") not in (None, "auto", "1"):
            name = type(self.model).__name__
            say(f"note: --steps_per_execution is not used, {name} is none of our MLPs: one mini-batch at a time.")
        self._bind_optimizer()

    def _bind_optimizer(self) -> None:
        optimizer, scheduler = self.config_init.get("optimizer"), self.config_init.get("lr_scheduler")
        if optimizer is None and scheduler is None:
            return
        if optimizer is not None and "model.lr" in self.line.typed:
            say("note: --model.lr is not used, --optimizer brings its own lr.")
        own = type(self.model).configure_optimizers

        def configure_optimizers(module: LightningModule) -> Any:
            with made_from_flags("--optimizer"):
                made = instantiate_class(module.parameters(), optimizer) if optimizer else own(module)
            if scheduler is None:
                return made
            if not isinstance(made, Optimizer):
                raise UsageError("--lr_scheduler needs a model with one optimizer; this one has its own set.")
            with made_from_flags("--lr_scheduler"):
                return LightningCLI.configure_optimizers(module, made, instantiate_class(made, scheduler))

        self.model.configure_optimizers = MethodType(configure_optimizers, self.model)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with our logger, callbacks and checkpoints, unless the user chose others."""
        self.config.data = self._asked_data  # the callbacks write it down
        config = self.config_init.trainer
        config.plugins = _with_checkpoint_io(config.plugins)
        config.enable_model_summary = bool(config.enable_model_summary)
        config.default_root_dir = str(self.root)
        config.callbacks = self._callbacks(config)
        if self.line.said("trainer.max_epochs") is None and (config.max_steps != -1 or config.max_time):
            config.max_epochs = -1  # who limits the steps or the time does not want our limit of epochs too
        if self.verb != "fit":
            config.logger = config.logger if config.logger not in (None, True) else False
        elif config.logger in (None, True, False):
            self._choose_run_folder(config)
        else:
            self._give_run_folder(config)
        if config.profiler is None:
            config.profiler = NoProfiler()
        if not config.accumulate_grad_batches >= 1:
            raise UsageError(
                f"--trainer.accumulate_grad_batches must be at least 1, not {config.accumulate_grad_batches}."
            )
        trainer = super().instantiate_trainer(**kwargs)
        most = max(64, 8 * (os.cpu_count() or 1))
        if trainer.num_devices > most:
            raise UsageError(
                f"--trainer.devices={trainer.num_devices} would start as many processes; {most} are the most."
            )
        return trainer

    @property
    def root(self) -> Path:
        """Return the folder that holds the runs."""
        return Path(self.config.trainer.default_root_dir or ".")

    def _callbacks(self, config: Namespace) -> list[Any]:
        given = as_list(config.callbacks)
        ours: list[Any] = progress_callbacks(given) if config.enable_progress_bar is not False else []
        if any(isinstance(callback, ProgressLines) for callback in ours):
            config.enable_progress_bar = False
        if self.verb != "fit":
            config.enable_checkpointing = False
            return [*given, *ours]
        ours += [Announcement(), EpochTimer(), TensorBoardLayout(config=self.parser.dump(self.config))]
        ours += self._watchers(given)
        if config.enable_checkpointing is not False:
            ours += [] if any(isinstance(callback, Checkpoint) for callback in given) else [BestCheckpoint()]
            ours.append(LastCheckpoint())
        # What ends a fit early would be part of a search's trials too, which then could not be trained together.
        has_own = any(isinstance(callback, EarlyStopping | OptunaSearch) for callback in given)
        epochs = 0 if has_own and self.config.patience == "auto" else self._patience(config)
        return [*given, *ours, *([Patience(epochs)] if epochs else [])]

    def _patience(self, config: Namespace) -> int:
        """Return the epochs without a lower validation loss that end the fit; 0 for none."""
        asked = self.config.patience
        if asked != "auto":
            if isinstance(asked, str) or asked < 0:
                raise UsageError(f"--patience must be `auto` or a whole number of at least 0, not {asked}.")
            return int(asked)
        ours = isinstance(self.model, MLPModule) and isinstance(self.datamodule, TabularDataModule)
        if not ours or self.model.lr_schedule != "constant" or self.config_init.get("lr_scheduler") is not None:
            return 0
        has_val = bool(self.datamodule.val_fraction or self.datamodule.val_path)
        return auto_patience(config.max_epochs or -1) if has_val else 0

    def _watchers(self, given: list[Any]) -> list[Callback]:
        """Make those of our callbacks that `--watch` names; one that the user configured takes the place of ours."""
        kinds: dict[str, Any] = {
            "fit": FitMonitor,
            "health": GradientMonitor,
            "gradients": GradientLogger,
            "graph": GraphLogger,
        }
        asked = as_list(self.config.watch)
        chosen = [kind for word, kind in kinds.items() if word in asked and not any(isinstance(c, kind) for c in given)]
        made = [kind() for kind in chosen]
        for monitor in [*given, *made]:
            if isinstance(monitor, FitMonitor | GradientMonitor):
                monitor.closing = False  # the verb itself has their last word, after its table
        return made

    # ------------------------------------------------------------------ loggers

    @cached_property
    def place(self) -> RunPlace:
        """Return the place of a fit: that of the run which goes on, or the next."""
        if self._folder is not None:
            return RunPlace(self.root, self._folder, self._epochs)
        run, runs = run_of(self.resumed) if self.resumed else None, Path(EventLogger(self.root).root_dir)
        named = run is not None and run.parent.resolve() == runs.resolve() and run.name.startswith("version_")
        folder = self._claim.go_on(run) if run and named else self._claim.begin(runs)
        return RunPlace(self.root, folder, self._epochs)

    def _placed(self, asked: Any) -> Any:
        """Place the loggers that were asked for; a verb that only looks has those of its own flags."""
        if not asks_for_logger(asked):
            return asked if asked != [] else False
        if self.verb != "fit" and LOGGER_FLAG not in self.line.typed:
            return False
        return with_places(asked, self.place if self.verb == "fit" else RunPlace(self.root, self.root))

    def _choose_run_folder(self, config: Namespace) -> None:
        if config.logger is False:
            # Without a logger Lightning writes into the root itself: the second run would spoil the first.
            config.default_root_dir = str(self.place.folder)
        else:
            where = (self.root,) if self._folder is None else (self._folder.parent, "")
            config.logger = EventLogger(*where, version=self.place.folder.name, default_hp_metric=False)

    def _give_run_folder(self, config: Namespace) -> None:
        """Make the run's folder the trainer's root where loggers know none, so that it holds the checkpoints."""
        if isinstance(as_list(config.logger)[0], TensorBoardLogger | CSVLogger):
            return
        config.default_root_dir = str(self.place.folder)
        for callback in config.callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self.place.folder / "checkpoints")


def _log_no_secrets(module: Any) -> None:
    """Let Lightning's loggers show the hyperparameters of a module without its passwords and keys."""
    shown = getattr(module, "_hparams_initial", None)  # Lightning's own, of 2.6; it logs what stands there
    if isinstance(shown, dict) and (hidden := without_secrets(dict(shown))) != shown:
        module._hparams_initial = type(shown)(hidden)


def _ensemble_of(model: LightningModule, count: Any) -> LightningModule:
    """Return so many members with a model's settings; the model itself where none, or one, is asked for."""
    if count is None or count == 1:
        return model
    if not isinstance(count, int) or count < 1:
        of_study = "; greedy is for a study" if count == "greedy" else ""
        raise UsageError(f"--ensemble needs a number of models, such as 8, not {count}{of_study}.")
    if count > MOST_MEMBERS:
        raise UsageError(f"--ensemble={count} is more than can be trained at once; {MOST_MEMBERS} are the most.")
    if isinstance(model, MLPEnsemble):
        if len(model.members) != count:
            raise UsageError(f"--ensemble={count} does not fit --model, which has {len(model.members)} members.")
        return model
    if not isinstance(model, MLPClassifier | MLPRegressor):
        raise UsageError(f"--ensemble={count} needs an MLP of ours, and {type(model).__name__} is none.")
    return MLPEnsemble.of(model, count)


def _with_checkpoint_io(plugins: Any) -> list[Any]:
    given = as_list(plugins)
    return given if any(isinstance(plugin, CheckpointIO) for plugin in given) else [*given, AtomicCheckpointIO()]


def reference(line: CommandLine) -> Reference:
    """Ask the parser for the flags of a verb, with the model and data module that a command line names."""
    model = line.section("model").get("class_path")
    chosen: dict[str, list[type]] = {
        "data": [find_class(line.section("data").get("class_path") or "TabularDataModule", LightningDataModule)],
        # Where no model is named the target decides, and flags of either may be typed.
        "model": [find_class(model, LightningModule)] if model else [MLPClassifier, MLPRegressor],
    }
    whole, short = (_listing(line.verb, chosen, is_whole=each) for each in (True, False))
    known = {*whole.get_defaults().keys(branches=True), "help"}
    for section, classes in chosen.items():
        known |= {f"{section}.{name}" for each in classes for name in (*own_arguments(each), *CLASS_KEYS)}
    return Reference(short.format_help(), whole.format_help(), tuple(sorted(known)))


def _listing(verb: str, chosen: Mapping[str, list[type]], *, is_whole: bool) -> ArgumentParser:
    """Return a parser for the help of a verb: of all flags, or of those that a person looks for."""
    more = "" if is_whole else "--help=all lists all flags. "
    parser = ArgumentParser(
        prog=f"python -m lightning_mods.{verb}",
        usage=f"python -m lightning_mods.{verb} {EXAMPLES[verb]}",
        description=ABOUT[verb],
        epilog=f"{more}What takes a class has flags of its own: --trainer.callbacks.help=EarlyStopping lists them.",
        add_help=False,
    )
    if verb == "study":  # a class's flags make a group of their own
        add_verb_arguments(parser, verb)
    general = parser.add_argument_group("This command")
    if verb != "study":
        add_verb_arguments(general, verb)
    general.add_argument("--config", "-c", help="YAML file with these flags; may be given more than once.")
    general.add_argument("--print_config", metavar="", help="Print all settings as YAML and stop.")
    general.add_argument("--seed_everything", type=int, default=0, help="Seed of the split, the weights and the order.")
    if is_whole or verb in ("fit", "study"):
        general.add_argument("--optimizer", help="Any of torch.optim, e.g. Adam, with --optimizer.lr and so on.")
        scheduler = "Any of torch.optim.lr_scheduler, with --lr_scheduler.step_size …"
        general.add_argument("--lr_scheduler", help=scheduler)
    for section, (shown, *_) in chosen.items():
        skip = {*LINKED}  # what comes from the data is no flag of the user's
        if not is_whole and shown in OURS.values():
            skip |= {name for name in own_arguments(shown) if not is_listed(verb, section, name)}
        if {*own_arguments(shown)} - skip:
            parser.add_class_arguments(shown, section, fail_untyped=False, instantiate=False, skip=skip)
    if is_whole:
        parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False)
        parser.set_defaults({"trainer.max_epochs": MAX_EPOCHS})
        return parser
    defaults = {name: each.default for name, each in signature(Trainer).parameters.items()}
    lightning = parser.add_argument_group("Lightning's Trainer")
    for name in trainer_flags(verb):
        default = SUPPRESS if name in BY_RECIPE else defaults[name]
        lightning.add_argument(f"--trainer.{name}", default=default, help=TRAINER_HELP[name])
    return parser
