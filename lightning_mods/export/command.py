"""What `export` does once the command line has been looked at: write the model of a checkpoint, and check it."""

from difflib import get_close_matches
from pathlib import Path

from pytorch_lightning import LightningModule

from datamodules import TabularDataModule
from lightning_mods.cli.command_line import CommandLine, UsageError
from lightning_mods.cli.flags import FORMATS
from lightning_mods.cli.lightning_cli import ModsCLI
from lightning_mods.cli.verbs import mistakes_in_one_line, run
from lightning_mods.export.runtime import require
from lightning_mods.export.schema import schema_path
from lightning_mods.export.table import export_module, export_table
from lightning_mods.loggers.terminal import say
from lightning_mods.models.module import MLPModule
from lightning_mods.runs.checkpoints import read_checkpoint

_DEPRECATED = (
    "note: TorchScript is deprecated in PyTorch, and Lightning drops it in 2.8; torch.export replaces it: "
    "--format=pt2, or --format=aoti for C++."
)


def export(line: CommandLine) -> None:
    """Write the model of a checkpoint to a file."""
    if line.typed.get("format") is not None:
        with mistakes_in_one_line("export"):
            check_format(str(line.typed["format"]))  # before a model is made
    run(line, _export)


def check_format(name: str) -> None:
    """Raise a UsageError unless `name` is a format that can be written here."""
    if name not in FORMATS:
        near = get_close_matches(name.lower(), FORMATS, 1, 0.3)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UsageError(f"--format needs {', '.join(FORMATS)}, not {name}{hint}")
    require(name, writing=True)


def _export(cli: ModsCLI, checkpoint: Path | None) -> None:
    file_format = str(cli.config.format)
    check_format(file_format)
    output = Path(cli.config.output or f"model{FORMATS[file_format]}")
    check_output(output, file_format, overwrite=bool(cli.config.overwrite))
    if file_format == "torchscript":
        say(_DEPRECATED)
    assert checkpoint is not None  # `run` found one, as `export` is no `fit`
    model = restored(cli.model, checkpoint)
    if isinstance(model, MLPModule) and isinstance(cli.datamodule, TabularDataModule):
        check_free(schema_path(output), overwrite=bool(cli.config.overwrite))
        export_table(model, cli.datamodule, file_format, output)
    else:
        export_module(model, file_format, output)


def check_output(output: Path, file_format: str, *, overwrite: bool) -> None:
    """Raise a UsageError if the output cannot be there, before anything is computed for it."""
    suffix = FORMATS[file_format]
    if output.exists() and not output.is_file():  # a device would be replaced
        raise UsageError(f"--output needs a file; {output} is {'a folder' if output.is_dir() else 'none'}.")
    check_free(output, overwrite=overwrite)
    if not output.parent.is_dir():
        raise UsageError(f"--output needs a folder that is there; {output.parent} is not.")
    if suffix == ".pt2" and output.suffix != suffix:
        raise UsageError(f"--format={file_format} needs a file whose name ends in .pt2, as torch asks for; {output}.")


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise a UsageError if there is a file already, and it is not to be replaced."""
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already; give another --output, or --overwrite to replace it.")


def restored(model: LightningModule, checkpoint: Path) -> LightningModule:
    """The model with the weights of a checkpoint, as Lightning would restore it to predict.

    Raises:
        UsageError: They are another model's.
    """
    state = read_checkpoint(checkpoint)
    model.configure_model()
    model.on_load_checkpoint(state)
    try:
        model.load_state_dict(state["state_dict"], strict=model.strict_loading)
    except RuntimeError as error:
        why = str(error).splitlines()[1:2] or str(error).splitlines()
        raise UsageError(
            f"{checkpoint} holds the weights of another model than {type(model).__name__}: {why[0].strip()[:200]}"
        ) from error
    return model.cpu().eval()
