"""Which layer each parameter belongs to, and which parameters can be looked at."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

TOTAL = "total"  # stands where a layer's name stands, for all of them
WRAPPERS = ("_orig_mod", "_forward_module")  # what torch.compile and Lightning's wrappers add to a path


@dataclass(frozen=True)
class Place:
    """Where a parameter stands.

    Args:
        index: Number of its layer, in the order in which the module registers them: the input's first.
        layer: Path of the module that owns it, e.g. `encoder.0`.
        name: Path of the parameter, e.g. `encoder.0.weight`.
    """

    index: int
    layer: str
    name: str


def places(module: nn.Module) -> dict[Tensor, Place]:
    """The place of every parameter of a module, a tied one under its first owner alone.

    A layer is a module with parameters of its own. Those of the outermost module itself go by its class's name.
    """
    found: dict[Tensor, Place] = {}
    index = 0
    for path, part in module.named_modules():
        own = [(name, p) for name, p in part.named_parameters(recurse=False) if p not in found]
        if own:
            clean = _clean(path)
            layer = clean or type(module).__name__
            layer = f"{layer} (layer)" if layer == TOTAL else layer
            for name, parameter in own:
                found[parameter] = Place(index, layer, f"{clean}.{name}" if clean else name)
            index += 1
    return found


def outside(index: int) -> Place:
    """The place of a parameter that an optimizer has and the module has not."""
    return Place(index, "elsewhere", f"elsewhere.{index}")


def sharded(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Those of which this rank holds a part alone: what is said of the part is not true of the whole."""
    loaded = sys.modules.get("torch.distributed.tensor")  # heavy to import, and without it there can be none
    kind = getattr(loaded, "DTensor", None)
    return [] if kind is None else [p for p in parameters if isinstance(p, kind)]


def _clean(path: str) -> str:
    return ".".join(part for part in path.split(".") if part not in WRAPPERS)
