"""How to search, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from callbacks._search_engines import check_engines
from callbacks._search_error import SearchError


@dataclass(frozen=True)
class Plan:
    """How to search.

    Args:
        name: The study's name within its storage.
        n_trials: Trials of the whole study, over all processes and all starts, at least 1.
        timeout: Seconds after which this process starts no further trial; none for no limit. A trial that runs is
            not cut off.
        sampler: Who chooses the next values: tpe (tree-structured Parzen estimators, Bergstra et al. 2011), gp
            (Gaussian process), random, cmaes (needs `pip install cmaes`), qmc (Sobol points), grid (all combinations;
            ends early when there are fewer than `n_trials`).
        pruner: Who ends hopeless trials: halving (asynchronous successive halving, Li et al. 2020: the best third goes
            on behind the third report, and of these behind the seventh, the 19th, …), hyperband, median, percentile
            (goes on with the best quarter), wilcoxon (for folds or seeds of one trial), none. With several directions
            Optuna prunes nothing.
        directions: `minimize` or `maximize` for each value that `train` returns.
        seed: A study run by one process repeats exactly, also if it was killed and started again; not so with
            cmaes and hyperband, which go by trial numbers, and a kill takes one, nor with halving, which counts what
            was reported of it. Several processes finish in an order of their own, and what they try depends on it.
        retries: How often a trial is tried again whose process was killed; if that is in vain it counts as failed.
        start: Values to try first, one mapping a trial; a name that is left out is drawn.
    """

    name: str = "study"
    n_trials: int = 30
    timeout: float | None = None
    sampler: str = "tpe"
    pruner: str = "halving"
    directions: Sequence[str] = ("minimize",)
    seed: int = 0
    retries: int = 10
    start: Sequence[Mapping[str, Any]] = field(default=())

    def check(self) -> None:
        """See that the numbers and names can be.

        Raises:
            SearchError: One of them cannot.
        """
        if self.n_trials < 1:
            raise SearchError(f"n_trials must be at least 1, not {self.n_trials}.")
        if self.timeout is not None and not self.timeout > 0:
            raise SearchError(f"timeout must be more than 0 seconds, not {self.timeout}.")
        if self.retries < 0:
            raise SearchError(f"retries must be at least 0, not {self.retries}.")
        if not self.directions or any(way not in ("minimize", "maximize") for way in self.directions):
            raise SearchError(f"Every direction is `minimize` or `maximize`; got {list(self.directions)}.")
        if self.sampler == "cmaes" and len(self.directions) > 1:
            raise SearchError("The sampler 'cmaes' is for one direction; tpe, gp, random, qmc and grid take several.")
        check_engines(self.sampler, self.pruner)
