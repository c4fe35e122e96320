"""The start of a verb: what can be answered at once, then the imports, then the work."""

import sys
from collections.abc import Sequence
from importlib import import_module

from lightning_mods.arguments import UsageError
from lightning_mods.quick import answered

# Where a verb's work is; imported when there is some, as that takes seconds.
_WORK = {
    "fit": ("fitting", "fit"),
    "validate": ("evaluating", "validate"),
    "test": ("evaluating", "test"),
    "predict": ("predicting", "predict"),
    "study": ("studying", "study"),
}


def start(verb: str, args: Sequence[str] | None) -> None:
    """Run a verb.

    Args:
        verb: `fit`, `validate`, `test`, `predict` or `study`.
        args: The flags; None for those of the process.

    Raises:
        SystemExit: With code 2 after one line, if the flags are wrong.
    """
    given = list(sys.argv[1:] if args is None else args)
    try:
        if answered(verb, given):
            return
    except UsageError as error:
        sys.stderr.write(f"{verb}: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None
    module, name = _WORK[verb]
    import_module("lightning_mods.lean_torchmetrics")  # before Lightning imports torchmetrics
    getattr(import_module(f"lightning_mods.{module}"), name)(given)
