"""The start of a verb: what can be answered at once, then the imports, then the work.

`--help` is what the real parser printed the last time, and a misspelt flag is none of those it took then: neither waits
for torch.
"""

import gc
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

from callbacks.host.files import replacing
from callbacks.host.packages import CHOICE, PACKAGES, preferred
from lightning_mods.cli.command_line import CommandLine, UsageError, error_line, with_own_classes, without_secrets_in
from lightning_mods.cli.flags import HABITS, Reference
from lightning_mods.cli.siblings import OUR_PACKAGES
from lightning_mods.cli.trust import checked_for_trust, distrusting

# Where a verb's work is; imported when there is some, as that takes seconds.
_WORK = {
    "fit": ("fit.command", "fit"),
    "validate": ("cli.verbs", "validate"),
    "test": ("cli.verbs", "test"),
    "predict": ("cli.verbs", "predict"),
    "export": ("export.command", "export"),
    "predict --exported": ("export.runtime", "predict_exported"),
    "study": ("study.command", "study"),
    "named loggers": ("cli.loggers", "with_named_loggers"),
    "reference": ("cli.lightning_cli", "reference"),
}

# Our classes, whose flags change with our sources alone.
_OURS = {"model": ("MLPClassifier", "MLPRegressor"), "data": ("TabularDataModule",)}
# What else the text depends on, as their `NAME-VERSION.dist-info` is called.
_LIBRARIES = ("torch", "lightning", "pytorch_lightning", "jsonargparse", "docstring_parser")


def start(verb: str, args: Sequence[str] | None, *, whole_process: bool = False) -> None:
    """Run a verb with its flags; None for those of the process, which then is nothing but the verb (`whole_process`).

    Wrong flags end it with code 2 after one line, Ctrl-C before or after the training with 130.
    """
    whole_process = whole_process or args is None
    try:
        _answer_or_work(verb, args, whole_process)
    except KeyboardInterrupt:
        if not whole_process:  # it is the caller's
            raise
        sys.stderr.write(f"{verb}: stopped.\n")
        raise SystemExit(130) from None


def _answer_or_work(verb: str, args: Sequence[str] | None, whole_process: bool) -> None:
    load = _work_at_once if whole_process else _work  # garbage that others have made should be looked for
    try:
        typed = sys.argv[1:] if args is None else args
        line = CommandLine.parse(verb, _with_secrets(typed) if whole_process else typed)
        _check_words(line)
        if whole_process:
            _hide_secrets(line, len(typed))
        line = with_own_classes(checked_for_trust(line))
        if verb == "predict" and line.said("exported") is not None and not line.asks_for_help:
            _work("predict --exported")(line)
            return
        # Not before, as where an exported model runs there need be nothing that these import or look at.
        choose_package(line)
        line = _work("named loggers")(line)
        with distrusting(line):
            if _is_answered(line, lambda: load("reference")(line), keep=whole_process):
                return
    except UsageError as error:
        sys.stderr.write(f"{verb}: {error_line(error)}\n")
        raise SystemExit(2) from None
    work = load(verb)
    with distrusting(line):
        work(line)


# What a word is that belongs to no flag, by verb; else the table.
_MEANT = {"predict": "data.predict_path", "test": "data.test_path", "validate": "data.val_path", "export": "ckpt_path"}
_BARE = ("h", "help", "print_config")  # may stand without a value


def _check_words(line: CommandLine) -> None:
    """Raise a UsageError for a word that belongs to no flag, and for a flag that lacks its value."""
    for flag in line.flags:
        if not flag.name:
            word = flag.words[0]
            meant = "ckpt_path" if word.endswith(".ckpt") else _MEANT.get(line.verb, "data.path")
            raise UsageError(f"{word} is no flag; did you mean --{meant}={word}?")
        if flag.value is None and flag.name not in _BARE and not flag.name.endswith(".help"):
            raise UsageError(f"--{flag.name} needs a value: --{flag.name}=…")


# Environment variable: the words of the command line with their secrets, for the ranks that Lightning starts.
_WORDS = "LIGHTNING_MODS_WORDS"


def _hide_secrets(line: CommandLine, count: int) -> None:
    """Take passwords and keys out of the last words of `sys.argv`: W&B and Comet write down the command of a run."""
    hidden = without_secrets_in(line)
    if hidden != line.words:
        os.environ[_WORDS] = json.dumps(line.words)
        sys.argv[len(sys.argv) - count :] = hidden


def _with_secrets(typed: Sequence[str]) -> Sequence[str]:
    """Return words with the secrets that the process which started this one has taken out of them."""
    kept = json.loads(os.environ.get(_WORDS, "null"))
    if kept is not None and without_secrets_in(CommandLine.parse("", kept)) == [*typed]:
        return [str(word) for word in kept]
    return typed


def choose_package(line: CommandLine) -> None:
    """Let a verb run on the Lightning package that the user's classes are of; where none is, on the preferred one."""
    asked = {f"--{section}={path}": path for section in _OURS if (path := line.section(section).get("class_path"))}
    found = {flag: package for flag, path in asked.items() if (package := _package_behind(str(path)))}
    if len(set(found.values())) > 1:
        said = " and ".join(f"{flag} is a class of `{package}`" for flag, package in found.items())
        raise UsageError(f"all classes of a run must be of one Lightning package; {said}.")
    try:
        usual = preferred()
    except ModuleNotFoundError as error:
        raise UsageError(str(error)) from None
    text = " ".join([*line.words, *(json.dumps(flag.config, default=str) for flag in line.flags if flag.config)])
    named = (name for name in PACKAGES if re.search(rf"\b{re.escape(name)}\.\w", text))
    package = next(chain(found.values(), named), None)
    if package is not None and package != usual:
        if "lightning_mods.cli.lightning_cli" in sys.modules:
            raise UsageError(f"this process has run a command on `{usual}`; `{package}` needs one of its own.")
        os.environ[CHOICE] = package  # for the processes of a study too


def _package_behind(path: str) -> str | None:
    """The Lightning package that a class of the user's inherits from, None where that cannot be said."""
    module, _, name = path.rpartition(".")
    if not module or module.partition(".")[0] in OUR_PACKAGES:
        return None
    with suppress(Exception, SystemExit):  # what is wrong with it is said where the class is needed
        bases = [base.__module__ for base in getattr(import_module(module), name).__mro__]
        return next((package for base in bases for package in PACKAGES if f"{base}.".startswith(f"{package}.")), None)
    return None


def _work(name: str) -> Callable[..., Any]:
    module, function = _WORK[name]
    work: Callable[..., Any] = getattr(import_module(f"lightning_mods.{module}"), function)
    return work


def _work_at_once(name: str) -> Callable[..., Any]:
    """Import without looking for garbage, a fifth of the time, and never look at what was imported again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        work = _work(name)
        gc.freeze()
    finally:
        if collecting:
            gc.enable()
    return work


def _is_answered(line: CommandLine, ask: Callable[[], Reference], *, keep: bool) -> bool:
    """Print the help where it is asked for, refuse a misspelt flag; whether there is nothing left to do."""
    name = _cache_name(line)
    if name is None and not line.asks_for_help:
        return False  # the flags of a foreign class are known when it is imported: `ModsCLI` refuses what is none
    reference = (_HERE.get(name) or _cached(name)) if name else None
    if reference is None:
        reference = ask()
        if name:
            _HERE[name] = reference
            if keep:
                _keep(name, reference)
    if line.asks_for_help:
        sys.stdout.write(reference.all_flags if line.typed.get("help") == "all" else reference.text)
        return True
    (line.without("space") if line.verb == "study" else line).refuse_unknown(reference.known, HABITS)
    return False


# ------------------------------------------------------------------ the cache

# For a process that goes on: the text lists what it has imported by now, which is nothing to keep for others.
_HERE: dict[str, Reference] = {}


def _cache_name(line: CommandLine) -> str | None:
    """The name under which the flags of a command line are kept, None if it names a class that is not ours."""
    names = [line.verb]
    for section, ours in _OURS.items():
        package, _, name = str(line.section(section).get("class_path") or "").rpartition(".")
        if name and (name not in ours or package.partition(".")[0] not in ("", *OUR_PACKAGES)):
            return None
        names.append(name or "any")
    return "-".join(names)


def _cached(name: str) -> Reference | None:
    try:
        kept = json.loads(_file(name).read_text(encoding="utf-8"))
        if kept["made_with"] == _made_with():
            return Reference(kept["text"], kept["all_flags"], tuple(kept["known"]))
    except (OSError, RuntimeError, ValueError, LookupError, TypeError):
        pass  # not there yet, or torn: it is made anew
    return None


def _keep(name: str, reference: Reference) -> None:
    content = {"made_with": _made_with(), **vars(reference)}
    with suppress(OSError, RuntimeError):  # without a folder to write to, the next time takes seconds again
        file = _file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial:
            partial.write_text(json.dumps(content), encoding="utf-8")


def _file(name: str) -> Path:
    # One for each environment and each width of a terminal, so that two in use do not replace each other's.
    place = sha256(f"{sys.prefix} {_root()}".encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "lightning_mods" / "help" / place / f"{name}-{shutil.get_terminal_size().columns}.json"


def _made_with() -> dict[str, Any]:
    """What the text was made from: our sources, by size and time, and the versions of what reads them."""
    sources = sha256()
    for package in OUR_PACKAGES:
        for path in sorted((_root() / package).rglob("*.py")):
            stat = path.stat()
            sources.update(f"{path} {stat.st_mtime_ns} {stat.st_size}\n".encode())
    # By hand, as importlib.metadata takes half of the time of a `--help`.
    installed = [path.name for place in sys.path if place for path in Path(place).glob("*-info")]
    libraries = sorted(name for name in installed if name.split("-")[0] in _LIBRARIES)
    return {"python": sys.version, "sources": sources.hexdigest(), "libraries": libraries, "lightning": preferred()}


def _root() -> Path:
    return Path(__file__).parents[2]
