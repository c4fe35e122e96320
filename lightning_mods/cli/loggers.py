"""The loggers of a fit: by short name, `--trainer.logger=wandb`, told where to write if nothing else was said."""

import netrc
import os
from collections.abc import Callable
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from callbacks.host.inputs import as_yaml
from callbacks.host.packages import preferred
from lightning_mods.cli.command_line import CommandLine, UsageError, from_yaml
from lightning_mods.loggers import BUILD_VISDOM
from lightning_mods.loggers.terminal import say

LOGGER_FLAG = "trainer.logger"
_HERE = "."  # where a logger writes to of which nothing else was said; the run's folder takes its place
_STORE = "mlruns"  # of all runs of a root folder, so that MLflow can compare them


@dataclass(frozen=True)
class NamedLogger:
    """Describes a logger that is known by a short name."""

    path: str  # of its class
    package: str = ""  # what it needs that is not always there, as it is imported; empty for nothing
    extra: str = ""  # ours that brings it
    folder: bool = False  # whether its class must be told a folder
    note: str = ""  # what else to know about installing it


_LIGHTNING = f"{preferred()}.loggers"
_NAMED = {
    "tensorboard": NamedLogger("lightning_mods.loggers.tensorboard.EventLogger", folder=True),
    "wandb": NamedLogger(f"{_LIGHTNING}.WandbLogger", "wandb", "wandb"),
    "comet": NamedLogger(f"{_LIGHTNING}.CometLogger", "comet_ml", "comet"),
    "visdom": NamedLogger("lightning_mods.loggers.visdom.VisdomLogger", "visdom", "visdom", note=BUILD_VISDOM),
    "mlflow": NamedLogger(f"{_LIGHTNING}.MLFlowLogger", "mlflow", "mlflow"),
    "csv": NamedLogger(f"{_LIGHTNING}.CSVLogger", folder=True),
}
_CLASSES = {named.path.rpartition(".")[2]: named for named in _NAMED.values()}
_CLASSES["OfflineCometLogger"] = NamedLogger("lightning_mods.loggers.comet.OfflineCometLogger", "comet_ml", "comet")
_CHOICES = f"{', '.join(_NAMED)}, false, a list of these such as [tensorboard,csv], or a class"
_PLAIN = ("true", "false", "null", "none", "")


def with_named_loggers(line: CommandLine) -> CommandLine:
    """Put classes in place of loggers' short names, also in `--config` files, if the packages they need are there."""
    flags = []
    for flag in line.flags:
        if flag.name == LOGGER_FLAG and flag.value is not None and flag.value.lower() not in _PLAIN:
            found = _class_of(flag.value, flag.value)
            value = found if isinstance(found, str) else as_yaml(found)
            flag = replace(flag, value=value, words=(f"--{LOGGER_FLAG}{'+' * flag.appends}={value}",))
        trainer = (flag.config or {}).get("trainer")
        asked = trainer.get("logger") if isinstance(trainer, dict) else None
        if isinstance(asked, str | list | dict):
            found = _class_of(asked, as_yaml(asked))
            if found != asked:
                flag = flag.with_config({**(flag.config or {}), "trainer": {**(trainer or {}), "logger": found}})
        flags.append(flag)
    return replace(line, flags=tuple(flags))


def _class_of(asked: Any, text: str) -> Any:
    """A name, a class, or several of them, as jsonargparse takes them."""
    if isinstance(asked, str):
        inside = asked.strip()
        if inside[:1] in ("[", "{"):
            asked = from_yaml(inside)
        elif "," in inside:
            asked = [each.strip() for each in inside.split(",")]
    if isinstance(asked, list):
        return [_class_of(each, str(each)) for each in asked]
    if isinstance(asked, dict):
        path = asked.get("class_path")
        return {**asked, "class_path": _known(path)[0]} if isinstance(path, str) else asked
    if not isinstance(asked, str):
        raise UsageError(f"--{LOGGER_FLAG} takes {_CHOICES}; not {text}.")
    path, named = _known(asked)
    return {"class_path": path, "init_args": {"save_dir": _HERE}} if named and named.folder else path


def _known(name: str) -> tuple[str, NamedLogger | None]:
    """The class that a name means, and what is known of it."""
    named = _NAMED.get(name.lower()) or _CLASSES.get(name.rpartition(".")[2])
    if named is not None:
        if named.package and find_spec(named.package) is None:
            how = f"pip install 'lightning-mods[{named.extra}]'{named.note}"
            raise UsageError(f"--{LOGGER_FLAG}={name} needs the package {named.package}: {how}")
        return (named.path if "." not in name else name), named
    near = get_close_matches(name.lower().removesuffix("logger"), [*_NAMED, "false"], 1, 0.6)
    if "." not in name and (not name[:1].isupper() or near):
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UsageError(f"--{LOGGER_FLAG} knows no `{name}`{hint} It takes {_CHOICES}.")
    return name, None


@dataclass(frozen=True)
class RunPlace:
    """Says where a run stands."""

    root: Path  # folder of all runs
    folder: Path  # of this run
    epochs: int | None = None  # that it has behind it; None for a new one


def asks_for_logger(logger: Any) -> bool:
    """Whether `trainer.logger`, as it was parsed, names a class; true, false and none name none."""
    return any(getattr(each, "class_path", None) for each in as_list(logger))


def as_list(said: Any) -> list[Any]:
    """Return what is said of a flag that takes one or several as several; none for None."""
    return list(said) if isinstance(said, list | tuple) else [] if said is None else [said]


def with_places(logger: Any, place: RunPlace) -> Any:
    """Tell each logger of `trainer.logger`, as it was parsed, where to write, where it was not told."""
    placed = [_placed(each, place) for each in as_list(logger)]
    return placed if isinstance(logger, list | tuple) else placed[0]


def _placed(asked: Any, place: RunPlace) -> Any:
    fill = _FILLERS.get(getattr(asked, "class_path", "").rpartition(".")[2])
    if fill is None:
        return asked
    given = asked.clone()
    given.init_args = given.get("init_args") or type(given)()
    return fill(given, place) or given


def _folder_of_versions(args: Any, place: RunPlace) -> bool:
    """Make `SAVE_DIR/NAME/VERSION` the run's folder, unless another one was asked for."""
    if args.get("save_dir") != _HERE:
        return False
    args.save_dir, name = str(place.root), place.folder.parent.relative_to(place.root)
    args.name = "" if name == Path() else str(name)  # a trial's folder has no `lightning_logs` in between
    args.version = args.get("version") or place.folder.name
    return True


def _event(given: Any, place: RunPlace) -> None:
    args = given.init_args
    _folder_of_versions(args, place)
    args.default_hp_metric = False  # the layout names the results


def _csv(given: Any, place: RunPlace) -> None:
    from lightning_mods.loggers.table import set_aside  # here, as `--help` needs no Lightning, which it loads

    if _folder_of_versions(given.init_args, place) and place.epochs is not None:
        set_aside(place.folder)


def _wandb(given: Any, place: RunPlace) -> None:
    args = given.init_args
    if args.get("save_dir") in (None, _HERE) and not args.get("dir"):
        args.save_dir = str(place.folder)
        place.folder.mkdir(parents=True, exist_ok=True)  # else wandb writes to the system's temporary folder
    _set(args, name=place.folder.name)
    if place.epochs is not None and not args.get("version"):
        runs = sorted(place.folder.glob("wandb/*run-*-*"), key=lambda path: path.name.rpartition("run-")[2])
        _set(args, id=runs[-1].name.rpartition("-")[2] if runs else None)
    if not args.get("offline") and not os.environ.get("WANDB_MODE") and not _has_wandb_key():
        args.offline = True
        say("note: W&B has no API key (`wandb login`), so that the run stays on this machine: it is offline.")


def _comet(given: Any, place: RunPlace) -> Any:
    args = given.init_args
    own = {"offline_directory": str(place.folder), "name": place.folder.name}
    more = own | dict(given.get("dict_kwargs") or {})
    online = args.get("online")
    if online is None and not args.get("api_key") and not _has_comet_key():
        online = False
        say("note: Comet has no API key (`comet login`), so that the run stays on this machine: it is offline.")
    if online is not False:
        given.dict_kwargs = more
        return None
    values = {name: args.get(name) for name in ("project", "workspace", "prefix")}
    values |= {name: more[name] for name in (*own, "log_env_details") if name in more}
    return type(given)(class_path=_CLASSES["OfflineCometLogger"].path, init_args=type(given)(**values))


def _offline_comet(given: Any, place: RunPlace) -> None:
    if given.init_args.get("offline_directory") in (None, _HERE):
        given.init_args.offline_directory = str(place.folder)
    _set(given.init_args, name=place.folder.name)


def _mlflow(given: Any, place: RunPlace) -> None:
    args = given.init_args
    _set(args, run_name=place.folder.name)
    if not args.get("tracking_uri"):
        asked = args.get("save_dir")
        store = Path(asked) if asked not in (None, f"./{_STORE}") else place.root / _STORE
        args.tracking_uri = str(store.resolve())  # a plain path: with `file:` Lightning takes it for the run's folder
        found = sorted(store.glob("*/*/tags/mlflow.runName"), key=lambda tag: tag.stat().st_mtime)
        same = [tag.parent.parent.name for tag in found if tag.read_text(encoding="utf-8") == args.run_name]
        if place.epochs is not None and same and not args.get("run_id"):
            args.run_id = same[-1]
    if "://" not in str(args.tracking_uri):
        # MLflow 3 keeps its file store, yet wants to be told that it is meant.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")


def _visdom(given: Any, place: RunPlace) -> None:
    args = given.init_args
    if str(args.get("save_dir", _HERE)) == _HERE:
        args.save_dir = str(place.folder)
    _set(args, version=place.folder.name)
    _set(args, env=f"{place.root.resolve().name}_{args.version}")


_FILLERS: dict[str, Callable[[Any, RunPlace], Any]] = {
    "EventLogger": _event,
    "CSVLogger": _csv,
    "WandbLogger": _wandb,
    "CometLogger": _comet,
    "OfflineCometLogger": _offline_comet,
    "MLFlowLogger": _mlflow,
    "VisdomLogger": _visdom,
}


def _set(args: Any, **values: Any) -> None:
    for name, value in values.items():
        if args.get(name) is None:
            args[name] = value


def _has_wandb_key() -> bool:
    """In the environment, or in the file that `wandb login` writes (https://docs.wandb.ai/guides/track/environment-variables)."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    host = server.partition("://")[2].partition("/")[0].partition(":")[0] or server
    try:
        known = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return False
    return known is not None


def _has_comet_key() -> bool:
    """In the environment, or in the file that `comet login` writes."""
    if os.environ.get("COMET_API_KEY"):
        return True
    parser = ConfigParser(interpolation=None)
    places = [os.environ.get("COMET_CONFIG", ""), ".comet.config", str(Path("~/.comet.config").expanduser())]
    try:
        parser.read(filter(None, places), encoding="utf-8")
    except (ConfigError, OSError, UnicodeDecodeError):
        return False
    return any(parser.get(section, "api_key", fallback="") for section in parser.sections())
