"""Who takes part: a file each, whose `fit(job, watch)` trains and returns a function from rows to log-probabilities."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

LogProbabilities = Callable[[NDArray[Any]], NDArray[Any]]
"""From rows, shape (rows, features), to log-probabilities or logits, shape (rows, classes)."""


@dataclass(frozen=True)
class Contender:
    """How one is found, called in the tables, installed and set up.

    Attributes:
        label: What the tables call it.
        module: Its file.
        pip: What `pip install` is told to get it.
        rival: Whether it may live in the rivals' environment; ours lives in the one of the project.
        environment: Variables its process starts with.
    """

    label: str
    module: str
    pip: str
    rival: bool = True
    environment: dict[str, str] = field(default_factory=dict)


CONTENDERS = {
    "raw": Contender("raw loop", "raw_loop", "torch", rival=False),
    "ours": Contender("ours, everything on", "ours", "-e .", rival=False),
    "ours-off": Contender("ours, everything off", "ours_off", "-e .", rival=False),
    "lightning": Contender("Lightning, as in its tutorials", "stock_lightning", "pytorch-lightning", rival=False),
    "skorch": Contender("skorch", "with_skorch", "skorch torch"),
    "ignite": Contender("Ignite", "with_ignite", "pytorch-ignite torch"),
    "sklearn": Contender("scikit-learn `MLPClassifier`", "with_sklearn", "scikit-learn"),
    "keras-jax": Contender(
        "Keras 3 on JAX, `steps_per_execution=32`", "with_keras", "keras jax", environment={"KERAS_BACKEND": "jax"}
    ),
    "keras-torch": Contender("Keras 3 on torch", "with_keras", "keras torch", environment={"KERAS_BACKEND": "torch"}),
}
REFERENCE = "raw"
