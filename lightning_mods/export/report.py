"""Report on an export: the file, what goes in and comes out, how near it is to the checkpoint, and how to run it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_mods.export.comparison import MADE_ROWS, Difference
from lightning_mods.export.formats import NetworkExample
from lightning_mods.export.schema import schema_path

_SHOWN = 4  # names in a line; the schema has all
_RUN = {
    "onnx": "onnxruntime.InferenceSession({file!r}).run(None, {{…}})",
    "torchscript": "torch.jit.load({file!r})(…), or torch::jit::load in C++",
    "pt2": "torch.export.load({file!r}).module()(…)",
    "aoti": "torch._inductor.aoti_load_package({file!r})(…), or AOTIModelPackageLoader in C++: examples/cpp",
    "executorch": "executorch.runtime.Runtime.get().load_program({file!r}); Android and iOS: docs/mobile.md",
}


def print_table_export(output: Path, schema: Mapping[str, Any], apart: Difference, *, source: str, real: int) -> None:
    """Print what an export of a model of a table wrote.

    `real` rows of the table `source` were compared; where there are none, `source` says why not.
    """
    lines = [f"{output}  {schema['format']}, {_size(output)}; {schema_path(output).name} beside it describes it"]
    for each in schema["inputs"]:
        lines.append(f"  in       {_tensor(each)}: {_names([_column(column) for column in each['columns']])}")
    for each in schema["outputs"]:
        what = _names(each["classes"]) if "classes" in each else f"{schema['target']}, in its own units"
        lines.append(f"  out      {_tensor(each)}: {what}")
    if schema["max_batch"]:
        lines.append(f"  batch    up to {schema['max_batch']} rows")
    made = f"{MADE_ROWS} made-up ones with gaps and categories never seen"
    rows = f"{real} rows of {source} and {made}" if real else f"{made} (real ones cannot be read: {source})"
    lines.append(f"  checked  largest difference from the checkpoint {apart.largest:.2g}, on {rows}")
    lines.append(
        f"  run it   python -m lightning_mods.predict --exported={output} --data.predict_path=new.csv --output=out.csv"
    )
    lines.append(f"  or       {_RUN[schema['format']].format(file=str(output))}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def print_module_export(
    output: Path, file_format: str, network: NetworkExample, apart: Difference, *, free: bool
) -> None:
    """Print what an export of anybody's module wrote; `free` says whether a batch may have any number of rows."""
    inputs = []
    for tensor in network.tensors:
        shape = ["batch" if free and at == 0 and n == network.rows else str(n) for at, n in enumerate(tensor.shape)]
        inputs.append(f"{str(tensor.dtype).removeprefix('torch.')} [{', '.join(shape)}]")
    lines = [
        f"{output}  {file_format}, {_size(output)}; {type(network.module).__name__}.forward, without preprocessing",
        f"  in       as the example: {_names(inputs)}",
        f"  checked  largest difference from the checkpoint {apart.largest:.2g}, on its example input and noise",
        f"  run it   {_RUN[file_format].format(file=str(output))}",
    ]
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _size(file: Path) -> str:
    size = file.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(size / 1e3, 0.1):.1f} kB"


def _tensor(each: Mapping[str, Any]) -> str:
    return f"{each['name']} {each['dtype']} [{', '.join(map(str, each['shape']))}]"


def _column(column: Mapping[str, Any]) -> str:
    return f"{column['name']} ({len(column['codes'])})" if "codes" in column else str(column["name"])


def _names(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(map(str, names[:_SHOWN])) + (f" and {rest} more" if rest > 0 else "")
