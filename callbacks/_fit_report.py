"""What a person, and a program, is told of a diagnosis: a line, a paragraph, a JSON document."""

from __future__ import annotations

import json
from contextlib import suppress
from math import isfinite
from pathlib import Path

from callbacks._fit_record import FitRecord
from callbacks.diagnosis import Diagnosis, Fit


def line(diagnosis: Diagnosis, epoch: int) -> str:
    """The verdict in one line: epoch, what, how sure, why."""
    return f"epoch {epoch}: {headline(diagnosis)}. {diagnosis.reason}"


def headline(diagnosis: Diagnosis) -> str:
    """Verdict, cause and probability: `overfit (memorising), 93 % sure`."""
    cause = diagnosis.cause.replace("_", " ")
    sure = "" if diagnosis.fit is Fit.UNKNOWN else f", {100 * diagnosis.probabilities[diagnosis.fit]:.0f} % sure"
    return f"{diagnosis.fit} ({cause}){sure}"


def paragraph(diagnosis: Diagnosis, keep: str | None = None) -> str:
    """The last word of a run: verdict, reason, numbered advice and, if given, which checkpoint to keep."""
    advice = [f"  {number}. {text}" for number, text in enumerate(diagnosis.advice, 1)]
    kept = [f"keep         {keep}"] if keep else []
    return "\n".join([f"verdict      {headline(diagnosis)}", diagnosis.reason, *advice, *kept])


def document(diagnosis: Diagnosis, record: FitRecord, baseline: float | None) -> str:
    """The diagnosis and its curves as JSON. What is no finite number is null."""
    said = {
        "fit": str(diagnosis.fit),
        "cause": diagnosis.cause,
        "probabilities": {str(fit): probability for fit, probability in diagnosis.probabilities.items()},
        "best_epoch": diagnosis.best_epoch,
        "onset_epoch": diagnosis.onset_epoch,
        "reason": diagnosis.reason,
        "advice": list(diagnosis.advice),
        "baseline_loss": _finite(baseline),
        "loss_at_start": _finite(record.loss_at_start),
        "logged_as": record.names,
        "curves": {name: [_finite(value) for value in values] for name, values in record.curves.items()},
    }
    return json.dumps(said, indent=1, allow_nan=False) + "\n"


def write(path: Path, text: str) -> None:
    """Write a file that is whole or not there: beside its place first, then moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            partial.unlink()
        raise


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
