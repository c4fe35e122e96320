"""Opening a study before its first trial: is it new, and is it the one that the command line describes?"""

import shutil
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from callbacks.search import Progress, SearchError
from lightning_mods.arguments import UsageError
from lightning_mods.study_board import settings
from lightning_mods.study_plan import Study

_SETTINGS = "settings"  # user attribute of the study: what its trials have in common


@dataclass(frozen=True)
class Opened:
    """A study that is open.

    Args:
        study: What the command line says.
        before: How far it was.
        is_new: This command made it.
        new_files: What was not there before it did.
    """

    study: Study
    before: Progress
    is_new: bool
    new_files: tuple[Path, ...]

    def undo_if_new(self) -> None:
        """Leave nothing of a study that this command made and that came to nothing."""
        if not self.is_new:
            return
        with suppress(Exception):  # the mistake itself is what the user must read
            import optuna

            opened, _ = self.study.look()
            if any(trial.state.is_finished() and "reason" in trial.user_attrs for trial in opened.get_trials()):
                return  # another process has come further
            optuna.delete_study(study_name=opened.study_name, storage=opened._storage)
        _remove(self.new_files)


def open_study(study: Study) -> Opened:
    """Open the study and note down what all its trials have in common.

    Raises:
        SearchError: The storage cannot be used, or its study has another space or direction.
        UsageError: Its trials were trained with other flags.
    """
    new_files = tuple(path for path in _files(study) if not path.exists())
    try:
        opened, before = study.look()
    except SearchError:
        _remove(new_files)
        raise
    asked, there = settings(study.cli, study.space), opened.user_attrs.get(_SETTINGS)
    if there is None:
        opened.set_user_attr(_SETTINGS, asked)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental; optuna-dashboard shows the names
            opened.set_metric_names(study.flags.metrics)
    elif differ := [name for name in sorted({*asked, *there}) if asked.get(name) != there.get(name)]:
        name = differ[0]
        more = f" (and {len(differ) - 1} more flags)" if differ[1:] else ""
        began = f"with --{name}={there[name]}" if name in there else f"without --{name}"
        raise UsageError(
            f"the study {study.flags.name!r} was begun {began}, and now it is {asked.get(name, 'not given')}{more}: "
            "its trials would not compare. Give the same, or another --study.name."
        )
    return Opened(study, before, there is None and not opened.get_trials(deepcopy=False), new_files)


def _files(study: Study) -> list[Path]:
    """The study's folder with those above it, and the file that holds its trials; the outermost first."""
    storage = study.storage.partition(":///")[2] if study.storage.startswith("sqlite:") else study.storage
    files = [] if "://" in storage else [Path(storage)]
    return [study.folder.parent, study.folder, *files]


def _remove(paths: tuple[Path, ...]) -> None:
    for path in paths:
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
