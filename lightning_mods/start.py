"""The start of a verb: what can be answered at once, then the imports, then the work."""

import gc
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from lightning_mods.arguments import UsageError, asks_for_help
from lightning_mods.class_paths import with_own_classes
from lightning_mods.exported_flags import is_exported

# Where a verb's work is; imported when there is some, as that takes seconds.
_WORK = {
    "fit": ("fitting", "fit"),
    "validate": ("evaluating", "validate"),
    "test": ("evaluating", "test"),
    "predict": ("predicting", "predict"),
    "export": ("exporting", "export"),
    "predict --exported": ("exported_predicting", "predict_exported"),
    "quick": ("quick", "answered"),
    "study": ("studying", "study"),
}


def start(verb: str, args: Sequence[str] | None, *, whole_process: bool = False) -> None:
    """Run a verb.

    Args:
        verb: `fit`, `validate`, `test`, `predict`, `export` or `study`.
        args: The flags; None for those of the process.
        whole_process: Whether this process is nothing but the verb, as it is with None for `args`.

    Raises:
        SystemExit: With code 2 after one line, if the flags are wrong.
    """
    try:
        given = with_own_classes(sys.argv[1:] if args is None else args)
        if verb == "predict" and is_exported(given) and not asks_for_help(given):
            _work("predict --exported")(given)
            return
        # Not before, as where an exported model runs there need be nothing that this imports or looks at.
        if _work("quick")(verb, given):
            return
    except UsageError as error:
        sys.stderr.write(f"{verb}: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None
    work = _import_at_once(verb) if whole_process or args is None else _import(verb)
    work(given)


def _import(verb: str) -> Callable[[Sequence[str]], Any]:
    import_module("lightning_mods.lean_torchmetrics")  # before Lightning imports torchmetrics
    return _work(verb)


def _work(verb: str) -> Callable[..., Any]:
    module, name = _WORK[verb]
    work: Callable[..., Any] = getattr(import_module(f"lightning_mods.{module}"), name)
    return work


def _import_at_once(verb: str) -> Callable[[Sequence[str]], Any]:
    """Import without looking for garbage, a fifth of the time, and never look at what was imported again.

    For a process that is nothing but the verb: what others have made should be looked at.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        work = _import(verb)
        gc.freeze()
    finally:
        if collecting:
            gc.enable()
    return work
