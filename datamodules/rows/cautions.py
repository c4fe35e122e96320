"""What encoded rows show before training that would make a score too good to be true: one line each.

Columns that tell the target by themselves, rows that stand in two sets, an order in time that a random split
ignores, and a file of its own whose target is not like the training table's. All is read from the encoded rows, a
sample of them where there are many, so nothing is read again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.calendar import DateColumn
from datamodules.columns.encoding import CategoryColumn, Column, Encoding, NumericColumn
from datamodules.columns.leaks import (
    FIRST_LOOK,
    TOO_WELL,
    Told,
    enough_rows,
    is_group,
    moves_with,
    ranks,
    told,
    worth_more,
)
from datamodules.columns.summary import COUNTS_ROWS
from datamodules.errors import shortened
from datamodules.rows.batching import Rows
from datamodules.rows.copies import copies
from datamodules.rows.samples import CELLS, MOST_COLUMNS, SAMPLE, drawn, feature_places, numbers, taken

_NAMED = 5  # columns in a line
_ON_AND_ON = 0.9  # share of the spread of a target's ranks that the two rows beside a row tell: a series
_STRETCH = 4000  # rows in file order that tell whether neighbours are alike
_ALIKE = 0.5  # correlation of neighbouring rows' targets, beyond what the columns explain
_PARTS, _PART = 8, 40  # of these rows at most, and rows in one at least
_ALIKE_WITHIN = 0.35  # within a part: of rows that are sorted by and large it is none
_TURNS = 0.25  # how often a target changes its direction, or class, for its rows not to be merely sorted: 2/3 by chance
_SORTED = 0.95  # rank correlation of target and row from which on they are sorted by it
_TIME_WORDS = frozenset(
    {"time", "date", "datetime", "timestamp", "year", "yr", "quarter", "month", "week", "day", "hour", "minute", "t"}
)
_NOT_SEEN = frozenset(
    {"birth", "birthdate", "birthday", "born", "dob", "geburtsdatum", "geboren", "naissance", "death", "died"}
)
_EVENTS = frozenset({"status", "event", "censored", "censor", "cens", "delta", "death", "died", "dead"})  # of survival
_YEARS = (1500.0, 2200.0)
_FAR = 5.0  # standard errors: chance hardly ever
_SHARE_MOVED = 0.1  # of the rows in another class than in training
_MEAN_MOVED, _SPREAD_MOVED = 0.25, 1.5  # standard deviations of the training target; ratio of middle halves
_COLUMN_MOVED = 0.5  # standard deviations of a number; and twice the share of rows in other categories


@dataclass(frozen=True)
class Known:
    """What is known of the table beside its encoded rows."""

    target: str
    class_names: Sequence[str] | None
    encoding: Encoding
    dropped_by_user: Sequence[str]
    files: Mapping[str, str]  # paths of the sets that have files of their own, by stage
    random_split: bool  # the held-out rows of the table are drawn at random, each by itself


def cautions(known: Known, sets: Mapping[str, Rows]) -> list[str]:
    """Return what should be known before training, a line each; `sets` by stage, in file order.

    A set that is not there was not asked for. Nothing is said without training rows.
    """
    train = sets.get("train")
    if train is None or train.y is None:
        return []
    held_out = {stage: rows for stage, rows in sets.items() if stage != "train" and len(rows)}
    leaks = [*_leaks(known, train)]
    lines = [*leaks, *copies(known.encoding, train, held_out)]
    if known.random_split:
        lines += _order(known, train, is_told=bool(leaks))
    for stage in (s for s in held_out if s in known.files):
        y, other = numbers(train.y), numbers(held_out[stage].y)
        counts = None if known.class_names is None else np.bincount(y.astype(np.int64))
        lines += target_drift(known, stage, other, counts, float(y.mean()), float(y.std()), len(y))
        lines += _spread_drift(known, stage, y, other)
        lines += _column_drift(known, stage, train, held_out[stage])
    return lines


# ------------------------------------------------------------------ columns that tell the target


def _leaks(known: Known, train: Rows) -> Iterator[str]:
    at = drawn(len(train), SAMPLE)
    y = numbers(train.y)[at]
    target = ranks(y) if known.class_names is None else y.astype(np.int64)
    if not enough_rows(target):
        return
    least = TOO_WELL["regression" if known.class_names is None else "classification"]
    first = at[: min(FIRST_LOOK, max(CELLS // train.x.shape[1], 1))]
    sample = taken(train, first)
    found, groups = dict[str, Told](), dict[str, Told]()
    is_series = _is_series(at, target)
    for column, start, stop in _likely(feature_places(known.encoding, train), sample, target[: len(first)]):
        is_number = isinstance(column, NumericColumn)
        look = told(_cells(column, sample[:, start:stop]), target[: len(first)], ordered=is_number)
        if len(at) > len(first) and worth_more(look):
            look = told(_cells(column, taken(train, at, start, stop)), target, ordered=is_number)
        if look.skill < least or (is_series and not _moves_with(column, train, at, target, start, stop)):
            continue
        cells = _cells(column, taken(train, at, start, stop))
        of = groups if is_group(column.name, cells, target, ordered=is_number) else found
        of[column.name] = look
    if found:
        yield _leak_line(known, found)
    elif groups:
        yield _group_line(known, groups)


def _is_series(at: NDArray[np.int64], target: NDArray[np.float64] | NDArray[np.int64]) -> bool:
    # Whether amounts go on and on in file order, as prices do: then whatever else does tells them well.
    if target.dtype.kind != "f":
        return False
    steps = np.diff(target[np.argsort(at)])
    is_sorted = bool(np.all(steps >= 0) or np.all(steps <= 0))
    return not is_sorted and told(at.astype(np.float64), target, ordered=True).skill >= _ON_AND_ON


def _moves_with(
    column: Column,
    train: Rows,
    at: NDArray[np.int64],
    target: NDArray[np.float64] | NDArray[np.int64],
    start: int,
    stop: int,
) -> bool:
    if isinstance(column, DateColumn):
        return False
    if not isinstance(column, NumericColumn):
        return True
    order = np.argsort(at)
    return moves_with(_cells(column, taken(train, at[order], start, stop)), target[order])


def _cells(column: Column, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return a column's cells as numbers, those that are missing as one of their own."""
    cells = features.astype(np.float64)
    if not isinstance(column, NumericColumn):
        return cells @ np.arange(1.0, cells.shape[1] + 1.0)
    return np.where(cells[:, 1] > 0, -1e30, cells[:, 0]) if column.indicator and not column.constant else cells[:, 0]


def _likely(
    places: list[tuple[Column, int, int]], sample: NDArray[np.float32], target: NDArray[np.float64] | NDArray[np.int64]
) -> list[tuple[Column, int, int]]:
    """Return the columns of a wide table that go best with the target, all of a narrow one."""
    if len(places) <= MOST_COLUMNS:
        return places
    y = target.astype(np.float64) if target.dtype.kind == "f" else (target == np.bincount(target).argmax()) * 1.0
    x = sample - sample.mean(0)
    size = np.sqrt(np.square(x).sum(0))
    along = np.abs((y - y.mean()).astype(np.float32) @ x) / np.where(size > 0, size, 1.0)
    best = np.argsort([-along[start:stop].max(initial=0.0) for _, start, stop in places], kind="stable")
    return [places[i] for i in sorted(best[:MOST_COLUMNS].tolist())]


def _leak_line(known: Known, found: Mapping[str, Told]) -> str:
    measure = "R² of ranks" if known.class_names is None else "accuracy"
    best = sorted(found, key=lambda name: -found[name].skill)[:_NAMED]
    each = ", ".join(f"{name!r} ({measure} {found[name].score:.4f})" for name in best)
    more = f" and {len(found) - len(best)} more" if len(found) > len(best) else ""
    drop = ",".join([*known.dropped_by_user, *best])
    one = len(found) == 1
    what = f"{each}{more} alone predict{'s' * one} {known.target!r} on rows left out"
    it, them = ("it is", "it") if one else ("they are", "them")
    return f"{what}: if {it} not known when predicting, leave {them} out: --data.drop=[{drop}]"


def _group_line(known: Known, found: Mapping[str, Told]) -> str:
    # The fewest groups: patients, not their visits.
    name = min(found, key=lambda each: found[each].groups)
    drop = ",".join([*known.dropped_by_user, name])
    return (
        f"all rows of one {name!r} have the same {known.target!r} ({found[name].groups} groups): if new ones are to be "
        f"predicted, --data.group={name} keeps each on one side of the split; if not known then, --data.drop=[{drop}]"
    )


# ------------------------------------------------------------------ order in time


def _order(known: Known, train: Rows, *, is_told: bool) -> Iterator[str]:
    # `is_told`: a column alone tells the target, and by that how alike neighbours are
    name = _time_column(known, train)
    y = numbers(train.y)
    if name is not None:
        yield (
            f"rows are held out at random, though {name!r} tells when they were: if later rows are to be predicted, "
            f"--data.time={name} holds out the newest"
        )
    elif not is_told and (alike := _neighbours_alike(np.asarray(train.x), y, known.class_names is not None)) >= _ALIKE:
        yield (
            f"rows are held out at random, though neighbours in the file are alike in {known.target!r} (correlation "
            f"{alike:.2f}) beyond what the columns explain: if they are in order of time, or belong together, name the "
            "column that says so: --data.time=COLUMN or --data.group=COLUMN"
        )


def _time_column(known: Known, train: Rows) -> str | None:
    """Return the column that tells when each row was; None if there is none."""
    for column in known.encoding.columns:
        is_date = isinstance(column, DateColumn) and column.style not in ("clock", "duration")
        if is_date and not _NOT_SEEN.intersection(_words(column.name)):
            return column.name
    for name, reason in known.encoding.dropped.items():
        if reason.startswith(COUNTS_ROWS) and _is_time_word(name):
            return name
    names = {word for name in [known.target, *known.encoding.inputs] for word in _words(name)}
    for column, start, stop in feature_places(known.encoding, train):
        if not isinstance(column, NumericColumn) or column.constant or not _is_time_word(column.name):
            continue
        values = np.asarray(train.x[:, start])
        if column.name.strip().lower() in ("year", "yr") and _are_years(column):
            return column.name
        if names.intersection(_EVENTS) and "time" in _words(column.name):  # until then
            continue
        steps = np.diff(values[:: max(1, len(values) // SAMPLE)])
        if (np.all(steps >= 0) or np.all(steps <= 0)) and np.count_nonzero(steps) >= 20 and stop - start == 1:
            return column.name
    return None


def _are_years(column: NumericColumn) -> bool:
    return _YEARS[0] < column.mean < _YEARS[1] and column.scale < 200.0


def _is_time_word(name: str) -> bool:
    return bool(_TIME_WORDS.intersection(_words(name)))


def _words(name: str) -> list[str]:
    return "".join(c.lower() if c.isalpha() else " " for c in name).split()


def _neighbours_alike(x: NDArray[np.float32], y: NDArray[np.float64], is_class: bool) -> float:
    """Return the correlation of neighbouring rows' targets beyond what the columns explain linearly; 0 if none.

    Rows that are merely sorted by the target, or by class, count as 0.
    """
    n = min(len(y), _STRETCH)
    x, y = x[:n].astype(np.float64), y[:n]
    if n < 50:
        return 0.0
    if is_class:
        classes, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
        turns = np.mean(codes[1:] != codes[:-1]) / max(1.0 - float(np.square(counts / n).sum()), 1e-9)
        outputs = (y[:, None] == classes[np.argsort(-counts)[:10]]) * 1.0
    else:
        ranked = ranks(y)
        signs = np.sign(np.diff(ranked))
        signs = signs[signs != 0]
        turns = np.mean(signs[1:] != signs[:-1]) if len(signs) > 10 else 0.0
        if abs(np.corrcoef(ranked, np.arange(n))[0, 1]) > _SORTED:
            return 0.0
        outputs = ranked[:, None]
    if turns < _TURNS:
        return 0.0
    outputs = outputs - outputs.mean(0)
    if _lag(outputs) < _ALIKE:
        return 0.0
    few = np.flatnonzero(x.std(0) > 0)[:50]
    design = np.column_stack([np.ones(n), x[:, few]])
    inner = design.T @ design + 1e-3 * n * np.eye(design.shape[1])  # ridge: columns may be copies of each other
    left = outputs - design @ np.linalg.solve(inner, design.T @ outputs)
    part = np.arange(n) // max(n // _PARTS, _PART)
    means = np.column_stack([np.bincount(part, each) for each in left.T]) / np.bincount(part)[:, None]
    return _lag(left) if _lag(left - means[part]) >= _ALIKE_WITHIN else 0.0


def _lag(values: NDArray[np.float64]) -> float:
    total = float(np.square(values).sum())
    return float((values[1:] * values[:-1]).sum()) / total if total > 0 else 0.0


# ------------------------------------------------------------------ files of their own


def target_drift(
    known: Known,
    stage: str,
    values: NDArray[np.float64],
    counts: NDArray[np.int64] | None,
    mean: float,
    std: float,
    n: int,
) -> Iterator[str]:
    """Say if a file's targets are far from the training rows', beyond chance and by an amount that matters.

    Args:
        known: What is known of the table.
        stage: "val" or "test".
        values: The file's targets, shape (rows,), classes by number.
        counts: Training rows of each class; None for a regression, which needs the next two.
        mean: The mean target of the training rows.
        std: Their standard deviation.
        n: Their number.
    """
    if not len(values):
        return
    begin = f"{known.target!r} in {known.files.get(stage, stage)}"
    if counts is None:
        moved = float(values.mean()) - mean
        error = np.hypot(std / np.sqrt(n), values.std() / np.sqrt(len(values)))
        if abs(moved) > max(_FAR * error, _MEAN_MOVED * std):
            far = f"{abs(moved) / std:.1f} standard deviations {'above' if moved > 0 else 'below'}"
            yield f"{begin} has mean {values.mean():.4g}, {far} the training rows' {mean:.4g}: another population?"
        return
    mine = np.bincount(values.astype(np.int64), minlength=len(counts)) / len(values)
    then = counts / n
    expected = (mine * len(values) + counts) / (len(values) + n)  # of both together
    enough = expected * len(values) >= 5
    chi2 = float((np.square(mine - then)[enough] / expected[enough]).sum()) / (1 / len(values) + 1 / n)
    freedom = max(int(enough.sum()) - 1, 1)
    if np.abs(mine - then).sum() / 2 > _SHARE_MOVED and chi2 > freedom + _FAR * np.sqrt(2 * freedom):
        worst = int(np.abs(mine - then).argmax())
        shares = f"{mine[worst]:.0%} of class {(known.class_names or ())[worst]!r}, the training rows {then[worst]:.0%}"
        yield f"{begin} has {shares}: another population?"


def _spread_drift(known: Known, stage: str, y: NDArray[np.float64], other: NDArray[np.float64]) -> Iterator[str]:
    # by the middle half: a standard deviation may hang on one row
    if known.class_names is not None or min(len(y), len(other)) < 50:
        return
    low, high = np.quantile(y, [0.25, 0.75])
    mine, then = float(np.subtract(*np.quantile(other, [0.75, 0.25]))), float(high - low)
    # by how many lie in it: where there are few between two heaps of rows, a quantile may be here or there
    inside, before = (float(np.mean((v >= low) & (v <= high))) for v in (other, y))
    sure = abs(inside - before) > _FAR * np.sqrt(0.25 / len(other) + 0.25 / len(y))
    if sure and mine > 0 < then and abs(np.log(mine / then)) > np.log(_SPREAD_MOVED):
        wide = f"its middle half spans {mine:.4g}, the training rows' {then:.4g}"
        yield f"{known.target!r} in {known.files[stage]} is spread otherwise: {wide}"


def _column_drift(known: Known, stage: str, train: Rows, rows: Rows) -> Iterator[str]:
    most = max(min(FIRST_LOOK, CELLS // train.x.shape[1]), 1)
    mine, then = (taken(each, drawn(len(each), most)) for each in (rows, train))
    if min(len(mine), len(then)) < 50:
        return
    moved = np.abs(mine.mean(0) - then.mean(0))
    error = np.sqrt(mine.var(0) / len(mine) + then.var(0) / len(then))
    sure = np.where(moved > _FAR * error, moved, 0.0)
    far: dict[str, float] = {}
    for column, start, stop in feature_places(known.encoding, train):
        if isinstance(column, NumericColumn):
            spread = float(then[:, start].std()) or 1.0
            far[column.name] = float(sure[start]) / spread if not column.constant else float(sure[start])
        else:
            # of names that are rare there are always some that training never saw, about as many rows as it has of
            # names with one: these count as infrequent too
            rare = start + len(column.categories) if isinstance(column, CategoryColumn) and column.infrequent else stop
            more = mine[:, rare : rare + 1].mean(0) - 2 * then[:, rare : rare + 1].mean(0)
            far[column.name] = float(sure[start:stop].sum())
            if rare < stop and not (more > _FAR * error[rare]).all():
                far[column.name] -= float(sure[rare])
    names = [name for name in sorted(far, key=lambda n: -far[n]) if far[name] > _COLUMN_MOVED]
    if names:
        yield f"{known.files[stage]} differs from the training rows in {shortened(map(repr, names), _NAMED)}"
