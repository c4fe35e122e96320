"""The names that a module's parameters and buffers have in its graph."""

from typing import Any

from torch import Tensor, nn

from callbacks._graph import BUFFER, CONSTANT, PARAMETER, Draft, Node
from callbacks._module_twin import plain
from callbacks._nested import flatten


class TensorNames:
    """Finds parameters and buffers by what they are, so that one with two names is one node.

    Args:
        module: Whose tensors are looked up.
    """

    def __init__(self, module: nn.Module) -> None:
        self._found: dict[int, tuple[str, str, Tensor]] = {}
        self._ports: dict[int, str] = {}
        for kind, named in ((BUFFER, module.named_buffers()), (PARAMETER, module.named_parameters())):
            for name, tensor in named:
                self._found[id(tensor)] = (kind, plain(name), tensor)

    def name(self, tensor: Tensor) -> str | None:
        """The first name of a parameter or buffer."""
        found = self._found.get(id(tensor))
        return found[1] if found else None

    def port(self, tensor: Tensor, draft: Draft, scope: str) -> str:
        """The node of a tensor, added when it is first asked for; a stranger becomes a constant in `scope`."""
        if id(tensor) not in self._ports:
            kind, name, _ = self._found.setdefault(id(tensor), (CONSTANT, f"{scope}.constant".lstrip("."), tensor))
            home, _, label = name.rpartition(".")
            shape = tuple(int(extent) for extent in tensor.shape)
            attributes = ((kind.lower(), name),) if kind != CONSTANT else ()
            node = Node("", kind, shapes=(shape,), dtype=dtype_of(tensor), attributes=attributes)
            self._ports[id(tensor)] = draft.add(home.replace(".", "/"), label, node)
        return self._ports[id(tensor)]


def dtype_of(value: Any) -> str:
    """The type of the first tensor in a nest, e.g. `float32`."""
    tensors = [leaf for _, leaf in flatten(value, "") if isinstance(leaf, Tensor)]
    return str(tensors[0].dtype).removeprefix("torch.") if tensors else ""
