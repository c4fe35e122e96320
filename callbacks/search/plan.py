"""Describe how to search, as plain data; make samplers and pruners, and say where successive halving prunes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from callbacks.host.secrets import without_passwords
from callbacks.search.cmaes import make_cmaes

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler


class SearchError(ValueError):
    """An error that stops a search before or between trials; `str()` of it is one line, without passwords."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_passwords(message))


class OtherSpaceError(SearchError):
    """A study is there already, of another space than the one that is asked for."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the kind of an exception and so many letters of the first line of its text."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:limit]}" if text else type(error).__name__


SAMPLERS = ("tpe", "gp", "random", "cmaes", "qmc", "grid")
PRUNERS = ("halving", "median", "hyperband", "percentile", "wilcoxon", "none")

# Of successive halving, in waves as in Optuna's pruner: the report of the first rung, and one in how many goes on.
FIRST, SHARE = 2, 3

_NEEDS = {"cmaes": ("cmaes",), "gp": ("torch", "scipy"), "qmc": ("scipy",), "wilcoxon": ("scipy",)}


def make_sampler(name: str, seed: int, place: int) -> BaseSampler:
    """Make a sampler for the trial at a place. It has no memory of its own: everything it goes by is in the study.

    A sampler that is made anew after a kill would draw its first numbers again; with the place in its seed it draws
    what it would have drawn. The points of a grid are given, what is beyond them is drawn at random.
    """
    from optuna import samplers

    own = (seed * 1_000_003 + place) % 2**32
    # All trials must be points of one sequence, so all get the same scramble.
    points: dict[str, Any] = {"scramble": True, "seed": seed, "warn_asynchronous_seeding": False}
    calm: dict[str, Any] = {"warn_independent_sampling": False}
    at_random = samplers.RandomSampler(seed=own)
    makers: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: samplers.TPESampler(seed=own),
        "gp": lambda: samplers.GPSampler(seed=own, **calm),
        "random": lambda: at_random,
        "cmaes": lambda: make_cmaes(seed=own, **calm),
        "qmc": lambda: samplers.QMCSampler(independent_sampler=at_random, **points, **calm),
        "grid": lambda: at_random,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ExperimentalWarning of QMC and Wilcoxon; constraints.txt pins what was tried
        return makers[name]()


def make_pruner(name: str) -> BasePruner:
    """Make a pruner; each compares only with trials that ended, and leaves the first ones alone."""
    from optuna import pruners

    makers: dict[str, Callable[[], BasePruner]] = {
        # Behind the third report, the seventh, 19th …: chosen on other seeds than those of `benchmarks/pruning.py`.
        "halving": lambda: pruners.SuccessiveHalvingPruner(min_resource=FIRST, reduction_factor=SHARE),
        # Five ended trials before the first is pruned, and two reports of each, since losses begin noisy.
        "median": lambda: pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
        "percentile": lambda: pruners.PercentilePruner(25.0, n_startup_trials=5, n_warmup_steps=2),
        "hyperband": lambda: pruners.HyperbandPruner(min_resource=1, reduction_factor=3),
        "wilcoxon": lambda: pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=5),
        "none": pruners.NopPruner,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ExperimentalWarning of QMC and Wilcoxon; constraints.txt pins what was tried
        return makers[name]()


def rungs(epochs: int) -> list[int]:
    """Return the epochs behind which trials are compared: 3, 7, 19, …; none in the last third, as little is saved."""
    found, step = [], FIRST
    while 3 * (step + 1) <= 2 * epochs:
        found.append(step + 1)
        step *= SHARE
    return found


def best_so_far(values: Sequence[float], *, high: bool) -> float:
    """Return the best of some values, NaN apart, by which trials are compared; NaN without any."""
    # By the last value, a single bad epoch ended the best trial in many studies of digits and breast_cancer.
    numbers = [value for value in values if value == value]
    return (max if high else min)(numbers, default=float("nan"))


def survivors(values: Mapping[int, float], others: Sequence[float], *, high: bool) -> list[int]:
    """Return the trials that go on: those among the best third of all so far, one at least if it is the best of all.

    NaN never goes on. The `others` are the best values of trials that have ended.
    """
    sign = -1.0 if high else 1.0
    numbers = {trial: sign * value for trial, value in values.items() if value == value}
    everyone = sorted([*numbers.values(), *(sign * value for value in others if value == value)])
    if not everyone:
        return []
    last = everyone[max(len(everyone) // SHARE, 1) - 1]
    return [trial for trial, value in numbers.items() if value <= last]


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
        """Check the numbers and names, and that the sampler and the pruner have the packages they need.

        Raises:
            SearchError: One of them cannot be; a missing package comes with the command that installs it.
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
        for kind, name, known in (("sampler", self.sampler, SAMPLERS), ("pruner", self.pruner, PRUNERS)):
            if name not in known:
                raise SearchError(f"The {kind} is one of {', '.join(known)}, not {name!r}.")
            for package in _NEEDS.get(name, ()):
                if find_spec(package) is None:
                    raise SearchError(f"The {kind} {name!r} needs a package more: pip install {package}")
