"""What the mutations begin with: a good run with its exports and study, and good tables, logs and configurations."""

import csv
import gzip
import io
import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import warm
from verbs_here import succeed

TABLES = ("csv", "tsv", "csv.gz", "parquet", "feather", "npz")
QUIET = ("--trainer.logger=false", "--trainer.enable_progress_bar=false", "--watch=[]")
SMALL = ("--model=MLPClassifier", "--model.hidden_sizes=[4]", "--data.bins=3", "--trainer.max_epochs=2")
EXPORTS = {"onnx": "model.onnx", "pt2": "model.pt2", "torchscript": "model.pt"}
CHECKPOINT = "run/checkpoints/best.ckpt"


@cache
def columns():
    """Return the columns of a small table: two numbers, one with gaps, words, and a class."""
    rng = np.random.default_rng(0)
    size, colour = rng.normal(size=60), rng.choice(["red", "green", "blue"], size=60)
    weight = np.where(rng.random(60) < 0.1, np.nan, rng.normal(size=60) * 1e3)
    kind = np.where(size + rng.normal(size=60) / 4 > 0, "big", "small")
    return {"size": size, "weight": weight, "colour": colour, "kind": kind}


def table(kind, data=None):
    """Return a table as the bytes of a file of one kind (of `TABLES`)."""
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet

    data = columns() if data is None else data
    stream = io.BytesIO()
    if kind == "npz":
        np.savez_compressed(stream, **data)
    elif kind in ("parquet", "feather"):
        arrow = data if isinstance(data, pa.Table) else pa.table(data)
        write = pa.parquet.write_table if kind == "parquet" else pa.feather.write_feather
        write(arrow, stream)
    else:
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n")
        writer.writerow(data)
        for row in zip(*data.values(), strict=True):
            writer.writerow("" if cell != cell else cell for cell in row)  # NaN
        raw = text.getvalue().encode("utf-8", "surrogatepass")
        return gzip.compress(raw, mtime=0) if kind.endswith(".gz") else raw
    return stream.getvalue()


def make_good_run(folder):
    """Train, export and search in a folder; what cases have beside them comes from there.

    In a process that is over by then, as a study waits for trials whose worker lives.
    """
    for name in ("t.csv", "new.csv"):
        Path(folder, name).write_bytes(table("csv"))
    child = warm.start(_run_verbs, str(folder))
    child.join()
    assert child.exitcode == 0
    return Path(folder)


def _run_verbs(folder):
    os.chdir(folder)
    flags = ("--data.path=t.csv", "--data.target=kind", *SMALL, *QUIET)
    succeed("fit", *flags)
    Path("lightning_logs", "version_0").rename("run")
    for kind, name in EXPORTS.items():
        succeed("export", f"--ckpt_path={CHECKPOINT}", f"--format={kind}", f"--output={name}")
    succeed("study", *flags, "--study.n_trials=3", "--study.storage=study.journal")


def logs():
    """Return good logs by name, of which `diagnose` can read each."""
    epochs = range(12)
    train = [1.2 * 0.8**e + 0.1 for e in epochs]
    val = [1.3 * 0.8**e + 0.2 + 0.01 * e for e in epochs]
    pairs = list(zip(epochs, train, val, strict=True))

    def lines(header, rows):
        return ("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n").encode()

    history = {"loss": train, "val_loss": val, "accuracy": val, "val_accuracy": train}
    state = [{"epoch": e + 1.0, "step": e * 10, "loss": t} for e, t, _ in pairs]
    state += [{"epoch": e + 1.0, "step": e * 10, "eval_loss": v} for e, _, v in pairs]
    return {
        "metrics.csv": lines("epoch,step,train_loss,val_loss", [(e, e * 10, t, v) for e, t, v in pairs]),
        "training.log": lines("epoch,loss,val_loss", pairs),
        "results.csv": lines("epoch,train/box_loss,val/box_loss", pairs),
        "history.json": json.dumps(history).encode(),
        "trainer_state.json": json.dumps({"log_history": state}).encode(),
        "run.jsonl": "\n".join(json.dumps({"_step": e, "train_loss": t, "val_loss": v}) for e, t, v in pairs).encode(),
        "events.out.tfevents.1.x": _events(pairs),
    }


@cache
def _events_of(pairs):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    stream = io.BytesIO()
    writer = RecordWriter(stream)
    writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
    for epoch, train, val in pairs:
        for tag, value in (("train_loss", train), ("val_loss", val)):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.write(Event(wall_time=2.0 + epoch, step=epoch, summary=summary).SerializeToString())
    return stream.getvalue()


def _events(pairs):
    return _events_of(tuple(pairs))
