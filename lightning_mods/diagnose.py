"""`python -m lightning_mods.diagnose LOG`: what became of a run, from the log that any framework wrote."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import NoReturn

from lightning_mods.arguments import UsageError, refuse_unknown
from lightning_mods.files import replacing
from lightning_mods.log_columns import Asked
from lightning_mods.log_report import Judged, as_json, is_worth_a_line, judge, paragraph, table
from lightning_mods.log_table import LogError
from lightning_mods.logs import find_logs, read_log

_FLAGS = ("train", "val", "metric", "metric_mode", "baseline", "epoch", "json", "plot")


def main(args: Sequence[str] | None = None) -> None:
    """Say what became of runs, from their logs.

    Args:
        args: The command line; None for the one of the process.
    """
    try:
        given = _parse(sys.argv[1:] if args is None else args)
        judged = _judge_all(given)
        if given.plot is not None and len(judged) > 1:
            raise UsageError(f"--plot draws one log; {len(judged)} were given.")
        if given.plot is not None:
            _plot(judged[0], Path(given.plot))
        _say(judged, given.json)
    except (UsageError, LogError, OSError) as error:
        _fail(_explain(error))
    if any(each.error for each in judged):
        raise SystemExit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message if message.endswith(".") else f"{message}.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m lightning_mods.diagnose", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "logs",
        metavar="LOG",
        nargs="+",
        help="Lightning's metrics.csv, a TensorBoard event file or folder, Keras' CSVLogger or History JSON, Hugging "
        "Face's trainer_state.json, YOLO's results.csv, W&B's JSON lines, or any table with a header; "
        "also patterns, and folders that hold such files. Several make a table.",
    )
    summed = "It is found by its name where it can be; given several times, the columns are summed."
    parser.add_argument("--train", metavar="COLUMN", action="append", default=[], help=f"Training loss. {summed}")
    parser.add_argument("--val", metavar="COLUMN", action="append", default=[], help=f"Validation loss. {summed}")
    parser.add_argument(
        "--metric", metavar="COLUMN", help="What matters in the end, e.g. val_accuracy; `none` for none."
    )
    parser.add_argument("--metric_mode", choices=["max", "min"], help="Which is good; by default told by its name.")
    parser.add_argument(
        "--baseline", metavar="LOSS", type=float, help="Validation loss of the best constant prediction."
    )
    parser.add_argument("--epoch", metavar="COLUMN", help="The column that counts epochs.")
    parser.add_argument("--json", action="store_true", help="Write JSON: an object for one log, a list for several.")
    parser.add_argument("--plot", metavar="PNG", help="Draw the curves with the verdict into this file.")
    return parser


def _parse(args: Sequence[str]) -> argparse.Namespace:
    words = list(args)
    parser = _parser()
    flags = words[: words.index("--")] if "--" in words else words
    refuse_unknown(flags, [*_FLAGS, "help"])
    for at in reversed([i for i, word in enumerate(words[:-1]) if word == "--baseline"]):
        words[at : at + 2] = [f"--baseline={words[at + 1]}"]  # argparse takes -1e-3 for a flag
    given = parser.parse_intermixed_args(words)
    if given.baseline is not None and not isfinite(given.baseline):
        raise UsageError(f"--baseline needs a finite number, not {given.baseline}.")
    return given


def _judge_all(given: argparse.Namespace) -> list[Judged]:
    paths = find_logs(given.logs)
    judged = [_judge(path, given) for path in paths]
    kept = [each for each in judged if paths[each.path] or is_worth_a_line(each)]
    if not kept:
        raise LogError(f"{' '.join(given.logs)}: none of {len(judged)} files holds losses; name a file to learn why.")
    return kept


def _judge(path: Path, given: argparse.Namespace) -> Judged:
    asked = Asked(given.train, given.val, given.metric, given.metric_mode, given.epoch)
    try:
        return judge(read_log(path, asked), given.baseline)
    except (LogError, OSError) as error:
        return Judged(path, error=_explain(error))


def _say(judged: Sequence[Judged], machine: bool) -> None:
    for each in judged:
        if each.error:
            sys.stderr.write(f"diagnose: {each.path}: {each.error}\n")
    if machine:
        sys.stdout.write(as_json(judged) + "\n")
    elif len(judged) > 1:
        sys.stdout.write(table(judged) + "\n")
    elif not judged[0].error:
        sys.stdout.write(paragraph(judged[0]) + "\n")


def _plot(judged: Judged, target: Path) -> None:
    if judged.log is None or judged.diagnosis is None:
        return
    try:
        draw_fit = import_module("lightning_mods.callbacks.fit_picture").draw_fit
    except ImportError as error:
        raise UsageError(f"--plot needs matplotlib (pip install matplotlib): {error}.") from error
    curves = judged.log.curves
    figure = draw_fit(curves.train, curves.val, judged.diagnosis, val_metric=curves.metric, title=judged.path.name)
    try:
        with replacing(target) as partial:
            figure.savefig(partial, format=target.suffix[1:] or "png")
    except ValueError as error:
        raise UsageError(f"--plot needs a name that ends in .png; {error}.") from error
    except OSError as error:
        raise UsageError(f"--plot={target} cannot be written: {error.strerror or error}.") from error


def _explain(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}." if error.filename is None else f"cannot be read: {error.strerror}."
    return " ".join(str(error).split())


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"diagnose: {message}\n")
    raise SystemExit(2)


if __name__ == "__main__":
    main()
