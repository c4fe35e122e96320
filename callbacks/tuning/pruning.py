"""`TrialPruning`: tells Optuna how a fit is doing, and ends it when Optuna finds it hopeless."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from callbacks.host import Fresh, logged
from callbacks.search.plan import SearchError

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True)
class _Verdict:
    """What rank zero decides and every rank does."""

    prune: str = ""  # why the trial is pruned
    wrong: str = ""  # what the user has to put right
    broken: str = ""  # what failed on rank zero, which raises it itself


class TrialPruning(Callback):
    """Reports a metric to an Optuna trial after every validation, and prunes the trial by raising `TrialPruned`.

    For any Trainer and every storage. The sanity check is not reported, nor a value that was not logged anew. With
    several processes rank zero reports and decides, and all ranks raise together. A metric that is no longer finite
    ends the trial at once, whatever the pruner; it is not reported, since no pruner can compare it. In a study of
    several objectives Optuna has no pruning, and nothing is reported. A fit without validation reports after every
    epoch of training.

    Args:
        trial: The trial. Only rank zero's is used; None elsewhere, where a script is started anew for each rank.
        monitor: Name of the metric, as logged.
        first_step: Step of the first report; the steps count up from it. Give the second fit of the same trial (another
            seed or fold) the `next_step` of the first, since Optuna takes each step once.

    Raises:
        SearchError: The metric is not there after the second validation, or at the end of the fit.
        optuna.TrialPruned: From `trainer.fit`.
    """

    def __init__(self, trial: Trial | None, monitor: str = "val_loss", *, first_step: int = 0) -> None:
        self.trial = trial
        self.monitor = monitor
        self.first_step = first_step
        self.next_step = first_step
        self._begin()

    def _begin(self) -> None:
        self._fresh = Fresh()
        self._missed = 0  # validations without the metric
        self._seen = False

    @property
    def state_key(self) -> str:
        """Tells the prunings of one trainer apart by what they read."""
        return f"{type(self).__qualname__}[{self.monitor}]"

    def state_dict(self) -> dict[str, Any]:
        """The step of the next report."""
        return {"next_step": self.next_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where a checkpoint ended."""
        self.next_step = state_dict["next_step"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what an earlier fit logged; the steps go on."""
        if stage == "fit":
            self._begin()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and prune if it is time."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._all_ranks(trainer, self._report(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what training logged, in a fit without validation."""
        if not trainer.enable_validation:
            self._all_ranks(trainer, self._report(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the metric never came."""
        never = self._missed and not self._seen and self.monitor not in trainer.callback_metrics
        self._all_ranks(trainer, (_Verdict(wrong=self._never_logged(trainer) if never else ""), None))

    # ----------------------------------------------------------------- deciding

    def _report(self, trainer: Trainer) -> tuple[_Verdict, Exception | None]:
        """What rank zero makes of the newest value; other ranks read along and decide nothing."""
        value = self._fresh.read(trainer, self.monitor)
        step = self.next_step
        self.next_step += 1
        if value is None:
            self._missed += 1
            late = self._missed > 1 and not self._seen and self.monitor not in trainer.callback_metrics
            return _Verdict(wrong=self._never_logged(trainer) if late else ""), None
        self._seen = True
        if self.trial is None or not trainer.is_global_zero or len(self.trial.study.directions) > 1:
            return _Verdict(), None
        try:
            return _Verdict(prune=self._judge(value, step)), None
        except Exception as error:  # noqa: BLE001  # raised again, once the other ranks know
            return _Verdict(broken=f"{type(error).__name__}: {error}"), error

    def _judge(self, value: float, step: int) -> str:
        """Why the trial ends here; empty if it goes on."""
        assert self.trial is not None
        if not math.isfinite(value):
            return f"{self.monitor} is {value} at step {step}"
        self.trial.report(value, step)
        hopeless = self.trial.should_prune()
        return (
            f"{type(self.trial.study.pruner).__name__}: {self.monitor} {value:.6g} at step {step}" if hopeless else ""
        )

    def _all_ranks(self, trainer: Trainer, decided: tuple[_Verdict, Exception | None]) -> None:
        """Let every rank do what rank zero decided: one that went on alone would wait for the others for ever."""
        own, error = decided
        verdict: _Verdict = trainer.strategy.broadcast(own, src=0)
        if error is not None:
            raise error
        if verdict.broken:
            raise RuntimeError(f"TrialPruning failed on rank zero ({verdict.broken}).")
        if verdict.wrong:
            raise SearchError(verdict.wrong)
        if verdict.prune:
            from optuna import TrialPruned

            raise TrialPruned(verdict.prune)

    def _never_logged(self, trainer: Trainer) -> str:
        there = ", ".join(sorted(logged(trainer))) or "nothing"
        return f"TrialPruning reads {self.monitor!r}, which was not logged; logged were: {there}."
