"""The flags of `predict --exported`; a file of its own, as every `predict` asks whether it is one."""

import sys
from collections.abc import Sequence

from lightning_mods.arguments import UsageError, flags, read_config, refuse_unknown

_USED = ("exported", "output", "data.predict_path", "config")
# Flags of `predict` that an exported model has no use for, but that do no harm.
_UNUSED = ("trainer", "model", "seed_everything", "watch", "steps_per_execution")


def is_exported(args: Sequence[str]) -> bool:
    """Whether a command line of `predict` asks for an exported model, itself or in a configuration file."""
    return asked_of(args)["exported"] is not None


def asked_of(args: Sequence[str]) -> dict[str, str | None]:
    """The flags in use, those of configuration files under those that were typed later."""
    asked: dict[str, str | None] = dict.fromkeys(_USED)
    for name, value in flags(args):
        if name in ("config", "c") and value is not None:
            content = read_config(value)
            data = content.get("data")
            data = data if isinstance(data, dict) else {}
            init = data.get("init_args") or data
            found = {"exported": content.get("exported"), "output": content.get("output")}
            found["data.predict_path"] = init.get("predict_path") if isinstance(init, dict) else None
            asked |= {key: str(each) for key, each in found.items() if each is not None}
        elif name in asked:
            asked[name] = value
    return asked


def check_flags(args: Sequence[str]) -> None:
    """Refuse what is misspelt, and what names another model; note what is of no use."""
    typed = [name for name, _ in flags(args)]
    if "ckpt_path" in typed:
        raise UsageError("--exported and --ckpt_path name two models; leave one of them out.")
    unused = [name for name in typed if name.partition(".")[0] in _UNUSED]
    if unused:
        sys.stderr.write(f"note: --{unused[0]} is not used with --exported.\n")
    refuse_unknown(args, [*_USED, *unused])
