"""What the verbs have of their own: flags, and the defaults that are not Lightning's."""

from argparse import SUPPRESS
from typing import Any, Literal

from lightning_mods.study_flags import SPACE_HELP, StudyFlags

MAX_EPOCHS = 30
# What a model may take from the data, by the name of its argument; a class without such an argument is left alone.
LINKED = ("in_features", "num_classes", "class_counts", "target_mean", "target_std")
Watcher = Literal["fit", "health", "gradients", "graph"]
WATCHERS: list[Watcher] = ["fit", "health", "gradients", "graph"]

# What `export` writes, and the suffix that the format's own readers ask for.
FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2", "aoti": ".pt2", "executorch": ".pte"}
_EXPORTED_HELP = (
    "A file that `lightning_mods.export` wrote: it predicts instead of a checkpoint, an ONNX file without torch."
)


def add_verb_arguments(parser: Any, verb: str) -> None:
    """Add the flags that are the verb's own."""
    _add_fit_arguments(parser, verb)
    if verb == "study":
        _add_study_arguments(parser)
        return
    default = None if verb == "fit" else "best"
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=default,
        help="A checkpoint file, or `best` or `last` of the newest run under --trainer.default_root_dir."
        + (" Training goes on from it; with `last` and no checkpoint yet it starts anew." if verb == "fit" else ""),
    )
    if verb == "predict":
        parser.add_argument("--output", type=str, default="predictions.csv", help="CSV file for the predictions.")
        parser.add_argument("--exported", type=str | None, default=None, help=_EXPORTED_HELP)
    if verb == "export":
        _add_export_arguments(parser)


def _add_fit_arguments(parser: Any, verb: str) -> None:
    said = (
        "Who looks on, e.g. [fit,health]: `fit` gives the verdict, `health` warns of what is broken, `gradients` and "
        "`graph` draw them for TensorBoard. [] for nobody."
    )
    steps = (
        "Mini-batches from one that passes through Lightning's loop and every callback to the next; the others are "
        "trained in between, faster and with the same numbers. `auto`: as many as no callback has to see; 1: none."
    )
    # The configuration file that a fit leaves has them, and serves every verb.
    hidden = verb != "fit"
    parser.add_argument("--watch", type=Watcher | list[Watcher], default=WATCHERS, help=SUPPRESS if hidden else said)
    parser.add_argument(
        "--steps_per_execution",
        type=int | str,
        default="auto",
        help=SUPPRESS if hidden and verb != "study" else steps,
    )


def _add_export_arguments(parser: Any) -> None:
    parser.add_argument("--format", type=str, default="onnx", help=f"What to write: {', '.join(FORMATS)}.")
    parser.add_argument(
        "--output", type=str | None, default=None, help="The file; by default `model`, with the suffix of the format."
    )
    parser.add_argument("--overwrite", type=bool, default=False, help="Replace the file if it is there already.")


def _add_study_arguments(parser: Any) -> None:
    parser.add_class_arguments(StudyFlags, "study")
    parser.add_argument("--space", type=dict[str, Any], default={}, help=SPACE_HELP)
    # A configuration file that a fit wrote has it; a study starts anew or goes on by itself.
    parser.add_argument("--ckpt_path", type=str | None, default=None, help=SUPPRESS)
