"""From a table to the loaders of one case: split, scaled, and spoilt where the case says so."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .scaling import scale_inputs, target_scale
from .settings import Settings
from .tables import Array, load

Pair = tuple[torch.Tensor, torch.Tensor]
MOST_ROWS = 900  # of training; more steps an epoch would teach a detector nothing new
VALIDATION_ROWS = 250


class Rows(Dataset[Pair]):
    """Tensors with a transform, as everybody writes it."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, augmentation: str = ""):
        self.x, self.y, self.augmentation = x, y, augmentation

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Pair:
        return augment(self.x[index], self.augmentation), self.y[index]


def augment(x: torch.Tensor, how: str) -> torch.Tensor:
    """Change one row: `jitter` and `shift` keep what it shows, `noise`, `turn` and `erase` do not."""
    if how == "jitter":
        return x + 0.1 * torch.randn_like(x)
    if how == "shift":
        return torch.roll(x, int(torch.randint(-1, 2, ())), -1)
    if how == "noise":
        return x + 4 * torch.randn_like(x)
    if how == "turn":  # a picture upside down, mirrored and inverted
        return -torch.rot90(x, int(torch.randint(1, 4, ())), (-2, -1)).flip(-1)
    if how == "erase":
        return x * (torch.rand_like(x) < 0.1)
    return x


@dataclass(frozen=True)
class Data:
    """Loaders for the fit, and what the case is judged on: right rows, scaled like the others."""

    train: DataLoader[Pair]
    val: DataLoader[Pair]
    clean_x: torch.Tensor
    clean_y: torch.Tensor  # classes, or targets in units of their deviation
    shift: float = 0.0  # a network's number to those units: `shift + factor * number`
    factor: float = 1.0


def make_data(s: Settings, seed: int) -> Data:
    """Split the table by the seed, spoil what is to be spoilt and scale the rest."""
    x, y = load(s.table)
    r = np.random.default_rng(seed)
    order = r.permutation(len(x))
    val, train = order[:VALIDATION_ROWS], order[VALIDATION_ROWS:][: s.rows or MOST_ROWS]
    mean, std = (0.0, 1.0) if s.classes else (float(y[train].mean()), float(y[train].std()))
    shift, factor = (0.0, 1.0) if s.classes else target_scale(y[train].astype(np.float64), s.target_scaling)
    clean_y = (y[val] - mean) / std if not s.classes else y[val]
    train = _resampled(y, train, s, r)
    labels, val_labels = _noisy(y, train, s, r), _noisy(y, val, s, r)
    if s.order == "sorted":
        by_target = np.argsort(labels, kind="stable")
        train, labels = train[by_target], labels[by_target]
    x_train, x_val = scale_inputs(x[train], [x[val]], s.scaling)
    _spoil(x_train, s.bad_row, r)
    fit_y, val_y = ((v - shift) / factor if not s.classes else v for v in (labels, val_labels))
    return Data(
        DataLoader(Rows(_tensor(x_train), _tensor(fit_y), s.augmentation), s.batch_size, shuffle=s.order == "shuffled"),
        DataLoader(Rows(_tensor(x_val), _tensor(val_y)), batch_size=125),
        _tensor(x_val),
        _tensor(clean_y),
        (shift - mean) / std,
        factor / std,
    )


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32 if values.dtype == np.float64 else torch.int64)


def _resampled(y: np.ndarray, train: np.ndarray, s: Settings, r: np.random.Generator) -> np.ndarray:
    """Draw rows with replacement until the first class, or the lowest tenth, has its share."""
    if not s.majority:
        return train
    low = y[train] == 0 if s.classes else y[train] <= np.quantile(y[train], 0.1 if s.majority > 0.9 else 0.5)
    many = round(s.majority * len(train))
    return r.permutation(
        np.concatenate([r.choice(train[low], many), r.choice(train[~low], len(train) - many, replace=False)])
    )


def _noisy(y: np.ndarray, rows: np.ndarray, s: Settings, r: np.random.Generator) -> np.ndarray:
    """Noise sits in both sets, as it does in life."""
    if s.misaligned:
        return r.permutation(y[rows])
    return np.where(r.random(len(rows)) < s.label_noise, r.permutation(y[rows]), y[rows])


def _spoil(x: Array, how: str, r: np.random.Generator) -> None:
    """Spoil one row in the middle of the table in place."""
    if how:
        x[int(r.integers(len(x) // 4, len(x) // 2))] = np.nan if how == "nan" else 0.0
