"""The compute graph of any module: forward as `torch.export` sees it, backward as autograd will walk it."""

from math import inf
from typing import Any

from torch import Tensor, nn

from callbacks.graphs.builders import BackwardGraphBuilder, ForwardGraphBuilder
from callbacks.graphs.calls import CallRecorder
from callbacks.graphs.model import Graph, Node, collapse
from callbacks.graphs.patience import Patience
from callbacks.graphs.render import to_dot, to_graph_def, to_svg
from callbacks.host.packages import isolated_random_numbers
from callbacks.readers.twin import Twins

__all__ = ["CallRecorder", "Graph", "Node", "backward_graph", "collapse", "forward_graph"]
__all__ += ["to_dot", "to_graph_def", "to_svg"]

PATIENCE = 60.0  # seconds for torch.export, unless told otherwise


def forward_graph(module: nn.Module, *args: Any, **kwargs: Any) -> Graph:
    """Return the forward graph of a module for given inputs.

    The module runs once, as a copy and with the random state put back afterwards; then `torch.export`
    traces it without numbers. Where that cannot follow, its parts are traced one by one, and a part that cannot be
    traced is one node, as it was seen in the run. There is a node for every operation, parameter, input and output, in
    the scopes of their modules.

    Args:
        module: Any module, compiled ones too.
        *args: What it is called with: tensors, and lists, tuples and dicts of them.
        **kwargs: What it is called with by name.
    """
    own: nn.Module = Twins().of(module)
    with isolated_random_numbers(), CallRecorder(own) as recorder:
        own(*args, **kwargs)
    with Patience(PATIENCE) as patience:
        return ForwardGraphBuilder(own, recorder.calls, patience).build([])


def backward_graph(
    loss: Tensor, module: nn.Module, watched: CallRecorder | None = None, patience: Patience | None = None
) -> Graph:
    """Return what autograd will do for a loss: its nodes, from the loss to the parameters where gradients land.

    ```python
    with CallRecorder(module) as watched:
        loss = module(x).square().mean()
    graph = backward_graph(loss, module, watched)
    ```

    Its arrows are the way of the gradient; nodes of the kind AccumulateGrad have a parameter's name.

    Args:
        loss: A tensor that autograd made; before or after `backward`.
        module: Whose parameters and modules give the names.
        watched: The calls that led to the loss: an operation stands in the scope of the module it came from. Without,
            it stands beside the parameter it uses, if any.
        patience: Ends it with a TimeoutError when it takes too long.
    """
    return BackwardGraphBuilder(module, watched.calls if watched else (), patience or Patience(inf)).build(loss)
