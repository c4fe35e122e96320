"""The one door to torch's lists of hooks: it has no public way to ask whether anybody listens."""

from torch import nn
from torch.optim import Optimizer

_ON_MODULES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_ON_PARAMETERS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_ON_OPTIMIZERS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


def is_listened_to(module: nn.Module, optimizer: Optimizer, known: str) -> bool:
    """Whether somebody has hung a hook on the passes through a module, or on the steps of its optimizer.

    Args:
        module: With its parts and their parameters.
        optimizer: Hooks on it that are defined in the package `known` do not count.
        known: Name of a package.
    """
    if any(getattr(part, name, None) for part in module.modules() for name in _ON_MODULES):
        return True
    if any(getattr(parameter, name, None) for parameter in module.parameters() for name in _ON_PARAMETERS):
        return True
    hooks = (hook for name in _ON_OPTIMIZERS for hook in getattr(optimizer, name, {}).values())
    return any(not str(getattr(hook, "__module__", "")).startswith(f"{known}.") for hook in hooks)
