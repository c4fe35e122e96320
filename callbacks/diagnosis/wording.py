"""Word a diagnosis: one reason with its numbers, the epoch it began in, and advice with a flag and a direction."""

from __future__ import annotations

from dataclasses import dataclass

from callbacks.diagnosis.curves import Curve
from callbacks.diagnosis.features import room_of


@dataclass(frozen=True)
class RunFacts:
    """The curves, the trivial loss, and how often each row was written: all that the sentences may speak of."""

    train: Curve | None
    val: Curve | None
    base: float | None
    times: int = 1


_ADVICE = {
    "still_improving": (
        "Train longer: raise --trainer.max_epochs two- to fourfold.",
        "Or learn faster: raise --model.lr about threefold, or lower --data.batch_size.",
        "If neither helps, lower --model.weight_decay and --model.dropout.",
    ),
    "not_learning": (
        "{rate}",
        "Check that features are scaled and targets in the order of their rows.",
        "Lower --model.weight_decay and --model.dropout to 0 until the loss moves.",
        "If it still stands at the trivial loss, the features may not tell the target.",
    ),
    "cannot_fit": (
        "Give the network more room: wider or more --model.hidden_sizes.",
        "Lower --model.dropout and --model.weight_decay.",
        "Try --model.lr three times lower and three times higher.",
        "If nothing moves the training loss, the features carry no more: add better ones.",
    ),
    "memorising": (
        "Keep the checkpoint of epoch {best}, or stop there with --trainer.max_epochs={stop}.",
        "Raise --model.weight_decay tenfold, or --model.dropout by 0.2.",
        "{early}",
        "Make the network smaller: fewer or narrower --model.hidden_sizes.",
        "Add training data: nothing helps more where it can be had.",
    ),
    "overconfident": (
        "For the metric, keep the last checkpoint; where probabilities matter, that of epoch {best}.",
        "Its probabilities are too extreme to be read as they are: rescale them on held-out rows "
        "(temperature scaling).",
        "Raise --model.weight_decay or --model.dropout to train a network that is less sure of itself.",
    ),
    "healthy": (
        "Keep the checkpoint of epoch {best}.",
        "For a lower loss change the model, not the length: --model.hidden_sizes, --model.lr, or more data.",
    ),
    "exploded": (
        "Lower --model.lr tenfold.",
        "Clip gradients: --trainer.gradient_clip_val=1.0.",
        "Look for infinite or huge values among features and targets; scale them.",
        "Raise --data.batch_size if single batches make it jump.",
    ),
    "too_few_epochs": (
        "Raise --trainer.max_epochs to ten or more.",
        "Evaluate after every epoch: --trainer.check_val_every_n_epoch=1.",
    ),
    "no_validation": (
        "Hold out rows and log their loss every epoch: training loss alone cannot show overfitting.",
        "If it is logged under another name, pass that name.",
    ),
    "loss_is_no_fit": (
        "If the loss is no measure of fit (GAN, reinforcement learning, contrastive), judge by a metric.",
        "Otherwise lower --model.lr about threefold: a training loss should not rise.",
    ),
    "unclear": (
        "Train on: raise --trainer.max_epochs until the curves part or flatten.",
        "Enlarge the validation set, so that its loss is less noisy.",
    ),
}


def advice_for(cause: str, facts: RunFacts) -> tuple[str, ...]:
    """Return what to do about a cause, the likeliest help first."""
    best, early = 0, ""
    rate = "Raise --model.lr tenfold: the loss does not move. If it then jumps, go down instead."
    if (val := facts.val) is not None:
        best = val.keep_epoch * facts.times
        if val.noise > 0.02 * abs(val.lowest):  # one that stands still wants a higher rate, one that jumps a lower one
            rate = "Lower --model.lr tenfold: the loss jumps without falling."
        if val.keep <= 0.1 * (len(val.smooth) - 1):  # passing the best epoch at once asks for smaller steps too
            early = "Lower --model.lr threefold, for the best epoch came almost at once."
    lines = (line.format(best=best, stop=best + 1, rate=rate, early=early) for line in _ADVICE[cause])
    return tuple(line for line in lines if line)


def reason_for(cause: str, facts: RunFacts) -> str:
    """Return the ground of a verdict in one sentence, with its numbers."""
    train, val = facts.train, facts.val
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
        "unclear": f"no verdict stands out; {now} with a noise of {val.noise:.2g}",
        "no_validation": "there is no validation loss to judge by",
    }[cause]
    return sentence[0].upper() + sentence[1:] + "."


def onset_of(facts: RunFacts) -> int | None:
    """Return the first epoch after the best from which the smoothed validation loss stays clearly above it."""
    val = facts.val
    if val is None:
        return None
    lowest = val.lowest if val.keep == val.best else max(val.kept, val.smooth[val.keep])
    line = lowest + max(2 * val.smooth_noise, 0.01 * room_of(val, facts.base))
    last_below = max((i for i, v in enumerate(val.smooth) if v <= line), default=0)
    return val.epochs[min(last_below + 1, len(val.epochs) - 1)] * facts.times
