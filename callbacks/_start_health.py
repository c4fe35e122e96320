"""What weights, optimizers and the first loss show before training moved anything, as arithmetic over plain numbers."""

from math import exp, isfinite, log, nan, sqrt

from callbacks._fault_words import Said, named
from callbacks._faults import Fault
from callbacks._health_facts import Facts

# Initial weights, as root mean square times sqrt(fan_in): torch's default has 0.58, He's 1.41, orthogonal ones at most
# about 1.4, N(0, 0.02) over 16 to 1024 inputs 0.08 to 0.64.
WIDE, NARROW, WIDE_ONE = 5.0, 0.03, 12.0
EPSILON = 1e-3  # of the class's default: below it, Adam divides rounding by rounding (default 1e-8, float32 keeps 1e-7)
DROPPED = 0.85  # of the units; Srivastava et al. 2014 find 0.5 to 0.8 of units kept best
LOUD = 2.5  # times the loss of knowing nothing, at the first batch; default and He initialisation stay below 1.5
LOUD_OUTPUT = 3.0  # a regression's first outputs, and the same times its targets; He initialisation gives about 1.4


def judge_start(facts: Facts) -> Said:
    """What weights, optimizers and the first loss show before training moved anything; NaN shows nothing."""
    yield from _initialisation(facts)
    for group in facts.optimizers:
        if group.eps < EPSILON * group.usual_eps:
            yield Fault.OPTIMIZER_EPSILON, group.kind, f"eps is {group.eps:g}, usual is {group.usual_eps:g}"
    for name, share in facts.dropouts.items():
        if share >= DROPPED:
            yield Fault.OVER_REGULARISED, name, f"dropout takes {share:.0%} of the units away"
    if facts.frozen:
        yield (
            Fault.NOT_UPDATING,
            facts.frozen[0],
            f"{named(facts.frozen)}: requires_grad=False on random initial weights",
        )
    head = facts.head
    if head is not None and head.loss > LOUD * head.ignorant:
        yield (
            Fault.OUTPUTS_OVERSCALED,
            "",
            f"the first loss is {head.loss:.3g} where knowing nothing costs {head.ignorant:.3g}: outputs are huge",
        )
    if head is not None and head.outputs > LOUD_OUTPUT * max(1.0, head.targets):
        size = f"{head.outputs:.3g} against targets of {head.targets:.3g}"
        yield Fault.OUTPUTS_OVERSCALED, "", f"the first outputs have size {size} (root mean squares)"


def _initialisation(facts: Facts) -> Said:
    weights = [w for w in facts.weights if w.trainable and w.size > 1]
    for w in weights:
        if w.rows_alike and w.rms > 0:
            yield Fault.CONSTANT_INITIALISATION, w.name, f"all its units start with the same weights (size {w.rms:.3g})"
            return
    if len(weights) > 1 and all(w.rms == 0 for w in weights):
        yield Fault.CONSTANT_INITIALISATION, weights[0].name, f"all {len(weights)} weight matrices start at zero"
        return
    scaled = {w.name: w.rms * sqrt(w.fan_in) for w in weights if w.rms > 0 and w.fan_in > 3}
    if not scaled:
        return
    usual = exp(sum(log(r) for r in scaled.values()) / len(scaled))
    if usual < NARROW:
        name, shown, how = "", usual, "shrinks"
    else:
        name, shown = next(((n, r) for n, r in scaled.items() if r > (WIDE if usual > WIDE else WIDE_ONE)), ("", nan))
        how = "grows"
    if isfinite(shown):
        times = f"weights start at {shown:.2g} times 1/sqrt(fan_in), usual 0.5 to 1.5"
        yield Fault.WRONG_INITIALISATION, name, f"{times}: the signal {how} layer by layer"
