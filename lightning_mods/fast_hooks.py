"""The one door to torch's lists of hooks: it has no public way to ask whether anybody listens."""

from torch import nn
from torch.optim import Optimizer

_ON_MODULES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_ON_PARAMETERS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_ON_OPTIMIZERS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


class Hooks:
    """Tells whether somebody has hung a hook on the passes through a module, or on the steps of its optimizer.

    Args:
        module: With its parts and their parameters as they are now: looking for them takes as long as a step.
        known: Name of a package; hooks on the optimizer that are defined in it do not count.
    """

    def __init__(self, module: nn.Module, *, known: str) -> None:
        self._parts = list(module.modules())
        self._parameters = list(module.parameters())
        self._known = f"{known}."

    def listened_to(self, optimizer: Optimizer) -> bool:
        """Whether there is one now."""
        for name in _ON_MODULES:
            for part in self._parts:
                if getattr(part, name, None):
                    return True
        for name in _ON_PARAMETERS:
            for parameter in self._parameters:
                if getattr(parameter, name, None):
                    return True
        hooks = (hook for name in _ON_OPTIMIZERS for hook in getattr(optimizer, name, {}).values())
        return any(not str(getattr(hook, "__module__", "")).startswith(self._known) for hook in hooks)
