"""Find the losses of a run by their names, whoever chose these: `val_loss`, `valid/loss`, `evalLoss`, `loss_val`.

A name falls into words; a loss of a stage has a word for the stage and the word `loss`. What else it says tells which
loss: `kl` in `val_kl_loss`, nothing in the total. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache

TRAIN = {"train", "training", "tr", "trn"}
VAL = {"val", "vals", "valid", "validation", "vali", "eval", "evals", "evaluation", "dev"}
TEST = {"test", "testing"}  # many call their validation set so; a log is read so where there is no other
STAGES = TRAIN | VAL | TEST
LOSS = {"loss", "losses"}
LOSS_LIKE = {"nll", "bce", "xent", "crossentropy", "logloss", "mlogloss", "cost", "objective", "mse", "rmse", "mae"}

NOT_A_CURVE = {"best", "min", "max", "std", "var", "weight", "scale", "lowest"}
_ABOUT_A_LOSS = NOT_A_CURVE | {"weights", "rate", "ratio", "gap", "time", "count"}  # and not the loss itself
NEUTRAL = {"epoch", "step", "mean", "avg", "average", "total", "running", "metrics", "metric"}
_METRICS = "accuracy", "acc", "f1", "r2"  # higher is better in all of them
# Two losses of which one gains what the other loses: neither measures a fit.
_OPPONENTS = {"g", "gen", "generator", "actor"}, {"d", "disc", "discriminator", "critic"}

_LOADER = re.compile(r"[/_.]dataloader_idx_(\d+)$")  # what Lightning adds where there are several loaders
_JOINED = re.compile(rf"({'|'.join(sorted(STAGES))})(loss|losses)|(loss|losses)({'|'.join(sorted(STAGES))})")


def words(name: str) -> list[str]:
    """Return the words of a name: `valLoss`, `Val Loss`, `val/loss`, `valloss` and `val_loss` have the same."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.replace("mAP", "map"))
    found = [_JOINED.fullmatch(word) or word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]
    return [part for each in found for part in ([each] if isinstance(each, str) else filter(None, each.groups()))]


@lru_cache(1024)
def plain(name: str) -> str:
    """Return the words of a name in one form."""
    return "_".join(words(name))


def loader_of(name: str) -> int | None:
    """Return which validation loader a name belongs to; None where there is one."""
    found = _LOADER.search(name)
    return int(found[1]) if found else None


@lru_cache(1024)
def _said(name: str) -> frozenset[str]:
    said = frozenset(words(_LOADER.sub("", name)))
    if "fit" in said:  # the stage where no other is named, else the section of a board
        said = said - {"fit"} | ({"train"} - said if not said & STAGES else set())
    return said


def _kind(name: str) -> frozenset[str]:
    return frozenset(_said(name) - STAGES - LOSS - NEUTRAL)


def loss_extras(name: str, stages: Set[str], losses: Set[str] = LOSS) -> frozenset[str] | None:
    """Return what a loss of a stage says beyond that: `{"ce"}` for `val_ce_loss`; None where it is no such loss.

    Without `stages` it is to name none.
    """
    said = _said(name)
    if not losses & said or _ABOUT_A_LOSS & said:
        return None
    if not (stages & said if stages else not STAGES & said):
        return None
    return frozenset(said - stages - losses - NEUTRAL)


def preference(name: str) -> int:
    """Rank the names of one loss: an epoch's mean before what names no span, that before single steps."""
    said = _said(name)
    if said & {"step", "batch", "running"}:
        return 3
    if loader_of(name):
        return 4
    return 0 if "epoch" in said else 1 if not said & NEUTRAL else 2


def is_validation(name: str) -> bool:
    """Tell whether a name is of something measured on validation rows, over the whole of them."""
    said = _said(name)
    return bool(said & VAL) and not said & (TRAIN | TEST) and words(name)[-1] != "step"


def unstaged(names: Iterable[str], stage: Set[str]) -> dict[str, str]:
    """Return short names of what was logged, each with the logged one: `loss` for `val/loss`, `acc` for `valid_acc`.

    They lack the first word for a stage, and `epoch` at the end. Of several that then are alike, such as `val_loss` and
    `val_loss_epoch`, the one that names this stage counts; of these the mean over the epoch.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        said = words(_LOADER.sub("", name))
        first = next((word for word in said if word in STAGES), "")
        left = [word for at, word in enumerate(said) if at != (said.index(first) if first else -1)]
        left = left[:-1] if left[-1:] == ["epoch"] and left[1:] else left
        number = loader_of(name)
        short = "_".join(left or said) + ("" if number is None else f"/dataloader_idx_{number}")
        found.setdefault(short, []).append(name)
    return {s: min(alike, key=lambda name: (not stage & _said(name), preference(name))) for s, alike in found.items()}


def find_metric(names: Iterable[str]) -> str | None:
    """Return the first of accuracy, F1 and R² on validation rows that is logged, under any name; None without one."""
    found = {name: _kind(name) for name in sorted(names) if is_validation(name)}
    return next((name for metric in _METRICS for name, kind in found.items() if kind == {metric}), None)


@dataclass(frozen=True)
class LossNames:
    """The losses that were found; None where there is none, or several training losses are as likely."""

    train: str | None = None
    val: str | None = None
    others: tuple[str, ...] = ()  # as likely the validation loss: those of other loaders, or other parts of a total


def find_losses(names: Iterable[str], train: str = "train_loss", val: str = "val_loss") -> LossNames:
    """Return which of the logged names are the training and the validation loss.

    `train_loss` and `val_loss` stand for the losses, whatever they are called; any other name that is asked for is
    taken as it is, or not at all. Of several validation losses the one called `val_loss` is taken; else one whose
    training counterpart is logged; of these the simplest, of the first loader. Of a pair that play against each other
    (generator and discriminator) neither is taken. Where nothing is called a loss, `val_mse` beside `train_mse` is one.
    """
    names = sorted(name for name in names if isinstance(name, str))
    vals = {name: _kind(name) for name in names if is_validation(name) and loss_extras(name, VAL) is not None}
    trains = {name: _kind(name) for name in names if _is_of_training(name, LOSS)}
    if not vals:  # beside its counterpart alone: else it is a metric, in units of its own
        alike = {name: _kind(name) for name in names if _is_of_training(name, LOSS_LIKE) and STAGES & _said(name)}
        named = [name for name in names if is_validation(name) and loss_extras(name, VAL, LOSS_LIKE) == frozenset()]
        vals = {name: _kind(name) for name in named if _kind(name) in alike.values()}
        trains |= {name: kind for name, kind in alike.items() if kind in vals.values()}
    sides = [{name for name, kind in (vals | trains).items() if kind & side} for side in _OPPONENTS]
    if all(sides):
        vals, trains = (
            {n: kind for n, kind in each.items() if n not in sides[0] | sides[1]} for each in (vals, trains)
        )

    def rank(name: str) -> tuple[bool, bool, int]:
        return name != "val_loss", vals[name] not in trains.values(), len(vals[name])

    ranked = sorted(vals, key=lambda name: (*rank(name), preference(name), loader_of(name) or 0, len(name), name))
    found = next(iter(ranked), None) if val == "val_loss" else val if val in names else None
    first = {_measured(name): name for name in reversed(ranked) if rank(name) == rank(ranked[0])}
    others = [name for name in ranked[1:] if name in first.values()]
    counterpart = _counterpart(found, trains) if train == "train_loss" else train if train in names else None
    return LossNames(counterpart, found, tuple(others) if found in ranked[:1] and val != found else ())


def logged_as(monitor: str, names: Collection[str]) -> str:
    """Return the logged name that a monitor means: its own, or for `val_loss` that of the validation loss."""
    return monitor if monitor in names or monitor != "val_loss" else find_losses(names).val or monitor


def _is_of_training(name: str, losses: Set[str]) -> bool:
    """Whether a loss is of training by its name: it says so, or names no stage."""
    found = loss_extras(name, TRAIN if _said(name) & TRAIN else set(), losses)
    return found is not None and not _said(name) & (VAL | TEST)


def _measured(name: str) -> tuple[frozenset[str], int | None]:
    """What a loss measures, and on which rows: twins such as `val_loss` and `val_loss_epoch` measure the same."""
    return _kind(name), loader_of(name)


def _counterpart(val: str | None, trains: Mapping[str, frozenset[str]]) -> str | None:
    """Return the training loss that measures what a validation loss does; None if there is none, or one of several."""
    kind = frozenset[str]() if val is None else _kind(val)
    same = [name for name in trains if trains[name] == kind]
    if not same:
        staged = [name for name in trains if _said(name) & TRAIN] or [name for name in trains if not trains[name]]
        fewest = min((len(trains[name]) for name in staged), default=0)
        same = [name for name in staged if len(trains[name]) == fewest]
        if len({trains[name] for name in same}) > 1:
            return None

    def rank(name: str) -> tuple[bool, bool, bool, int, int, str]:
        unlike = val is None or _shape(name) != _shape(val)
        return unlike, name != "train_loss", not _said(name) & TRAIN, preference(name), len(name), name

    return min(same, key=rank, default=None)


def _shape(name: str) -> tuple[list[str], str]:
    """What two names share that differ in the stage alone."""
    bare = _LOADER.sub("", name)
    return ["" if word in STAGES else word for word in words(bare)], re.sub(r"[A-Za-z0-9]", "", bare)
