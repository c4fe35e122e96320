"""Write scikit-learn's boosted trees as plain numbers, as `callbacks.diagnosis.trees` reads them."""

from typing import Any

import numpy as np

from callbacks.diagnosis.trees import total

ROUNDED = 0.02  # how far numbers of so many digits may move what the trees add up to, for the middle row


def plain(ensemble: Any, x: np.ndarray, digits: int, *, missing: bool = False) -> dict[str, Any]:
    """Return the start and the trees as nested lists, compared with what the ensemble says of rows `x`.

    Leaves have so many `digits`, thresholds two more; with `missing`, where a missing value goes stands in them too.
    `_predictors` is private to scikit-learn, but the only way to the trees.

    Raises:
        ValueError: the numbers say something else than the ensemble.
    """

    def node(nodes: Any, i: int) -> Any:
        n = nodes[i]
        if n["is_leaf"]:
            return float(f"{n['value']:.{digits}g}")
        at = float(f"{n['num_threshold']:.{digits + 2}g}")
        found = [int(n["feature_idx"]), at, node(nodes, n["left"]), node(nodes, n["right"])]
        return [*found, 1] if missing and n["missing_go_to_left"] else found

    start = float(f"{np.ravel(ensemble._baseline_prediction)[0]:.5g}")
    found = {"start": start, "trees": [node(step[0].nodes, 0) for step in ensemble._predictors]}
    some = x[:: max(1, len(x) // 200)]
    said = getattr(ensemble, "decision_function", ensemble.predict)(some)
    off = np.median(np.abs([total(found, row) for row in some] - said))
    if not off < ROUNDED:
        raise ValueError(
            f"The trees as numbers are {off:.3g} off what scikit-learn says; less than {ROUNDED} is rounding."
        )
    return found
