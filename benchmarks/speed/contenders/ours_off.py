"""Ours with everything off: the command that only trains and validates."""

from benchmarks.speed.contenders import LogProbabilities, ours
from benchmarks.speed.shapes import Job
from benchmarks.speed.stopwatch import Stopwatch

OFF = [
    "--watch=[]",
    "--reference=false",
    *(f"--trainer.{part}=false" for part in ("logger", "enable_checkpointing", "enable_progress_bar")),
]


def fit(job: Job, watch: Stopwatch) -> LogProbabilities:
    return ours.fit(job, watch, *OFF)
