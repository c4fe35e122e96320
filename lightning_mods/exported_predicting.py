"""`predict --exported`: predict the rows of a file with an exported model. An ONNX file needs no torch for it."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from datamodules.encoding import Encoding, Tally
from datamodules.errors import DataError
from datamodules.raw_rows import raw_rows
from datamodules.sources import open_table
from datamodules.table import Table
from lightning_mods.arguments import UsageError
from lightning_mods.explain import explain
from lightning_mods.export_schema import class_names_in, encoding_in, read_schema
from lightning_mods.exported_flags import asked_of, check_flags
from lightning_mods.exported_runtimes import Run, open_exported
from lightning_mods.runs import RunError
from lightning_mods.tables import prediction_rows, write_csv

_ROWS = 8192  # rows in a call: enough to be quick, few enough to be small in memory


def predict_exported(args: Sequence[str]) -> None:
    """Predict the rows of a file with an exported model.

    Args:
        args: The flags.
    """
    try:
        _predict(args)
    except (UsageError, RunError, DataError, OSError) as error:
        sys.stderr.write(f"predict: {explain(error)}\n")
        raise SystemExit(2) from None


def _predict(args: Sequence[str]) -> None:
    check_flags(args)
    asked = asked_of(args)
    path = asked["data.predict_path"]
    if not path:
        raise DataError("--data.predict_path is needed: a file with the rows to predict.")
    file, output = Path(str(asked["exported"])).expanduser(), Path(asked["output"] or "predictions.csv")
    schema = read_schema(file)
    encoding = encoding_in(schema)
    table = open_table(path)
    encoding.check_columns(table.names, table.label)
    if schema["format"] == "aoti":
        sys.stderr.write(f"note: {file} is compiled code, which runs with your rights: use what you trust.\n")
    run = open_exported(schema["format"], file)
    header, rows = prediction_rows(_predictions(run, encoding, table, schema), class_names_in(schema))
    count = write_csv(output, header, rows)
    sys.stderr.write(f"{count} predictions in {output}\n")


def _predictions(run: Run, encoding: Encoding, table: Table, schema: Mapping[str, Any]) -> Iterator[NDArray[Any]]:
    step = schema["max_batch"] or _ROWS
    tally, start = Tally(), 0
    for chunk in table.chunks(encoding.inputs):
        rows = raw_rows(encoding, chunk, start, tally)
        tally.check(table.label)
        for low in range(0, len(rows), step):
            yield run(rows[low : low + step].arrays)[0]
        start += chunk.num_rows
    if not start:
        raise DataError(f"{table.label!r} has a header but no rows.")
