"""A search over hyperparameters by Optuna that survives whatever kills it, on one process or many.

```python
from callbacks.search import Plan, best_trials, decode, parse_space, search

space = {"lr": parse_space("log 1e-4..1"), "batch_size": parse_space("pow2 8..256")}

def train(trial, values):            # values == {"lr": 0.0123, "batch_size": 64}
    ...                              # `TrialPruning(trial, monitor="val_loss")` among the trainer's callbacks
    return val_loss                  # one float, or one for each direction

study = search(train, space, Plan(n_trials=30, seed=0), storage="runs/study.journal", report=print)
study.best_trial.value, decode(space, study.best_trial.params)
```

Every process that calls `search` with the same storage and `Plan.name` joins the same study. A trial is counted when it
is COMPLETE, PRUNED, or FAILed by itself (it raised, ran out of memory, or returned NaN or infinity: the user attribute
`reason` says which). A trial whose process was killed or interrupted is FAIL without a `reason`; it is not counted
and is tried again with the same parameters (user attributes `origin`, the number of the first attempt, and `attempt`).

The user attributes of a trial that this room writes: `place` (0 … n_trials - 1, the same for all attempts: seed a fit
with it), `owner`, `origin`, `attempt`, `reason`, `beat` (its heartbeats). Of a study: `space`, name to text.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from callbacks.search.engine import search
    from callbacks.search.plan import PRUNERS, SAMPLERS, Plan, SearchError
    from callbacks.search.results import Progress, TrialRow, best, best_trials, importances
    from callbacks.search.space import Space, batch_sizes, decode, parse_space
    from callbacks.search.waves import SampledTrial, TrainsTogether, TrialGroup, TrialOutcome
    from callbacks.search.waves import SampledTrial as Member
    from callbacks.search.waves import TrialGroup as Group
    from callbacks.search.waves import TrialOutcome as Ended

__all__ = [
    "PRUNERS", "SAMPLERS", "Ended", "Group", "Member", "Plan", "Progress", "SampledTrial", "SearchError", "Space",
    "TrainsTogether", "TrialGroup", "TrialOutcome", "TrialRow", "batch_sizes", "best", "best_trials", "decode",
    "importances", "parse_space", "search",
]  # fmt: skip

_HOMES = {
    "engine": ("search",),
    "plan": ("PRUNERS", "SAMPLERS", "Plan", "SearchError"),
    "results": ("Progress", "TrialRow", "best", "best_trials", "importances"),
    "space": ("Space", "batch_sizes", "decode", "parse_space"),
    "waves": ("SampledTrial", "TrainsTogether", "TrialGroup", "TrialOutcome"),
}
_FORMER = {"Ended": "TrialOutcome", "Group": "TrialGroup", "Member": "SampledTrial"}  # names of before


def __getattr__(name: str) -> Any:
    found = _FORMER.get(name, name)
    for module, names in _HOMES.items():
        if found in names:
            return getattr(import_module(f"{__name__}.{module}"), found)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
