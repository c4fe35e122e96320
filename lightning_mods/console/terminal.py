"""What a person at the terminal reads besides results, and what they are spared."""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_utilities.core.rank_zero import rank_zero_only


@rank_zero_only
def say(text: str) -> None:
    """Tell the person at the terminal, once."""
    sys.stderr.write(text.rstrip("\n") + "\n")


def speak_as(rank: int) -> None:
    """Take a rank, as torch's launchers give it before anything is imported; all but rank zero are silent."""
    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # a function's attribute


@contextmanager
def writers_report_once() -> Iterator[None]:
    """Keep TensorBoard's writer thread from printing the traceback of a full disk.

    It keeps the error and raises it again in the main thread at the next write, where it becomes one line.
    """
    before = threading.excepthook

    def report(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, OSError):
            before(args)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before


def quiet() -> None:
    """Silence what Lightning says about itself; its warnings about the user's own code stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",  # a gather from memory is faster than handing batches between processes
        ".*smaller than the logging interval.*",  # our modules log by the epoch
        ".*Checkpoint directory .* exists and is not empty.*",  # so it is when a run is resumed
        ".*Experiment logs directory .* exists and is not empty.*",  # our files lie beside the table
        ".*isinstance\\(treespec, LeafSpec\\).*",  # Lightning's own use of a deprecated torch name
        ".*You requested to overfit.*",  # so it is, as asked
        "IProgress not found.*",  # tqdm without ipywidgets in a notebook: it does without a bar, as we say ourselves
        ".*Total length of `list` across ranks is zero.*",  # a set the user did without
        ".*callbacks used to create the checkpoint need to be provided.*",  # only a fit goes on with them
    ):
        warnings.filterwarnings("ignore", message=message)
