"""`fit --data.folds=5`: cross-validation, a fit for each fold, and what is said of all of them together."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from callbacks import OptunaSearch
from callbacks.diagnosis.report import FitPart, report
from callbacks.host.files import replacing
from callbacks.host.inputs import load_yaml
from callbacks.host.lightning import Checkpoint
from callbacks.host.packages import Callback, LightningModule, Trainer
from datamodules import TabularDataModule
from datamodules.tabular import val_rows
from lightning_mods.cli.command_line import CommandLine, UsageError, shortened_value
from lightning_mods.cli.lightning_cli import ModsCLI
from lightning_mods.cli.verbs import mistakes_in_one_line, run
from lightning_mods.fit.ended import EndedFit, closing_parts, command_of, ended_fit, headline_in, with_flags
from lightning_mods.fit.out_of_fold import FoldPredictions, Scores, write_ensemble, write_out_of_fold
from lightning_mods.loggers.progress import Announcement
from lightning_mods.loggers.tensorboard import EventLogger
from lightning_mods.loggers.terminal import aligned, is_leading, number_text, quiet, say
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.ensemble import MLPEnsemble
from lightning_mods.models.regressor import MLPRegressor
from lightning_mods.runs import RunError, make_newest, runs_under
from lightning_mods.runs.claim import RunClaim
from lightning_mods.runs.inspection.report import predicted

# In a fold's folder: the last one is there once the fold is done.
_VERDICT, _ROWS, _RECORD = "verdict.json", "fold.npz", "fold.json"
# What may change while folds are trained: a fold comes out the same.
_FREE = ("ckpt_path", "watch", "trust", "importance")
_FREE_OF_TRAINER = ("default_root_dir", "logger", "profiler", "accelerator", "devices", "log_every_n_steps", "enable_")


@dataclass(frozen=True)
class FoldRecord:
    """What is kept of a fold whose fit is over."""

    fold: int  # from 1
    rows: int  # held out
    best_epoch: int | None
    epochs: int  # trained
    metrics: Mapping[str, float]  # on the rows held out; of an ensemble its loss is its own
    baseline: Mapping[str, float]  # of the trivial prediction on these
    reference: Mapping[str, float]
    headline: str
    verdict: str  # the last word of this fit
    checkpoint: str  # relative to the folder of the fold
    views: tuple[str, ...]

    @property
    def loss(self) -> float:
        """Return the loss on the rows held out; NaN where it was none."""
        return self.metrics.get("loss", nan)

    @classmethod
    def of(cls, number: int, rows: int, ended: EndedFit, said: Mapping[str, str]) -> "FoldRecord":
        """Return what is to be kept of a fit."""
        summary = ended.summary
        if summary.checkpoint is None:
            raise RunError(f"fold {number} has left no checkpoint, which all folds together need.")
        path = summary.checkpoint.resolve()
        is_inside = path.is_relative_to(ended.folder.resolve())
        return cls(
            fold=number,
            rows=rows,
            best_epoch=summary.best_epoch,
            epochs=summary.epochs,
            metrics=_of_ensemble(summary.results.get("val", {})),
            baseline=_of_ensemble(summary.baselines.get("val", {})),
            reference=_of_ensemble(summary.references.get("val", {})),
            **said,
            checkpoint=str(path.relative_to(ended.folder.resolve()) if is_inside else path),
            views=tuple(summary.views),
        )

    def write(self, path: Path) -> None:
        """Write it as JSON, null for what is no number."""
        plain = asdict(self)
        for name in ("metrics", "baseline", "reference"):
            plain[name] = {key: value if isfinite(value) else None for key, value in plain[name].items()}
        with replacing(path) as partial:
            partial.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "FoldRecord":
        """Return what `write` wrote; a RunError says that the file is damaged."""
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            for name in ("metrics", "baseline", "reference"):
                plain[name] = {key: nan if value is None else value for key, value in plain[name].items()}
            return cls(**{**plain, "views": tuple(plain["views"])})
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise RunError(f"{path} is damaged; remove it, and the same command trains its fold again.") from error


def _of_ensemble(found: Mapping[str, float]) -> dict[str, float]:
    known = {name: value for name, value in found.items() if name != "ensemble_loss"}
    return {**known, "loss": found["ensemble_loss"]} if "ensemble_loss" in found else known


def folds_asked(line: CommandLine) -> int:
    """Return the folds of which a command line asks for all; 0 where it asks for one fit."""
    data = line.section("data")
    name, args = str(data.get("class_path") or TabularDataModule.__name__), data.get("init_args", {})
    folds = args.get("folds")
    ours = name.rpartition(".")[2] == TabularDataModule.__name__
    all_of_them = ours and not args.get("fold") and isinstance(folds, int) and folds > 1
    return int(folds) if all_of_them else 0


def cross_validate(line: CommandLine, folds: int) -> None:
    """Fit each fold in turn, and say what they come to; with `--ckpt_path=last` go on with a run that was stopped."""
    with mistakes_in_one_line("fit", line):
        quiet()
        root = Path(line.said("trainer.default_root_dir") or ".")
        stopped = _stopped_run(line, root)
        asked = line.without("ckpt_path").without_sections("ckpt_path")
        with RunClaim(leads=is_leading()) as claim:
            folder = claim.go_on(stopped) if stopped else claim.begin(Path(EventLogger(root).root_dir))
            crossing = CrossValidation(asked, folder, folds)
            if crossing.train():
                sys.stdout.write(f"\n{crossing.told()}\n")


def _stopped_run(line: CommandLine, root: Path) -> Path | None:
    """Return the folder of the run to go on with; None to begin one."""
    which = line.said("ckpt_path")
    if which is None:
        return None
    if which != "last":
        raise UsageError(f"--data.folds goes on with --ckpt_path=last, not {which}; --data.fold fits a single fold.")
    runs = runs_under(root)
    found = next((each for each in runs if any(each.glob("fold_*"))), None)
    if found is None:
        say(f"note: there is no run with folds under {root} yet; training starts anew.")
    elif found != runs[0]:
        say(f"note: {runs[0]}, the newest run, has no folds; {found} is taken.")
    return found


class CrossValidation:
    """The fits of all folds of a run, each in a folder of its own: `fold_1`, `fold_2`, …"""

    def __init__(self, line: CommandLine, folder: Path, folds: int) -> None:
        self.line, self.folder, self.folds = line, folder, folds
        self._is_checked = False

    def _place(self, fold: int) -> Path:
        return self.folder / f"fold_{fold}"

    def train(self) -> bool:
        """Fit the folds that are not done; whether all are, which they are not where nothing but the code was tried."""
        for fold in range(1, self.folds + 1):
            place = self._place(fold)
            if (place / _RECORD).is_file():
                continue
            last = place / "checkpoints" / "last.ckpt"
            if not last.is_file():
                shutil.rmtree(place, ignore_errors=True)  # what was stopped before there was a checkpoint
            goes_on = [f"--ckpt_path={last}"] if last.is_file() else []
            line = self.line.extended(after=[f"--data.fold={fold}", *goes_on])
            run(line, partial(self._fit, fold), place)
            if not (place / _RECORD).is_file():
                return False
        if not self._is_checked:
            run(self.line.extended(after=["--data.fold=1"]), self._look, self._place(1))
        return True

    def _look(self, cli: ModsCLI, _: Path | None) -> None:
        self._check(cli)

    def _check(self, cli: ModsCLI) -> str:
        """Return the configuration of all folds; an error says why they cannot be fitted, or are of another one."""
        check_fit(cli)
        config = cli.config.clone()
        config.data.init_args.fold = 0
        text = str(cli.parser.dump(config, skip_none=False))
        before = self.folder / "config.yaml"
        if before.is_file():
            _check_same(load_yaml(before.read_text(encoding="utf-8")), load_yaml(text), self.folder)
            make_newest(self.folder)
        self._is_checked = True
        return text

    def _fit(self, fold: int, cli: ModsCLI, checkpoint: Path | None) -> None:
        text, callbacks = self._check(cli), cli.trainer.callbacks  # type: ignore[attr-defined]  # a connector's
        if fold > 1:  # the table has been described
            callbacks[:] = [each for each in callbacks if not isinstance(each, Announcement)]
        place = self._place(fold)
        watch = _FoldWatch(self.folder / "config.yaml", text, place / _VERDICT, self.line)
        callbacks.insert(next(at for at, each in enumerate(callbacks) if isinstance(each, Checkpoint)), watch)
        ended = ended_fit(cli, checkpoint)
        if ended is None:
            return
        val, test = cli.datamodule.val_dataloader(), cli.datamodule.test_dataloader()
        one, none = cli.datamodule.learned.weight_mean, np.zeros(0)
        weights = [none if not each or each.dataset.weight is None else each.dataset.weight for each in (val, test)]
        found = FoldPredictions(
            val_rows(cli.datamodule),
            val.dataset.y.numpy(),
            predicted(cli.model, val.dataset),
            test.dataset.y.numpy() if test else none,
            predicted(cli.model, test.dataset) if test else none,
            *(np.asarray(each, dtype=np.float64) * one for each in weights),
        )
        record = FoldRecord.of(fold, len(found.rows), ended, json.loads((place / _VERDICT).read_text(encoding="utf-8")))
        found.write(place / _ROWS)
        record.write(place / _RECORD)
        say(f"fold {fold} of {self.folds}: val_loss {record.loss:.4g}, {record.epochs} epochs")

    # ------------------------------------------------------------------ what they come to

    def told(self) -> str:
        """Write what is learned from all folds together, and return what is to be said of it."""
        numbers = range(1, self.folds + 1)
        records = [FoldRecord.read(self._place(fold) / _RECORD) for fold in numbers]
        parts = [FoldPredictions.read(self._place(fold) / _ROWS) for fold in numbers]
        every = FoldPredictions.together(parts)
        best, csv = self.folder / "checkpoints" / "best.ckpt", self.folder / "oof_predictions.csv"
        ensemble, names = write_ensemble(
            best, [self._place(record.fold) / record.checkpoint for record in records], parts
        )
        write_out_of_fold(csv, parts, names)
        lines = [
            *fold_table(
                records, Scores.of(ensemble, every.predictions, every.y, every.weight), self._test(ensemble, every)
            )
        ]
        lines.append(
            "±            of the mean: standard deviation over the folds; below it: standard error over the rows"
        )
        lines.append(f"predictions  {csv}: of each row by the model that was not trained on it")
        lines.append(
            f"checkpoint   {best}: the ensemble of the {self.folds} models; each alone is in {self._place(1)} …"
        )
        views = [*dict.fromkeys(view for record in records for view in record.views)]
        lines += [f"{'' if number else 'look at it':<13}{view}" for number, view in enumerate(views)]
        median = sorted(records, key=lambda record: (isnan(record.loss), record.loss))[(self.folds - 1) // 2]
        said = [f"\nof fold {median.fold}, whose loss is the median:\n{median.verdict}"] if median.verdict else []
        return "\n".join([*lines, *said])

    def _test(self, ensemble: MLPEnsemble, every: FoldPredictions) -> Scores | None:
        test = every.test_predictions, every.test_y, every.test_weight
        return Scores.of(ensemble, *test) if len(every.test_y) else None


def check_fit(cli: ModsCLI) -> None:
    """Raise a UsageError if a fit cannot be that of a fold."""
    kept: Sequence[Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]  # a connector's
    if cli.trainer.world_size > 1:
        raise UsageError("--data.folds trains in one process; give --trainer.devices=1.")
    if any(isinstance(callback, OptunaSearch) for callback in kept):
        raise UsageError(
            "--data.folds scores one choice of flags, and OptunaSearch searches: see `study --study.folds`."
        )
    if type(cli.model) not in (MLPClassifier, MLPRegressor, MLPEnsemble):
        name = type(cli.model).__name__
        raise UsageError(
            f"--data.folds makes an ensemble of MLPs of ours, and {name} is none; fit each --data.fold=1, …."
        )
    if cli.config.calibrate:
        raise UsageError("--calibrate learns from the rows that --data.folds scores; leave one of them out.")
    if cli.config.trainer.enable_checkpointing is False:
        raise UsageError("--data.folds needs the checkpoint of each fold; leave --trainer.enable_checkpointing out.")


def _check_same(then: Any, now: Any, folder: Path) -> None:
    """Raise a RunError if folds would be fitted with other settings than those before."""
    before, after = dict(_flat(then)), dict(_flat(now))
    for name in after:
        group, _, key = name.partition(".")
        is_free = group in _FREE or (group == "trainer" and key.startswith(_FREE_OF_TRAINER))
        if not is_free and name in before and before[name] != after[name]:
            shown, past = shortened_value(after[name]), shortened_value(before[name])
            how = "give the same to go on with it, or leave --ckpt_path out to begin another run"
            raise RunError(f"--{name}={shown} does not fit the folds of {folder}, which have {past}; {how}.")


def _flat(plain: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in plain.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from _flat(value, name)
        elif key == "class_path":
            yield name.removesuffix(".class_path"), str(value).rpartition(".")[2]  # it is imported from where it may be
        else:
            yield name, value


class _FoldWatch(Callback):
    """Writes the run's config.yaml when training begins, and the last word on a fold when it ends.

    Its place is before the callback that writes last.ckpt: a fold that is killed later has its word.
    """

    def __init__(self, config: Path, text: str, verdict: Path, line: CommandLine) -> None:
        self._config, self._text, self._verdict, self._line = config, text, verdict, line

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration if it is not there: from now on the run can be gone on with."""
        if not self._config.exists() and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            with replacing(self._config) as partial:
                partial.write_text(self._text, encoding="utf-8")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last word; which checkpoint to keep is no question here."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # as above
            return
        found = closing_parts(trainer)
        parts = [replace(part, keep=None) if isinstance(part, FitPart) else part for part in found]
        said = report(parts, lambda flags: command_of(with_flags(self._line, flags)))
        with replacing(self._verdict) as partial:
            partial.write_text(json.dumps({"headline": headline_in(parts), "verdict": said}), encoding="utf-8")


def fold_table(records: Sequence[FoldRecord], every: Scores, test: Scores | None) -> list[str]:
    """Return a table: a line a fold, their mean, the score of all rows out of fold, and that of the ensemble."""
    names = [*records[0].metrics]
    rows = [["fold", "rows", "epoch", *names, "verdict"]]
    for each in records:
        cells = [number_text(each.metrics.get(name)) for name in names]
        epoch = "–" if each.best_epoch is None else str(each.best_epoch)
        rows.append([str(each.fold), f"{each.rows:,}", epoch, *cells, each.headline or "–"])
    means, spreads = (
        {n: float(f([r.metrics.get(n, nan) for r in records])) for n in names} for f in (np.mean, _spread)
    )
    rows.append(["mean", "", "", *(number_text(means[name], spreads[name]) for name in names), ""])
    for label, found in (("out of fold", every), ("test, ensemble", test)):
        if found is not None:
            scores = [number_text(found.values.get(name), found.errors.get(name)) for name in names]
            rows.append([label, f"{found.rows:,}", "", *scores, ""])
    for label, of in (("baseline", "baseline"), ("reference", "reference")):
        known = [getattr(each, of) for each in records]
        if all(known):
            average = [float(np.mean([each.get(name, nan) for each in known])) for name in names]
            rows.append([f"mean {label}", "", "", *("–" if np.isnan(a) else number_text(a) for a in average), ""])
    return aligned(rows, left=[0, len(rows[0]) - 1])


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1))
