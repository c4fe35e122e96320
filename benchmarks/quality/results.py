"""The file of results: one line of JSON a training, appended as they come."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.quality.running import Job

Record = dict[str, Any]


def read(path: Path) -> list[Record]:
    """Return the records of a file, the last of each training; a line that an interruption cut short is none."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["table"], record["method"], record["seed"], record["whole"]] = record
    return list(found.values())


def append(path: Path, record: Record) -> None:
    """Add a record in one write, on a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record) + "\n"
    if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        line = "\n" + line  # whoever wrote last was interrupted
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def pending(jobs: Iterable[Job], records: Iterable[Record], again: bool = False) -> list[Job]:
    """Return the jobs that have no record without a failure yet; all of them if they shall be run again."""
    done = {(r["table"], r["method"], r["seed"], r["whole"]) for r in records if "failed" not in r}
    return [job for job in jobs if again or job.key not in done]
