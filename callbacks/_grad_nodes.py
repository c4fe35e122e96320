"""What autograd's nodes tell about themselves."""

import re
from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.autograd.graph import Node as GradNode

from callbacks._module_calls import Call, Value

NAME = re.compile(r"(?:Backward\d*)+$")


def parameter_of(function: GradNode) -> Tensor | None:
    """The tensor in which a gradient lands, where the node is such an end."""
    return getattr(function, "variable", None) if function.name().endswith("AccumulateGrad") else None


def operation(function: GradNode) -> str:
    """The forward operation behind a node, e.g. `addmm` of AddmmBackward0."""
    name = NAME.sub("", function.name().rpartition("::")[2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() or function.name()


def walk(starts: Iterable[GradNode], stops: Iterable[GradNode] = ()) -> Iterator[GradNode]:
    """All nodes that a gradient passes on its way to `stops`, each once, those nearest to the starts first."""
    waiting = list(dict.fromkeys(starts))
    seen = {*waiting, *stops}
    for function in waiting:  # grows while it is read
        yield function
        for after, _ in function.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                waiting.append(after)


def owners(calls: Iterable[Call]) -> dict[GradNode, Call]:
    """Which call of a module each of autograd's nodes comes from: the innermost one."""
    found: dict[GradNode, Call] = {}
    for outermost in calls:
        for call in outermost.all_calls():
            before = {value.source[0] for _, value in call.inputs if value.source}
            after = [v.source[0] for _, v in call.outputs if isinstance(v, Value) and v.source]
            for function in walk((function for function in after if function not in before), before):
                if parameter_of(function) is None:
                    found.setdefault(function, call)
    return found
