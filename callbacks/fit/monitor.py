"""`FitMonitor`: says whether a run underfits, fits well or overfits, while it runs and when it ends."""

import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.diagnosis.evidence import Evidence
from callbacks.diagnosis.report import FitPart, last_word
from callbacks.diagnosis.verdict import Diagnosis, Fit, diagnose
from callbacks.diagnosis.words.advice import Knobs
from callbacks.fit.evidence import FitEvidence, keeps_lowest, savers
from callbacks.fit.kept import KeptEpoch
from callbacks.fit.lines import LiveLines
from callbacks.fit.reader import (
    AUTO,
    FitReader,
    baseline_of,
    baselines_on,
    fair_train_loss,
    obstacle,
    reference_of,
    train_eval_loss,
)
from callbacks.fit.record import FitRecord, headline, paragraph, write_document
from callbacks.host import Guard, NamedByPlace, say
from callbacks.host.packages import Callback, LightningModule, Trainer
from callbacks.loggers import dispatch
from callbacks.loggers.figures import png_of, rgb
from callbacks.readers.pacing import SpareTime

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWING = 0.02  # share of the time that goes into pictures on the way: each costs as much as many small epochs
READING = "reading the losses"
FRAMEWORK = "Lightning"  # whose words the advice has where there is no command line
GUESS = 0.5  # seconds that the first picture takes


def _folder_of(trainer: Trainer) -> Path | None:
    """Beside the checkpoints, else the log folder, else the root; None where that is no local folder.

    Every rank must ask: the log folder is broadcast.
    """
    log_dir = trainer.log_dir
    beside = next((saver.dirpath for saver in savers(trainer) if getattr(saver, "dirpath", None)), None)
    folder = str(beside or log_dir or trainer.default_root_dir)
    return None if "://" in folder else Path(folder)


def _saver_of_lowest(trainer: Trainer, record: FitRecord) -> Any | None:
    """What keeps the checkpoint of the lowest validation loss; None where nothing does, or not yet."""
    val_loss = record.names["val_loss"]
    return next((s for s in savers(trainer) if keeps_lowest(s, val_loss) and s.best_model_path), None)


def _checkpoint_to_keep(trainer: Trainer, record: FitRecord, best_epoch: int | None) -> str:
    """Which checkpoint to keep: that of the lowest validation loss, or how to have one."""
    saver = _saver_of_lowest(trainer, record)
    if saver is not None:
        return str(saver.best_model_path)
    for folder in [Path(str(each.dirpath)) for each in savers(trainer) if getattr(each, "dirpath", None)]:
        for path in sorted(folder.glob(f"*epoch={best_epoch}[-.]*")):
            return str(path)
    keeps = f"ModelCheckpoint(monitor={record.names['val_loss']!r})"
    return f"the weights of epoch {best_epoch}; {keeps} would have kept the best ones"


def _writes(monitor: "FitMonitor", trainer: Trainer) -> bool:
    return bool(trainer.loggers) or not monitor.silent


class FitMonitor(NamedByPlace, Callback):
    """Says whether any LightningModule underfits, fits well or overfits, how sure that is, and what to do next.

    Pairs the training and the validation loss of the same epoch (of several validations in an epoch the last one; an
    epoch without one is a gap) and asks `callbacks.diagnosis.diagnose`. Loggers get the probabilities as
    `fit/probability_…`, the verdict in words and a picture of the curves; for a CSV logger, or none, words and picture
    are files. `diagnosis.json` stands beside the checkpoints, or in the log folder. Standard error gets a line when a
    verdict holds, three at most, and a paragraph at the end. The best epoch is the one whose checkpoint is kept.
    Weights are never touched. A NaN that was logged is shown to `diagnose`, which says what it means.

    Beside the curves it collects evidence: the settings, which any module may add to in `training_settings()`; standard
    errors from `val_row_losses`, which a module has after a validation; and, once in the end, the loss of training rows
    in eval mode by `evaluation_loss(batch)`. See `callbacks.fit.evidence`.

    Args:
        train_loss: Name under which the training loss is logged; `train_loss` also finds what has another name, such as
            `train/loss` or `loss`. Logged by the step alone, its epoch's mean is taken.
        val_loss: Name under which the validation loss is logged; `val_loss` also finds what has another name, such as
            `valid_loss` or `Validation/Loss`, and of several loaders' the first, `val_loss/dataloader_idx_0`.
        metric: Name of what matters in the end; `auto` takes the first of accuracy, acc, f1 and r2 on validation rows
            that is logged, none takes nothing. A validation loss that worsens while it holds is called overconfident.
        metric_mode: Whether the metric is to be high (`max`) or low (`min`).
        baseline_loss: Validation loss of the best constant prediction; none asks the module: its
            `baseline_on(targets)` for the validation rows, where they are known, else its `baseline_loss`.
        reference_loss: Validation loss that can be had, such as another model's on the same rows; none asks the
            module's `reference_loss`, if it has one.
        stop: Vote to stop when overfitting is established, and name the checkpoint to keep.
        stop_after: Verdicts in a row that must say overfit before the vote, at least 1.
        train_slice: Training rows, evenly spaced, whose loss is evaluated in eval mode after every epoch and judged
            instead of the logged training loss, which lags; 0 for once in the end, within 2 % of the time. Needs the
            module's `evaluation_loss(batch)`.
        check_every: Validated epochs between two verdicts; 0 for every one at first, and later whenever the run has
            grown by 2 % if it may stop for it, by 10 % if not.
        plot: Draw the curves, e.g. for TensorBoard's Images tab.
        closing: Print the paragraph at the end, in one report with what a `GradientMonitor` beside it says; without,
            `last_word` holds it.
        silent: Say nothing at all, and without a logger write nothing either; `diagnosis` and `last_word` hold it.

    Raises:
        ValueError: A mode or a number that cannot be.
    """

    def __init__(
        self,
        train_loss: str = "train_loss",
        val_loss: str = "val_loss",
        *,
        metric: str | None = AUTO,
        metric_mode: str = "max",
        baseline_loss: float | None = None,
        reference_loss: float | None = None,
        stop: bool = False,
        stop_after: int = 3,
        train_slice: int = 0,
        check_every: int = 0,
        plot: bool = True,
        closing: bool = True,
        silent: bool = False,
    ) -> None:
        if metric_mode not in ("max", "min"):
            raise ValueError(f"metric_mode must be `max` or `min`, not {metric_mode!r}.")
        counts = {"stop_after": (stop_after, 1), "train_slice": (train_slice, 0), "check_every": (check_every, 0)}
        for name, (value, least) in counts.items():
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}.")
        self.train_loss, self.val_loss, self.metric, self.metric_mode = train_loss, val_loss, metric, metric_mode
        self.baseline_loss, self.reference_loss = baseline_loss, reference_loss
        self.stop, self.stop_after = stop, stop_after
        self.train_slice, self.check_every, self.plot, self.closing = train_slice, check_every, plot, closing
        self.silent = silent
        self.last_word = ""
        self.flags: Collection[str] = ()  # by which a user sets things, as a mapping with their values, for the advice
        self.closing_part: FitPart | None = None  # once a fit has ended
        self._begin()

    def _begin(self) -> None:
        self.diagnosis: Diagnosis | None = None
        self._reader = FitReader(self.train_loss, self.val_loss, self.metric)
        self._known = FitEvidence()
        self._evidence = Evidence()  # for the latest verdict
        self._verdict = Fit.UNKNOWN
        self._judged = -1  # the last epoch with a verdict
        self._overfits = 0  # verdicts in a row
        self._lines = LiveLines()
        self._kept = KeptEpoch()
        self._stopped = False
        self._trivial: dict[str, float] | None = None  # the trivial prediction's loss and metrics, once asked
        self._base: float | None = None
        self._folder: Path | None = None
        self._guard = Guard("FitMonitor")
        self._spare = SpareTime(DRAWING, GUESS)

    def figure(self) -> "Figure | None":
        """The curves so far with the verdict, to show or save; None before the first verdict."""
        return None if self.diagnosis is None else self._draw(self.diagnosis)

    def _repr_png_(self) -> bytes | None:
        return png_of(self.figure())  # a notebook shows it where the monitor is a cell's last word

    @property
    def plain_key(self) -> str:
        """Tells the monitors of one trainer apart by what they read."""
        return f"{type(self).__qualname__}[{self.train_loss}, {self.val_loss}]"

    def state_dict(self) -> dict[str, Any]:
        """The curves and what was made of them."""
        judged = {"verdict": str(self._verdict), "judged": self._judged, "overfits": self._overfits}
        more = {"evidence": self._known.state(), "lines": self._lines.state(), "kept": self._kept.state()}
        return {"reader": {**self._reader.state(), **more}, **judged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the curves of a checkpoint."""
        self._reader.load(state_dict["reader"])
        self._verdict = Fit(state_dict["verdict"])
        self._judged, self._overfits = int(state_dict["judged"]), int(state_dict["overfits"])
        if "evidence" in state_dict["reader"]:  # not in those written before there was any
            self._known.load(state_dict["reader"]["evidence"])
            self._lines.load(state_dict["reader"]["lines"])
            self._kept.load(state_dict["reader"]["kept"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier run, unless this one goes on with it."""
        self.take_place(trainer)
        if stage == "fit" and trainer.current_epoch == 0:
            self._begin()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the folder for `diagnosis.json`; every rank asks."""
        self._stopped = False
        self.last_word, self.closing_part = "", None
        folder = _folder_of(trainer)
        self._folder = folder if _writes(self, trainer) else None
        with self._guard(trainer, READING):
            self._kept.begin(_saver_of_lowest(trainer, self._reader.record), self._reader.record.curves["val_loss"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a training loss that the module logged after our hook of the epoch before; read the settings once."""
        with self._guard(trainer, READING):
            self._known.begin(trainer, pl_module)
            self._reader.late(trainer, trainer.current_epoch - 1)
            if not self.silent:
                self._reader.complain(trainer)
            self._kept.look(_saver_of_lowest(trainer, self._reader.record), trainer.current_epoch - 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up a training loss that is logged by the step alone."""
        try:
            self._reader.step(trainer, batch_idx, outputs)
        except Exception as error:  # noqa: BLE001  # whatever it is
            self._guard.failed(trainer, READING, error)

    def steps_free(self, trainer: Trainer) -> float:
        """All, but for a training loss that is logged by the step alone."""
        return 0 if self._reader.by_step else math.inf

    def steps_taken(self, trainer: Trainer, pl_module: LightningModule, taken: Any) -> None:
        """Nothing to do: what is logged once an epoch is read at its end."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell old values from those that will be logged."""
        with self._guard(trainer, READING):
            self._reader.before_validation(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the validation loss and the metric; before training, the loss at the start."""
        if trainer.state.fn == "fit":
            with self._guard(trainer, READING):
                self._reader.validation(trainer)
                if not trainer.sanity_checking:
                    self._known.rows.take(trainer, pl_module, self._reader.record.names["val_loss"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pair the losses of the epoch, judge if it is time, and vote."""
        epoch = trainer.current_epoch
        with self._guard(trainer, READING):
            self._reader.epoch(trainer, epoch)
            self._kept.look(_saver_of_lowest(trainer, self._reader.record), epoch)
        if self.train_slice:
            self._evaluate_slice(trainer, pl_module, epoch)
        if self._is_due(epoch):
            self._judge(trainer, pl_module, epoch)
        if self.stop:
            vote = self._overfits >= self.stop_after
            # Every rank asks, whatever it thinks itself: one that did not would leave the others waiting.
            self._stopped = trainer.strategy.reduce_boolean_decision(vote, all=False)
            trainer.should_stop = trainer.should_stop or self._stopped

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the last verdict, write it down and say it."""
        epoch = max(trainer.current_epoch - 1, 0)
        with self._guard(trainer, READING):
            self._reader.late(trainer, epoch)
            if not self.silent:
                self._reader.complain(trainer, ended=True)
            self._kept.look(_saver_of_lowest(trainer, self._reader.record), epoch)
        fair = fair_train_loss(trainer, pl_module, self._reader.record, self._guard)
        self._judge(trainer, pl_module, epoch, last=True, fair=fair)
        self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the verdict so far behind when a person interrupts the run."""
        if isinstance(exception, KeyboardInterrupt):
            if self._reader.record.has("val_loss"):
                self._judge(trainer, pl_module, trainer.current_epoch, last=True)
            self._close(trainer)

    def _is_due(self, epoch: int) -> bool:
        growth = 50 if self.stop else 10
        validated = self._reader.record.at("val_loss", epoch) is not None
        return validated and epoch - self._judged >= (self.check_every or max(1, self._judged // growth))

    def _evaluate_slice(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        reason = obstacle(trainer, pl_module)
        if reason is None:
            self._reader.put(
                trainer, "fair_loss", epoch, train_eval_loss(trainer, pl_module, self.train_slice, self._guard)
            )
        else:
            self._guard.once(trainer, f"train_slice={self.train_slice} is not used: {reason}")

    def _judge(
        self, trainer: Trainer, pl_module: LightningModule, epoch: int, *, last: bool = False, fair: float | None = None
    ) -> None:
        with self._guard(trainer, "the diagnosis"):
            train, val, metric = self._reader.record.paired()
            self._evidence = self._known.found(trainer, self._reader.record.names["val_loss"], fair)
            self._read_levels(trainer, pl_module)
            # On the way curves are judged, for the trees weigh whole runs; and a checkpoint may be behind by an epoch.
            by_now = Evidence(keeps_best=self._evidence.keeps_best)
            found = diagnose(
                train,
                val,
                val_metric=metric,
                metric_mode=self.metric_mode,
                baseline_loss=self._base,
                flags=self.flags,
                framework=None if self.flags else FRAMEWORK,
                evidence=self._evidence if last else by_now,
                advise=last,
            )
            changed, self._verdict, self.diagnosis = found.fit is not self._verdict, found.fit, found
            if not last:  # the end adds nothing to what a longer run would know
                self._judged = epoch
                self._overfits = self._overfits + 1 if found.fit is Fit.OVERFIT else 0
            self._report(trainer, found, epoch, self._base, changed=changed, last=last)

    def _close(self, trainer: Trainer) -> None:
        """Say the last word of all monitors that close the fit, if this is the last of them to end."""
        self.closing_part = self.closing_part or FitPart()
        with self._guard(trainer, "the last word"):
            said = last_word(trainer.callbacks)  # type: ignore[attr-defined]  # a connector's
            if said and self.closing and not self.silent and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # a connector's
                say(trainer, said)

    def _read_levels(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask what is trivial and what can be had on the validation rows: asked for by hand, else of the module."""
        if self._trivial is None:
            self._trivial = baselines_on(pl_module, trainer.val_dataloaders)
        base = self._trivial.get("loss", baseline_of(pl_module)) if self.baseline_loss is None else self.baseline_loss
        reference = reference_of(pl_module) if self.reference_loss is None else self.reference_loss
        metric = self._trivial.get(self._reader.record.names.get("metric", "").removeprefix("val_"))
        self._base = base
        self._evidence = replace(
            self._evidence,
            reference_loss=reference,
            baseline_metric=metric,
            keeps_best=self._kept.epoch is not None,
            kept_epoch=self._kept.epoch,
        )

    def _report(
        self, trainer: Trainer, found: Diagnosis, epoch: int, base: float | None, *, changed: bool, last: bool
    ) -> None:
        if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]  # a connector's
            return
        if not last and not self.silent and self._lines.is_new(str(found.fit), epoch):
            say(trainer, f"FitMonitor: epoch {epoch}: {headline(found)}. {found.reason}")
        keeps = found.fit is Fit.OVERFIT or found.cause == "overconfident" or self._stopped
        keep = _checkpoint_to_keep(trainer, self._reader.record, found.best_epoch) if keeps else None
        if last:
            self.last_word = paragraph(found, keep)
            knobs = Knobs(self.flags, None if self.flags else FRAMEWORK, self._evidence.settings)
            self.closing_part = FitPart(found, headline(found), keep, knobs)
        if not _writes(self, trainer):
            return
        with self._guard(trainer, "writing the diagnosis"):
            shown = {f"fit/probability_{fit}": probability for fit, probability in found.probabilities.items()}
            levels = {"fit/baseline_loss": base, "fit/reference_loss": self._evidence.reference_loss}
            dispatch.log_metrics(trainer, shown | {name: v for name, v in levels.items() if v is not None}, epoch)
            if changed or last:
                dispatch.write_text(trainer, "fit/verdict", paragraph(found, keep), epoch)
                if self._folder is not None:
                    write_document(self._folder / "diagnosis.json", found, self._reader.record, base, self._evidence)
        if self.plot and (last or (changed and self._spare.is_due)):  # on the way only if there is time
            with self._guard(trainer, "drawing the curves"):
                if dispatch.are_shown(trainer):
                    with self._spare.work():
                        dispatch.write_image(trainer, "fit/curves", rgb(self._draw(found)), epoch)

    def _draw(self, found: Diagnosis) -> "Figure":
        from callbacks.fit.figure import draw_record  # matplotlib takes half a second to load

        levels = {"trivial": self._base, "reference": self._evidence.reference_loss}
        return draw_record(self._reader.record, found, levels)
