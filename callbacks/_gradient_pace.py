"""How often `GradientLogger` looks, as its session is told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """How often and how much is looked at.

    Args:
        every: Steps from one reading of gradient norms to the next; 0 for never.
        updates_every: Steps from one look at weights and updates to the next; 0 for never.
        histograms_every: Steps from one set of histograms to the next; 0 for never.
        write_every: Steps whose readings are written as one.
        flow_every: Steps of the first optimizer from one picture of gradient flow to the next; 0 for never.
        sample: Elements of a parameter that are looked at, at most.
    """

    every: int
    updates_every: int
    histograms_every: int
    write_every: int
    flow_every: int
    sample: int
