"""Leaves everybody's random numbers as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

from pytorch_lightning.utilities.seed import isolate_rng


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Put Python's, NumPy's and torch's generators back at the end, also when it ends in an exception."""
    kept = isolate_rng()
    kept.__enter__()
    try:
        yield
    finally:
        kept.__exit__(None, None, None)  # given the exception, it would put nothing back
