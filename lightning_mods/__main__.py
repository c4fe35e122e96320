"""`lightning-mods VERB …`, or `python -m lightning_mods VERB …`: the verbs as subcommands, each with its own flags."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from textwrap import TextWrapper

from lightning_mods import __version__


def main(args: Sequence[str] | None = None) -> None:
    """Run the verb that a command line begins with, None for that of the process; a mistake ends it with code 2."""
    if args is None:
        _look_for_modules_here()
    verb, *flags = (sys.argv[1:] if args is None else list(args)) or ["--help"]
    if verb == "diagnose":
        from lightning_mods.diagnose import main as diagnose

        diagnose(flags)
    elif verb in _verbs():
        from lightning_mods.cli.start import start

        start(verb, flags, whole_process=args is None)
    elif verb in ("-h", "--help"):
        sys.stdout.write(_help())
    elif verb == "--version":
        sys.stdout.write(f"lightning-mods {__version__}\n")
    else:
        near = get_close_matches(verb, _verbs(), 1)
        hint = f"; did you mean {near[0]}?" if near else f"; it is one of {', '.join(_verbs())}."
        sys.stderr.write(f"lightning-mods: the first word must be a verb, not {verb}{hint}\n")
        raise SystemExit(2)


def _verbs() -> dict[str, str]:
    from lightning_mods.cli.flags import ABOUT

    return {**ABOUT, "diagnose": "Say whether a run underfits or overfits, from the log that any framework wrote."}


def _help() -> str:
    lines = ["usage: lightning-mods VERB [FLAGS]    (lightning-mods VERB --help lists its flags)", ""]
    for verb, about in _verbs().items():
        lines.append(TextWrapper(120, initial_indent=f"  {verb:<10}", subsequent_indent=" " * 12).fill(about))
    return "\n".join(lines) + "\n"


def _look_for_modules_here() -> None:
    """Let `--model=models.Mine` be found in this folder, as under `python -m`; an installed script looks elsewhere."""
    here = str(Path.cwd())
    if not sys.flags.safe_path and not {"", here} & set(sys.path):
        sys.path.insert(0, here)


if __name__ == "__main__":
    main()
