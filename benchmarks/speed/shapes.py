"""The tables and batch sizes, and the one set of rows that every contender gets."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HIDDEN = [128, 128]
MOMENTUM = 0.9
CLASSES = 10
VAL_FRACTION = 0.1  # of digits


@dataclass(frozen=True)
class Shape:
    """A table, a batch size, how many epochs a fit has (the first of them is not timed), and SGD's learning rate."""

    table: str
    batch: int
    epochs: int
    lr: float = 0.1

    @property
    def name(self) -> str:
        return f"{self.table}-{self.batch}"


# On digits an epoch takes milliseconds: many of them, so that what comes every few epochs has its share.
# At batch 32 and a momentum of 0.9 a rate of 0.1 diverges for some seeds, and the losses reached would say nothing.
_ALL = [
    Shape("digits", 32, 41, lr=0.02),
    Shape("digits", 256, 101),
    Shape("100k", 32, 2, lr=0.02),
    Shape("100k", 256, 4),
    Shape("100k", 2048, 6),
    Shape("tiny", 32, 3, lr=0.02),  # for the test of this harness
]
SHAPES = {shape.name: shape for shape in _ALL}
SYNTHETIC = {"100k": (100_000, 10_000), "tiny": (320, 64)}  # rows to train and to validate on
FEATURES = 64


@dataclass(frozen=True)
class Job:
    """One fit, as a worker is told it: plain data."""

    shape: Shape
    folder: str
    seed: int

    def rows(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return x, y to train on and x, y to validate on; float32 and int64."""
        arrays = np.load(encoded_file(self.shape.table, Path(self.folder)))
        return tuple(arrays[name] for name in ("x", "y", "val_x", "val_y"))  # type: ignore[return-value]

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Job":
        return cls(Shape(**plain["shape"]), plain["folder"], plain["seed"])


def encoded_file(table: str, folder: Path) -> Path:
    """The encoded rows of a table, for those who read no tables."""
    return folder / f"{table}-encoded.npz"


def data_flags(table: str, folder: Path) -> list[str]:
    """What our command is told to read the same rows."""
    if table in SYNTHETIC:
        files = [f"--data.path={folder / table}-train.npz", f"--data.val_path={folder / table}-val.npz"]
        return [*files, "--data.target=y", "--data.val_fraction=0", "--data.test_fraction=0"]
    return [f"--data.path={table}", f"--data.val_fraction={VAL_FRACTION}", "--data.test_fraction=0"]


def write_rows(table: str, folder: Path) -> None:
    """Write a table's files: for our command the table itself, for the others its rows as our command encodes them.

    So everybody gets the same rows in the same split, standardised, and without digits' three constant columns.
    """
    from datamodules import TabularDataModule

    if table in SYNTHETIC:
        for part, rows in zip(("train", "val"), synthetic_rows(*SYNTHETIC[table]), strict=True):
            np.savez(folder / f"{table}-{part}.npz", x=rows[0], y=rows[1])
    said = dict(flag.removeprefix("--data.").split("=", 1) for flag in data_flags(table, folder))
    fractions = {name: float(said.pop(name)) for name in ("val_fraction", "test_fraction")}
    data = TabularDataModule(said.pop("path"), **said, **fractions, seed=0, batch_size=32)  # type: ignore[arg-type]
    data.setup("fit")
    train, val = data.train_dataloader().dataset, data.val_dataloader().dataset  # type: ignore[union-attr]
    arrays = {"x": train.x, "y": train.y, "val_x": val.x, "val_y": val.y}
    np.savez(encoded_file(table, folder), **{name: tensor.numpy() for name, tensor in arrays.items()})


def synthetic_rows(*sizes: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Standard normal features and the noisy choices of a random network: learnable, and never learnt by heart."""
    generator = np.random.default_rng(0)
    first = generator.standard_normal((FEATURES, 32)) / FEATURES**0.5
    second = generator.standard_normal((32, CLASSES))
    made = []
    for size in sizes:
        x = generator.standard_normal((size, FEATURES)).astype(np.float32)
        scores = np.tanh(2 * x @ first) @ second + generator.gumbel(size=(size, CLASSES))
        made.append((x, scores.argmax(1)))
    return made
