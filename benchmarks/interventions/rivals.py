"""The rivals of the verdict: a rule, five packages of `benchmarks/runs/rivals.py`, and four that are newer.

    pip install runmedic==0.1.1 finetune-doctor==0.2.2 trainspotter==0.2.6 losslint==0.4.1 gradsnitch==0.1.0 \\
        trainproof==0.22.0 epokio==0.9.5 epochix==0.7.36 training-doctor==0.1.0

They go into an environment of their own. Each reads the two loss curves and says underfit, good, overfit or diverged;
one that finds nothing wrong has said good. What its findings are called in our words is written at each. Where they
can be read in more than one way, they are read in the way that scored highest on the development tables.
"""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.runs import rivals as older
from benchmarks.runs.rivals import Rival, Run

STEPS = 20  # of an epoch: about as many mini-batches as a run of ours has


def _epochs(run: Run) -> list[tuple[int, float, float]]:
    return [(i + 1, train, val) for i, train, val in older.as_rows(run)]


def trainproof() -> Rival:
    from trainproof.epoch import check_records

    # TP-DIVERGE looks at the training loss alone (its end above 1.5 times its lowest), so a validation loss that
    # rose comes first. TP-DEAD-RUN and TP-FLAT: the training loss fell by less than 5 %, or not at all.
    words = {
        "TP-NAN": "diverged", "TP-OVERFIT": "overfit", "TP-DIVERGE": "diverged", "TP-DEAD-RUN": "underfit",
        "TP-FLAT": "underfit",
    }  # fmt: skip

    def verdict(run: Run) -> str:
        records = [{"step": i, "loss": train, "eval_loss": val} for i, train, val in _epochs(run)]
        return older.in_our_words({f["id"] for f in check_records(records)["findings"]}, words)

    return verdict


def epokio() -> Rival:
    from epokio.analysis import analyze

    # Without a metric it takes the validation loss of a Hugging Face log as its score. "The best score came very
    # early" names a high rate or weights that fit already, and is said instead of overfitting. A plateau is no
    # fault: "the last epochs added nothing".
    words = {
        "diverged": "diverged", "nan_recovered": "diverged", "overfit": "overfit", "early_best": "overfit",
        "still_improving": "underfit", "flat_score": "underfit",
    }  # fmt: skip

    def verdict(run: Run) -> str:
        log: list[dict[str, float]] = []
        for i, train, val in _epochs(run):
            log += [{"step": i, "epoch": i, "loss": train}, {"step": i, "epoch": i, "eval_loss": val}]
        epochs = len(run.val_loss)
        state = {"log_history": log, "epoch": epochs, "num_train_epochs": epochs}
        with TemporaryDirectory() as folder:
            Path(folder, "trainer_state.json").write_text(json.dumps(state | {"max_steps": epochs}))
            found = analyze(Path(folder))
        return older.in_our_words({note["kind"] for note in found.kinds}, words)

    return verdict


def epochix() -> Rival:
    from epochix.models import RawMetric
    from epochix.normalizer import normalize
    from epochix.story_engine import StoryEngine

    def verdict(run: Run) -> str:
        # What `epochix.parse` does with a log, without its database.
        engine, frames = StoryEngine("run", total_epochs=len(run.val_loss)), []
        for i, train, val in _epochs(run):
            events = []
            for key, value in (("train_loss", train), ("val_loss", val)):
                if math.isfinite(value):
                    raw = RawMetric(seq=i, epoch=i, key=key, value=value, parser_name="rivals", confidence=1)
                    events.append(normalize(raw, "run"))
                else:
                    engine.note_non_finite(key, i)
            frames += engine.process_line(events)
        if not frames:
            return "unknown"  # no finite reading, no story
        # How the story ends. It also warns of overfitting after any two rises in a row of the validation loss while
        # the training loss falls, which is half of all runs, and says good of fewer that are.
        last = engine.flush_divergence(len(run.val_loss)) or frames[-1]
        if any(w.kind == "divergence" for frame in [*frames, last] for w in frame.warnings):
            return "diverged"
        if "keep the checkpoint from epoch" in last.narrative:
            return "overfit"  # past its best by 1 %
        not_learning = "check the learning rate first" in last.narrative
        return "underfit" if not_learning or last.grade_note == "still_improving" else "good"

    return verdict


def training_doctor() -> Rival:
    from training_doctor import Doctor

    words = {"lr_too_high": "diverged", "overfitting": "overfit", "lr_too_low": "underfit", "plateau": "underfit"}

    def verdict(run: Run) -> str:
        # Its windows are of 50 to 200 steps, so an epoch is logged as steps, on a line from one mean to the next.
        doctor = Doctor()
        before = run.train_loss[0]
        for i, train, val in _epochs(run):
            for step in range(1, STEPS + 1):
                loss = before + (train - before) * step / STEPS
                doctor.store.log((i - 1) * STEPS + step, loss=loss, train_loss=loss)
            doctor.store.log(i * STEPS, eval_loss=val)
            before = train
        # Overfitting below 0.6 is a gap between the losses of 10 %, with nothing that rises.
        sure = {d.detector_name for d in doctor.check() if d.detector_name != "overfitting" or d.confidence >= 0.6}
        return older.in_our_words(sure, words)

    return verdict


def available() -> dict[str, Rival]:
    """Return the rivals that can be asked here; prints the packages that are not installed."""
    newer = (trainproof, epokio, epochix, training_doctor)
    return {"GL>3, else still falling": older.quiet(older.gl_or_falling)} | older.installed((*older.PACKAGES, *newer))
