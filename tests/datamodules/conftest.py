"""Small tables in files, and a cache that no test shares with another or with the user."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def write(tmp_path):
    """Write text or bytes to a file and return its path as a string."""

    def to_file(name: str, content: str | bytes) -> str:
        path = Path(tmp_path) / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return to_file


@pytest.fixture
def mixed(write):
    """400 rows with each sort of column: numbers, gaps, junk, categories, dates, names, constants; two targets."""

    def make(name: str = "mixed.csv", rows: int = 400, seed: int = 0) -> str:
        rng = np.random.default_rng(seed)
        lines = ["id,size,gappy,junky,colour,flag,when,who,same,amount,kind"]
        for i in range(rows):
            x = rng.normal()
            gappy = "" if i % 7 == 0 else f"{rng.normal(1e6, 1):.4f}"
            junky = "?" if i % 30 == 0 else f"{i % 11}"
            colour = ["red", "green", "blue", ""][rng.integers(4)] if i != 3 else "mauve"
            kind = "big" if x > 0 else "small"
            day = f"2024-{1 + i % 12:02d}-{1 + i % 28:02d}"
            lines.append(f"{i + 1},{x:.5f},{gappy},{junky},{colour},{i % 3 == 0},{day},n{i}q,7,{3 * x + 1:.4f},{kind}")
        return write(name, "\n".join(lines) + "\n")

    return make
