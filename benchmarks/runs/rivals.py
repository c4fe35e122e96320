"""The rivals: rules re-implemented from their definition, and packages as they come from the index.

Each rival takes a run and says underfit, good, overfit or diverged. A tool that finds nothing wrong has
said good; what its findings are called in our words is written at each.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np


class Run(Protocol):
    """What a rival reads of a run: two curves of one length, of this folder or of `benchmarks/interventions`."""

    @property
    def train_loss(self) -> Sequence[float | None]: ...

    @property
    def val_loss(self) -> Sequence[float | None]: ...


Rival = Callable[[Run], str]


def _finite(values: Sequence[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]


def gl(threshold: float) -> Rival:
    """Prechelt 1998: generalisation loss, 100 (loss / best so far - 1), above a threshold at the stop."""

    def verdict(run: Run) -> str:
        v = _finite(run.val_loss)
        return "overfit" if v and 100 * (v[-1] / min(v) - 1) > threshold else "good"

    return verdict


def gl_or_falling(run: Run) -> str:
    """GL > 3, else underfit while validation loss still fell by 2 % over the last quarter."""
    v = _finite(run.val_loss)
    if not v or 100 * (v[-1] / min(v) - 1) > 3:
        return "overfit"
    before = v[-max(2, len(v) // 4 + 1)]
    return "underfit" if v[-1] < 0.98 * before else "good"


def sagemaker(run: Run) -> str:
    """SageMaker Debugger's Overfit rule by default: (val - train) / train above 0.1 twice running."""
    over = 0
    for train, val in zip(run.train_loss, run.val_loss, strict=True):
        if train is None or val is None:
            continue
        over = over + 1 if val - train > 0.1 * train else 0
        if over > 1:
            return "overfit"
    return "good"


def early_stopping(run: Run) -> str:
    """Lightning's EarlyStopping by default (patience 3, min_delta 0): what it stops early was overfitting."""
    best, wait = math.inf, 0
    for v in run.val_loss:
        if v is None or not math.isfinite(v):
            return "diverged"  # check_finite
        best, wait = (v, 0) if v < best else (best, wait + 1)
        if wait >= 3:
            return "overfit"
    return "good"


def as_rows(run: Run) -> list[tuple[int, float, float]]:
    """Epoch, training loss, validation loss; a loss that was no number is NaN."""
    nan = math.nan
    pairs = zip(run.train_loss, run.val_loss, strict=True)
    return [(i, nan if t is None else t, nan if v is None else v) for i, (t, v) in enumerate(pairs)]


def in_our_words(found: set[str], words: dict[str, str]) -> str:
    """Translate what a package found; what comes first in `words` weighs most."""
    return next((ours for theirs, ours in words.items() if theirs in found), "good")


def runmedic() -> Rival:
    from runmedic import checks, model, roles

    words = {"non_finite": "diverged", "divergence": "diverged", "overfitting": "overfit", "no_learning": "underfit"}

    def verdict(run: Run) -> str:
        theirs = model.Run("run", "csv", "run")
        for i, t, v in as_rows(run):
            theirs.get("train_loss").add(i, t)
            theirs.get("val_loss").add(i, v)
        return in_our_words({f.check for f in checks.run_checks(theirs, roles.detect(theirs))}, words)

    return verdict


def finetune_doctor() -> Rival:
    from finetune_doctor import diagnosis, history

    # An overfitting finding below WARNING is titled "Final checkpoint slightly worse": no verdict of
    # overfitting.
    words = {"loss_degenerate": "diverged", "overfitting": "overfit", "not_learning": "underfit"}

    def verdict(run: Run) -> str:
        log: list[dict[str, float]] = []
        for i, t, v in as_rows(run):
            log += [{"step": i + 1, "epoch": i + 1, "loss": t}, {"step": i + 1, "epoch": i + 1, "eval_loss": v}]
        theirs = history.from_trainer_state({"log_history": log, "global_step": len(run.val_loss)})
        findings = diagnosis.diagnose(theirs).findings
        return in_our_words({f.check for f in findings if f.check != "overfitting" or f.severity.name != "INFO"}, words)

    return verdict


def trainspotter() -> Rival:
    from trainspotter import model
    from trainspotter.detectors import run_all

    words = {"divergence": "diverged", "overfitting": "overfit", "plateau": "underfit"}

    def verdict(run: Run) -> str:
        theirs = model.Run()
        for i, t, v in as_rows(run):
            theirs.add_point("train/loss", i, t)
            theirs.add_point("eval/loss", i, v)
        return in_our_words({f.detector for f in run_all(theirs)}, words)

    return verdict


def losslint() -> Rival:
    from losslint import checks, parsing

    words = {"nan_inf": "diverged", "divergence": "diverged", "overfit_onset": "overfit", "stagnation": "underfit"}

    def verdict(run: Run) -> str:
        rows = as_rows(run)
        series = {"loss": [t for _, t, _ in rows], "eval_loss": [v for _, _, v in rows]}
        theirs = parsing.RunLog([i for i, _, _ in rows], series, Path("run"))
        return in_our_words({f.check for f in checks.run_all_checks(theirs)}, words)

    return verdict


def gradsnitch() -> Rival:
    import gradsnitch
    import pandas as pd

    words = {"GS001": "diverged", "GS006": "diverged", "GS004": "overfit", "GS005": "underfit"}

    def verdict(run: Run) -> str:
        frame = pd.DataFrame(as_rows(run), columns=["step", "train_loss", "val_loss"])
        frame["step"] *= 20  # its patience is 100 steps, and an epoch of ours is about twenty
        return in_our_words({f.code for f in gradsnitch.lint(frame)}, words)

    return verdict


PACKAGES = (runmedic, finetune_doctor, trainspotter, losslint, gradsnitch)


def available() -> dict[str, Rival]:
    """The rivals that can be asked here; prints the packages that are not installed."""
    rules: dict[str, Rival] = {
        "Prechelt GL(5)": gl(5),
        "GL>3, else falling 2 %": gl_or_falling,
        "SageMaker Overfit": sagemaker,
        "EarlyStopping(3)": early_stopping,
    }
    return rules | installed(PACKAGES)


def installed(packages: Iterable[Callable[[], Rival]]) -> dict[str, Rival]:
    """The packages that can be asked here; prints those that are not installed."""
    found: dict[str, Rival] = {}
    for make in packages:
        try:
            found[make.__name__] = quiet(make())
        except ImportError as error:
            print(f"left out: {make.__name__} is not installed ({error})")
    return found


def quiet(rival: Rival) -> Rival:
    """A tool that dies on a run has said nothing, which is counted as unknown."""

    def verdict(run: Run) -> str:
        with np.errstate(all="ignore"), contextlib.suppress(Exception):
            return rival(run)
        return "unknown"

    return verdict
