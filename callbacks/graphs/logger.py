"""Write down, once a run, what a training step computes and what autograd does with it."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from callbacks.graphs import CallRecorder, Graph, backward_graph, collapse, to_graph_def, to_svg
from callbacks.graphs.builders import EXPORT, ForwardGraphBuilder
from callbacks.graphs.calls import map_leaves
from callbacks.graphs.patience import Patience
from callbacks.host import Guard, NamedByPlace, say
from callbacks.host.packages import Callback, LightningModule, Trainer
from callbacks.loggers.base import Drawing
from callbacks.loggers.dispatch import adapters, write_graphs
from callbacks.loggers.files import FilesAdapter

LARGEST = 20_000  # nodes; a browser does not draw more in reasonable time


class GraphLogger(NamedByPlace, Callback):
    """Shows the compute graph of any LightningModule, forward and backward, e.g. in TensorBoard's Graphs tab.

    Watches the first training batch that has a loss, and writes two tags of one run: `Default`, the forward graph (each
    operation in the scope of its module, with shapes on the edges, parameters, inputs, outputs and the way to the
    loss), and `backward`, the nodes that autograd walks from the loss to the parameters where gradients land; with
    several losses, as in a GAN, `backward/0`, `backward/1` and so on. The forward graph comes from `torch.export`,
    without numbers, for the modules that `training_step` really called and the inputs they got. Where that cannot
    follow (a branch that depends on data), it is asked for their parts, and what remains is drawn as it was seen; one
    line says so. Where no call can be seen, as in a compiled step, `forward` is traced with `example_input_array` or
    the first batch. Weights, buffers and random states are left alone.

    W&B, Comet, MLflow and Visdom get SVG drawings of both. With a CSV logger, or none, `forward.svg` and `backward.svg`
    go into `graphs` in the log folder. Only the first rank writes, and once in a run's folder, also when the run is
    resumed. `fast_dev_run` writes nothing.

    Args:
        forward: Write the forward graph.
        backward: Write the backward graph.
        svg: Write the SVG files also where a logger shows the graphs.
        depth: Levels of modules that the SVG files keep apart; none for all.
        patience: Seconds that all of it may take, above 0. When most are used up, the forward graph is drawn as it was
            seen instead of traced.

    Raises:
        ValueError: `patience` or `depth` is too small.
    """

    def __init__(
        self,
        forward: bool = True,
        backward: bool = True,
        *,
        svg: bool = False,
        depth: int | None = None,
        patience: float = 5.0,
    ) -> None:
        if not patience > 0:
            raise ValueError(f"patience must be above 0 seconds, not {patience}.")
        if depth is not None and depth < 1:
            raise ValueError(f"depth must be at least 1, or none for all levels, not {depth}.")
        self.forward, self.backward, self.svg = forward, backward, svg
        self.depth, self.patience = depth, patience
        self._written_in = self._folder = ""
        self._due = False
        self._losses: list[Tensor] = []
        self._recorder: CallRecorder | None = None
        self._patience = Patience(patience)
        self._guard = Guard("GraphLogger")

    def state_dict(self) -> dict[str, Any]:
        """Return the folder that has its graphs."""
        return {"written_in": self._written_in}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the run of a checkpoint."""
        self._written_in = str(state_dict["written_in"])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is seen of a step: losses have a graph, which torch does not copy."""
        return {**vars(self), "_losses": [], "_recorder": None}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out which of several it is."""
        self.take_place(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the folder; every rank asks, as it is broadcast."""
        self._folder = str(trainer.log_dir or trainer.default_root_dir)
        fast: Any = trainer.fast_dev_run  # type: ignore[attr-defined]  # a connector's
        self._due = trainer.is_global_zero and not fast
        self._patience = Patience(self.patience)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to watch which modules are called."""
        self._stop()
        self._due = self._due and self._folder != self._written_in  # known only after a checkpoint was loaded
        if self._due:
            with self._guard(trainer, "watching the first batch"), self._patience:
                self._recorder = CallRecorder(pl_module, self._patience)
                self._recorder.start()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep the loss: its graph is what autograd walks next."""
        if self._recorder is None or (pl_module.automatic_optimization and self._losses):
            return  # an optimizer such as LBFGS goes through the step again
        self._losses.append(loss)
        self._recorder.paused = True  # a checkpointed module is called again inside of backward
        if pl_module.automatic_optimization:
            self._recorder.stop()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch on: a second loss may follow."""
        if self._recorder is not None:
            self._recorder.paused = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw what was seen and write it down."""
        recorder = self._recorder
        if recorder is None:
            return
        recorder.stop()
        if self._losses or not pl_module.automatic_optimization:  # else the step was skipped: look at the next one
            self._due, self._written_in = False, self._folder
            drawn: dict[str, Graph] = {}
            with self._patience:
                # The backward graph comes first: it is quick, and tracing takes what time there is.
                for index, loss in enumerate(self._losses if self.backward else ()):
                    tag = f"backward/{index}" if len(self._losses) > 1 else "backward"
                    with self._guard(trainer, f"drawing the graph `{tag}`"):
                        drawn[tag] = backward_graph(loss, pl_module, recorder, self._patience)
                if self.forward:
                    with self._guard(trainer, "drawing the forward graph"):
                        drawn["forward"] = self._forward(trainer, pl_module, recorder, batch)
                with self._guard(trainer, "drawing the graphs"):
                    self._write(trainer, drawn)
            if self.backward and not self._losses:
                text = "no backward graph: the first batch had no loss that went to manual_backward."
                self._guard.once(trainer, text)
        self._stop()

    def steps_free(self, trainer: Trainer) -> float:
        """Return how many steps need not be seen: none until the graphs are drawn, then all."""
        return 0 if self._due else math.inf

    def steps_taken(self, trainer: Trainer, pl_module: LightningModule, taken: Any) -> None:
        """Do nothing."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave no hook behind."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._stop()

    def _stop(self) -> None:
        if self._recorder is not None:
            self._recorder.stop()
        self._recorder, self._losses = None, []

    def _forward(self, trainer: Trainer, pl_module: LightningModule, recorder: CallRecorder, batch: Any) -> Graph:
        if recorder.error is not None:
            self._guard.once(trainer, f"could not see all calls ({recorder.error}).")
        # A forward pass of one rank alone might wait for the others.
        graph = None if recorder.calls or trainer.world_size > 1 else _guessed(pl_module, batch, self._patience)
        if graph is None:
            graph = ForwardGraphBuilder(pl_module, recorder.calls, self._patience).build(self._losses)
        if graph.origin != EXPORT:
            self._guard.once(trainer, f"the forward graph comes from {graph.origin}: {graph.note}.")
        return graph

    def _write(self, trainer: Trainer, graphs: dict[str, Graph]) -> None:
        drawn = {}
        for tag, whole in graphs.items():
            graph = whole if len(whole.nodes) <= LARGEST else collapse(whole)
            drawn[tag] = Drawing(partial(to_graph_def, graph), partial(to_svg, graph, self.depth, self._patience))
        files = [place for place in adapters(trainer) if isinstance(place, FilesAdapter)]
        if self.svg and not files and "://" not in self._folder:
            files = [FilesAdapter(Path(self._folder), None, fresh=False)]
            files[0].write_graphs(drawn, 0)
        write_graphs(trainer, drawn, 0)
        for place in files:
            say(trainer, f"GraphLogger: the graphs are in {place.folder / 'graphs'}.")


def _guessed(pl_module: LightningModule, batch: Any, patience: Patience) -> Graph | None:
    """The graph of `forward` as `torch.export` sees it, for `example_input_array` or what of the batch it takes."""
    for args, kwargs in _candidates(pl_module, batch):
        recorder = CallRecorder(pl_module, patience)
        recorder.note("", pl_module, args, kwargs)  # it is not called, only traced
        graph = ForwardGraphBuilder(pl_module, recorder.calls, patience).build([])
        if graph.origin == EXPORT:
            return graph
    return None


def _candidates(pl_module: LightningModule, batch: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    given, device = pl_module.example_input_array, pl_module.device
    example: Any = map_leaves(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, given)
    if isinstance(example, dict):
        yield (), example
    elif example is not None:
        yield (example if isinstance(example, tuple) else (example,)), {}
    if isinstance(batch, list | tuple) and batch:
        yield (batch[0],), {}
        yield tuple(batch[:-1]), {}
    yield (batch,), {}
