"""Reach into Lightning where it has no public way, in this file alone; tried on pytorch-lightning 2.6.6.

`is_known` tells whether Lightning looks as it did there. Where it does not, every mini-batch goes through its loop, and
`last.ckpt` is written when an epoch ends: the plain way. Its test, `test_lightning_internals.py`,
fails when Lightning changes. What each door is worth stands in docs/decisions/0012-private-doors.md.
"""

from typing import Any

from callbacks.host.packages import Trainer

_STEPS = "_batches_that_stepped"  # the loggers' axis: no public name, but the loop gives and takes it as state
_COUNTS = ("ready", "started", "processed", "completed")


def is_known(trainer: Trainer) -> bool:
    """Tell whether the training loop counts in the places that this file writes to."""
    try:
        loop = trainer.fit_loop.epoch_loop
        optimizer = loop.automatic_optimization.optim_progress.optimizer
        trackers = [loop.batch_progress, optimizer.step, optimizer.zero_grad, loop.scheduler_progress]
        counts = [tracker.current.ready + tracker.total.ready for tracker in trackers]
        known = hasattr(loop.batch_progress, "is_last_batch") and hasattr(trainer.fit_loop, "restarting")
        return known and all(isinstance(n, int) for n in [*counts, loop.on_save_checkpoint()[_STEPS]])
    except (AttributeError, KeyError, TypeError):
        return False


def batches_done(trainer: Trainer, *, in_all: bool = False) -> int:
    """Return how many mini-batches of this epoch, or of all epochs, the training loop was handed."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.total.ready if in_all else progress.current.ready


def count_steps(trainer: Trainer, n: int, *, scheduled: bool = False) -> None:
    """Count n steps that were taken without the loop as it does; `scheduled`: those of a schedule that goes by them."""
    loop = trainer.fit_loop.epoch_loop
    optimizer = loop.automatic_optimization.optim_progress.optimizer
    counted = [loop.batch_progress, optimizer.step, optimizer.zero_grad]
    for progress in [*counted, loop.scheduler_progress] if scheduled else counted:
        for tracker in (progress.total, progress.current):
            for name in _COUNTS:
                if hasattr(tracker, name):  # not every one has all of them
                    setattr(tracker, name, getattr(tracker, name) + n)
    loop.on_load_checkpoint({_STEPS: loop.on_save_checkpoint()[_STEPS] + n})


def mark_last_batch(trainer: Trainer) -> None:
    """Tell the loop that the mini-batch it has is the epoch's last: it counts only those it was handed."""
    trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = True


def end_restart(trainer: Trainer) -> None:
    """Let ReduceLROnPlateau step after the first resumed epoch: Lightning skips it while the loop is `restarting`."""
    trainer.fit_loop.restarting = False


def at_epoch_start(checkpoint: dict[str, Any]) -> None:
    """Set the counts within the epoch to zero in a checkpoint that is taken when the epoch begins.

    Lightning does so only later: left as they are, a resumed run would take the epoch for done.
    """
    loops = checkpoint["loops"]["fit_loop"]
    checkpoint["loops"]["fit_loop"] = {
        key: _at_zero(value) if key.startswith("epoch_loop.") else value for key, value in loops.items()
    }


def _at_zero(progress: Any) -> Any:
    if not isinstance(progress, dict):
        return progress
    zero = {key: _at_zero(value) for key, value in progress.items()}
    if "current" in zero:
        zero["current"] = dict.fromkeys(zero["current"], 0)
    if "is_last_batch" in zero:
        zero["is_last_batch"] = False
    return zero


def epochs_done(checkpoint: dict[str, Any]) -> int:
    """Return how many epochs a checkpoint of a fit has behind it; the next one has this number."""
    loops = checkpoint.get("loops")
    # Saved weights-only, it has no loops; then `epoch` is the one it was saved in.
    return int(
        loops["fit_loop"]["epoch_progress"]["current"]["processed"] if loops else checkpoint.get("epoch", -1) + 1
    )


def every_n_train_steps(callback: Any) -> int:
    """Return the steps between two checkpoints; 0 for none. It has no public name but this one."""
    return int(callback.state_key.rpartition("'every_n_train_steps': ")[2].partition(",")[0])
