"""Export of a checkpoint's model as a file for other programs, compared with the checkpoint before it is left there."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from callbacks.host.files import replacing
from callbacks.host.packages import LightningModule
from datamodules import TabularDataModule
from datamodules.columns.encoding import Encoding, InfinityCount, RawRows, raw_rows
from datamodules.errors import shortened
from lightning_mods.cli.command_line import CommandLine, UsageError
from lightning_mods.cli.flags import FORMATS
from lightning_mods.cli.lightning_cli import ModsCLI
from lightning_mods.cli.verbs import mistakes_in_one_line, run
from lightning_mods.export.comparison import MADE_ROWS, Difference, difference, in_batches, made_rows, real_rows
from lightning_mods.export.model import MAX_BATCH, NetworkExample, TableModel, example_of, with_noise, write
from lightning_mods.export.runtime import Arrays, flat_arrays, open_exported, require
from lightning_mods.export.schema import columns_once, schema_of, schema_path, write_schema
from lightning_mods.loggers.terminal import say
from lightning_mods.models.module import MLPModule
from lightning_mods.runs import RunError
from lightning_mods.runs.checkpoints import read_checkpoint
from lightning_mods.runs.predictions import check_output
from lightning_mods.runs.restoring import not_restored

if sys.platform != "win32":
    import fcntl

_DEPRECATED = (
    "note: TorchScript is deprecated in PyTorch, and Lightning drops it in 2.8; torch.export replaces it: "
    "--format=pt2, or --format=aoti for C++."
)
_SHOWN = 4  # names in a line; the schema has all
_RUN = {
    "onnx": "onnxruntime.InferenceSession({file!r}).run(None, {{…}})",
    "torchscript": "torch.jit.load({file!r})(…), or torch::jit::load in C++",
    "pt2": "torch.export.load({file!r}).module()(…)",
    "aoti": "torch._inductor.aoti_load_package({file!r})(…), or AOTIModelPackageLoader in C++: examples/cpp",
    "executorch": "executorch.runtime.Runtime.get().load_program({file!r}); Android and iOS: docs/mobile.md",
}
_EXAMPLE_ROWS = 8  # of a table, for the exporters


def export(line: CommandLine) -> None:
    """Write the model of a checkpoint to a file, as the flags say."""
    if line.typed.get("format") is not None:
        with mistakes_in_one_line("export"):
            _check_format(str(line.typed["format"]))  # before a model is made
    run(line, _export)


def _check_format(name: str) -> None:
    if name not in FORMATS:
        near = get_close_matches(name.lower(), FORMATS, 1, 0.3)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UsageError(f"--format needs {', '.join(FORMATS)}, not {name}{hint}")
    require(name, writing=True)


def _export(cli: ModsCLI, checkpoint: Path | None) -> None:
    file_format = str(cli.config.format)
    _check_format(file_format)
    output = Path(cli.config.output or f"model{FORMATS[file_format]}")
    overwrite = bool(cli.config.overwrite)
    _check_output(output, file_format, overwrite=overwrite)
    read = [("--ckpt_path", checkpoint), ("--data.path", getattr(cli.datamodule, "path", None))]
    for path in (output, schema_path(output)):
        check_output(path, read)
    if file_format == "torchscript":
        say(_DEPRECATED)
    assert checkpoint is not None  # `run` found one, as `export` is no `fit`
    model = _restored(cli.model, checkpoint)
    if isinstance(model, MLPModule) and isinstance(cli.datamodule, TabularDataModule):
        _check_free(schema_path(output), overwrite=overwrite)
        export_table(model, cli.datamodule, file_format, output)
    else:
        export_module(model, file_format, output)


def _check_output(output: Path, file_format: str, *, overwrite: bool) -> None:
    suffix = FORMATS[file_format]
    if output.exists() and not output.is_file():  # a device would be replaced
        raise UsageError(f"--output needs a file; {output} is {'a folder' if output.is_dir() else 'none'}.")
    _check_free(output, overwrite=overwrite)
    if not output.parent.is_dir():
        raise UsageError(f"--output needs a folder that is there; {output.parent} is not.")
    if suffix == ".pt2" and output.suffix != suffix:
        raise UsageError(f"--format={file_format} needs a file whose name ends in .pt2, as torch asks for; {output}.")


def _check_free(path: Path, *, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already; give another --output, or --overwrite to replace it.")


def _restored(model: LightningModule, checkpoint: Path) -> LightningModule:
    # as Lightning would restore it to predict
    state = read_checkpoint(checkpoint)
    model.configure_model()
    try:
        model.on_load_checkpoint(state)
        model.load_state_dict(state["state_dict"], strict=model.strict_loading)
    except Exception as error:  # whatever the file's content raises
        raise not_restored(checkpoint, error) from error
    return model.cpu().eval()


def export_table(model: MLPModule, data: TabularDataModule, file_format: str, output: Path) -> None:
    """Write a model of a table with its schema beside it, compare it with the checkpoint's, and print what was written.

    If the written file predicts something else than the checkpoint, nothing is left of it.
    """
    encoding = data.learned.encoding
    most = MAX_BATCH.get(file_format)
    names = data.class_names
    once = columns_once(encoding)
    schema = schema_of(once, target=data.learned.target, class_names=names, file_format=file_format, max_batch=most)
    chunk, source = real_rows(data)
    made = made_rows(once)
    inputs, wanted = _both_sides(model, encoding, [made] if chunk is None else [chunk, made])
    example = tuple(torch.from_numpy(array[:_EXAMPLE_ROWS].copy()) for array in inputs)
    names_in, names_out = ([each["name"] for each in schema[side]] for side in ("inputs", "outputs"))
    network = NetworkExample(TableModel(encoding, model).eval(), example, {}, names_in, names_out)
    turn = ExitStack()
    with turn, replacing(output, f".partial{output.suffix}") as file, replacing(schema_path(output)) as beside:
        if not write(file_format, network, file):
            raise UsageError(f"{type(model).__name__} takes batches of one length alone; its forward must take any.")
        runs = [open_exported(file_format, file, trust=True)]  # as others will run it
        with suppress(RunError, UsageError):  # and as `predict` does, if it is not for those alone who trust it
            runs.append(open_exported(file_format, file))
        for execute in runs:
            found = in_batches(execute, inputs, most)
            apart = difference(found, wanted, 1.0 if names else data.target_std)
            _refuse_if_apart(apart, file_format)
        # The last made-up row and what the model says of it, so that a caller elsewhere can check himself.
        cells = [[None if cell != cell else cell for cell in array[-1].tolist()] for array in inputs]
        schema["example"] = {"inputs": cells, "outputs": [found[0][-1].tolist()]}
        write_schema(schema, file, beside)
        turn.enter_context(_turn_at(output.parent))  # until both files are in their places
    trust = " --trust=true" * (len(runs) == 1)
    _print_table_export(output, schema, apart, source=source, real=0 if chunk is None else chunk.num_rows, trust=trust)


@contextmanager
def _turn_at(folder: Path) -> Iterator[None]:
    """Let one process at a time put a model and its schema into a folder, so that the two belong together."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _refuse_if_apart(apart: Difference, file_format: str) -> None:
    if not apart.tolerable:
        by = f"by up to {apart.largest:.3g} on {apart.rows} rows, more than rounding explains"
        raise RunError(f"the model as {file_format} differs from the checkpoint {by}; nothing was written.")


def _both_sides(model: MLPModule, encoding: Encoding, chunks: Sequence[Any]) -> tuple[Arrays, list[NDArray[Any]]]:
    # what goes into the exported model, and what the checkpoint makes of the same rows
    parts: list[RawRows] = []
    wanted = []
    for chunk in chunks:
        seen = InfinityCount("a row to compare with")
        rows = raw_rows(columns_once(encoding), chunk, 0, seen)
        finite = ~np.isinf(rows.numbers).any(axis=1)  # such rows are refused by `predict`
        parts.append(rows[finite])
        encoded = encoding.encode(chunk, 0, seen)[finite]
        with torch.no_grad():
            wanted.append(flat_arrays(model(torch.from_numpy(encoded)))[0])
    arrays = [np.concatenate(each) for each in zip(*(part.arrays for part in parts), strict=True)]
    return arrays, [np.concatenate(wanted)]


def export_module(model: LightningModule, file_format: str, output: Path) -> None:
    """Write the forward of anybody's module, without preprocessing or schema; compare it, and print what was written.

    If the written file says something else than the checkpoint, nothing is left of it.
    """
    network = example_of(model)
    with replacing(output, f".partial{output.suffix}") as file:
        free = write(file_format, network, file)
        execute = open_exported(file_format, file, list(network.kwargs), trust=True)
        wanted, found = [], []
        for args, kwargs in ((network.args, network.kwargs), with_noise(network, free=free)):
            with torch.no_grad():
                wanted += flat_arrays(model(*args, **kwargs))
            found += execute(flat_arrays([args, kwargs]))
        apart = difference(found, wanted, None)
        _refuse_if_apart(apart, file_format)
    if not free:
        say(f"note: the file takes batches of {network.rows} rows alone, those of the example: its code asks for it.")
    _print_module_export(output, file_format, network, apart, free=free)


def _print_table_export(
    output: Path, schema: Mapping[str, Any], apart: Difference, *, source: str, real: int, trust: str
) -> None:
    # `real` rows of the table `source` were compared; where there are none, `source` says why not
    lines = [f"{output}  {schema['format']}, {_size(output)}; {schema_path(output).name} beside it describes it"]
    for each in schema["inputs"]:
        lines.append(f"  in       {_tensor(each)}: {shortened(map(_column, each['columns']), _SHOWN)}")
    for each in schema["outputs"]:
        what = shortened(each["classes"], _SHOWN) if "classes" in each else f"{schema['target']}, in its own units"
        lines.append(f"  out      {_tensor(each)}: {what}")
    if schema["max_batch"]:
        lines.append(f"  batch    up to {schema['max_batch']} rows")
    made = f"{MADE_ROWS} made-up ones with gaps and categories never seen"
    rows = f"{real} rows of {source} and {made}" if real else f"{made} (real ones cannot be read: {source})"
    lines.append(f"  checked  largest difference from the checkpoint {apart.largest:.2g}, on {rows}")
    rows = "--data.predict_path=new.csv --output=out.csv"
    predict = f"python -m lightning_mods.predict --exported={output} {rows}{trust}"
    lines.append(f"  run it   {predict}")
    lines.append(f"  or       {_RUN[schema['format']].format(file=str(output))}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _print_module_export(
    output: Path, file_format: str, network: NetworkExample, apart: Difference, *, free: bool
) -> None:
    # `free` says whether a batch may have any number of rows
    inputs = []
    for tensor in network.tensors:
        shape = ["batch" if free and at == 0 and n == network.rows else str(n) for at, n in enumerate(tensor.shape)]
        inputs.append(f"{str(tensor.dtype).removeprefix('torch.')} [{', '.join(shape)}]")
    lines = [
        f"{output}  {file_format}, {_size(output)}; {type(network.module).__name__}.forward, without preprocessing",
        f"  in       as the example: {shortened(inputs, _SHOWN)}",
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
