"""TensorBoard event files as a table: a row a step, a column a tag."""

import logging
from pathlib import Path
from typing import Any

from lightning_mods.log_table import LogError, Table, table_of

MARK = "tfevents"  # in the name of every event file


def is_event_file(path: Path) -> bool:
    """Whether a file is called like an event file."""
    return MARK in path.name


def event_folders(root: Path) -> list[Path]:
    """The folders under `root`, itself among them, that hold event files."""
    return sorted({path.parent for path in root.rglob(f"*{MARK}*") if path.is_file()})


def read_events(path: Path, folders: list[Path] | None = None) -> Table:
    """Read an event file, or the folders of one run.

    Args:
        path: The file, or the folder of the run.
        folders: The folders under it that belong to the run (Keras writes `train` and `validation`,
            `add_scalars` one for each curve); their names go before the tags.

    Raises:
        LogError: There is no scalar in it.
    """
    rows: dict[int, dict[str, object]] = {}
    for folder in folders or [path]:
        prefix = "" if folder == path else f"{folder.relative_to(path).as_posix()}/"
        for tag, step, value in _scalars(folder):
            rows.setdefault(step, {})[prefix + tag] = value  # written again by a restart: the later wins
    if not rows:
        raise LogError("TensorBoard scalars are needed; there are none in it.")
    table = table_of("TensorBoard events", [{"step": step, **rows[step]} for step in sorted(rows)])
    if any(name != "step" for name in table.columns):
        return table
    raise LogError("TensorBoard scalars are needed; there are none in it.")


def _scalars(path: Path) -> list[tuple[str, int, float]]:
    # Half a second, and only events need it.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tb_logging

    tb_logging.get_logger().setLevel(logging.CRITICAL)  # a file cut short is said there, and read as far as it goes
    events: Any = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    try:
        events.Reload()
    except (OSError, ValueError, RuntimeError) as error:
        raise LogError(f"a TensorBoard event file is needed; {' '.join(str(error).split())}.") from error
    tags = events.Tags()
    found = [(tag, event.step, event.value) for tag in tags["scalars"] for event in events.Scalars(tag)]
    return found + [item for tag in tags["tensors"] for item in _tensors(events, tag)]


def _tensors(events: Any, tag: str) -> list[tuple[str, int, float]]:
    """The scalars that TensorFlow 2 writes as tensors without dimensions."""
    from tensorboard.util.tensor_util import make_ndarray

    found = []
    for event in events.Tensors(tag):
        if event.tensor_proto.string_val:
            return []
        array = make_ndarray(event.tensor_proto)
        if array.size == 1 and array.dtype.kind in "fiu":
            found.append((tag, event.step, float(array.reshape(()))))
    return found
