"""Everything learned from the training table before the first batch: how each column is encoded, target statistics."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.calendar import DateFacts
from datamodules.columns.cells import NUMERIC_SHARE, kind_of, single
from datamodules.columns.choosing import choose_encoding, dots_noted, header_noted, names_noted
from datamodules.columns.dates import DateCounts, as_times
from datamodules.columns.encoding import Encoding
from datamodules.columns.summary import ColumnSummary
from datamodules.columns.written import NumberCounts, Written, may_be_written
from datamodules.errors import DataError, nearest, shortened
from datamodules.readers.table import Table
from datamodules.splits import Splits
from datamodules.targets import Target, Task, check_learnable, check_target, read_known_target, read_target

STATE_VERSION = 1
SAMPLED_ROWS = 100_000  # whose quantiles are the edges: exact to half a percent of the rows
SAMPLED_CELLS = 2**25  # a quarter of a gigabyte
_SMALLEST_SPREAD = 1e-15  # of a target: a loss in its units squared is told from 0 in float32
_FLOAT32_ROUNDING = 2.0**-24
_TARGET_PRECISION = 1e-3  # of the target's standard deviation: far below what any model resolves


@dataclass(frozen=True)
class Options:
    """The arguments of the data module that bear on what is learned."""

    path: str
    target: str | None
    task: str
    val_fraction: float
    test_fraction: float
    val_path: str | None
    test_path: str | None
    categorical: tuple[str, ...]
    drop: tuple[str, ...]
    keep: tuple[str, ...]
    drop_missing_target: bool
    decimal: str
    thousands: str
    encoding: str
    group: str | None
    time: str | None
    weight: str | None
    folds: int
    fold: int
    bins: int
    memory_map: bool | str
    seed: int | None

    @property
    def resolved_seed(self) -> int:
        """Return the seed asked for, else the one of `seed_everything`, else 0."""
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))

    @property
    def fractions(self) -> tuple[float, float]:
        """Return the shares of the table for validation and test; 0 where a file of their own is given."""
        return (0.0 if self.val_path else self.val_fraction), (0.0 if self.test_path else self.test_fraction)


@dataclass(frozen=True)
class Learned:
    """Everything that a checkpoint keeps of the data; see `to_plain`."""

    target: str
    task: Task
    class_names: tuple[str, ...] | None  # by number; None for a regression
    class_counts: tuple[int, ...] | None  # training rows of each
    target_mean: float | None  # of the training rows; None for a classification
    target_std: float | None  # likewise
    wide_target: bool  # float32 would blur the target: it is handed out as float64
    seed: int  # of the splits and of the order of training rows
    val_fraction: float  # of the table; 0 with a file of its own
    test_fraction: float  # likewise
    drop_missing_target: bool
    n_rows: int  # of the table, with those left out
    n_no_target: int  # rows left out
    sizes: Mapping[str, int]  # rows in train, val and test as far as they come from the table
    encoding: Encoding
    notes: tuple[str, ...] = ()  # what a user should know about the splits
    target_written: tuple[str, ...] = ()  # how the numbers of the target are written, see `written.Written`
    group: str | None = None  # the column by which the table was split
    time: str | None = None  # likewise
    weight: str | None = None  # the column that says how much each row counts
    weight_mean: float = 1.0  # of the training rows: what counts 1 when it is handed out
    class_masses: tuple[float, ...] | None = None  # with weights: what the training rows of each class count together
    folds: int = 0  # that the rows which are not for test are cut into
    fold: int = 0  # the one to validate on, from 1; 0 for none

    @property
    def split_by(self) -> dict[str, str | None]:
        """Return the columns that the split goes by, by what they are."""
        return {"group": self.group, "time": self.time}

    def to_plain(self) -> dict[str, Any]:
        """Return what was learned as dicts, lists, strings, numbers, booleans and None only."""
        plain = {**vars(self), "version": STATE_VERSION, "encoding": self.encoding.to_plain()}
        for name in ("class_names", "class_counts", "notes"):
            plain[name] = None if plain[name] is None else list(plain[name])
        plain["sizes"] = dict(self.sizes)
        plain["target_written"] = list(self.target_written)
        plain["class_masses"] = list(self.class_masses or ())
        if self.weight is None:
            del plain["weight_mean"]
        later = ("group", "time", "folds", "fold", "target_written", "weight", "class_masses")
        for name in (name for name in later if not plain[name]):
            del plain[name]  # as before there were such
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Learned":
        """Return what `to_plain` wrote; raise a DataError if another version of this package did."""
        fields = dict(plain)
        version = fields.pop("version", None)
        if version != STATE_VERSION:
            what = f"The checkpoint's data state has version {version}"
            raise DataError(f"{what}; {STATE_VERSION} is needed. Train anew.")
        fields["target_written"] = tuple(fields.get("target_written", ()))
        fields["class_masses"] = tuple(fields["class_masses"]) if "class_masses" in fields else None
        for name in ("class_names", "class_counts", "notes"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        return cls(**{**fields, "encoding": Encoding.from_plain(fields["encoding"])})

    def target_values(self, values: NDArray[Any]) -> NDArray[Any]:
        """Give targets the type they are handed out in: int64, float32, or float64 where float32 would blur them."""
        if self.task == "classification":
            return values.astype(np.int64)
        return values.astype(np.float64 if self.wide_target else np.float32)

    def weight_values(self, weights: NDArray[np.float64]) -> NDArray[np.float32]:
        """Give weights the size they are handed out in: 1 is the mean of the training rows."""
        return (weights / self.weight_mean).astype(np.float32)


def check_names(table: Table, target: str, options: Options) -> None:
    """Raise a DataError if `drop`, `categorical` or `keep` name columns that are not there or contradict each other."""
    for argument, names in (("drop", options.drop), ("categorical", options.categorical), ("keep", options.keep)):
        for name in names:
            if name not in table.names:
                raise DataError(f"--data.{argument} names {name!r}; {table.label!r} has {nearest(name, table.names)}.")
    if target in options.drop:
        raise DataError(f"--data.drop names the target {target!r}; leave it there or choose another --data.target.")
    if target in options.categorical:
        raise DataError(f"--data.categorical names the target {target!r}; say --data.task=classification instead.")
    for argument, column in (("group", options.group), ("time", options.time), ("weight", options.weight)):
        if column is not None and column not in table.names:
            raise DataError(f"--data.{argument} names {column!r}; {table.label!r} has {nearest(column, table.names)}.")
        if column == target:
            raise DataError(f"--data.{argument} names the target {target!r}; another column is needed.")
    if options.group is not None and options.time is not None:
        raise DataError("--data.group and --data.time are two ways to split; give one.")
    named = {"drop": options.drop, "categorical": options.categorical, "keep": options.keep}
    for (one, some), (other, more) in combinations(named.items(), 2):
        if both := sorted({*some} & {*more}):
            raise DataError(f"--data.{one} and --data.{other} both name {shortened(map(repr, both))}; keep one.")


def first_target(table: Table, options: Options) -> tuple[str, Target]:
    """Read the target of the training table and check that it can be learned."""
    name = check_target(table, options.target)
    check_names(table, name, options)
    target = read_target(table, name, options.task, NumberCounts(options.decimal, options.thousands))
    n_missing = int(target.missing.sum())
    if n_missing == len(target.missing):
        raise DataError(f"Column {name!r} of {table.label!r} has no target in any of {n_missing} rows.")
    check_gaps(table.label, name, n_missing, options.drop_missing_target)
    check_learnable(target, name)
    return name, target


def check_gaps(label: str, name: str, n_missing: int, drop: bool) -> None:
    """Raise a DataError if targets are missing and the user did not say that such rows may be left out."""
    if n_missing and not drop:
        found = f"The target {name!r} of {label!r} is missing in {n_missing} row{'s' * (n_missing != 1)}"
        raise DataError(f"{found}; --data.drop_missing_target=true drops them.")


def check_row_count(label: str, then: int, now: int) -> None:
    """Raise a DataError if a table has another number of rows than when a checkpoint was trained on it."""
    if now != then:
        changed = f"{label!r} has changed: the checkpoint was trained when it had {then} rows, now it has {now}."
        raise DataError(f"{changed} Restore the file, or train anew.")


def recorded_target(table: Table, learned: Learned) -> Target:
    """Read the target of the table that a checkpoint was trained on; raise a DataError if that has changed."""
    target = read_known_target(table, learned.target, learned.task, learned.class_names, learned.target_written)
    check_row_count(table.label, learned.n_rows, len(target.values))
    check_gaps(table.label, learned.target, int(target.missing.sum()), learned.drop_missing_target)
    return target


def learn(
    table: Table,
    name: str,
    target: Target,
    splits: Splits,
    options: Options,
    weights: NDArray[np.float64] | None = None,  # of all rows of the table
) -> Learned:
    """Learn the encoding and the target's statistics from the training rows; see `choose_encoding` for its errors.

    The edges of bins are quantiles of all training rows, or of `SAMPLED_ROWS` drawn by the seed (fewer in a wide table,
    so that `SAMPLED_CELLS` are kept): the same whether the table is in memory or mapped.
    """
    dropped = dict.fromkeys(options.drop, "as asked")
    if options.group is not None:
        dropped[options.group] = "groups of the split"
    if options.weight is not None:
        dropped[options.weight] = "weights of the rows"
    columns = [c for c in table.names if c != name and c not in dropped]
    sampled = _sampled_rows(splits.train, len(columns), options.resolved_seed) if options.bins else None
    new = [
        ColumnSummary(c, "text", forced=c in options.categorical, kept=c in options.keep, sampled=sampled)
        for c in columns
    ]
    summaries = _summarised(table, new, splits.train)
    unnamed = [
        ColumnSummary(s.name, "text", kept=s.kept, sampled=sampled, named=True) for s in summaries if s.lacks_names
    ]
    if unnamed:
        again = {s.name: s for s in _summarised(table, unnamed, splits.train)}
        summaries = [again.get(s.name, s) for s in summaries]
    dates = _dates_in(table, [s for s in summaries if s.may_be_dates], splits.train)
    texts = [s for s in summaries if s.kind == "text" and not s.forced and s.name not in dates]
    restyled = [
        ColumnSummary(name, "text", kept=name in options.keep, sampled=sampled, written=written, ambiguous=ambiguous)
        for name, (written, ambiguous) in _written_in(table, texts, splits.train, options).items()
    ]
    if restyled:
        again = {s.name: s for s in _summarised(table, restyled, splits.train)}
        summaries = [again.get(s.name, s) for s in summaries]
    encoding = choose_encoding(
        summaries, dropped, label=table.label, n_rows=len(target.values), bins=options.bins, dates=dates
    )
    if table.delimiter == ";" and (options.decimal, options.thousands) == ("auto", "auto"):
        encoding = replace(encoding, notes=(*encoding.notes, *dots_noted(summaries, encoding.inputs)))
    counts = mean = std = None
    wide = False
    values = target.values[splits.train]
    mine = None if weights is None else weights[splits.train]
    of_one, masses = 1.0 if mine is None else float(mine.mean()), None
    if target.task == "classification":
        counts = tuple(np.bincount(values, minlength=len(target.class_names or ())).tolist())
        if mine is not None:
            masses = tuple(np.bincount(values, mine / of_one, minlength=len(counts)).tolist())
    else:
        mean, std = _mean_and_std(name, values, mine)
        wide = float(np.abs(values).max()) * _FLOAT32_ROUNDING > _TARGET_PRECISION * std
    few = shortened([repr((target.class_names or ())[c]) for c in splits.unshared]) if counts else ""
    return Learned(
        target=name,
        task=target.task,
        class_names=target.class_names,
        class_counts=counts,
        target_mean=mean,
        target_std=std,
        wide_target=wide,
        seed=options.resolved_seed,
        val_fraction=options.fractions[0],
        test_fraction=options.fractions[1],
        drop_missing_target=options.drop_missing_target,
        n_rows=len(target.values),
        n_no_target=int(target.missing.sum()),
        sizes={"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)},
        encoding=encoding,
        target_written=target.written,
        group=options.group,
        time=options.time,
        weight=options.weight,
        weight_mean=of_one,
        class_masses=masses,
        folds=options.folds,
        fold=options.fold,
        notes=(
            *table.notes,
            *([f"too few rows to share out, all in training: class {few}"] if few else ()),
            *([target.note] if target.note else []),
            *names_noted(name, target.class_names or ()),
            *header_noted(summaries, name, target.class_names or ()),
        ),
    )


def _mean_and_std(name: str, values: NDArray[np.float64], weights: NDArray[np.float64] | None) -> tuple[float, float]:
    # of the training rows' target
    if values.min() == values.max():
        raise DataError(f"The target {name!r} is {values[0]:g} in all {len(values)} training rows: nothing to learn.")
    mean = float(values.mean() if weights is None else np.average(values, weights=weights))
    std = float(values.std() if weights is None else np.sqrt(np.average((values - mean) ** 2, weights=weights)))
    if std < _SMALLEST_SPREAD:
        needed = f"The target {name!r} needs a standard deviation of at least {_SMALLEST_SPREAD:g}, whose square fits"
        raise DataError(f"{needed} 32 bits; in the training rows it has {std:g}. Give it in smaller units.")
    return mean, std


def _sampled_rows(train: NDArray[np.int64], n_columns: int, seed: int) -> NDArray[np.int64]:
    most = min(SAMPLED_ROWS, SAMPLED_CELLS // max(n_columns, 1))
    if len(train) <= most:
        return train
    return np.sort(np.random.default_rng(seed & (2**64 - 1)).choice(train, most, replace=False))


def _summarised(table: Table, summaries: list[ColumnSummary], train: NDArray[np.int64]) -> list[ColumnSummary]:
    start = 0
    names = [s.name for s in summaries]
    for chunk in table.chunks(names) if names else ():
        stop = start + chunk.num_rows
        low, high = np.searchsorted(train, [start, stop])
        rows = train[low:high] - start
        for summary in summaries:
            array = single(chunk, summary.name)
            if not start:
                summary.kind = kind_of(array.type)
            summary.add(array, rows, start)
        start = stop
    return summaries


def _dates_in(
    table: Table, summaries: Sequence[ColumnSummary], train: NDArray[np.int64]
) -> dict[str, tuple[DateCounts, DateFacts]]:
    # Of columns that may be dates, those that are: the style, told from all training rows, and then what they hold.
    counts = {s.name: DateCounts() for s in summaries}
    for name, cells in _training_cells(table, [*counts], train):
        counts[name].add(cells)
    styles = {name: found.style for name, found in counts.items() if found.share >= NUMERIC_SHARE}
    facts = {name: DateFacts(style) for name, style in styles.items() if style is not None}
    for name, cells in _training_cells(table, [*facts], train):
        facts[name].add(as_times(cells, facts[name].style))
    return {name: (counts[name], each) for name, each in facts.items()}


def _written_in(
    table: Table, summaries: Sequence[ColumnSummary], train: NDArray[np.int64], options: Options
) -> dict[str, tuple[Written, bool]]:
    # Of columns of text, those whose numbers are not written plainly: how, and whether that was a choice.
    signs = options.decimal, options.thousands
    counts = {s.name: NumberCounts(*signs) for s in summaries if _may_be_written(s, forced=signs != ("auto", "auto"))}
    for name, cells in _training_cells(table, [*counts], train):
        counts[name].add(cells)
    sure = [found for each in counts.values() if not each.ambiguous and (found := each.written())]
    like: Written = next((written for written in sure if written[0] == ","), ())
    styles = {name: (each.written(like), each.ambiguous) for name, each in counts.items()}
    if like:  # then 1.234 may be a thousand and more where it looked like a plain number
        plain = {s.name: NumberCounts(",", ".") for s in summaries if s.are_numbers and not s.n_junk}
        for name, cells in _training_cells(table, [*plain], train):
            plain[name].add(cells)
        styles |= {name: ((",", ".", ""), True) for name, each in plain.items() if each.only_thousands}
    return {name: (written, ambiguous) for name, (written, ambiguous) in styles.items() if written}


def _may_be_written(s: ColumnSummary, *, forced: bool) -> bool:
    plain = s.are_numbers and not s.n_junk
    return forced if plain else may_be_written(s.counts, s.junk)


def _training_cells(table: Table, names: Sequence[str], train: NDArray[np.int64]) -> Iterator[tuple[str, Any]]:
    start = 0
    for chunk in table.chunks(names) if names else ():
        low, high = np.searchsorted(train, [start, start + chunk.num_rows])
        for name in names:
            yield name, single(chunk, name).take(train[low:high] - start)
        start += chunk.num_rows
