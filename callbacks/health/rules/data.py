"""Judge inputs and labels: arithmetic over plain numbers."""

import math
from collections.abc import Iterable, Iterator

from callbacks.health.facts import Contrast, Dependence, Inputs, Labels, Neighbours, Numbers
from callbacks.health.faults import Fault, Finding

UNSCALED_RMS = 10.0  # standardised columns have 1, pixels from 0 to 1 less, pixels from 0 to 255 about 85
SMALL_RMS, SMALL_LARGEST = 0.05, 0.1  # pixels divided by 255 twice reach 0.004; rows of length 1 are left alone
FEW_ROWS = 100
ORDERED = 0.5  # batches of a shuffled epoch hold 1 of its variety, give or take 0.1
DOMINANT_OF_TWO, DOMINANT, EVENNESS = 0.9, 0.8, 0.5
FAR_EFFECT, SURE = 2.5, 8.0  # a crop, an erased corner and other colours together come to 2
UNLIKE, RELIABLE = 0.3, 0.8
CROWDED = 0.6  # of the distance of two distribution functions, which is 0.1 for two samples of 250 rows alike
NO_SKILL = 0.97  # of the loss of the best constant
CHANCE = 3.0  # standard deviations
LOST = 0.35  # of the agreement of neighbours beyond chance
SHUFFLE = "Give the training DataLoader shuffle=True, or shuffle the rows where they are made."

Case = tuple[Fault, str, str]  # what, why, advice


def input_findings(inputs: Inputs, step: int) -> list[Finding]:
    """Find faults of the numbers that the first layer is given; NaN makes no finding."""
    found = list(_inputs(inputs))[:1]
    return [Finding(fault, inputs.layer, step, why, advice) for fault, why, advice in found]


def _inputs(x: Inputs) -> Iterator[Case]:
    if x.rows < 8:
        return
    if x.from_batch and x.spread <= 1e-6 * x.largest:
        why = f"all {x.rows} rows that `{x.layer}` was given are alike within their batch"
        yield Fault.INPUTS_CONSTANT, why, "Look at what the dataset returns: different rows must differ."
    if math.isfinite(x.column_rms) and x.column_rms > UNSCALED_RMS:
        where = "its inputs" if x.column_rms < 2 * x.rms else "one column"
        largest = f"`{x.layer}` is given numbers up to {x.largest:.3g}"
        why = f"{largest}; the root mean square of {where} is {x.column_rms:.3g}, not about 1"
        yield Fault.INPUTS_UNSCALED, why, "Scale each column to mean 0 and deviation 1, or pixels to 0…1."
    if not x.unit_rows and x.rms < SMALL_RMS and 0 < x.largest < SMALL_LARGEST:
        why = f"`{x.layer}` is given at most {x.largest:.2g}; the root mean square is {x.rms:.2g}, not about 1"
        advice = "Look whether the inputs are scaled twice, e.g. divided by 255 in two places."
        yield Fault.INPUTS_TOO_SMALL, why, advice


def class_findings(low: int, high: int, classes: int, step: int) -> list[Finding]:
    """Find a class of a batch that the head has no output for."""
    if low >= 0 and high < classes:
        return []
    which = high if high >= classes else low
    why = f"class {which} of a batch has no output: the head has {classes}, for 0 to {classes - 1}"
    return [out_of_range(why, step)]


def out_of_range(why: str, step: int) -> Finding:
    """Return the finding about a label that no output stands for."""
    advice = "Count classes from 0, and give the last layer one output for each."
    return _findings([(Fault.LABELS_OUT_OF_RANGE, why, advice)], step)[0]


def _findings(cases: Iterable[Case], step: int) -> list[Finding]:
    return [Finding(fault, "training data", step, why, advice) for fault, why, advice in cases]


def label_findings(labels: Labels, step: int, *, sequential: bool, random: bool) -> list[Finding]:
    """Find faults of the classes of one epoch.

    A loader is `sequential` or `random` if it is known to keep the rows' order, or to draw them at random.
    """
    cases = [*_balance(labels)]
    ordered = labels.within < ORDERED and labels.batches >= 4
    if ordered and not random and (sequential or _in_blocks(labels)):
        held = f"batches hold {labels.within:.0%} of the variety of classes of the epoch"
        changes = f"the commonest class changes only {max(labels.runs - 1, 0)} times in {labels.batches} batches"
        cases.append((Fault.UNSHUFFLED, f"{held}; {changes}", SHUFFLE))
    return _findings(cases, step)


def _in_blocks(labels: Labels) -> bool:
    return labels.within < ORDERED / 2 and labels.runs <= len(labels.counts) + 1 and labels.batches >= 2 * labels.runs


def _balance(labels: Labels) -> Iterator[Case]:
    rows = sum(labels.counts.values())
    if not rows or rows < FEW_ROWS:
        return
    commonest, most = max(labels.counts.items(), key=lambda item: item[1])
    if len(labels.counts) == 1:
        why = f"all {rows} training rows of the epoch are of class {commonest}"
        yield Fault.LABELS_ONE_CLASS, why, "Look at how the labels are made, and at the split."
        return
    shares = [count / rows for count in labels.counts.values()]
    evenness = -sum(share * math.log(share) for share in shares if share) / math.log(len(shares))
    dominant = DOMINANT_OF_TWO if len(shares) == 2 else DOMINANT
    if not labels.weighted and most / rows > dominant and evenness < EVENNESS:
        why = f"{most / rows:.1%} of {rows} training rows are of class {commonest} (of {len(shares)})"
        advice = "Weigh the classes in the loss, or draw rare ones more often (WeightedRandomSampler)."
        yield Fault.LABELS_UNBALANCED, why, advice


def number_findings(numbers: Numbers, step: int, *, sequential: bool) -> list[Finding]:
    """Find faults of the targets of a regression in one epoch; `sequential` as for `label_findings`.

    A stream of which that is not known may be a series that comes in the order of time, and cannot be shuffled.
    """
    cases: list[Case] = []
    if sequential and numbers.batches >= 6 and numbers.within < ORDERED and abs(numbers.trend) > 0.9:
        why = f"targets go up or down with time (rank correlation {numbers.trend:.2f})"
        cases.append((Fault.UNSHUFFLED, f"{why}; batches hold {numbers.within:.0%} of their variance", SHUFFLE))
    if numbers.rows >= FEW_ROWS and numbers.apart > CROWDED and numbers.narrower < 0.5:
        apart = f"their quartiles lie {numbers.narrower:.2f} times as far apart as the validation targets'"
        why = f"training targets crowd together: {apart}, and the distributions differ by {numbers.apart:.2f} (of 1)"
        advice = "Draw training rows so that all targets occur, or weigh the rare ones."
        cases.append((Fault.LABELS_UNBALANCED, why, advice))
    return _findings(cases, step)


def contrast_findings(contrast: Contrast, step: int) -> list[Finding]:
    """Find training rows made so differently from validation rows that they teach something else."""
    if contrast.label_shift > 0.25 or contrast.rows < 40:
        return []
    name, effect = max(contrast.effects.items(), key=lambda item: abs(item[1]), default=("", 0.0))
    sure = abs(effect) * math.sqrt(contrast.rows / 2) > SURE
    if abs(effect) > FAR_EFFECT and sure:
        why = f"the {name} of training rows lies {abs(effect):.1f} deviations from that of validation rows"
    elif contrast.likeness is not None and contrast.reliable > RELIABLE and contrast.likeness < UNLIKE:
        why = f"the mean training picture correlates {contrast.likeness:.2f} with the mean validation picture"
    else:
        return []
    advice = "Look at the training transforms: they must keep what a row shows, and scale like the validation's."
    return _findings([(Fault.WRONG_AUGMENTATION, why, advice)], step)


def may_be_unlearnable(best_val_loss: float, epochs: int, steps: int) -> bool:
    """Return whether a run has trained long enough, and learnt nothing, to ask whether there is anything to learn.

    The least validation loss so far is over that of the best constant; infinite if not known.
    """
    return NO_SKILL < best_val_loss < math.inf and epochs >= 4 and steps >= 100


def dependence_findings(seen: Dependence, step: int) -> list[Finding]:
    """Find labels that have nothing to do with the inputs: neither network nor neighbours nor a column tell them."""
    if seen.rows < 200 or max(abs(seen.neighbours), seen.column) > CHANCE or seen.best_val_loss < NO_SKILL:
        return []
    near = f"labels of {seen.rows} training rows agree with their neighbours' no more than by chance"
    why = f"{near} ({seen.neighbours:+.1f} standard deviations), and after {seen.epochs} epochs the validation loss is"
    return _labels_wrong(f"{why} {seen.best_val_loss:.2f} times the best constant's", step)


def neighbour_findings(seen: Neighbours, step: int) -> list[Finding]:
    """Find out whether a good part of the training labels is wrong: near rows agree much less than in validation.

    Rows that augmentation made lie further apart than validation rows; of those nothing is said.
    """
    known, lost = seen.val - seen.chance, seen.val - seen.train
    error = math.sqrt(max(seen.val * (1 - seen.val), 0.01) / max(seen.rows, 1))
    sure = known > SURE * error and lost > SURE / 2 * math.sqrt(2) * error
    if seen.rows < FEW_ROWS or not sure or lost < LOST * known or not 0.9 < seen.density < 1.1:
        return []
    wrong = 1 - math.sqrt(max(1 - lost / known, 0.0))  # both of a pair must be right to agree
    why = f"{seen.train:.0%} of near training rows share a label, {seen.val:.0%} of near validation rows do"
    return _labels_wrong(f"{why}: about {wrong:.0%} of the training labels look wrong", step)


def _labels_wrong(why: str, step: int) -> list[Finding]:
    advice = "Look at rows with their labels: they may be shifted against each other, shuffled apart or mislabelled."
    return _findings([(Fault.LABELS_WRONG, why, advice)], step)
