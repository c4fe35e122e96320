"""A suspicion about training rows that holds only if the next epoch brings the same rows, not augmented ones."""

from collections.abc import Sequence

import torch
from torch import Tensor

from callbacks.gradient_health import Finding

SAME = 1e-9  # relative; a row that anything was done to differs by more
AGAIN = 0.9  # of the rows


class Suspicion:
    """Findings that wait for an epoch.

    Args:
        findings: What is to be said if rows come unchanged.
        rows: Training rows (N, …) as they came before.
    """

    def __init__(self, findings: Sequence[Finding], rows: Tensor) -> None:
        self.findings = list(findings)
        self._before = _marks(rows)
        self._since: list[Tensor] = []

    def look(self, rows: Tensor | None) -> None:
        """Take down a batch of the next epoch."""
        if rows is not None and len(rows):
            self._since.append(_marks(rows))

    def verdict(self) -> list[Finding]:
        """The findings, if nearly all rows came again as they were."""
        if not self._since:
            return []
        since = torch.cat(self._since).cpu().sort().values
        near = torch.searchsorted(since, self._before).clamp(1, max(len(since) - 1, 1))
        around = torch.stack([since[(near - 1).clamp_max(len(since) - 1)], since[near.clamp_max(len(since) - 1)]])
        apart = (around - self._before).abs().amin(0)
        again = (apart <= SAME * (self._before.abs() + 1)).double().mean()
        return self.findings if float(again) >= AGAIN else []


def _marks(rows: Tensor) -> Tensor:
    """One number a row that hardly any two rows share."""
    flat = rows.detach().reshape(len(rows), -1).double()
    return (flat * torch.linspace(0.5, 1.5, flat.shape[1], dtype=torch.double, device=flat.device)).sum(1)
