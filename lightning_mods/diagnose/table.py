"""A log as columns of numbers, whatever file it came from."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

TRAIN = {"train", "training", "tr", "trn"}
VAL = {"val", "valid", "validation", "vali", "eval", "evaluation", "dev"}
TEST = {"test", "testing"}  # many call their validation set so; taken where there is no other
STAGES = TRAIN | VAL | TEST
LOSS = {"loss", "losses"}
LOSS_LIKE = {"nll", "bce", "xent", "crossentropy", "logloss", "mlogloss", "cost", "objective", "mse", "rmse", "mae"}
PARTS = {
    "box",
    "cls",
    "dfl",
    "obj",
    "seg",
    "sem",
    "pose",
    "kobj",
    "giou",
    "l1",
    "rle",
    "angle",
}  # of Ultralytics' losses
_NOT_A_CURVE = {"best", "min", "max", "std", "var", "weight", "scale", "lowest"}
_NEUTRAL = {
    "epoch",
    "step",
    "mean",
    "avg",
    "average",
    "total",
    "running",
    "dataloader",
    "idx",
    "0",
    "metrics",
    "metric",
}
_METRICS = (  # the first that is found; a pattern over the words joined by _
    *("accuracy|acc|top_?1|accuracy_top1", "f1|f1_score|f1score", "auroc|auc|roc_auc"),
    *("map50_95|map_50_95|map_0_5_0_95|map", r"map\d*|map_\d+(_\d+)?", "iou|miou|jaccard|dice", "mcc|kappa"),
    *("bleu|rouge\\w*", "wer|cer|error_rate|err"),
)
_LOW_IS_GOOD = {*LOSS, *LOSS_LIKE, "error", "err", "wer", "cer", "perplexity", "ppl", "fid", "distance", "mape", "msle"}


def words(name: str) -> list[str]:
    """The words of a column's name: `valLoss`, `Val Loss`, `val/loss` and `val_loss` are the same."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.replace("mAP", "map"))
    return [word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]


def plain(name: str) -> str:
    """The words of a name in one form."""
    return "_".join(words(name))


def is_epoch(name: str) -> bool:
    """Whether a column counts epochs."""
    return plain(name) in {"epoch", "epochs", "ep", "current_epoch", "trainer_epoch", "train_epoch", "epoch_num"}


def is_step(name: str) -> bool:
    """Whether a column counts optimizer steps."""
    known = {"step", "steps", "global_step", "iter", "iters", "iteration", "iterations", "n_iter", "update", "updates"}
    return plain(name).removeprefix("trainer_").removeprefix("train_") in known


def loss_extras(name: str, stages: set[str], losses: set[str]) -> frozenset[str] | None:
    """What a loss of a stage says beyond that: `{"ce"}` for `val_ce_loss`; None where it is none of them.

    Args:
        name: The column.
        stages: The words for the stage; empty for a loss that names none.
        losses: The words for a loss.
    """
    said = words(name)
    if not losses & set(said) or _NOT_A_CURVE & set(said):
        return None
    if not (stages & set(said) if stages else not STAGES & set(said)):
        return None
    return frozenset(set(said) - stages - losses - _NEUTRAL)


def part_of(name: str) -> str | None:
    """Which part of Ultralytics' loss a column such as `train/box_loss` holds."""
    match = re.fullmatch(r"(?:train|val)_([a-z0-9]+)_loss", plain(name))
    return match[1] if match and match[1] in PARTS else None


def preference(name: str) -> int:
    """The mean of an epoch before what names no span, and that before single steps."""
    said = set(words(name))
    if said & {"step", "batch", "running"}:
        return 3
    if "dataloader" in said and "0" not in said:
        return 4
    return 0 if "epoch" in said else 1 if not said & _NEUTRAL else 2


def metric_rank(name: str, stages: set[str]) -> tuple[int, int] | None:
    """How much a column looks like the metric that matters; the lowest is to be taken, None is none."""
    said = words(name)
    if not stages & set(said) or _NOT_A_CURVE & set(said):
        return None
    rest = "_".join(word for word in said if word not in stages | _NEUTRAL)
    for rank, pattern in enumerate(_METRICS):
        if re.search(rf"(^|_)({pattern})(_|$)", rest):
            return rank, len(said) + 10 * preference(name)
    return None


def metric_mode(name: str) -> str:
    """Whether a metric is good when high ("max") or low ("min"), by its name."""
    return "min" if _LOW_IS_GOOD & set(words(name)) else "max"


Cell = float | None  # None is an empty cell; NaN is what the run wrote

_MISSING = {"", "-", "na", "n/a", "none", "null", "nil", "."}
_TENSOR = re.compile(r"tensor\(\s*([-+.\w]+).*\)", re.DOTALL)  # what str() makes of a torch scalar
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(e[-+]?\d+)?", re.IGNORECASE)


class LogError(ValueError):
    """Why a log cannot be read, in one line for the person who gave it."""


@dataclass(frozen=True)
class Table:
    """A log's columns, all of one length, in the order of the file.

    Attributes:
        kind: what wrote it, in words.
        columns: the numbers.
        words: of a column that holds words, the first of them.
        notes: what was left out while reading.
    """

    kind: str
    columns: dict[str, list[Cell]]
    words: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """The number of rows."""
        return max((len(values) for values in self.columns.values()), default=0)

    def count(self, name: str) -> int:
        """How many cells of a column hold a number, NaN among them."""
        return sum(value is not None for value in self.columns[name])


def number(value: object) -> Cell | str:
    """What a cell says: a number, None where it is empty, or else its words.

    `NaN`, `Infinity` and `inf` are numbers, whatever their case; a list of one number is that number.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if value is None or isinstance(value, bool):
        return None if value is None else str(value)
    if isinstance(value, str) and value.strip().lower() in _MISSING:
        return None
    if not isinstance(value, str | int | float):
        return type(value).__name__
    text = str(value).strip()
    tensor = _TENSOR.fullmatch(text)
    if tensor:
        text = tensor[1]
    elif _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        return text


def table_of(kind: str, rows: Iterable[Mapping[str, object]], notes: Sequence[str] = ()) -> Table:
    """A table out of rows, each with some of the columns."""
    columns: dict[str, list[Cell]] = {}
    words: dict[str, str] = {}
    length = 0
    for row in rows:
        for name, value in row.items():
            cell = number(value)
            if isinstance(cell, str):
                words.setdefault(name, cell)
                cell = None
            column = columns.setdefault(name, [])
            column.extend([None] * (length - len(column)))
            column.append(cell)
        length += 1
    for column in columns.values():
        column.extend([None] * (length - len(column)))
    return Table(kind, columns, words, tuple(notes))
