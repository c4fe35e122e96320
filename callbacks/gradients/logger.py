"""`GradientLogger`: shows what gradients and updates do to each layer. It writes, and judges nothing."""

import math
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from callbacks.gradients.flow import GradientFlow
from callbacks.gradients.session import GradientSchedule, GradientSession, ReadingAhead
from callbacks.host import Guard, NamedByPlace
from callbacks.host.packages import Callback, LightningModule, Trainer, kinds
from callbacks.loggers import dispatch
from callbacks.loggers.figures import png_of, rgb

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GradientLogger(NamedByPlace, Callback):
    """Logs, layer by layer and in all, what reaches the weights of any LightningModule and what becomes of them.

    A layer is a module with parameters of its own; its tags end in its path, those of all layers together in `total`
    (`total_0`, `total_1`, … with several optimizers, each looked at on its own steps):

    - `grad_norm/…`: 2-norm of the gradient that the step is taken with: accumulated, unscaled, averaged over ranks,
      not yet clipped.
    - `grad_norm_clipped/…`: the same after clipping, where something may clip: the trainer's `gradient_clip_val`, or
      the module's own `configure_gradient_clipping` or `on_before_optimizer_step`.
    - `weight_norm/…`: 2-norm of the weights before the step.
    - `update_ratio/…`: norm of the change that the step made, momentum and all, over that of the weights. About 1e-3
      is usual (https://cs231n.github.io/neural-networks-3/#ratio). Left out while the weights are all zero.
    - `grad_zeros/…`: fraction of the gradient that is exactly zero, in [0, 1].

    Beside these go histograms of up to 30 bins (`gradients/…` before clipping, `weights/…`) of up to 2048 elements of
    each parameter but the biases beside a matrix, and the picture `gradients/flow`: the gradient norm of the layers
    over the run. TensorBoard, W&B, Comet, MLflow and Visdom show them; a CSV logger has `histograms.jsonl` and
    `gradient_flow.png` beside its table, and without a logger they lie in the root folder, with `scalars.jsonl`.

    Gradient norms are of all elements. The rest is of `sample` evenly spaced elements of a larger parameter, with
    many parameters fewer (4 million in all). Tied parameters count once, under their first owner. Parameters that had
    no gradient in a step have no value at it. Complex numbers count as pairs of reals. Sparse gradients have no
    histogram. Sharded parameters are named and left out. NaN and infinity are logged as they are, and are left out of
    histograms. Weights are never touched, nor the random generators. Under DDP one rank alone reads and writes.

    Args:
        every: Steps of an optimizer from one reading of `grad_norm` and `grad_norm_clipped` to the next; 0 for none
            but those that come with updates and histograms.
        histograms_every: Steps from one set of histograms to the next; 0 for never.
        updates_every: Steps from one reading of `weight_norm`, `update_ratio` and `grad_zeros` to the next, which cost
            more and change slowly; 0 for never.
        write_every: Readings within as many steps (of the loggers' axis) are written as one, since writing is what
            costs: their means, and the largest norm in all as `grad_norm_max/total`. 1 writes each. What has waited
            for 10 seconds is written at the next reading, and the rest at each checkpoint and at the end.
        flow_every: Steps from one picture of gradient flow to the next, and one at the end; 0 for never.
        sample: Elements of a parameter that are looked at for all but gradient norms, at least 1.

    Raises:
        ValueError: A number below its least.
    """

    def __init__(
        self,
        every: int = 10,
        histograms_every: int = 100,
        *,
        updates_every: int = 100,
        write_every: int = 100,
        flow_every: int = 10_000,
        sample: int = 16_384,
    ) -> None:
        self.every = every
        self.histograms_every = histograms_every
        self.updates_every = updates_every
        self.write_every = write_every
        self.flow_every = flow_every
        self.sample = sample
        least = {"every": 0, "histograms_every": 0, "updates_every": 0, "flow_every": 0, "write_every": 1, "sample": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} must be at least {value}, not {getattr(self, name)}.")
        self._begin()

    def _begin(self) -> None:
        self._counts: list[int] = []  # steps of each optimizer
        self._flow: GradientFlow | None = None
        self._guard = Guard("GradientLogger")
        self._session: GradientSession | None = None

    def figure(self) -> "Figure | None":
        """Draw gradient flow so far, to show or save; None before the first gradient was read."""
        self.state_dict()  # brings the history up to date
        if self._flow is None or not self._flow.columns:
            return None
        from callbacks.gradients.figure import draw_gradient_flow  # matplotlib takes half a second to load

        return draw_gradient_flow(self._flow)

    def _repr_png_(self) -> bytes | None:
        return png_of(self.figure())  # a notebook shows it where the logger is a cell's last word

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps each optimizer has taken, and the history of gradient flow."""
        if self._session is not None:
            self._session.flush()
            self._counts, self._flow = self._session.counts, self._session.flow
        return {"counts": list(self._counts), "flow": None if self._flow is None else self._flow.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history of a checkpoint."""
        self._counts = [*map(int, state_dict["counts"])]
        self._flow = None if state_dict["flow"] is None else GradientFlow.load(state_dict["flow"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier run, unless this one goes on with it."""
        self.take_place(trainer)
        if stage == "fit" and trainer.current_epoch == 0:
            self._close()
            self._begin()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to follow the optimizers, on the rank that writes."""
        if not trainer.is_global_zero:
            return
        if isinstance(trainer.strategy, kinds(".strategies.DeepSpeedStrategy") + kinds(".strategies.FSDPStrategy")):
            if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # a connector's
                reason = "shards parameters, so that no rank has a whole gradient"
                self._guard.once(trainer, f"nothing is logged: {type(trainer.strategy).__name__} {reason}.")
            return
        with self._guard(trainer, "following the optimizers"):
            schedule = GradientSchedule(**{each.name: getattr(self, each.name) for each in fields(GradientSchedule)})
            past, draw = (self._flow, list(self._counts)), partial(self._draw, trainer)
            self._session = GradientSession(self, trainer, pl_module, self._guard, schedule, *past, draw)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Read gradients if that is due: they are unscaled and accumulated, and not yet clipped."""
        try:
            if self._session is not None:
                self._session.before_step(optimizer)
        except Exception as error:  # noqa: BLE001  # as in `Guard`
            self._guard.failed(trainer, "looking at the gradients", error)

    def steps_free(self, trainer: Trainer) -> float:
        """Return how many steps from now on may pass without the hooks: they are read on the way."""
        return math.inf if self._session is None else self._session.steps_free

    def steps_taken(self, trainer: Trainer, pl_module: LightningModule, taken: Any) -> None:
        """Count steps that were taken without the hooks."""
        if self._session is not None:
            self._session.skip(len(taken.losses))

    def next_reading(self, trainer: Trainer, ahead: int) -> float:
        """Return which of the coming steps, `ahead` or later, is due."""
        return math.inf if self._session is None else self._session.next_reading(ahead)

    def read_gradients(self, trainer: Trainer, ahead: int) -> ReadingAhead:
        """Read a coming step."""
        assert self._session is not None  # else none was announced
        return self._session.read_ahead(ahead)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and draw what is left, and leave the optimizers."""
        if self._session is not None and self.flow_every:
            self._draw(trainer)
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what is left, and leave the optimizers."""
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the optimizers, whatever happened."""
        self._close()

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._counts, self._flow = self._session.counts, self._session.flow
            self._session = None

    def _draw(self, trainer: Trainer) -> None:
        session = self._session
        if session is None:
            return
        session.flush()
        if trainer.fast_dev_run or not session.flow.columns:  # type: ignore[attr-defined]  # a connector's
            return
        with self._guard(trainer, "drawing gradient flow"):
            figure = self.figure()
            assert figure is not None  # there are columns
            dispatch.write_image(trainer, "gradients/flow", rgb(figure), session.flow.columns[-1].last)
