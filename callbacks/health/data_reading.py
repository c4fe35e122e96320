"""Read the inputs and labels of batches, and how training rows differ from validation rows, into plain facts."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor

from callbacks.health.facts import Contrast, Dependence, Inputs, Labels, Neighbours, Numbers
from callbacks.health.faults import Finding

DEEPEST, MOST = 4, 32
_MOST_BATCH_VALUES = 1 << 18  # of one batch that are looked at: a millisecond


def tensors_in(batch: Any) -> list[Tensor]:
    """Return the plain tensors of a batch of nested mappings, sequences and dataclasses, in their order."""
    return [tensor for _, tensor in islice(named_tensors(batch), MOST) if is_plain(tensor)]


def named_tensors(
    batch: Any, path: str = "batch", *, levels: int = DEEPEST, most: int | None = MOST
) -> Iterator[tuple[str, Tensor]]:
    """Yield where each tensor of a nested batch stands, and the tensor; of all levels below 0, of all parts at None."""
    parts: Iterable[tuple[str, Any]] = ()
    if isinstance(batch, Tensor):
        yield path, batch
    elif isinstance(batch, Mapping):
        parts = ((f"{path}[{key!r}]", part) for key, part in batch.items())
    elif isinstance(batch, list | tuple):
        parts = ((f"{path}[{index}]", part) for index, part in enumerate(batch[:most]))
    elif dataclasses.is_dataclass(batch):
        parts = ((f"{path}.{each.name}", getattr(batch, each.name, None)) for each in dataclasses.fields(batch))
    for where, part in parts if levels else ():
        yield from named_tensors(part, where, levels=levels - 1, most=most)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has rows as others have: not nested, nor sparse, nor quantised, nor one of `torch.func`'s."""
    try:
        tensor.untyped_storage()
    except NotImplementedError:  # it stands for many within `vmap` and `grad`, and may not leave them
        return False
    return tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized


def flat_rows(tensor: Tensor) -> Tensor:
    """Return the first rows of a batch as float vectors, of a bounded size in all."""
    rows = min(len(tensor), max(_MOST_BATCH_VALUES // max(tensor[0].numel(), 1), 2))
    return tensor.detach()[:rows].reshape(rows, -1).float()


def read_inputs(layer: str, batches: Sequence[Tensor], *, from_batch: bool) -> Inputs | None:
    """Read what a layer was given in some batches; None of less than two rows or of numbers that are not finite."""
    if not batches or min(len(batch) for batch in batches) < 2 or len({batch[0].shape for batch in batches}) > 1:
        return None
    vectors = [flat_rows(batch) for batch in batches]
    rows = torch.cat(vectors)
    square = rows.square()
    columns = square.mean(0) if batches[0].ndim == 2 else square.mean()[None]
    lengths = square.sum(1).sqrt()
    spread = torch.stack([vector.std(0).max() for vector in vectors]).max()
    numbers = torch.stack([rows.abs().max(), square.mean().sqrt(), columns.max().sqrt(), spread])
    values = torch.cat([numbers, torch.stack([lengths.min(), lengths.max()])])
    if not bool(values.isfinite().all()):
        return None
    largest, rms, column_rms, spread_, shortest, longest = values.tolist()
    unit = shortest > 0.99 and longest < 1.01
    return Inputs(layer, len(rows), largest, rms, column_rms, spread_, unit, from_batch)


def read_labels(batches: list[Tensor], *, weighted: bool, ignored: int = -100) -> Labels:
    """Read balance and order of the classes of an epoch from its batches' labels."""
    split = [batch.cpu().long() for batch in batches]
    if set(torch.unique(torch.cat(split)).tolist()) != {-1, 1}:  # else below 0 is torch's and scikit-learn's "no label"
        split = [batch[(batch >= 0) & (batch != ignored)] for batch in split]
    split = [batch for batch in split if len(batch) > 1]
    if not split:
        return Labels({})
    counts = Counter(torch.cat(split).tolist())
    impure = [(_impurity(torch.bincount(batch - batch.min())), len(batch)) for batch in split]
    whole = _impurity(torch.tensor(list(counts.values())))
    rows = sum(size for _, size in impure)
    within = sum(value * size for value, size in impure) / rows / whole if whole else 1.0
    commonest = [int(batch.mode().values) for batch in split]
    runs = 1 + sum(one != other for one, other in pairwise(commonest))
    return Labels(dict(sorted(counts.items())), within, runs, len(split), weighted)


def _impurity(counts: Tensor) -> float:
    # Chance that two different rows differ in class.
    rows = int(counts.sum())
    return 1 - float((counts * (counts - 1)).sum()) / (rows * (rows - 1)) if rows > 1 else 0.0


def read_numbers(batches: list[Tensor], validation: list[Tensor]) -> Numbers | None:
    """Read spread and order of a regression's targets in an epoch; None if a target is not finite."""
    split = [batch.cpu().double() for batch in batches if len(batch) > 1]
    every = torch.cat(split)
    if not bool(every.isfinite().all()):
        return None
    whole = float(every.var())
    within = sum(float(batch.var()) * len(batch) for batch in split) / len(every) / whole if whole else 1.0
    means = torch.stack([batch.mean() for batch in split])
    apart, narrower = 0.0, 1.0
    if sum(len(batch) for batch in validation) >= 50:
        other = torch.cat(validation).cpu().double()
        apart, narrower = _apart(every, other), _quartiles(every) / max(_quartiles(other), 1e-12)
    return Numbers(len(every), within, _trend(means), len(split), apart, narrower)


def _trend(values: Tensor) -> float:
    if len(values) < 3:
        return 0.0
    ranks = values.argsort().argsort().double()
    return float(torch.corrcoef(torch.stack([ranks, torch.arange(len(values), dtype=torch.double)]))[0, 1])


def _quartiles(values: Tensor) -> float:
    low, high = torch.quantile(values[:100_000], torch.tensor([0.25, 0.75], dtype=values.dtype)).tolist()
    return float(high - low)


def _apart(one: Tensor, other: Tensor) -> float:
    # Kolmogorov's and Smirnov's distance.
    both = torch.cat([one, other])
    below = [torch.searchsorted(part.sort().values, both, right=True) / len(part) for part in (one, other)]
    return float((below[0] - below[1]).abs().max())


def read_contrast(train: Tensor, val: Tensor, labels: tuple[Tensor, Tensor] | None) -> Contrast | None:
    """Compare training rows (N, …) with validation rows (M, …); None if a number is not finite."""
    comparable = train.shape[1:] == val.shape[1:] and min(len(train), len(val)) >= 8
    if not comparable or not bool(train.isfinite().all() and val.isfinite().all()):
        return None
    effects = {}
    for name, of_train, of_val in zip(STATISTICS, _statistics(train), _statistics(val), strict=False):
        pooled = float(((of_train.var() + of_val.var()) / 2).sqrt())
        difference = float(of_train.mean() - of_val.mean())
        told = pooled > 1e-6 * abs(float(of_val.mean())) + 1e-12 and _stand_apart(of_train, of_val)
        effects[name] = difference / pooled if told else 0.0
    likeness, reliable = _pictures(train, val) if train.ndim > 3 else (None, 0.0)
    shift = _label_shift(*labels) if labels else 0.0
    return Contrast(min(len(train), len(val)), effects, likeness, reliable, shift)


def _stand_apart(train: Tensor, val: Tensor) -> bool:
    """Whether either mean lies well outside of the other's rows.

    It must lie further out where validation rows drift: a series that climbs goes on where it ended before.
    """
    drifts = abs(_trend(val)) > 3 / math.sqrt(len(val))
    margin = max(train.std(), val.std()) * (1.0 if drifts else 0.5)
    for rows, mean in ((train, val.mean()), (val, train.mean())):
        low, high = torch.quantile(rows, torch.tensor([0.02, 0.98], dtype=rows.dtype))
        if not (mean < low - margin or mean > high + margin):
            return False
    return True


STATISTICS = ("mean", "deviation", "skewness", "roughness")


def _statistics(rows: Tensor) -> list[Tensor]:
    """One number a row: mean, deviation, skewness, and of rows with an order the change from place to place."""
    flat = rows.reshape(len(rows), -1)
    if flat.shape[1] < 4:
        return [flat.mean(1)]
    mean, deviation = flat.mean(1), flat.std(1)
    safe = deviation.clamp_min(1e-12)
    skewness = (((flat - mean[:, None]) / safe[:, None]) ** 3).mean(1)
    rough = rows.diff(dim=-1).abs().reshape(len(rows), -1).mean(1) / safe
    return [mean, deviation, skewness, *([rough] if rows.ndim > 2 else [])]


def _pictures(train: Tensor, val: Tensor) -> tuple[float, float]:
    means = [part.mean(0).reshape(-1) for part in (train, val, train[::2], train[1::2], val[::2], val[1::2])]
    pairs = (torch.stack(means[i : i + 2]) for i in (0, 2, 4))
    like, of_train, of_val = (float(torch.corrcoef(pair).nan_to_num()[0, 1]) for pair in pairs)
    return like, min(of_train, of_val)


def _label_shift(train: Tensor, val: Tensor) -> float:
    if train.is_floating_point() or val.is_floating_point():
        return 0.0
    most = int(max(train.max(), val.max())) + 1
    shares = [torch.bincount(part.long().clamp_min(0), minlength=most) / len(part) for part in (train, val)]
    return float((shares[0] - shares[1]).abs().sum() / 2)


NEIGHBOURS = 5
SHUFFLES = 30
FEW, ENOUGH = 50, 256  # rows of a quick look
MOST_ROWS = 512
MOST_COLUMNS = 4096  # of long rows, evenly spaced


def read_neighbours(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> Neighbours | None:
    """Compare the labels of near rows in equally many training and validation rows, in about a millisecond.

    Each is rows (N, …) and their classes (integers) or targets (floats).
    """
    size = min(len(val[0]), len(train[0]), ENOUGH)  # neighbours are nearer in a larger sample
    if size < FEW or val[0].shape[1:] != train[0].shape[1:]:
        return None
    (near, distance), (near_val, distance_val) = (_nearest(_prepared(rows, size)) for rows, _ in (train, val))
    agreed, agreed_val = _agreement(_values(train[1][:size]), near), _agreement(_values(val[1][:size]), near_val)
    density = distance / distance_val if distance_val else 1.0
    return Neighbours(size, agreed, agreed_val, _chance(val[1][:size]), density)


def read_dependence(rows: Tensor, labels: Tensor, *, best_val_loss: float, epochs: int) -> Dependence:
    """Compare rows (N, …) and labels (N) by permutation tests; their random numbers are their own."""
    flat = _prepared(rows, MOST_ROWS)
    labels = labels[: len(flat)]
    near, _ = _nearest(flat)
    score = _beyond_chance(lambda of: _agreement(of, near), _values(labels))
    return Dependence(len(flat), score, _best_column(flat, labels), best_val_loss, epochs)


def _prepared(rows: Tensor, most: int) -> Tensor:
    flat = rows[:most].reshape(min(len(rows), most), -1).float()
    flat = flat[:, :: -(-flat.shape[1] // MOST_COLUMNS)]
    return (flat - flat.mean(0)) / flat.std(0).clamp_min(1e-8)


def _nearest(rows: Tensor) -> tuple[Tensor, float]:
    """Positions of the nearest rows, and the mean distance to the very nearest."""
    distance = torch.cdist(rows, rows)
    distance.fill_diagonal_(float("inf"))
    near = distance.topk(min(NEIGHBOURS, len(rows) - 1), largest=False)
    return near.indices, float(near.values[:, 0].mean())


def _values(labels: Tensor) -> Tensor:
    return labels.argsort().argsort().float() / len(labels) if labels.is_floating_point() else labels


def _agreement(values: Tensor, near: Tensor) -> float:
    found = values[near]
    same = found == values[:, None] if not values.is_floating_point() else 1 - (found - values[:, None]).abs()
    return float(same.float().mean())


def _chance(labels: Tensor) -> float:
    if labels.is_floating_point():
        return 2 / 3  # two ranks lie a third apart on average
    shares = torch.unique(labels, return_counts=True)[1] / len(labels)
    return float(shares.square().sum())


def _best_column(rows: Tensor, labels: Tensor) -> float:
    """Return the standard deviations above chance of the column that tells most of the label (correlation ratio)."""
    if labels.is_floating_point():
        ranks = labels.argsort().argsort().float()
        values = torch.stack([ranks - ranks.mean()], 1)
    else:
        values = torch.nn.functional.one_hot(torch.unique(labels, return_inverse=True)[1]).float()
        values = values - values.mean(0)
    values = values / values.norm(dim=0).clamp_min(1e-8)

    return _beyond_chance(lambda of: float((rows.T @ of).square().sum(1).max()), values)


def _beyond_chance(measure: Callable[[Tensor], float], values: Tensor) -> float:
    """Standard deviations by which a measure exceeds its mean over shuffled values."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.tensor([measure(values[torch.randperm(len(values), generator=generator)]) for _ in range(SHUFFLES)])
    return (measure(values) - float(seen.mean())) / max(float(seen.std()), 1e-6)


MOST_VALUES = 1 << 21  # 8 MB of inputs in each sample
MOST_LABELS = 200_000
MOST_BATCHES = 2000


@dataclass
class Sample:
    """Rows and labels of batches as they came, on the device they came on."""

    a_batch: int = MOST_ROWS  # rows kept of each batch
    inputs: list[Tensor] = field(default_factory=list)
    input_labels: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    kept: int = 0
    seen: int = 0
    batches: int = 0
    spread: bool = False  # whether that brings rows from all over the epoch

    def spread_over(self, batches: float) -> None:
        """Keep rows of all of an epoch's batches, if their number is known."""
        self.spread = math.isfinite(batches)
        self.a_batch = max(1, math.ceil(MOST_ROWS / batches)) if self.spread and batches else 16

    def add(self, x: Tensor | None, y: Tensor | None) -> None:
        """Add a batch: what is kept is copied."""
        self.batches += 1
        if y is not None and self.seen < MOST_LABELS and len(self.labels) < MOST_BATCHES:
            self.labels.append(y.reshape(-1).clone())
            self.seen += len(y)
        if x is None or not len(x):
            return
        room = min(MOST_ROWS, MOST_VALUES // max(x[0].numel(), 1)) - self.kept
        rows = min(self.a_batch, room, len(x))
        if rows > 0:
            self.inputs.append(x[:rows].detach().clone())
            if y is not None:
                self.input_labels.append(y[:rows].reshape(-1).clone())
            self.kept += rows

    def rows(self) -> Tensor | None:
        """Return the kept rows on the CPU as floats; None if there are none, or of different shapes."""
        alike = len({x.shape[1:] for x in self.inputs}) == 1
        return torch.cat(self.inputs).cpu().float() if alike else None

    def row_labels(self) -> Tensor | None:
        """Return the labels of the kept rows, or None."""
        whole = 0 < len(self.input_labels) == len(self.inputs)
        return torch.cat(self.input_labels).cpu() if whole else None

    def clear(self) -> None:
        """Drop everything."""
        for kept in (self.inputs, self.input_labels, self.labels):
            kept.clear()
        self.kept = self.seen = self.batches = 0


SAME = 1e-9  # relative; a row that anything was done to differs by more
AGAIN = 0.9  # of the rows


class PendingFinding:
    """Findings about training rows that hold only if the next epoch brings the same rows, not augmented ones."""

    def __init__(self, findings: Sequence[Finding], rows: Tensor) -> None:
        self._findings = list(findings)
        self._before = _marks(rows)
        self._since: list[Tensor] = []

    def add(self, rows: Tensor | None) -> None:
        """Read a batch of the next epoch."""
        if rows is not None and len(rows):
            self._since.append(_marks(rows))

    def findings(self) -> list[Finding]:
        """Return the findings if nearly all rows came again as they were."""
        if not self._since:
            return []
        since = torch.cat(self._since).cpu().sort().values
        near = torch.searchsorted(since, self._before)
        around = since[torch.stack([near - 1, near]).clamp(0, len(since) - 1)]
        apart = (around - self._before).abs().amin(0)
        again = (apart <= SAME * (self._before.abs() + 1)).double().mean()
        return self._findings if float(again) >= AGAIN else []


def _marks(rows: Tensor) -> Tensor:
    # One number a row that hardly any two rows share.
    flat = rows.detach().reshape(len(rows), -1).double()
    return (flat * torch.linspace(0.5, 1.5, flat.shape[1], dtype=torch.double, device=flat.device)).sum(1)
