"""`GraphedSteps`: on a GPU, the thirty kernels of a small step are launched as one CUDA graph."""

import torch
from torch import Tensor

from lightning_mods.chain_rule import ChainRule, Sgd

WARM_UP = 3  # steps before a capture, as https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs asks for


class GraphedSteps:
    """Steps of a `ChainRule` over mini-batches of one shape and with one set of SGD's numbers.

    Args:
        chain: Loaded; nothing of it changes.
        x: Rows of that shape, on the GPU.
        y: Their targets.
        rule: SGD's numbers; they are part of the graph.
    """

    def __init__(self, chain: ChainRule, x: Tensor, y: Tensor, rule: Sgd) -> None:
        self.rule = rule
        self.rows = len(x)
        self._x, self._y = x.clone(), y.clone()
        before = chain.snapshot()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                chain.step(self._x, self._y, rule)
        torch.cuda.current_stream().wait_stream(stream)
        chain.restore(before)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = chain.step(self._x, self._y, rule)
        chain.restore(before)
        self.agrees = self._check(chain, before)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One mini-batch; its mean loss before the update."""
        self._x.copy_(x)
        self._y.copy_(y)
        self._graph.replay()
        return self._loss.clone()

    def _check(self, chain: ChainRule, before: list[Tensor]) -> bool:
        """Whether a replay is, bit for bit, the step launched kernel by kernel."""
        self._graph.replay()
        found = [self._loss.clone(), *chain.snapshot()]
        chain.restore(before)
        wanted = [chain.step(self._x, self._y, self.rule), *chain.snapshot()]
        chain.restore(before)
        return all(map(torch.equal, found, wanted))
