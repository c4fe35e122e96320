"""Finds the learning rate and the batch size before a fit, and lets it go on with them: `OptunaSearch`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from callbacks.host import Guard, NamedByPlace, say
from callbacks.host.packages import Callback, LightningModule, Trainer, kinds, sibling
from callbacks.loggers import dispatch
from callbacks.loggers.figures import png_of, rgb
from callbacks.search.plan import Plan, SearchError
from callbacks.search.results import TrialRow, setting
from callbacks.search.space import parse_space
from callbacks.tuning.copies import holds, parts, set_hyperparameter, set_rate
from callbacks.tuning.ensembles import GREEDY
from callbacks.tuning.study import AUTO, CURVES, SearchBeforeFit, holders

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SearchOptions:
    """Holds what of an `OptunaSearch` is seldom given.

    Args:
        timeout: Seconds after which no further trial starts; none for no limit.
        lr_name: Name of the module's attribute or hyperparameter that holds the learning rate.
        batch_size_name: Name of the data module's (or the module's) that holds the batch size.
        sampler: tpe, gp, random, cmaes, qmc or grid.
        pruner: halving (the best third goes on behind the third epoch, and of these behind the seventh, the 19th, …),
            hyperband, median, percentile (goes on with the best quarter) or none.
        storage: What to keep the study in: a path ending in `.journal`, or a URL such as `sqlite:///study.db`. By
            default `search.journal` in the folder of the runs.
        name: The study's name; by default one made of the module, its hyperparameters and this search's arguments.
        seed: Of the sampler; the trials themselves go by the seed of the fit.
        ensemble: `greedy` to keep the weights of the best trials while they train, and to pick an ensemble among them
            by validation loss when the search is over, for modules that can (ours): `ensemble.ckpt` in its folder.
    """

    timeout: float | None = None
    lr_name: str = "lr"
    batch_size_name: str = "batch_size"
    sampler: str = "tpe"
    pruner: str = Plan.pruner
    storage: str | None = None
    name: str | None = None
    seed: int = 0
    ensemble: str | None = None


_MISCONFIGURATION = "fabric.utilities.exceptions.MisconfigurationException"


class OptunaSearch(NamedByPlace, Callback):
    """Searches for the learning rate and the batch size with Optuna before a fit, and fits with the best of them.

    Each trial is a fit of its own, on a copy of the module and of the data module, from the same weights and random
    numbers as the fit, with the trainer's precision, clipping, accumulation and limits and with those of its callbacks
    that shape training (EarlyStopping, finetuning, weight averaging, accumulation schedules). Then the values found
    are set on module, data module and hyperparameters, and the fit goes on: bit for bit the one that gets them by
    hand. A trial counts with its best epoch if a ModelCheckpoint of the fit keeps the best one, else with its last.
    Hopeless trials (diverged, or learning nothing while others do) are ended at once.

    The run's folder gets `found.yaml`, a fragment of a Lightning CLI's configuration; TensorBoard a run for each trial
    and two pictures.

    A search that was killed goes on when the same command is started again; one that is complete is not repeated.
    A fit that goes on from a checkpoint keeps the values it began with. The trials of a fit on several processes are
    trained on all of them.

    Args:
        n_trials: Trials of the whole search, over all starts.
        monitor: Name of the logged metric; `val_loss` also finds a validation loss of another name.
        mode: Whether it is to be low (`min`) or high (`max`).
        max_epochs: Epochs of a trial; by default as many as the fit's.
        lr: Learning rates to choose from: a range such as `log 1e-4..1`, or a list; none leaves the rate alone.
        batch_size: Batch sizes (of one process) to choose from: a range such as `pow2 16..512`, or a list; `auto` for
            the powers of two from 8 to 1024 that are no more than half of the training rows; none leaves it alone.
        **options: The fields of `SearchOptions`: timeout, lr_name, batch_size_name, sampler, pruner, storage, name,
            seed and ensemble; on a command line flags as the others.

    Raises:
        ValueError: A range, mode or number that cannot be.
    """

    def __init__(
        self,
        n_trials: int = 30,
        monitor: str = "val_loss",
        *,
        mode: str = "min",
        max_epochs: int | None = None,
        lr: str | list[float] | None = "log 1e-4..1",
        batch_size: str | list[int] | None = AUTO,
        **options: Any,
    ) -> None:
        self.options = SearchOptions(**options)  # the command line's parser finds its flags by this call
        vars(self).update(vars(self.options))  # where they have always been read
        if self.options.ensemble not in (None, GREEDY):
            raise ValueError(f"ensemble must be `{GREEDY}` or none, not {self.options.ensemble!r}.")
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be `min` or `max`, not {mode!r}.")
        if max_epochs is not None and max_epochs < 1:
            raise ValueError(f"max_epochs must be at least 1, not {max_epochs}.")
        if lr is None and batch_size is None:
            raise ValueError("OptunaSearch needs something to search: lr, batch_size, or both.")
        self.n_trials, self.max_epochs = n_trials, max_epochs
        self.monitor, self.mode = monitor, mode
        self.lr, self.batch_size = lr, batch_size
        self.plan().check()
        for given in (lr, None if batch_size == AUTO else batch_size):
            if given is not None:
                parse_space(given)
        self._begin()

    def plan(self) -> Plan:
        """Return how the search goes; without a name where none is given."""
        chosen = {name: getattr(self.options, name) for name in ("timeout", "sampler", "pruner", "seed")}
        directions = ("minimize" if self.mode == "min" else "maximize",)
        return Plan(self.options.name or "", self.n_trials, directions=directions, **chosen)

    def _begin(self) -> None:
        self.found: dict[str, Any] = {}  # the values, by name
        self._by_hand = False  # whether the rate has to be put into the optimizer
        self._rows: list[TrialRow] = []
        self._hook: ConfigureOptimizersHook | None = None
        self._folder: Path | None = None
        self._guard = Guard("OptunaSearch")

    def figure(self) -> "Figure | None":
        """Return the trials over the values that were searched, to show or save; None before there is one."""
        if not self._rows:
            return None
        from callbacks.search.figure import draw_search  # matplotlib takes half a second to load

        x, y = [*self.found, ""][:2]
        return draw_search(self._rows, x=x, y=y, monitor=self.monitor, mode=self.mode)

    def _repr_png_(self) -> bytes | None:
        return png_of(self.figure())  # a notebook shows it where the search is a cell's last word

    def state_dict(self) -> dict[str, Any]:
        """Return what was found."""
        return {"found": self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what was found."""
        self.found = dict(state_dict["found"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the moment when the module is asked for its optimizers.

        Then a checkpoint has been loaded, if there is one (a trainer does not tell before), and nothing yet depends on
        the learning rate or the batch size: neither optimizers nor loaders are there.
        """
        self.take_place(trainer)
        if stage != "fit":
            return
        self._begin()
        folder = str(trainer.log_dir or trainer.default_root_dir)  # asks all ranks
        self._folder = None if "://" in folder else Path(folder)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # a connector's
            say(trainer, "search: skipped, as fast_dev_run tries the fit alone.")
        elif isinstance(trainer.strategy, kinds(".strategies.SingleDeviceStrategy") + kinds(".strategies.DDPStrategy")):
            self._hook = ConfigureOptimizersHook(pl_module, lambda: self._before_optimizers(trainer, pl_module))
        else:
            raise sibling(trainer, _MISCONFIGURATION)(
                f"OptunaSearch trains copies of the module on one device; {type(trainer.strategy).__name__} has none."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the loggers what Lightning will not, and show the search."""
        kept = holders(trainer, pl_module) if self.found else []
        logged = {name for holder in kept for name in holder.hparams_initial}
        unsaid = {name: value for name, value in self.found.items() if name not in logged}
        for logger in trainer.loggers if unsaid else []:
            logger.log_hyperparams(unsaid)
        if self._rows and trainer.is_global_zero:
            if self._folder is not None:
                with self._guard(trainer, "writing found.yaml"):
                    self._write_found(trainer, self._folder)
            with self._guard(trainer, "drawing the search"):
                show_pictures(trainer, self._rows, list(self.found), self.monitor, self.mode)

    def _write_found(self, trainer: Trainer, folder: Path) -> None:
        """Write what was found as a fragment of a Lightning CLI's configuration: `fit --config found.yaml`."""
        data, rows = getattr(trainer, "datamodule", None), self.options.batch_size_name
        homes = {self.options.lr_name: "optimizer" if self._by_hand else "model"}
        homes[rows] = "data" if holds(data, rows) else "model"
        sections: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "optimizer": {}}
        for name, value in self.found.items():
            section = homes[name]
            sections[section]["lr" if section == "optimizer" else name] = value
        fragment = {section: {"init_args": values} for section, values in sections.items() if values}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "found.yaml").write_text(yaml.safe_dump(fragment, sort_keys=False), encoding="utf-8")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was if it was never asked for its optimizers."""
        if self._hook is not None:
            self._hook.leave()

    def _before_optimizers(self, trainer: Trainer, module: LightningModule) -> float | None:
        """Search, or take what was found before; the rate is returned if it has to be put into the optimizer."""
        if trainer.ckpt_path is None:
            try:
                result = SearchBeforeFit(self, trainer, module, self._folder, self._guard).run()
            except SearchError as error:
                raise sibling(trainer, _MISCONFIGURATION)(f"OptunaSearch: {error}") from error
            self.found, self._by_hand, self._rows = (result[name] for name in ("found", "by_hand", "rows"))
        else:
            what = f"goes on with {setting(self.found)} found before" if self.found else "goes on from a checkpoint"
            say(trainer, f"search: skipped, the fit {what}.")
        for name, value in self.found.items():
            set_hyperparameter(name, value, holders(trainer, module))
        # Of a fit that goes on the rate comes with the optimizer's state.
        return self.found[self.options.lr_name] if self._by_hand else None


_NAME = "configure_optimizers"


class ConfigureOptimizersHook:
    """Acts before a module is asked for its optimizers, once, and leaves no trace on the module.

    What acts returns the rate that the optimizer is to have whatever the module says, or None.
    """

    def __init__(self, module: LightningModule, before: Callable[[], float | None]) -> None:
        self._module, self._before = module, before
        self._own = vars(module).get(_NAME)  # a method bound to this very module, as Lightning's CLI does
        self._waits = True
        setattr(module, _NAME, self._configure_optimizers)

    def leave(self) -> None:
        """Put the module's own method back."""
        if self._waits and self._own is None:
            delattr(self._module, _NAME)
        elif self._waits:
            setattr(self._module, _NAME, self._own)
        self._waits = False

    def _configure_optimizers(self) -> Any:
        self.leave()
        rate = self._before()
        made = self._module.configure_optimizers()
        if rate is not None:
            set_rate(*parts(made), rate)
        return made


def show_pictures(trainer: Trainer, rows: Sequence[TrialRow], names: Sequence[str], monitor: str, mode: str) -> None:
    """Draw the search, and list its trials, a line of JSON for each."""
    dispatch.write_text(trainer, "search/trials", "\n".join(map(_line, rows)), 0)
    from callbacks.search.figure import draw_history, draw_search  # matplotlib takes half a second to load

    x, y = [*names, ""][:2]
    figures = draw_search(rows, x=x, y=y, monitor=monitor, mode=mode), draw_history(rows, monitor=monitor, mode=mode)
    for name, figure in zip(("loss", "history"), figures, strict=True):
        dispatch.write_image(trainer, f"search/{name}", rgb(figure), 0)


def _line(row: TrialRow) -> str:
    """Return a trial as a line of JSON, with its curves where this process trained it."""
    facts = {"number": row.number, "state": row.state, "params": dict(row.params), "values": row.values}
    more = {"seconds": row.seconds, "reason": row.reason or None, "curves": row.attrs.get(CURVES)}
    return json.dumps({**facts, **{name: fact for name, fact in more.items() if fact is not None}}, default=str)
