"""What a study that ran in a folder has left in its journal."""

import time

import optuna


def trials(folder, storage=None):
    """All trials of the study."""
    if storage is None:
        backend = optuna.storages.journal.JournalFileBackend(str(folder / "studies/study/study.journal"))
        storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name="study", storage=storage).trials


def settled(found):
    """Places of the trials that count: those that a kill or Ctrl-C lost have no reason to have failed."""
    return [t.user_attrs["place"] for t in found if t.state.name != "FAIL" or "reason" in t.user_attrs]


def running(folder):
    """The process ids of the trials that run."""
    if not (folder / "studies/study/study.journal").exists():
        return []
    try:
        return [t.user_attrs["owner"]["pid"] for t in trials(folder) if t.state.name == "RUNNING"]
    except KeyError:  # the study is about to be made
        return []


def wait_until(condition, timeout=120):
    """Wait for what a condition returns to be true, and return it."""
    end = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found
