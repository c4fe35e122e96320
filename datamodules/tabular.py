"""The data module of a table: arguments, properties and hooks over what `preparation` reads, learns and encodes."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec

import numpy as np
from numpy.typing import NDArray

from callbacks.host.packages import LightningDataModule, main_package
from datamodules.columns.written import check_signs
from datamodules.description import described
from datamodules.errors import DataError, check_batch_size, check_bins, check_choice, check_folds, check_fractions
from datamodules.learned import Learned, Options
from datamodules.preparation import STAGES, Stage, TablePreparation, drift_of, stream_of, unlabelled, val_rows_of
from datamodules.readers.frames import in_memory
from datamodules.readers.limits import MAX_EXPANSION
from datamodules.readers.text import check_encoding
from datamodules.rows.batching import EVAL_ROWS, TableLoader, eval_loader, predict_loader, train_loader, world
from datamodules.rows.stream import RowStream
from datamodules.targets import Task, majority_metrics, mean_metrics

_P = ParamSpec("_P")
_STEPS_AN_EPOCH = 200  # what "auto" aims at: enough steps to learn from, few enough to be quick
_AUTO_BATCH = (32, 512)
# Arguments that the hyperparameters leave out where they are so.
UNSAID: dict[str, Any] = {
    "keep": None,
    "decimal": "auto",
    "thousands": "auto",
    "encoding": "auto",
    "group": None,
    "time": None,
    "weight": None,
    "folds": 0,
    "fold": 0,
    "bins": 0,
    "max_expansion": MAX_EXPANSION,
}

main_package()  # the class is used before there is an instance: by parsers, by `load_from_checkpoint`


def _as_flags(init: Callable[_P, None]) -> Callable[_P, None]:
    # The arguments that parsers of command lines and Lightning's hyperparameters see: a table in memory is none.
    signature = inspect.signature(init)
    seen = [p for name, p in signature.parameters.items() if name != "data"]
    seen = [p.replace(annotation=str | None) if p.name == "target" else p for p in seen]
    init.__signature__ = signature.replace(parameters=seen)  # type: ignore[attr-defined]  # `inspect` asks for it
    return init


class TabularDataModule(LightningDataModule):
    """Read a table, split it, turn its columns into numbers and hand out mini-batches.

    Numbers are standardised, categories become one column each (one-hot), dates and times the time that has passed and
    sines and cosines of the day, the week and the year; gaps are filled and marked. All is learned from the training
    rows alone. Identifiers, free text and constant columns are left out, and it says so.

    Args:
        path: The table: delimited text (.csv, .tsv, .txt, also .gz), Parquet, Arrow or Feather, NPZ, JSON lines, a
            spreadsheet (book.xlsx?sheet=NAME), SQLite (sqlite:///file.db?table=NAME), or one of the bundled names
            digits, iris, wine, breast_cancer, diabetes.
        target: Name of the column to predict. Bundled tables have one called target; a file needs it named.
        data: A table in memory, in Python instead of a path: a data frame (pandas, polars, …; its index is no column),
            an Arrow table, a dict of columns, or an array of two dimensions, whose columns are called X_0, X_1, ….
            Beside it, target may be an array or a Series: one more column.
        task: "classification", "regression", or "auto": names, booleans and whole numbers with at most 20 different
            values (5 rows each on average) are classes, other numbers are amounts.
        batch_size: Rows a training step, on each device; "auto" (a power of two from 32 to 512, aiming at 200 steps
            an epoch) or "full" (all training rows at once: plain gradient descent).
        val_fraction: Share of the rows to validate on, from 0 to below 1; 0 for no validation.
        test_fraction: Share of the rows to test on, likewise; the two must sum to less than 1.
        val_path: A file of its own to validate on, instead of a share.
        test_path: A file of its own to test on, instead of a share.
        predict_path: The file to predict for; it needs no target.
        categorical: Columns to take as categories whatever they look like, such as numeric codes.
        drop: Columns to leave out.
        keep: Columns of numbers to keep though they look like identifiers or row numbers.
        drop_missing_target: Leave out rows without a target instead of stopping there.
        decimal: What stands before the fraction of a number written as text: "." or ","; "auto" tells it column by
            column.
        thousands: What stands between the thousands of a number written as text: ",", ".", " ", "'" or "none";
            "auto" tells it column by column.
        encoding: Of a text file, as Python names it, such as utf-8, latin-1 or utf-16; "auto" tells it from the file.
        group: Column whose equal values (a patient, a customer) stay together: no group is on both sides of a split.
        time: Column that tells when a row was: the newest rows are held out, first for test, then for validation.
        weight: Column that says how much each row counts in the loss, of training, validation and test; 0 leaves a row
            out. Batches are `(x, y, weight)` then, 1 the mean of the training rows. Other metrics count each row once.
        folds: Parts to cut all rows but those for test into, by class or target as the split is; 0 for none. `fit` then
            trains a model for each, which validates on that part and learns from the others (cross-validation).
        fold: The one of the folds to validate on, from 1, for a single fit; 0 for all of them in turn in `fit`, in
            Python for training rows alone.
        bins: Quantile bins to encode each number column in as well, piecewise linearly (arXiv:2203.05556), from 2 to
            256; 0 for none. Equal edges are merged, and a column of two values gets no bins. A table with many number
            columns gets fewer: at most 2048 features of bins in all, and none with more than 1024 such columns.
        memory_map: Keep the encoded table on disk (in $XDG_CACHE_HOME/lightning_mods) instead of in memory: true,
            false, or "auto", which does so when the table would take more than half of the free memory.
        max_expansion: How many times its size a packed file (.gz or NPZ) may unpack to, beyond 256 MB; 0 for any.
        seed: Fixes the split and the order of rows; by default the one of seed_everything, else 0.

    Raises:
        DataError: An argument or the table is wrong; the message is one line for the user.
    """

    @_as_flags
    def __init__(
        self,
        path: str = "digits",
        target: Any = None,
        *,
        data: Any = None,
        task: Literal["auto", "classification", "regression"] = "auto",
        batch_size: int | Literal["auto", "full"] = "auto",
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        val_path: str | None = None,
        test_path: str | None = None,
        predict_path: str | None = None,
        categorical: list[str] | None = None,
        drop: list[str] | None = None,
        keep: list[str] | None = None,
        drop_missing_target: bool = False,
        decimal: Literal["auto", ".", ","] = "auto",
        thousands: Literal["auto", "none", ",", ".", " ", "'"] = "auto",
        encoding: str = "auto",
        group: str | None = None,
        time: str | None = None,
        weight: str | None = None,
        folds: int = 0,
        fold: int = 0,
        bins: int = 0,
        memory_map: bool | Literal["auto"] = "auto",
        max_expansion: float = MAX_EXPANSION,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("task", task, ("auto", "classification", "regression"))
        check_choice("memory_map", memory_map, (True, False, "auto"))
        check_fractions(val_fraction, test_fraction)
        check_batch_size(batch_size)
        check_bins(bins)
        check_folds(folds, fold, val_path, time)
        check_encoding(encoding)
        check_choice("decimal", decimal, ("auto", ".", ","))
        check_choice("thousands", thousands, ("auto", "none", ",", ".", " ", "'"))
        check_signs(decimal, thousands)
        frame = None
        if data is not None:
            if path != "digits" or memory_map is True:
                raise DataError("`data` is a table in memory: give no `path` beside it, and no memory_map=true.")
            frame, path, target = in_memory(data, target)
        if not max_expansion >= 0:
            raise DataError(f"--data.max_expansion must be at least 0, which is for any; got {max_expansion!r}.")
        given = {
            "keep": keep,
            "decimal": decimal,
            "thousands": thousands,
            "encoding": encoding,
            "group": group,
            "time": time,
            "weight": weight,
            "folds": folds,
            "fold": fold,
            "bins": bins,
            "max_expansion": max_expansion,
        }
        # off, all is as before there were any: a search is known by these
        self.save_hyperparameters(ignore=[name for name, value in given.items() if value == UNSAID[name]])
        self.path = path
        self.target = target
        self.batch_size: int | Literal["auto", "full"] = batch_size
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.val_path = val_path
        self.test_path = test_path
        self.predict_path = predict_path
        self.categorical = categorical
        self.drop = drop
        self.keep = keep
        self.drop_missing_target = drop_missing_target
        self.decimal: Literal["auto", ".", ","] = decimal
        self.thousands: Literal["auto", "none", ",", ".", " ", "'"] = thousands
        self.encoding = encoding
        self.group = group
        self.time = time
        self.weight = weight
        self.folds = folds
        self.fold = fold
        self.bins = bins
        self.memory_map: bool | Literal["auto"] = memory_map
        self.max_expansion = max_expansion
        self.seed = seed
        self._work = TablePreparation(
            Options(
                path=str(path),
                target=target,
                task=task,
                val_fraction=val_fraction,
                test_fraction=test_fraction,
                val_path=val_path,
                test_path=test_path,
                categorical=tuple(categorical or ()),
                drop=tuple(drop or ()),
                keep=tuple(keep or ()),
                drop_missing_target=drop_missing_target,
                decimal=decimal,
                thousands=thousands,
                encoding=encoding,
                group=group,
                time=time,
                weight=weight,
                folds=folds,
                fold=fold,
                bins=bins,
                memory_map=memory_map,
                seed=seed,
            ),
            max_expansion,
            frame,
        )

    def like(self, **changes: Any) -> "TabularDataModule":
        """Return a data module with other arguments than this one, of the same table, which is not read again.

        Only those may change that bear neither on which rows are read nor on how they are split.
        """
        twin = type(self)(**{**self.hparams, **changes})
        twin._work.share(self._work)
        return twin

    @property
    def learned(self) -> Learned:
        """Return all that was learned from the training rows; learn it now if need be."""
        return self._work.learned

    @property
    def task(self) -> Task:
        """Return the task, told from the target column alone if nothing else has been read."""
        known = self._work.known
        return known.task if known is not None else self._work.target[1].task

    @property
    def in_features(self) -> int:
        """Return the number of features of an encoded row."""
        return len(self.learned.encoding.feature_names)

    @property
    def feature_names(self) -> list[str]:
        """Return the names of the encoded features, in their order."""
        return self.learned.encoding.feature_names

    @property
    def num_classes(self) -> int | None:
        """Return the number of classes; None for a regression."""
        names = self.learned.class_names
        return None if names is None else len(names)

    @property
    def class_names(self) -> list[str] | None:
        """Return the classes by number, as the table writes them; None for a regression."""
        names = self.learned.class_names
        return None if names is None else list(names)

    @property
    def class_counts(self) -> list[int] | list[float] | None:
        """Return the training rows of each class, each row as often as its weight says; None for a regression."""
        counts: Any = self.learned.class_masses or self.learned.class_counts
        return None if counts is None else list(counts)

    @property
    def target_mean(self) -> float | None:
        """Return the mean target of the training rows, in its own units; None for a classification."""
        return self.learned.target_mean

    @property
    def target_std(self) -> float | None:
        """Return the standard deviation of the training rows' target, in its units; None for a classification."""
        return self.learned.target_std

    @property
    def n_train(self) -> int:
        """Return the number of training rows."""
        known = self._work.known
        return known.sizes["train"] if known is not None else len(self._work.splits.train)

    @property
    def resolved_batch_size(self) -> int:
        """Return the rows of a training batch on each device, what "auto" and "full" stand for.

        Raises:
            DataError: More were asked for than a device has training rows.
        """
        rows = self.n_train // world()[1]
        if self.batch_size == "full":
            return rows
        if self.batch_size == "auto":
            low, high = _AUTO_BATCH
            aim = 1 << round(math.log2(max(self.n_train / _STEPS_AN_EPOCH, 1)))
            return min(max(aim, low), high, 1 << int(math.log2(max(rows, 1))))
        check_batch_size(self.batch_size)
        if self.batch_size > rows:
            given = f"--data.batch_size={self.batch_size} exceeds the {rows} training rows a device has"
            raise DataError(f'{given}; give at most that many, or "full".')
        return self.batch_size

    @property
    def resolved_hparams(self) -> dict[str, Any]:
        """Return the hyperparameters with what "auto" and what was left open stand for."""
        learned = self.learned
        found = {"task": learned.task, "target": learned.target, "seed": learned.seed, "bins": self.bins}
        found["memory_map"] = self._work.is_mapped(self._work.table)
        return {**self.hparams, **found, "batch_size": self.resolved_batch_size}

    @property
    def description(self) -> str:
        """Return a few lines for the user: the task, what became of the columns, rows of each set, batch size."""
        return described(self._work, self.batch_size, self.resolved_batch_size)

    def baseline(self, stage: Literal["val", "test"]) -> dict[str, float]:
        """Score the trivial prediction (most frequent training class, or training mean) on a stage's rows.

        Returns:
            `accuracy`, `f1` (macro) and `auroc`, or `rmse`, `mae` and `r2`; NaN if the stage has no rows.
        """
        check_choice("stage", stage, ("val", "test"))
        values = self._work.stage_target(stage)
        counts = self.learned.class_counts
        if counts is not None:
            return majority_metrics(values, counts.index(max(counts)))
        return mean_metrics(values.astype(float), self.target_mean or 0.0)

    def prepare_data(self) -> None:
        """Write the memory map, on one process only; nothing for a table in memory."""
        fn = self.trainer.state.fn if self.trainer is not None else None
        if fn is None or fn.value == "fit":
            self._work.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Encode what a fit needs. Other stages wait for their loader: a checkpoint may yet say how to encode."""
        if stage in (None, "fit"):
            _ = self.resolved_batch_size
            self._work.make(list(STAGES))

    def train_dataloader(self) -> TableLoader:
        """Return shuffled mini-batches `(x, y)`, for this process; a new loader follows `batch_size` as it is now.

        With a column of weights they are `(x, y, weight)`.
        """
        return train_loader(self._work.rows("train"), self.resolved_batch_size, self.learned.seed)

    def val_dataloader(self) -> TableLoader | list[Any]:
        """Return the validation rows in file order; an empty list if there are none."""
        return self._eval_loader("val")

    def test_dataloader(self) -> TableLoader | list[Any]:
        """Return the test rows in file order; an empty list if there are none."""
        return self._eval_loader("test")

    def _eval_loader(self, stage: Stage) -> TableLoader | list[Any]:
        if not self._work.size(stage):
            return []
        return eval_loader(self._work.rows(stage), _rows_at_once(self))

    def predict_dataloader(
        self, data: Any = None, *, keep: str | Sequence[str] = (), allow_missing: bool = False
    ) -> TableLoader | RowStream:
        """Return all rows of `predict_path`, or of a table in memory, in their order: batches `x` without a target.

        Those of a file are read and encoded while they are handed out, so it may be larger than memory.

        Args:
            data: A table in memory, as the module itself takes one; None for the file at `predict_path`.
            keep: Names of columns of the file, or "all", whose cells the loader has in `kept` beside each batch.
            allow_missing: Take a column that the training rows had and these have not as one of missing cells.

        Raises:
            DataError: The rows cannot be predicted; what only their cells tell is raised while they are read.
        """
        size = _rows_at_once(self)
        if data is not None:
            if keep:
                raise DataError("`keep` is for the file at `predict_path`; what is given as data is in memory already.")
            frame, label, _ = in_memory(data)
            return predict_loader(unlabelled(self._work, label, frame, allow_missing=allow_missing), size)
        if self.predict_path is None:
            raise DataError("Which rows shall be predicted? Give --data.predict_path=FILE.")
        path, size = str(self.predict_path), max(size, EVAL_ROWS)
        return stream_of(self._work, path, size, keep=keep, allow_missing=allow_missing)

    def state_dict(self) -> dict[str, Any]:
        """Return all that was learned, as plain numbers, strings, lists and dicts; empty if nothing was."""
        return self._work.plain

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Encode and split as the checkpoint's training did; nothing is learned anew.

        Raises:
            DataError: The table at `path` was read already and is not the one of the checkpoint.
        """
        if state_dict:
            self._work.adopt(Learned.from_plain(state_dict))


def val_rows(data: TabularDataModule) -> NDArray[np.int64]:
    """Return the numbers of the validation rows in the table, from 0, in the order they are handed out."""
    return val_rows_of(data._work)


def drift(data: TabularDataModule, stage: Literal["val", "test"]) -> list[str]:
    """Return how the targets in a stage's own file differ from those trained on, a line each; none if little."""
    return drift_of(data._work, stage)


def _rows_at_once(data: TabularDataModule) -> int:
    return data.batch_size if isinstance(data.batch_size, int) else 1
