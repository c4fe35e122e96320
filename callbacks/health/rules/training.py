"""Judge weights, updates, gradients, units and losses of a run: arithmetic over plain numbers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from math import exp, inf, isfinite, log, nan, sqrt
from statistics import fmean, median
from typing import Any

from callbacks.health.facts import Facts, LayerReading, Reading, Units, WeightStart
from callbacks.health.faults import ADVICE, Fault, Finding, Said, named

BLOCKS = 64  # means kept at most; then neighbours are joined
STILL = 0.05  # of the loss, in `LossCourse`


@dataclass
class LossCourse:
    """Keeps the first loss, and the mean and the peak of blocks of equal length over the whole run.

    A loss that is NaN or infinite is counted and kept out of the means.
    """

    start: float = nan
    means: list[float] = field(default_factory=list)
    count: int = 0
    peak: float = -inf
    size: int = 1  # losses in a block
    open: list[float] = field(default_factory=list)  # losses of the block that is not full yet

    def extend(self, losses: Iterable[float]) -> list[float]:
        """Add the losses of some batches, in their order; return those that are finite."""
        finite = [loss for loss in losses if isfinite(loss)]
        if finite and not self.count:
            self.start = finite[0]
        self.count += len(finite)
        self.peak = max([self.peak, *finite])
        self.open += finite
        while len(self.open) >= self.size:
            self.means.append(sum(self.open[: self.size]) / self.size)
            del self.open[: self.size]
            if len(self.means) > BLOCKS:
                self.means = [(a + b) / 2 for a, b in zip(self.means[::2], self.means[1::2], strict=False)]
                self.size *= 2
        return finite

    @property
    def recent(self) -> float:
        """Mean over the last eighth of the run, at least two blocks; NaN before the first."""
        tail = self.means[-max(2, len(self.means) // 8) :]
        return fmean(tail) if tail else nan

    @property
    def floor(self) -> float:
        """Lowest of the last eighth of the means, at least four: one batch of a single row lifts no floor."""
        return min(self.means[-max(4, len(self.means) // 8) :], default=nan)

    @property
    def stands_still(self) -> bool:
        """Whether the last quarter lies within 5 % of the first, or within twice what chance makes of such means."""
        quarter = len(self.means) // 4
        if quarter < 2:
            return False
        first, last = self.means[:quarter], self.means[-quarter:]
        here, there = fmean(first), fmean(last)
        squares = sum((v - here) ** 2 for v in first) + sum((v - there) ** 2 for v in last)
        chance = 2 * sqrt(squares / (quarter * (quarter - 1)))
        return abs(here - there) < max(STILL * abs(here), chance)

    def state(self) -> dict[str, Any]:
        """Return the course as plain data."""
        return asdict(self)

    def load(self, state: dict[str, Any]) -> None:
        """Go on with a course that was kept; what is none raises a ValueError or TypeError."""
        kept = {**asdict(self), **state}  # one from before some of it was kept
        self.start, self.peak = float(kept["start"]), float(kept["peak"])
        self.means, self.open = [*map(float, kept["means"])], [*map(float, kept["open"])]
        self.count, self.size = int(kept["count"]), int(kept["size"])
        if self.size < 1 or len(self.means) > 2 * BLOCKS:
            raise ValueError("a course has blocks of at least one loss")


# Initial weights, as root mean square times sqrt(fan_in): torch's default has 0.58, He's 1.41, orthogonal ones at most
# about 1.4, N(0, 0.02) over 16 to 1024 inputs 0.08 to 0.64.
WIDE, NARROW, WIDE_ONE = 5.0, 0.03, 12.0
EPSILON = 1e-3  # of the class's default: below it, Adam divides rounding by rounding (default 1e-8, float32 keeps 1e-7)
DROPPED = 0.85  # of the units; Srivastava et al. 2014 find 0.5 to 0.8 of units kept best
LOUD = 2.5  # times the loss of knowing nothing, at the first batch; default and He initialisation stay below 1.5
LOUD_OUTPUT = 3.0  # a regression's first outputs, and the same times its targets; He initialisation gives about 1.4


def judge_start(facts: Facts) -> Said:
    """Judge weights, optimizers and the first loss before training moved anything; NaN shows nothing."""
    yield from _initialisation(facts)
    for group in facts.optimizers:
        if group.eps < EPSILON * group.usual_eps:
            yield Fault.OPTIMIZER_EPSILON, group.kind, f"eps is {group.eps:g}, usual is {group.usual_eps:g}"
    head = facts.head
    if head is not None and head.loss > LOUD * head.ignorant:
        why = f"the first loss is {head.loss:.3g} where knowing nothing costs {head.ignorant:.3g}: outputs are huge"
        yield Fault.OUTPUTS_OVERSCALED, "", why
    if head is not None and head.outputs > LOUD_OUTPUT * max(1.0, head.targets):
        size = f"{head.outputs:.3g} against targets of {head.targets:.3g}"
        yield Fault.OUTPUTS_OVERSCALED, "", f"the first outputs have size {size} (root mean squares)"


def _initialisation(facts: Facts) -> Said:
    weights = [w for w in facts.weights if w.trainable and w.size > 1]
    # Units alike are of no harm in a last layer, each of which has a target of its own, nor where the next layer tells
    # them apart. A zero is usual at the end of a branch; only where nothing else is there does nothing get through.
    zero = len(weights) > 1 and all(w.rms == 0 for w in weights)
    for one, other in ((w, later) for i, w in enumerate(weights) for later in weights[i + 1 :]):
        alike = one.rows_alike and other.columns_alike and one.name in facts.hidden
        if alike and _may_feed(one, other) and (zero or one.rms > 0):
            size = f"all {len(weights)} weight matrices start at zero" if zero else f"(size {one.rms:.3g})"
            why = size if zero else f"all its units start with the same weights {size}, and so do those after it"
            yield Fault.CONSTANT_INITIALISATION, one.name, why
            return
    if zero:
        return
    scaled = {w.name: w.rms * sqrt(w.fan_in) for w in weights if w.rms > 0 and w.fan_in > 3}
    if not scaled:
        return
    usual = exp(sum(log(r) for r in scaled.values()) / len(scaled))
    name, shown, how = "", usual, "shrinks"
    if usual >= NARROW or len(scaled) < 2:  # one layer has nobody to pass a small signal on to
        wide, how = WIDE if usual > WIDE else WIDE_ONE, "grows"
        name, shown = next(((n, r) for n, r in scaled.items() if r > wide), ("", nan))
    if isfinite(shown):
        times = f"weights start at {shown:.2g} times 1/sqrt(fan_in), usual 0.5 to 1.5"
        yield Fault.WRONG_INITIALISATION, name, f"{times}: the signal {how} layer by layer"


def _may_feed(one: WeightStart, other: WeightStart) -> bool:
    # Perhaps laid flat, or by kernels: a multiple.
    return one.units > 1 and other.fan_in % one.units == 0 and (one.rms > 0 or other.fan_in == one.units)


EARLY = 6  # readings (the first ones are a step apart)
LEAP = 0.5  # update over weight; 0.001 is usual, and a step of half a weight's size forgets what was learned
STRIDE = 0.05  # of a rate that makes the loss rise
DIVERGED = 3.0  # times the first loss
CRAWL = 0.005  # of a weight's size, travelled in the whole run
SHRUNK, SHRUNK_FAR = 0.5, 0.1  # of the initial weight
HALF, HARDLY = 0.5, 0.9  # of the first loss is left
VANISHED = 1e-4  # first layer's gradient over the last's, root mean squares; eight sigmoid layers give 1e-5
EXPLODED = 1e4
# Attention that looks everywhere alike, as at the start, gives its queries and keys next to no gradient. They are the
# first matrices of a transformer, and the values beside them get a hundred times as much; through eight sigmoid layers
# a gradient shrinks five times a layer. ARRIVED is over the last layer's, again.
JUMP, ARRIVED, FEWEST = 20.0, 1e-3, 6
DEAD = 0.8  # of a layer's units; healthy nets have some and live with them, deep ones without a norm half
FLAT = 0.8  # of a layer's values
# A net has memorised when its training loss is below a twentieth of the first one; overfitting costs it something when
# it fails to gain, on validation rows, a third of what it gained on training rows, and its accuracy is not high.
MEMORISED, GAP, HELD, LASTING = 0.05, 0.3, 0.9, 3


def judge_units(facts: Facts, course: LossCourse) -> Said:
    """Judge a window of activations. Gates may be open or shut for good: flat ones are a fault of what learns badly."""
    dead = [u for u in facts.units if u.kind == "relu" and u.share >= DEAD and u.units > 1]
    if dead:
        counts = f"{round(dead[0].share * dead[0].units)} of {dead[0].units} units"
        why = f"{counts} were zero for every sample of {dead[0].batches} batches{_also(dead)}"
        yield Fault.DEAD_UNITS, dead[0].layer, why
    flat = [u for u in facts.units if u.kind != "relu" and u.share >= FLAT]
    if flat and _stuck(course):
        where = f"{flat[0].share:.0%} of its {flat[0].kind} outputs lie where it is flat"
        yield Fault.SATURATED_UNITS, flat[0].layer, f"{where}, over {flat[0].batches} batches{_also(flat)}"


def _also(units: Sequence[Units]) -> str:
    return f"; likewise in {named(tuple(u.layer for u in units[1:]))}" if len(units) > 1 else ""


def judge_course(facts: Facts, course: LossCourse, *, seen_epoch: bool) -> Said:
    """Judge the readings so far and the course of the loss; NaN among the readings is passed by.

    Only when every row was seen at least once is little progress a sign.
    """
    if facts.kept_gradients:
        why = f"{facts.kept_gradients} steps in a row used the gradients of the step before once more"
        yield Fault.GRADIENTS_NOT_ZEROED, "", why
    if facts.unoptimized:
        why = f"{named(facts.unoptimized)} stand in no optimizer, and the layers before them do"
        yield Fault.NOT_UPDATING, facts.unoptimized[0], why
    if facts.cut is not None:
        handed = f"what `{facts.cut.before[-1]}` makes reaches `{facts.cut.after}` without its gradient (detach, .data)"
        yield Fault.NOT_UPDATING, facts.unreached[0], f"{named(facts.unreached)} never got a gradient: {handed}"
    if not facts.readings:
        return
    for rule in (_shrunk, _leaps, *((_depth, _crawls) if seen_epoch else ())):
        yield from rule(facts, course)


def judge_epochs(facts: Facts, start: float, epochs: Sequence[tuple[float, float]], accuracy: float) -> Said:
    """Judge the losses of whole epochs, pairs of mean training loss and validation loss; NaN where there was none.

    Accuracy is the last epoch's in validation; NaN if it is not logged. The first pair is the first epoch's: if its
    validation loss is far over what training began with, the two are not in one unit.
    """
    last = epochs[-LASTING:]
    if facts.regularised or not facts.alone or len(last) < LASTING or accuracy >= HELD:
        return
    if epochs[0][1] > DIVERGED * abs(start):
        return
    if all(t < MEMORISED * start and (v - t) > GAP * (start - t) for t, v in last):
        train, val = last[-1]
        fell = f"training loss fell from {start:.3g} to {train:.3g}, validation stands at {val:.3g}"
        yield Fault.UNDER_REGULARISED, "", f"no dropout and no weight decay; {fell}"


def judge_blow_up(course: LossCourse, reading: Reading | None) -> Said:
    """Tell why a run whose data are finite reached a number that is not."""
    ratio = nan if reading is None else _over_matrices(reading, lambda r: r.update / r.weight)
    if course.count > 1 and course.peak > 10 * max(abs(course.start), 1e-3):
        why = f"the loss rose from {course.start:.3g} to {course.peak:.3g} and then out of range"
        yield Fault.LEARNING_RATE_TOO_HIGH, "", why
    elif ratio > LEAP:
        why = f"steps changed the weights by {ratio:.0%} of their size, then out of range"
        yield Fault.LEARNING_RATE_TOO_HIGH, "", why


def _leaps(facts: Facts, course: LossCourse) -> Said:
    if not facts.alone or course.count < 20:
        return
    early = _strides(facts.readings[:EARLY])
    leap = median(early) if early else nan
    stuck = course.recent > course.start - 0.1 * abs(course.start)
    leapt = course.start > 0 and course.peak > DIVERGED * course.start
    if leap > LEAP and (stuck or leapt):
        why = f"early steps changed weights by {leap:.0%} of their first size (usual: 0.1 %), and the loss went from"
        peak = f", over {course.peak:.3g}" if leapt else ""
        yield Fault.LEARNING_RATE_TOO_HIGH, "", f"{why} {course.start:.3g} to {course.recent:.3g}{peak}"
    elif course.floor > DIVERGED * course.start > 0 and max(_strides(facts.readings), default=nan) > STRIDE:
        # Else it may rise by itself: its terms gain weight, or its targets grow with what was learnt.
        yield Fault.LEARNING_RATE_TOO_HIGH, "", f"the loss rose from {course.start:.3g} to {course.recent:.3g}"


def _strides(readings: Iterable[Reading]) -> list[float]:
    # What each step changed, over the weights' first size, where that is known.
    ratios = (_over_matrices(reading, lambda r: r.update / r.start) for reading in readings)
    return [r for r in ratios if isfinite(r)]


def _crawls(facts: Facts, course: LossCourse) -> Said:
    last = facts.readings[-1]
    way = _over_matrices(last, lambda r: r.travelled / r.start)
    if not (facts.alone and course.stands_still and course.count >= 40):
        return
    name, share = max(facts.dropouts.items(), key=lambda item: item[1], default=("", 0.0))
    if share >= DROPPED:  # that alone is no fault: a wide layer may do with a tenth of its units
        why = f"dropout takes {share:.0%} of the units away, and the loss stays at {course.recent:.4g}"
        yield Fault.OVER_REGULARISED, name, why
    if not way < CRAWL:
        return
    large = next((g for g in facts.optimizers if g.eps > 1e-4 and g.eps > 100 * g.usual_eps), None)
    if large is not None:
        why = f"eps is {large.eps:g}, usual is {large.usual_eps:g}, and nothing moves"
        yield Fault.OPTIMIZER_EPSILON, large.kind, why
        return
    rate = max((g.lr for g in facts.optimizers), default=nan)
    why = f"at lr {rate:.3g} weights moved by {way:.2%} of their size in {last.step} steps, the loss from"
    yield Fault.LEARNING_RATE_TOO_LOW, "", f"{why} {course.start:.4g} to {course.recent:.4g}"


def _shrunk(facts: Facts, course: LossCourse) -> Said:
    left = _over_matrices(facts.readings[-1], lambda r: r.weight / r.start)
    decay = max((g.decay for g in facts.optimizers), default=0.0)
    # A decay takes the weights of features that say nothing, which is no fault where much was learned meanwhile.
    # Without one a penalty is part of the loss, which tells less.
    unlearned = course.recent / course.start if course.start > 0 else inf
    far, near = (HALF, HARDLY) if decay else (-inf, HALF)
    if (
        facts.alone
        and course.recent > facts.reachable
        and ((left < SHRUNK_FAR and unlearned > far) or (left < SHRUNK and unlearned > near))
    ):
        with_decay = f" under a weight decay of {decay:g}" if decay else ""
        why = f"weights shrank to {left:.0%} of where they started{with_decay}, the loss is at {course.recent:.3g}"
        yield Fault.OVER_REGULARISED, "", why


def _depth(facts: Facts, course: LossCourse) -> Said:
    early = facts.readings[:EARLY]
    matrices = [[r for r in reading.layers if r.matrix and r.gradient > 0] for reading in early]
    if len(early) < EARLY or any(len(layers) < 4 for layers in matrices):
        return
    first = matrices[0][0].name
    ratio = _ratio(matrices, first)
    numbers = f"its gradient is {ratio:.1e} times that of `{matrices[0][-1].name}` (medians of {EARLY} steps)"
    if ratio < VANISHED and not _idle(matrices) and facts.alone and course.recent > 0.5 * course.start:
        yield Fault.VANISHING_GRADIENT, first, numbers
    if ratio > EXPLODED and facts.alone and _stuck(course):  # else it may be a faint task that comes last
        yield Fault.EXPLODING_GRADIENT, first, numbers


def _stuck(course: LossCourse) -> bool:
    return course.count >= 40 and course.recent > 0.8 * course.start


def _idle(matrices: Sequence[Sequence[LayerReading]]) -> bool:
    # The first layers stand beside one that the gradient reaches, as queries and keys beside values.
    if len(matrices[0]) < FEWEST:
        return False
    first, second, third = (_ratio(matrices, layer.name) for layer in matrices[0][:3])
    return any(after > max(ARRIVED, JUMP * before) for before, after in ((first, second), (second, third)))


def _ratio(matrices: Sequence[Sequence[LayerReading]], name: str) -> float:
    # Of a layer's gradient to that of the last one: the median of the readings that have it.
    return median(r.gradient / layers[-1].gradient for layers in matrices for r in layers if r.name == name)


def _over_matrices(reading: Reading, ratio: Callable[[LayerReading], float]) -> float:
    # The median; NaN if none has one. Matrices that started at zero have none.
    values = [ratio(r) for r in reading.layers if r.matrix and r.start > 0 and r.weight > 0]
    values = [v for v in values if v == v]
    return median(values) if values else nan


def findings_of(said: Said, step: int) -> list[Finding]:
    """Return findings with their advice, of what was said at a step."""
    return [Finding(fault, where, step, why, ADVICE[fault]) for fault, where, why in said]
