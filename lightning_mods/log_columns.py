"""Which of a log's columns hold the training loss, the validation loss and the metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from lightning_mods.log_names import (
    LOSS,
    LOSS_LIKE,
    TEST,
    TRAIN,
    VAL,
    is_epoch,
    is_step,
    loss_extras,
    metric_mode,
    metric_rank,
    part_of,
    plain,
    preference,
)
from lightning_mods.log_table import LogError, Table

_FEWEST = 2  # numbers; a column with one is a summary and gives way to a column with more


@dataclass(frozen=True)
class Asked:
    """What the person said of the columns; what is empty or None is looked for.

    Attributes:
        train: columns whose sum is the training loss.
        val: columns whose sum is the validation loss.
        metric: the column of the metric; "none" for no metric.
        metric_mode: "max" or "min"; None to go by the metric's name.
        epoch: the column that counts epochs.
    """

    train: Sequence[str] = ()
    val: Sequence[str] = ()
    metric: str | None = None
    metric_mode: str | None = None
    epoch: str | None = None


@dataclass(frozen=True)
class Columns:
    """The columns that are taken; several of a loss are summed."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    metric: str | None
    metric_mode: str
    epoch: str | None
    step: str | None


def choose(table: Table, asked: Asked) -> Columns:
    """Choose the columns.

    Raises:
        LogError: A column that was asked for is not there or holds no numbers; or no loss is found, or several are
            as likely.
    """
    usable = [name for name in table.columns if table.count(name)]
    val = tuple(_named(table, name, "--val") for name in asked.val)
    train = tuple(_named(table, name, "--train") for name in asked.train)
    if not val:
        val = _find_val(table, [name for name in usable if name not in train])
    if not train:
        train = _find_train(table, [name for name in usable if name not in val], val)
    if not train and not val:
        raise LogError(f"no loss is found; name the columns with --train and --val. {_list(usable)}")
    metric = _metric(table, asked, usable, val)
    mode = asked.metric_mode or (metric_mode(metric) if metric else "max")
    epochs = [name for name in usable if is_epoch(name)]
    epoch = _named(table, asked.epoch, "--epoch") if asked.epoch else next(iter(epochs), None)
    steps = sorted((name for name in usable if is_step(name)), key=lambda name: -table.count(name))
    return Columns(train, val, metric, mode, epoch, next(iter(steps), None))


def _named(table: Table, name: str, flag: str) -> str:
    """The column that a person means, whatever its case and separators."""
    names = list(table.columns)
    same = [each for each in names if each == name.strip()] or [each for each in names if plain(each) == plain(name)]
    if len(same) != 1:
        near = get_close_matches(name, names, 1, 0.5)
        guess = f"; did you mean {near[0]}?" if near else "."
        raise LogError(f"{flag}={name} is no column{guess} {_list(names)}")
    if not table.count(same[0]):
        held = table.words.get(same[0])
        what = f"`{_short(held)}`" if held else "empty cells only"
        raise LogError(f"{flag}={name} needs a column of numbers; it holds {what}.")
    return same[0]


def _find_val(table: Table, usable: list[str]) -> tuple[str, ...]:
    parts = _parts(usable, VAL)
    for stages in (VAL, TEST):
        for losses in (LOSS, LOSS_LIKE):
            names = [name for name in usable if loss_extras(name, stages, losses) is not None]
            names = [name for name in names if loss_extras(name, TRAIN, losses) is None]
            found = _one_of(table, names, stages, losses, "--val", parts)
            if found:
                return found
    return ()


def _find_train(table: Table, usable: list[str], val: tuple[str, ...]) -> tuple[str, ...]:
    parts = _parts(usable, TRAIN)
    if len(val) > 1:  # the same parts, or the gap between the two would be of different things
        wanted = {part_of(name) for name in val}
        return tuple(name for name in parts if part_of(name) in wanted)
    for losses in (LOSS, LOSS_LIKE):
        staged = [name for name in usable if loss_extras(name, TRAIN, losses) is not None]
        staged = [name for name in staged if loss_extras(name, VAL | TEST, losses) is None]
        bare = [name for name in usable if loss_extras(name, set(), losses) == frozenset()]
        if bare and len(_full(table, staged + bare)) < len(staged + bare):
            staged = _full(table, staged)  # Hugging Face's closing `train_loss` beside the `loss` of every step
        same = [n for n in staged if val and loss_extras(n, TRAIN, losses) == _extras(val[0])]
        found = _one_of(table, same or staged, TRAIN, losses, "--train", parts)
        if found or bare:
            return found or tuple(sorted(bare, key=preference)[:1])
    return ()


def _extras(name: str) -> frozenset[str] | None:
    found = (loss_extras(name, stages, losses) for stages in (VAL, TEST) for losses in (LOSS, LOSS_LIKE))
    return next((extras for extras in found if extras is not None), None)


def _full(table: Table, names: list[str]) -> list[str]:
    """Those with more than a closing number, where there are such."""
    full = [name for name in names if table.count(name) >= _FEWEST]
    return full or ([] if table.length >= _FEWEST else names)


def _one_of(
    table: Table, names: list[str], stages: set[str], losses: set[str], flag: str, parts: list[str]
) -> tuple[str, ...]:
    """The likeliest of the candidates; all of Ultralytics' parts where there is no whole."""
    names = [n for n in names if table.count(n) >= _FEWEST] or names
    if not names:
        return ()
    extras = {name: loss_extras(name, stages, losses) or frozenset() for name in names}
    fewest = min(len(extra) for extra in extras.values())
    best = [name for name in names if len(extras[name]) == fewest]
    if fewest and len(parts) > 1:
        return tuple(parts)
    best.sort(key=preference)
    if len({extras[name] for name in best}) > 1 or len([n for n in best if preference(n) == preference(best[0])]) > 1:
        raise LogError(f"several columns may be meant by {flag}; name one of {', '.join(best)}.")
    return (best[0],)


def _parts(names: list[str], stages: set[str]) -> list[str]:
    return [name for name in names if part_of(name) and plain(name).split("_")[0] in stages]


def _metric(table: Table, asked: Asked, usable: list[str], val: tuple[str, ...]) -> str | None:
    if asked.metric is not None:
        if asked.metric.lower() == "none" and "none" not in table.columns:
            return None
        return _named(table, asked.metric, "--metric")
    stages = TEST if val and _extras(val[0]) is not None and not VAL & set(plain(val[0]).split("_")) else VAL
    if table.kind == "YOLO results":
        stages = stages | {"metrics"}  # Ultralytics evaluates on the validation set alone
    ranks = {name: metric_rank(name, stages) for name in usable if table.count(name) >= _FEWEST}
    ranked = [(rank, name) for name, rank in ranks.items() if rank is not None]
    return min(ranked)[1] if ranked else None


def _short(text: str, most: int = 40) -> str:
    return " ".join(text.split())[:most]


def _list(names: list[str]) -> str:
    shown = ", ".join(_short(name, 80) for name in names[:20]) + (
        f" and {len(names) - 20} more" if len(names) > 20 else ""
    )
    return f"Its columns: {shown or 'none with numbers'}."
