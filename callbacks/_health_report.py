"""Findings as text and as plain data."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from callbacks.gradient_health import Fault, Finding


def line(found: Finding) -> str:
    """One finding as one line: what, where, when, why, and what to do."""
    where = f" in `{found.where}`" if found.where else ""
    return f"{found.fault.replace('_', ' ')}{where} at step {found.step}: {found.why} → {found.advice}"


def summary(findings: Sequence[Finding], skipped: int, *, steps: int, batches: int) -> str:
    """What a run's end says: one line if nothing was found, else a block with the faults in the order they came.

    Args:
        findings: What was found.
        skipped: Steps that were left out.
        steps: Of optimizers, that were watched.
        batches: Of training, that were watched; said where it is another number.
    """
    watched = f"{steps} steps" if steps == batches else f"{steps} steps ({batches} batches)"
    left_out = f" {skipped} of them were left out, their loss or gradient not finite." if skipped else ""
    if not findings:
        return f"nothing wrong over {watched}.{left_out}"
    rows = "\n".join(f"  {line(found)}" for found in findings)
    return f"{len(findings)} found over {watched}.{left_out}\n{rows}"


def to_plain(found: Finding) -> dict[str, Any]:
    """A finding as a checkpoint holds it."""
    return {**asdict(found), "fault": str(found.fault)}


def from_plain(values: dict[str, Any]) -> Finding:
    """A finding from a checkpoint."""
    return Finding(**{**values, "fault": Fault(values["fault"])})
