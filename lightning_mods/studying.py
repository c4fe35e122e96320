"""What `study` does once the command line has been looked at."""

from collections.abc import Sequence

from callbacks.search import SearchError
from lightning_mods.arguments import UsageError, asks_for_help
from lightning_mods.help import print_help
from lightning_mods.running import mistakes_in_one_line
from lightning_mods.study_end import finish
from lightning_mods.study_opening import open_study
from lightning_mods.study_plan import Study, work
from lightning_mods.study_progress import StudyProgress
from lightning_mods.study_space import check_space
from lightning_mods.study_workers import run_workers
from lightning_mods.terminal import quiet, say


def study(args: Sequence[str]) -> None:
    """Search.

    Args:
        args: The flags.
    """
    with mistakes_in_one_line("study"):
        quiet()
        if asks_for_help(args):
            print_help("study", args)
            return
        try:
            _run(Study(args))
        except SearchError as error:
            raise UsageError(str(error)) from error


def _run(study: Study) -> None:
    check_space(study.cli, study.space)
    opened = open_study(study)
    progress = StudyProgress(study.flags.metrics, study.space)
    if opened.before.done >= opened.before.total:
        say(f"study {study.flags.name} is finished; --study.n_trials above {opened.before.done} goes on with it.")
    try:
        _train(study, progress)
    except SearchError:
        opened.undo_if_new()
        raise
    except (KeyboardInterrupt, SystemExit):
        progress.close()
        say("stopped; the same command goes on.")
        finish(study, interrupted=True)
        raise SystemExit(1) from None
    progress.close()
    finish(study)


def _train(study: Study, progress: StudyProgress) -> None:
    if study.flags.workers == 1:
        study.train_here(progress)
        return
    error = run_workers(study.flags.workers, work, study.args, progress)
    if error:
        raise SearchError(error)
