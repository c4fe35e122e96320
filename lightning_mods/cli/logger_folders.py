"""Where the loggers of a fit write to, where nothing else was said: the run's folder, and no further without a key."""

import netrc
import os
from collections.abc import Callable
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lightning_mods.cli.logger_names import HERE, asked_for
from lightning_mods.console.terminal import say

STORE = "mlruns"  # of all runs of a root folder, so that MLflow can compare them


@dataclass(frozen=True)
class Place:
    """A run.

    Args:
        root: Folder of all runs.
        folder: Of this run.
        epochs: Epochs it has behind it; None for a new one.
    """

    root: Path
    folder: Path
    epochs: int | None = None


def with_places(logger: Any, place: Place) -> Any:
    """The configuration of `trainer.logger` with each logger told where to write, where it was not told.

    Args:
        logger: As it was parsed.
        place: The run.
    """
    if not any(True for _ in asked_for(logger)):
        return logger
    one = not isinstance(logger, list | tuple)
    placed = [_placed(each, place) for each in ([logger] if one else logger)]
    return placed[0] if one else placed


def _placed(asked: Any, place: Place) -> Any:
    fill = _KINDS.get(getattr(asked, "class_path", "").rpartition(".")[2])
    if fill is None:
        return asked
    given = asked.clone()
    given.init_args = given.get("init_args") or Namespace()  # type: ignore[no-untyped-call]
    return fill(given, place) or given


def _folder_of_versions(args: Namespace, place: Place) -> bool:
    """Make `SAVE_DIR/NAME/VERSION` the run's folder, unless another one was asked for."""
    if args.get("save_dir") != HERE:
        return False
    args.save_dir, name = str(place.root), place.folder.parent.relative_to(place.root)
    args.name = "" if name == Path() else str(name)  # a trial's folder has no `lightning_logs` in between
    args.version = args.get("version") or place.folder.name
    return True


def _event(given: Namespace, place: Place) -> None:
    args = given.init_args
    _folder_of_versions(args, place)
    args.default_hp_metric = False  # the layout names the results
    if place.epochs is not None:
        args.purge_step = place.epochs  # what a killed run wrote after its last checkpoint is written again


def _csv(given: Namespace, place: Place) -> None:
    args = given.init_args
    if not _folder_of_versions(args, place):
        return
    table = place.folder / "metrics.csv"
    if place.epochs is not None and table.exists():  # Lightning's logger begins by deleting it
        count = len(list(place.folder.glob("metrics.*.csv")))
        table.rename(place.folder / f"metrics.{count}.csv")


def _wandb(given: Namespace, place: Place) -> None:
    args = given.init_args
    if args.get("save_dir") in (None, HERE) and not args.get("dir"):
        args.save_dir = str(place.folder)
        place.folder.mkdir(parents=True, exist_ok=True)  # else wandb writes to the system's temporary folder
    _set(args, name=place.folder.name)
    if place.epochs is not None and not args.get("version"):
        runs = sorted(place.folder.glob("wandb/*run-*-*"), key=lambda path: path.name.rpartition("run-")[2])
        _set(args, id=runs[-1].name.rpartition("-")[2] if runs else None)
    if not args.get("offline") and not os.environ.get("WANDB_MODE") and not _has_wandb_key():
        args.offline = True
        say("note: W&B has no API key (`wandb login`), so that the run stays on this machine: it is offline.")


def _comet(given: Namespace, place: Place) -> Namespace | None:
    args = given.init_args
    more = dict(given.get("dict_kwargs") or {})
    more.setdefault("offline_directory", str(place.folder))
    more.setdefault("name", place.folder.name)
    online = args.get("online")
    if online is None and not args.get("api_key") and not _has_comet_key():
        online = False
        say("note: Comet has no API key (`comet login`), so that the run stays on this machine: it is offline.")
    if online is not False:
        given.dict_kwargs = more
        return None
    kept = ("project", "workspace", "prefix")
    known = ("offline_directory", "name", "log_env_details")
    values = {name: args.get(name) for name in kept} | {name: more[name] for name in known if name in more}
    made = Namespace(**values)  # type: ignore[no-untyped-call]
    return Namespace(  # type: ignore[no-untyped-call]
        class_path="lightning_mods.loggers.comet.OfflineCometLogger", init_args=made
    )


def _offline_comet(given: Namespace, place: Place) -> None:
    if given.init_args.get("offline_directory") in (None, HERE):
        given.init_args.offline_directory = str(place.folder)
    _set(given.init_args, name=place.folder.name)


def _mlflow(given: Namespace, place: Place) -> None:
    args = given.init_args
    _set(args, run_name=place.folder.name)
    if not args.get("tracking_uri"):
        asked = args.get("save_dir")
        store = Path(asked) if asked not in (None, f"./{STORE}") else place.root / STORE
        args.tracking_uri = str(store.resolve())  # a plain path: with `file:` Lightning takes it for the run's folder
        found = sorted(store.glob("*/*/tags/mlflow.runName"), key=lambda tag: tag.stat().st_mtime)
        same = [tag.parent.parent.name for tag in found if tag.read_text(encoding="utf-8") == args.run_name]
        if place.epochs is not None and same and not args.get("run_id"):
            args.run_id = same[-1]
    if "://" not in str(args.tracking_uri):
        # MLflow 3 keeps its file store, yet wants to be told that it is meant.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")


def _visdom(given: Namespace, place: Place) -> None:
    args = given.init_args
    if str(args.get("save_dir", HERE)) == HERE:
        args.save_dir = str(place.folder)
    _set(args, version=place.folder.name)
    _set(args, env=f"{place.root.resolve().name}_{args.version}")


_KINDS: dict[str, Callable[[Namespace, Place], Namespace | None]] = {
    "EventLogger": _event,
    "CSVLogger": _csv,
    "WandbLogger": _wandb,
    "CometLogger": _comet,
    "OfflineCometLogger": _offline_comet,
    "MLFlowLogger": _mlflow,
    "VisdomLogger": _visdom,
}


def _set(args: Namespace, **values: Any) -> None:
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
        parser.read([each for each in places if each], encoding="utf-8")
    except (ConfigError, OSError, UnicodeDecodeError):
        return False
    return any(parser.get(section, "api_key", fallback="") for section in parser.sections())
