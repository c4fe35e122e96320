"""Tell underfitting, a good fit and overfitting apart by the loss curves: arithmetic, without torch."""

from callbacks.diagnosis.verdict import Diagnosis, Fit, diagnose

__all__ = ["Diagnosis", "Fit", "diagnose"]
