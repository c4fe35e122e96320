"""Optuna's samplers and pruners by the names of the command line, with arguments that suit a few dozen short fits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from callbacks._search_error import SearchError

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

_Made = TypeVar("_Made")

SAMPLERS = ("tpe", "gp", "random", "cmaes", "qmc", "grid")
PRUNERS = ("halving", "median", "hyperband", "percentile", "wilcoxon", "none")

_NEEDS = {"cmaes": ("cmaes",), "gp": ("torch", "scipy"), "qmc": ("scipy",), "wilcoxon": ("scipy",)}


def check_engines(sampler: str, pruner: str) -> None:
    """See that both are known and have what they need.

    Raises:
        SearchError: An unknown name, or a package that is missing, with the command that installs it.
    """
    for kind, name, known in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if name not in known:
            raise SearchError(f"The {kind} is one of {', '.join(known)}, not {name!r}.")
        for package in _NEEDS.get(name, ()):
            if find_spec(package) is None:
                raise SearchError(f"The {kind} {name!r} needs a package more: pip install {package}")


def make_sampler(name: str, seed: int, place: int) -> BaseSampler:
    """A sampler for one trial. It has no memory of its own: everything it goes by is in the study.

    Args:
        name: One of `SAMPLERS`; the points of a grid are given, what is beyond them is drawn at random.
        seed: The study's seed.
        place: The trial's place in the study. A sampler that is made anew after a kill would draw its first numbers
            again; with the place in its seed it draws what it would have drawn.
    """
    from optuna import samplers

    own = (seed * 1_000_003 + place) % 2**32
    makers: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: samplers.TPESampler(seed=own),
        "gp": lambda: samplers.GPSampler(seed=own, warn_independent_sampling=False),
        "random": lambda: samplers.RandomSampler(seed=own),
        "cmaes": lambda: samplers.CmaEsSampler(seed=own, warn_independent_sampling=False),
        # All trials must be points of one sequence, so all get the same scramble.
        "qmc": lambda: samplers.QMCSampler(
            scramble=True,
            seed=seed,
            independent_sampler=samplers.RandomSampler(seed=own),
            warn_asynchronous_seeding=False,
            warn_independent_sampling=False,
        ),
        "grid": lambda: samplers.RandomSampler(seed=own),
    }
    return _quietly(makers[name])


def make_pruner(name: str) -> BasePruner:
    """A pruner; each compares only with trials that ended, and leaves the first ones alone.

    Args:
        name: One of `PRUNERS`.
    """
    from optuna import pruners

    makers: dict[str, Callable[[], BasePruner]] = {
        # Behind the third report, the seventh, 19th …: chosen on other seeds than those of `benchmarks/pruning.py`.
        "halving": lambda: pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3),
        # Five ended trials before the first is pruned, and two reports of each, since losses begin noisy.
        "median": lambda: pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
        "percentile": lambda: pruners.PercentilePruner(25.0, n_startup_trials=5, n_warmup_steps=2),
        "hyperband": lambda: pruners.HyperbandPruner(min_resource=1, reduction_factor=3),
        "wilcoxon": lambda: pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=5),
        "none": pruners.NopPruner,
    }
    return _quietly(makers[name])


def _quietly(make: Callable[[], _Made]) -> _Made:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # ExperimentalWarning of QMC and Wilcoxon; the pins in constraints.txt answer it
        return make()
