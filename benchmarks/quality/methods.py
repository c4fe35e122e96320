"""Who takes part: a name, the package that must be there, and the command that installs it."""

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A learner, trained by a command of its own."""

    title: str
    package: str
    pip: str


OURS = "ours"
METHODS = {
    OURS: Method("ours", "lightning_mods", "-c constraints.txt -e ."),
    "sklearn_mlp": Method("scikit-learn MLP", "sklearn", "scikit-learn"),
    "hist_gradient_boosting": Method("HistGradientBoosting", "sklearn", "scikit-learn"),
    "realmlp": Method("RealMLP-TD-S", "pytabkit", "'pytabkit>=1.8,<2'"),
    "tabm": Method("TabM-D", "pytabkit", "'pytabkit>=1.8,<2'"),
    "skorch": Method("skorch", "skorch", "'skorch>=1.2,<2'"),
}
REFERENCE = "sklearn_mlp"


def is_there(name: str, python: str) -> bool:
    """Return whether an interpreter has the package of a method."""
    look = "import sys; from importlib.util import find_spec; sys.exit(find_spec(sys.argv[1]) is None)"
    return subprocess.run([python, "-c", look, METHODS[name].package], check=False).returncode == 0
