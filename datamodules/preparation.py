"""The preparation of a table: opened, read, split, learned and encoded, each once and when first asked for."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError
from datamodules.learned import Learned, Options, check_gaps, check_row_count, first_target, learn, recorded_target
from datamodules.readers import open_table
from datamodules.readers.columnar import memory_table
from datamodules.readers.limits import available_memory, check_memory
from datamodules.readers.table import Table, tell_notes
from datamodules.rows.batching import Rows
from datamodules.rows.cache import all_or_nothing, encoded_sets, encoded_table, folder_for, is_whole, open_rows
from datamodules.rows.cautions import Known, cautions, target_drift
from datamodules.rows.stream import RowStream, columns_to_keep, with_missing
from datamodules.splits import (
    Fold,
    Splits,
    hold_out_fold,
    read_groups,
    read_times,
    read_weights,
    rows_that_count,
    split_target,
)
from datamodules.targets import Target, read_known_target

Stage = Literal["train", "val", "test"]
STAGES: tuple[Stage, ...] = ("train", "val", "test")
_SHORT_COLUMN = 2**14  # bytes in memory: to open a column and to read so much takes as long


class TablePreparation:
    """Opens, reads, splits, learns and encodes, as the user asked for; copies of a data module share it."""

    def __init__(self, options: Options, max_expansion: float, frame: Any = None) -> None:
        self.options = options
        self._frame = frame  # an Arrow table that is in memory instead of at a path
        self._max_expansion = max_expansion  # no option, as nothing that is learned hangs on it
        self._table: Table | None = None
        self._target: tuple[str, Target] | None = None
        self._splits: Splits | None = None
        self._val_rows: NDArray[np.int64] | None = None
        self.known: Learned | None = None  # what was learned so far
        self._held_out_paths = {"val": options.val_path, "test": options.test_path}
        self._held_out: dict[str, tuple[Table, Target]] = {}
        self._sets: dict[str, Rows] = {}
        self._mapping: dict[str, bool] = {}
        self._adopted = False
        self._plain: tuple[Learned, dict[str, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out open tables, which do not pickle (for processes that are spawned); they open again when needed."""
        return {**vars(self), "_table": None, "_held_out": {}}

    def share(self, other: "TablePreparation") -> None:
        """Take over what another one has read of the same table, not its split: that may hang on a later seed."""
        self._table, self._target, self._frame = other._table, other._target, other._frame

    @property
    def table(self) -> Table:
        """Return the table at `path`: kept in memory once it was read if it fits and to read it again takes long."""
        if self._table is None:
            is_there = self._frame is not None
            self._table = memory_table(self.options.path, self._frame) if is_there else self._open(self.options.path)
        return self._table

    def _open(self, path: str) -> Table:
        table = open_table(path, self._max_expansion, encoding=self.options.encoding)
        if self.is_mapped(table):
            return table
        check_memory(table.label, self._size(table), "--data.memory_map=true keeps it on disk instead")
        # to read again what stands there as numbers costs little, but for its columns' own cost where these are short
        cheap = table.is_columnar and table.bytes_estimate > _SHORT_COLUMN * len(table.names)
        return table if cheap else table.in_memory()

    def is_mapped(self, table: Table) -> bool:
        """Tell whether the encoded table is kept on disk."""
        asked = self.options.memory_map
        if isinstance(asked, bool):
            return asked
        if table.label not in self._mapping:  # asked once: free memory changes under way
            self._mapping[table.label] = table.file is not None and self._size(table) > available_memory() / 2
        return self._mapping[table.label]

    def _size(self, table: Table) -> float:
        return table.bytes_estimate * (
            1.5 if self.options.bins else 1.0
        )  # a column's bins are one number more, of 32 bits

    @property
    def target(self) -> tuple[str, Target]:
        """Return the target column's name and what it holds."""
        if self._target is None:
            known = self.known
            read = known and (known.target, recorded_target(self.table, known))
            self._target = read or first_target(self.table, self.options)
        return self._target

    @property
    def splits(self) -> Splits:
        """Return the row numbers of each share of the table, with the seed and shares of a checkpoint if loaded."""
        if self._splits is None:
            known = self.known
            fractions = (known.val_fraction, known.test_fraction) if known else self.options.fractions
            seed = known.seed if known else self.options.resolved_seed
            target = self.target[1]  # first: it checks what the options name
            how = known.split_by if known else {"group": self.options.group, "time": self.options.time}
            groups = read_groups(self.table, how["group"]) if how["group"] else None
            times = read_times(self.table, how["time"]) if how["time"] else None
            fold = Fold((known or self.options).fold, (known or self.options).folds)
            weights = _weights(self, self.table)
            found = split_target(target, fractions, seed, groups=groups, times=times, weights=weights)
            self._splits = hold_out_fold(found, target, fold, seed, groups=groups) if fold.of else found
            self._val_rows = self._splits.val
        return self._splits

    @property
    def learned(self) -> Learned:
        """Return what the training rows teach; from the cache if the table is mapped and was seen before."""
        if self.known is None:
            self.known = self._learned_from_cache() if self.is_mapped(self.table) else self._learn()
        return self.known

    @property
    def plain(self) -> dict[str, Any]:
        """Return what was learned so far as plain data, the same object each time; empty if nothing was."""
        if self.known is None:
            return {}
        if self._plain is None or self._plain[0] is not self.known:
            self._plain = self.known, self.known.to_plain()
        return self._plain[1]

    def _learn(self) -> Learned:
        name, target = self.target
        return learn(self.table, name, target, self.splits, self.options, _weights(self, self.table))

    def _learned_from_cache(self) -> Learned:
        folder = folder_for("learned", self.table, {**vars(self.options), "seed": self.options.resolved_seed})
        if not is_whole(folder):
            text = json.dumps(self._learn().to_plain())
            with all_or_nothing(folder, len(text)) as draft:
                (draft / "learned.json").write_text(text)
        return Learned.from_plain(json.loads((folder / "learned.json").read_text()))

    def adopt(self, recorded: Learned) -> None:
        """Go on with what a checkpoint recorded; a DataError if the table was read already and is another one."""
        mine, self._adopted = self.known, True
        if mine is not None:
            _check_same(mine, recorded, self.options.path)
        if mine != recorded:
            self._splits, self._target, self._sets, self._held_out = None, None, {}, {}
            self._val_rows = None
        self.known = recorded

    def _held_out_file(self, stage: Stage) -> tuple[Table, Target] | None:
        # The file given for this stage and its target; None if the stage is a share of the table.
        path = self._held_out_paths.get(stage)
        if path is None:
            return None
        if stage not in self._held_out:
            table, known = self._open(path), self.learned
            tell_notes(table)
            known.encoding.check_columns(table.names, table.label)
            target = read_known_target(table, known.target, known.task, known.class_names, known.target_written)
            check_gaps(table.label, known.target, int(target.missing.sum()), known.drop_missing_target)
            self._held_out[stage] = table, target
        return self._held_out[stage]

    def _stage_rows(self, stage: Stage) -> tuple[Table, Target, NDArray[np.int64]]:
        separate = self._held_out_file(stage)
        if separate is not None:
            return (*separate, rows_that_count(separate[1], _weights(self, separate[0])))
        return self.table, self.target[1], getattr(self.splits, stage)

    def stage_target(self, stage: Stage) -> NDArray[Any]:
        """Return the targets of a stage's rows, as handed out, shape (rows,)."""
        if stage in self._sets:
            y = self._sets[stage].y
            assert y is not None
            return y.numpy()
        _, target, rows = self._stage_rows(stage)
        return self.learned.target_values(target.values[rows])

    def size(self, stage: Stage) -> int:
        """Return the number of rows of a stage."""
        return len(self.stage_target(stage)) if self._held_out_paths.get(stage) else self.learned.sizes[stage]

    def rows(self, stage: Stage) -> Rows:
        """Return the encoded rows of a stage."""
        if stage not in self._sets:
            self.make([stage])
        return self._sets[stage]

    def prepare(self) -> None:
        """Write the memory maps of a fit, but not after a checkpoint: the training table may not be there then."""
        if not self._adopted and self.is_mapped(self.table):
            self.make(list(STAGES))

    def make(self, stages: list[Stage]) -> None:
        """Encode the rows of some stages, those of one table in one pass over it."""
        shares = []
        for stage in (s for s in stages if s not in self._sets and self.size(s)):
            if separate := self._held_out_file(stage):
                self._sets |= self._encoded(separate[0], [stage])
            else:
                shares.append(stage)
        if shares:
            self._sets |= self._shares(shares)
        if all(s in self._sets or not self.size(s) for s in STAGES):
            # Neither its text nor what led to the sets is needed any more; who asks nevertheless has it read again.
            self._table = self._target = self._splits = None
            self._held_out = {}
            if "pyarrow" in sys.modules:  # else it read nothing here
                sys.modules["pyarrow"].default_memory_pool().release_unused()  # it keeps as much again for later

    def _shares(self, stages: list[Stage]) -> dict[str, Rows]:
        if self.is_mapped(self.table):  # what was written before needs no look into the table
            folders = self._folders(self.table, stages)
            if all(map(is_whole, folders.values())):
                return {s: open_rows(folder, self.learned.encoding) for s, folder in folders.items()}
        self.learned.encoding.check_columns(self.table.names, self.table.label, "; --data.path names another table")
        return self._encoded(self.table, stages)

    def _encoded(self, table: Table, stages: list[Stage]) -> dict[str, Rows]:
        weights, learned = _weights(self, table), self.learned
        sets: dict[str, tuple[NDArray[np.int64], NDArray[Any], NDArray[np.float32] | None]] = {}
        for stage in stages:
            rows = self._stage_rows(stage)[2]
            mine = None if weights is None else learned.weight_values(weights[rows])
            sets[stage] = rows, self.stage_target(stage), mine
        folders = self._folders(table, stages) if self.is_mapped(table) else None
        return encoded_sets(table, learned.encoding, sets, folders)

    def _folders(self, table: Table, stages: list[Stage]) -> dict[str, Path]:
        return {stage: folder_for(stage, table, self.learned.to_plain()) for stage in stages}


def unlabelled(work: TablePreparation, label: str, frame: Any, *, allow_missing: bool = False) -> Rows:
    """Encode all rows of an Arrow table that needs no target, in their order."""
    table, lacking = _to_predict(work, memory_table(label, frame), allow_missing, "")
    check_memory(table.label, table.bytes_estimate, "predict its rows in several parts")
    return encoded_table(memory_table(label, with_missing(frame, lacking)), work.learned.encoding)


def stream_of(
    work: TablePreparation, path: str, batch_size: int, *, keep: str | Sequence[str] = (), allow_missing: bool = False
) -> RowStream:
    """Return the rows of a file that needs no target, which is read when they are asked for."""
    table = open_table(path, work._max_expansion, work.options.encoding)
    _to_predict(work, table, allow_missing, "; --allow_missing=true takes their cells as missing")
    kept, n_train = columns_to_keep(keep, table), work.learned.sizes["train"]
    return RowStream(table, work.learned.encoding, batch_size=batch_size, n_train=n_train, keep=kept)


def _to_predict(work: TablePreparation, table: Table, allow_missing: bool, hint: str) -> tuple[Table, list[str]]:
    # The table, and the columns of the training table that it has not; some it must have.
    tell_notes(table)
    encoding = work.learned.encoding
    lacking = encoding.lacking(table.names)
    has_some = len(lacking) < len(encoding.inputs)
    if not (allow_missing and has_some):
        encoding.check_columns(table.names, table.label, hint if has_some else "")
    return table, lacking


def _weights(work: TablePreparation, table: Table) -> NDArray[np.float64] | None:
    # How much each row of a table counts; None for all alike.
    name = work.known.weight if work.known else work.options.weight
    return None if name is None else read_weights(table, name)


def val_rows_of(work: TablePreparation) -> NDArray[np.int64]:
    """Return the row numbers of the share for validation, which outlive the splits."""
    return work.splits.val if work._val_rows is None else work._val_rows


def cautions_of(work: TablePreparation) -> list[str]:
    """Return what should be known before training; nothing after a checkpoint, as it was said by then."""
    if work._adopted:
        return []
    work.make(list(STAGES))
    return cautions(_known_beside(work), work._sets)


def drift_of(work: TablePreparation, stage: Stage) -> list[str]:
    """Return how the targets of a stage's own file differ from those of training; nothing without such a file."""
    if not work._held_out_paths.get(stage):
        return []
    known, values = work.learned, work.stage_target(stage).astype(np.float64)
    counts = None if known.class_counts is None else np.array(known.class_counts)
    mean, std = known.target_mean or 0.0, known.target_std or 0.0
    return [*target_drift(_known_beside(work), stage, values, counts, mean, std, known.sizes["train"])]


def _known_beside(work: TablePreparation) -> Known:
    options, learned = work.options, work.learned
    return Known(
        target=learned.target,
        class_names=learned.class_names,
        encoding=learned.encoding,
        dropped_by_user=options.drop,
        files={stage: path for stage, path in work._held_out_paths.items() if path},
        random_split=any(options.fractions) and options.time is None and options.group is None,
    )


def _check_same(mine: Learned, recorded: Learned, path: str) -> None:
    check_row_count(path, recorded.n_rows, mine.n_rows)
    for what, now, then in (
        ("target", mine.target, recorded.target),
        ("task", mine.task, recorded.task),
        ("classes", mine.class_names, recorded.class_names),
    ):
        if now != then:
            raise DataError(f"The checkpoint was trained with the {what} {then!r}; {path!r} gives {now!r}.")
