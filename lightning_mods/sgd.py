"""What SGD can be asked for."""


def check_sgd(lr: float, momentum: float, weight_decay: float, nesterov: bool) -> None:
    """Raise a ValueError for a number outside its range, with the range and what came."""
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr must be above 0, not {lr}; 0.1 is a usual start for SGD.")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), not {momentum}.")
    if not 0 <= weight_decay < float("inf"):
        raise ValueError(f"weight_decay must be at least 0, not {weight_decay}.")
    if nesterov and momentum == 0:
        raise ValueError("nesterov needs a momentum above 0; momentum is 0.")
