"""What a person at the terminal reads besides results, and what they are spared."""

import logging
import sys
import warnings

from lightning_utilities.core.rank_zero import rank_zero_only


@rank_zero_only
def say(text: str) -> None:
    """Tell the person at the terminal, once."""
    sys.stderr.write(text.rstrip("\n") + "\n")


def quiet() -> None:
    """Silence what Lightning says about itself; its warnings about the user's own code stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",  # a gather from memory is faster than handing batches between processes
        ".*smaller than the logging interval.*",  # our modules log by the epoch
        ".*Checkpoint directory .* exists and is not empty.*",  # so it is when a run is resumed
        ".*isinstance\\(treespec, LeafSpec\\).*",  # Lightning's own use of a deprecated torch name
        ".*callbacks used to create the checkpoint need to be provided.*",  # only a fit goes on with them
    ):
        warnings.filterwarnings("ignore", message=message)
