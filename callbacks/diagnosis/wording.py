"""Word a diagnosis: one reason with its numbers, the epoch it began in, and advice: what to turn, and which way."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from callbacks.diagnosis.curves import Curve
from callbacks.diagnosis.features import room_of


@dataclass(frozen=True)
class RunFacts:
    """The curves, the trivial loss, how often each row was written, and flags: all that the sentences may speak of."""

    train: Curve | None
    val: Curve | None
    base: float | None
    times: int = 1
    flags: Collection[str] = ()  # of a command line, that the user has


_ADVICE = {
    "still_improving": (
        "Train longer: raise {max_epochs} two- to fourfold.",
        "Or learn faster: raise {lr} about threefold, or lower {batch_size}.",
        "If neither helps, lower {weight_decay} and {dropout}.",
    ),
    "not_learning": (
        "{rate}",
        "Check that features are scaled and targets in the order of their rows.",
        "Lower {weight_decay} and {dropout} to 0 until the loss moves.",
        "If it still stands at the trivial loss, the features may not tell the target.",
    ),
    "cannot_fit": (
        "Give the network more room: wider or more {hidden_sizes}.",
        "Lower {dropout} and {weight_decay}.",
        "Try {lr} three times lower and three times higher.",
        "If nothing moves the training loss, the features carry no more: add better ones.",
    ),
    "memorising": (
        "Take the weights of epoch {best}, if they were kept, or stop there{stop}.",
        "Raise {weight_decay} tenfold, or {dropout} by 0.2.",
        "{early}",
        "Make the network smaller: fewer or narrower {hidden_sizes}.",
        "Add training data: nothing helps more where it can be had.",
    ),
    "overconfident": (
        "For the metric, keep the last checkpoint; where probabilities matter, that of epoch {best}.",
        "Its probabilities are too extreme to be read as they are: rescale them on held-out rows "
        "(temperature scaling).",
        "Raise {weight_decay} or {dropout} to train a network that is less sure of itself.",
    ),
    "healthy": (
        "Take the weights of epoch {best}, if they were kept.",
        "For a lower loss change the model, not the length: {hidden_sizes}, {lr}, or more data.",
    ),
    "exploded": (
        "Lower {lr} tenfold.",
        "Clip gradients: {clip}.",
        "Look for infinite or huge values among features and targets; scale them.",
        "Raise {batch_size} if single batches make it jump.",
    ),
    "too_few_epochs": ("Raise {max_epochs} to ten or more.", "Evaluate after every epoch{every}."),
    "no_validation": (
        "Hold out rows and log their loss every epoch: training loss alone cannot show overfitting.",
        "If it is logged under another name, pass that name.",
    ),
    "no_signal": (
        "Check what is logged: the loss that is trained, of the right rows, with targets in the order of their rows.",
        "If that is so, raise {lr} tenfold: what the network learns does not show.",
        "Compare it with the trivial loss (that of the best constant prediction): at it nothing is learnt.",
    ),
    "loss_is_no_fit": (
        "If the loss is no measure of fit (GAN, reinforcement learning, contrastive), judge by a metric.",
        "Otherwise lower {lr} about threefold: a training loss should not rise.",
    ),
    "unclear": (
        "Train on: raise {max_epochs} until the curves part or flatten.",
        "Enlarge the validation set, so that its loss is less noisy.",
    ),
}


_KNOBS = {  # the flags for it, of which the first that the user has is named, and what it is called without one
    "max_epochs": (("trainer.max_epochs",), "the number of epochs"),
    "stop": (("trainer.max_epochs",), " (EarlyStopping, or {epochs} epochs)"),
    "lr": (("optimizer.lr", "model.lr"), "the learning rate"),
    "batch_size": (("data.batch_size",), "the batch size"),
    "weight_decay": (("optimizer.weight_decay", "model.weight_decay"), "the optimizer's weight_decay"),
    "dropout": (("model.dropout",), "dropout"),
    "hidden_sizes": (("model.hidden_sizes",), "layers"),
    "clip": (("trainer.gradient_clip_val",), "to a norm of 1"),
    "every": (("trainer.check_val_every_n_epoch",), ""),
}
_WITH_A_FLAG = {"stop": " with --{flag}={epochs}", "clip": "--{flag}=1.0", "every": ": --{flag}=1"}


def _knobs(flags: Collection[str], epochs: int) -> dict[str, str]:
    found = {}
    for knob, (known, name) in _KNOBS.items():
        flag = next((flag for flag in known if flag in flags), None)
        found[knob] = (name if flag is None else _WITH_A_FLAG.get(knob, "--{flag}")).format(flag=flag, epochs=epochs)
    return found


def advice_for(cause: str, facts: RunFacts) -> tuple[str, ...]:
    """Return what to do about a cause, the likeliest help first; by the flags that the user has, else in words."""
    best, early = 0, ""
    rate = "Raise {lr} tenfold: the loss does not move. If it then jumps, go down instead."
    if (val := facts.val) is not None:
        best = val.keep_epoch * facts.times
        if val.noise > 0.02 * abs(val.lowest):  # one that stands still wants a higher rate, one that jumps a lower one
            rate = "Lower {lr} tenfold: the loss jumps without falling."
        if val.keep <= 0.1 * (len(val.smooth) - 1):  # passing the best epoch at once asks for smaller steps too
            early = "Lower {lr} threefold, for the best epoch came almost at once."
    knobs = _knobs(facts.flags, best + 1)
    knobs |= {"best": str(best), "rate": rate.format(**knobs), "early": early.format(**knobs)}
    return tuple(line for line in (line.format(**knobs) for line in _ADVICE[cause]) if line)


def reason_for(cause: str, facts: RunFacts) -> str:
    """Return the ground of a verdict in one sentence, with its numbers; none is below what was measured."""
    # The end of a line through a bent curve can be.
    train, val = (c and replace(c, end=max(c.end, c.raw_lowest)) for c in (facts.train, facts.val))
    if val is None:
        return "A loss ended as no number." if cause == "exploded" else "There is no validation loss to judge by."
    best = val.keep_epoch * facts.times
    last = val.epochs[-1] * facts.times
    now = f"validation loss went from {val.start:.4g} to {val.end:.4g} over {val.count} evaluations"
    lowest = f"was lowest in epoch {best} ({val.kept:.4g})"
    from_best = f"validation loss {lowest} and stands at {val.end:.4g} in epoch {last}"
    falls = ""
    if train is not None:
        falls = f", training loss went from {train.at_epoch(val.keep_epoch):.4g} to {train.end:.4g} meanwhile"
    trivial = f"the first, {val.start:.4g}" if facts.base is None else f"the trivial {facts.base:.4g}"
    sentence = {
        "still_improving": f"{now}, of which {val.at(0.5) - val.end:.3g} in the second half: it has not levelled off",
        "not_learning": f"the lowest validation loss, {val.lowest:.4g}, is hardly below {trivial}",
        "cannot_fit": f"{now} and moves no more{falls}: it stays high without a gap",
        "memorising": from_best + falls,
        "overconfident": f"{from_best}, but the metric holds: only the probabilities got worse",
        "healthy": f"{now}, {lowest} and has levelled off",
        "exploded": f"the losses blew up or ended as no number; {now} before",
        "too_few_epochs": f"there are {val.count} evaluations of the validation loss; it takes 4",
        "loss_is_no_fit": f"the training loss rose, so it does not measure fit; {now}",
        "no_signal": _no_signal(val),
        "unclear": f"no verdict stands out; {now} with a noise of {val.noise:.2g}",
        "no_validation": "there is no validation loss to judge by",
    }[cause]
    return sentence[0].upper() + sentence[1:] + "."


def _no_signal(val: Curve) -> str:
    low, high = min(val.points), max(val.points)
    if low == high:
        return f"the validation loss is {low:.4g} in all {val.count} evaluations"
    return f"the validation loss moves between {low:.4g} and {high:.4g} as noise does, without any order"


def onset_of(facts: RunFacts) -> int | None:
    """Return the first epoch after the best from which the smoothed validation loss stays clearly above its lowest."""
    val, last = facts.val, 0 if facts.val is None else len(facts.val.epochs) - 1
    if val is None or val.keep == last:
        return None
    line = min(val.smooth[val.keep :]) + max(2 * val.smooth_noise, 0.01 * room_of(val, facts.base))
    last_below = max((i for i, v in enumerate(val.smooth) if v <= line), default=0)
    return val.epochs[min(max(last_below, val.keep) + 1, last)] * facts.times
