"""Curves out of a log's table: which columns are the losses and the metric, and their rows paired by epoch.

The training loss of an epoch is the mean of its rows, the validation loss and the metric its last. Where epochs
cannot be told apart, or are fractions, or too few are left, an evaluation takes the place of an epoch. Rows may
come in any order; of rows written twice the later wins. NaN counts where an epoch holds nothing else.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby, pairwise
from math import ceil, isfinite
from statistics import fmean
from typing import Any, NamedTuple

from callbacks.diagnosis.names import (
    LOSS,
    LOSS_LIKE,
    NEUTRAL,
    NOT_A_CURVE,
    TEST,
    TRAIN,
    VAL,
    find_losses,
    loss_extras,
    plain,
    preference,
    words,
)
from callbacks.diagnosis.verdict import FEWEST
from datamodules.errors import shortened
from lightning_mods.diagnose.formats import Cell, LogError, Table, is_epoch, is_step

_PARTS = {"box", "cls", "dfl", "obj", "seg", "sem", "pose", "kobj", "giou", "l1", "rle", "angle"}  # of Ultralytics
_METRICS = (  # the first that is found; a pattern over the words joined by _
    *("accuracy|acc|top_?1|accuracy_top1", "f1|f1_score|f1score", "auroc|auc|roc_auc"),
    *("map50_95|map_50_95|map_0_5_0_95|map", r"map\d*|map_\d+(_\d+)?", "iou|miou|jaccard|dice", "mcc|kappa"),
    *("bleu|rouge\\w*", "wer|cer|error_rate|err"),
)
_ERRORS = {"error", "err", "wer", "cer", "perplexity", "ppl", "fid", "distance", "mape", "msle"}  # low is good
_FEWEST = 2  # numbers; a column with one is a summary and gives way to a column with more
_WIDEST = 20  # points there may be for each epoch that was logged; beyond it the numbers are no epochs in a row


@dataclass(frozen=True)
class ColumnRequest:
    """The columns that a person asked for; what is empty or None is looked for."""

    train: Sequence[str] = ()  # their sum is the training loss
    val: Sequence[str] = ()  # their sum is the validation loss
    metric: str | None = None  # "none" for no metric
    metric_mode: str | None = None  # "max" or "min"; None to go by the metric's name
    epoch: str | None = None  # counts epochs


@dataclass(frozen=True)
class Columns:
    """The columns of a log that are taken; several of a loss are summed."""

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    metric: str | None = None
    metric_mode: str = "max"
    epoch: str | None = None
    step: str | None = None


def choose_columns(table: Table, asked: ColumnRequest) -> Columns:
    """Choose the columns of a log that are its losses, its metric and what counts its epochs.

    It is a LogError if one that was asked for is not there or holds no numbers, if no loss is found, or several are
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
    mode = asked.metric_mode or (_metric_mode(metric) if metric else "max")
    epochs = [name for name in usable if is_epoch(name)]
    epoch = _named(table, asked.epoch, "--epoch") if asked.epoch else next(iter(epochs), None)
    steps = sorted((name for name in usable if is_step(name)), key=lambda name: -table.count(name))
    return Columns(train, val, metric, mode, epoch, next(iter(steps), None))


def _named(table: Table, name: str, flag: str) -> str:
    # whatever its case and separators
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
            found = _likeliest(table, names, stages, losses, "--val", parts)
            if found:
                return found
    return ()


def _find_train(table: Table, usable: list[str], val: tuple[str, ...]) -> tuple[str, ...]:
    parts = _parts(usable, TRAIN)
    if len(val) > 1:  # the same parts, or the gap between the two would be of different things
        wanted = {_part_of(name) for name in val}
        return tuple(name for name in parts if _part_of(name) in wanted)
    for losses in (LOSS, LOSS_LIKE):
        staged = [name for name in usable if loss_extras(name, TRAIN, losses) is not None]
        staged = [name for name in staged if loss_extras(name, VAL | TEST, losses) is None]
        bare = [name for name in usable if loss_extras(name, set(), losses) == frozenset()]
        if bare and len(_full(table, staged + bare)) < len(staged + bare):
            staged = _full(table, staged)  # Hugging Face's closing `train_loss` beside the `loss` of every step
        same = [n for n in staged if val and loss_extras(n, TRAIN, losses) == _extras(val[0])]
        found = _likeliest(table, same or staged, TRAIN, losses, "--train", parts)
        if found or bare:
            return found or tuple(sorted(bare, key=preference)[:1])
    return ()


def _extras(name: str) -> frozenset[str] | None:
    found = (loss_extras(name, stages, losses) for stages in (VAL, TEST) for losses in (LOSS, LOSS_LIKE))
    return next((extras for extras in found if extras is not None), None)


def _full(table: Table, names: list[str]) -> list[str]:
    # those with more than a closing number, where there are such
    full = [name for name in names if table.count(name) >= _FEWEST]
    return full or ([] if table.length >= _FEWEST else names)


def _likeliest(
    table: Table, names: list[str], stages: set[str], losses: set[str], flag: str, parts: list[str]
) -> tuple[str, ...]:
    # all of Ultralytics' parts where there is no whole
    names = [n for n in names if table.count(n) >= _FEWEST] or names
    if not names:
        return ()
    extras = {name: loss_extras(name, stages, losses) or frozenset() for name in names}
    fewest = min(map(len, extras.values()))
    if fewest and len(parts) > 1:
        return tuple(parts)
    best = sorted((name for name in names if len(extras[name]) == fewest), key=preference)
    alike = [name for name in best if preference(name) == preference(best[0])]
    if len({extras[name] for name in best}) == 1 and len(alike) > 1:  # names of one loss: the usual one, as in a fit
        found = find_losses(alike)
        return tuple(filter(None, [found.val if flag == "--val" else found.train])) or (alike[0],)
    if len({extras[name] for name in best}) > 1:
        raise LogError(f"several columns may be meant by {flag}; name one of {', '.join(best)}.")
    return (best[0],)


def _parts(names: list[str], stages: set[str]) -> list[str]:
    return [name for name in names if _part_of(name) and plain(name).split("_")[0] in stages]


def _metric(table: Table, asked: ColumnRequest, usable: list[str], val: tuple[str, ...]) -> str | None:
    if asked.metric is not None:
        if asked.metric.lower() == "none" and "none" not in table.columns:
            return None
        return _named(table, asked.metric, "--metric")
    stages = TEST if val and _extras(val[0]) is not None and not VAL & set(plain(val[0]).split("_")) else VAL
    if table.kind == "YOLO results":
        stages = stages | {"metrics"}  # Ultralytics evaluates on the validation set alone
    ranks = {name: _metric_rank(name, stages) for name in usable if table.count(name) >= _FEWEST}
    ranked = [(rank, name) for name, rank in ranks.items() if rank is not None]
    return min(ranked)[1] if ranked else None


def _short(text: str, most: int = 40) -> str:
    return " ".join(text.split())[:most]


def _list(names: list[str]) -> str:
    return f"Its columns: {shortened((_short(name, 80) for name in names), 20) or 'none with numbers'}."


def _part_of(name: str) -> str | None:
    # of Ultralytics' loss, in a column such as `train/box_loss`
    match = re.fullmatch(r"(?:train|val)_([a-z0-9]+)_loss", plain(name))
    return match[1] if match and match[1] in _PARTS else None


def _metric_rank(name: str, stages: set[str]) -> tuple[int, int] | None:
    # The lowest is to be taken; None is no metric.
    said = words(name)
    if not stages & set(said) or NOT_A_CURVE & set(said):
        return None
    rest = "_".join(word for word in said if word not in stages | NEUTRAL)
    for rank, pattern in enumerate(_METRICS):
        if re.search(rf"(^|_)({pattern})(_|$)", rest):
            return rank, len(said) + 10 * preference(name)
    return None


def _metric_mode(name: str) -> str:
    return "min" if (LOSS | LOSS_LIKE | _ERRORS) & set(words(name)) else "max"


@dataclass(frozen=True)
class Curves:
    """The curves of a log, of one length."""

    train: list[Cell]  # empty where none is logged
    val: list[Cell]
    metric: list[Cell] | None  # None where none is taken
    places: list[Cell]  # what the log itself calls each point: its epoch, its step, or None
    unit: str  # what a point is: "epoch", "evaluation" or "row"


class _Entry(NamedTuple):  # of which a large log has a million
    order: int
    epoch: Cell
    step: Cell
    value: float


def pair_rows(table: Table, columns: Columns) -> Curves:
    """Pair the rows of a log: a point holds what was logged of one epoch, or of one evaluation."""
    epochs = _epochs(table, columns)
    train, val = _entries(table, columns, columns.train, epochs), _entries(table, columns, columns.val, epochs)
    metric = _entries(table, columns, (columns.metric,) if columns.metric else (), epochs)
    whole = all(entry.epoch is not None and entry.epoch.is_integer() for entry in train + val)
    if whole and train + val:
        curves = _by_epoch(train, val, metric)
        evaluated = sum(value is not None for value in curves.val)
        if not val or evaluated >= FEWEST or len(val) <= evaluated:
            return curves
    fractions = not whole and all(entry.epoch is not None for entry in train + val)
    return _by_evaluation(train, val, metric, fractions)


def _epochs(table: Table, columns: Columns) -> list[Cell]:
    # Of a row without an epoch it is that of the next row with one, or else of the last. Where only the training
    # rows lie within epochs (Hugging Face), they belong to the epoch that they end in.
    if columns.epoch is None:
        return [None] * table.length
    epochs = [value if value is not None and isfinite(value) else None for value in table.columns[columns.epoch]]
    following: Cell = next((value for value in reversed(epochs) if value is not None), None)
    for row in reversed(range(len(epochs))):
        following = epochs[row] = following if epochs[row] is None else epochs[row]
    val = [table.columns[name] for name in columns.val]
    evaluated = [epoch for row, epoch in enumerate(epochs) if any(cells[row] is not None for cells in val)]
    if evaluated and all(epoch is not None and epoch.is_integer() for epoch in evaluated):
        return [None if epoch is None else float(ceil(epoch)) for epoch in epochs]
    return epochs


def _entries(table: Table, columns: Columns, names: Iterable[str], epochs: list[Cell]) -> list[_Entry]:
    # Several columns are summed; a hole written as NaN between numbers is left out.
    parts = [table.columns[name] for name in names]
    steps = table.columns[columns.step] if columns.step else [None] * table.length
    found = []
    for row, cells in enumerate(zip(*parts, strict=True)):
        given = [cell for cell in cells if cell is not None]
        if cells and len(given) == len(cells):
            found.append(_Entry(row, epochs[row], steps[row], sum(given)))
    last = max((i for i, entry in enumerate(found) if entry.value == entry.value), default=-1)
    return [entry for i, entry in enumerate(found) if i > last or entry.value == entry.value]


def _by_epoch(train: list[_Entry], val: list[_Entry], metric: list[_Entry]) -> Curves:
    trained, evaluated, measured = _grouped(train, _mean), _grouped(val, _last), _grouped(metric, _last)
    logged = sorted({*trained, *evaluated})
    first, last = int(logged[0]), int(logged[-1])
    if last - first < _WIDEST * len(logged):
        logged = [float(epoch) for epoch in range(first, last + 1)]
    return Curves(
        train=[trained.get(epoch) for epoch in logged] if train else [],
        val=[evaluated.get(epoch) for epoch in logged],
        metric=[measured.get(epoch) for epoch in logged] if metric else None,
        places=list(logged),
        unit="epoch",
    )


def _grouped(entries: list[_Entry], summary: Callable[[list[float]], Cell]) -> dict[float, Cell]:
    # In the order of their steps. A log that was started again goes back a few times, one out of order nearly every
    # row: the first is read run by run, so that a later run's epoch replaces an earlier one's, the second is sorted.
    steps = [entry.step for entry in entries]
    back = sum(b is not None and a is not None and b < a for a, b in pairwise(steps))
    if None in steps or 4 * back < len(entries):
        blocks = {epoch: list(rows) for epoch, rows in groupby(entries, key=lambda entry: entry.epoch)}
    else:
        blocks = {}
        for entry in entries:
            blocks.setdefault(entry.epoch, []).append(entry)
    return {
        epoch: summary([entry.value for entry in _unrepeated(rows, lambda entry: entry.step)])
        for epoch, rows in blocks.items()
        if epoch is not None
    }


def _unrepeated(entries: list[_Entry], place: Callable[[_Entry], Any]) -> list[_Entry]:
    # In the order of their places, the later of two at one place; as they are where a place is missing.
    if any(place(entry) is None for entry in entries):
        return entries
    last = {place(entry): entry for entry in entries}
    return [last[key] for key in sorted(last)]


def _by_evaluation(train: list[_Entry], val: list[_Entry], metric: list[_Entry], fractions: bool) -> Curves:
    # A point is an evaluation with the training rows since the one before. With `fractions` epochs tell more than
    # their number, so that they do without steps.
    placed = fractions or all(entry.step is not None for entry in train + val)

    def place(entry: _Entry) -> tuple[float, float]:
        return (entry.epoch or 0.0, entry.step or 0.0) if placed else (0.0, float(entry.order))

    train, val, metric = (_unrepeated(entries, place) for entries in (train, val, metric))
    points = val or train
    ends = [place(entry) for entry in points]

    def between(entries: list[_Entry]) -> list[list[float]]:
        if len(entries) == len(points):  # as many as evaluations: each belongs to one, before or after it
            return [[entry.value] for entry in entries]
        at, values = [place(entry) for entry in entries], [entry.value for entry in entries]
        edges = [0, *(bisect_right(at, end) for end in ends)]
        return [values[a:b] for a, b in pairwise(edges)]

    return Curves(
        train=[_mean(values) for values in between(train)] if train else [],
        val=[entry.value for entry in val] or [None] * len(points),
        metric=[_last(values) for values in between(metric)] if metric else None,
        places=[(entry.epoch if fractions else entry.step) if placed else None for entry in points],
        unit="evaluation" if val and placed else "row",
    )


def _mean(values: list[float]) -> Cell:
    numbers = [value for value in values if value == value]
    if not numbers:
        return values[-1] if values else None
    try:
        return fmean(numbers) if all(map(isfinite, numbers)) else sum(numbers)
    except OverflowError:  # their sum
        return sum(value / len(numbers) for value in numbers)


def _last(values: list[float]) -> Cell:
    return next((value for value in reversed(values) if value == value), values[-1] if values else None)
