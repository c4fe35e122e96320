"""Kills studies: on a journal, on SQLite, on PostgreSQL."""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.kills.processes import finish, killed

TRIALS = 8
_FLAGS = (
    *("--data.path=iris", "--model.hidden_sizes=[16]", "--data.batch_size=8", "--trainer.max_epochs=12"),
    *("--study.pruner=none", "--study.prune_hopeless=false", f"--study.n_trials={TRIALS}"),
)
SETTINGS = {"one by one": ("--study.fused=false",), "together": (), "two workers": ("--study.workers=2",)}
STORAGES = ("journal", "SQLite", "PostgreSQL")


@dataclass
class StudyKills:
    """Counts what was done to the studies on one storage, and what came of it."""

    storage: str
    kills: int = 0
    studies: int = 0
    counted: int = 0  # studies with exactly as many trials as asked for, none running, none lost
    exact: int = 0  # trials whose parameters and value are those of the study left alone
    trials: int = 0
    wrong: list[str] = field(default_factory=list)


def kill_studies(storage: str, kills: int, draw: random.Random, folder: Path, server: str | None) -> StudyKills:
    """Kill studies again and again, let them end, and compare their trials with those of one left alone."""
    done = StudyKills(storage)
    wholes: dict[str, dict[int, Any]] = {}
    while done.kills < kills:
        how = draw.choice([*SETTINGS])
        if how not in wholes:
            where = folder / f"{storage}_whole_{len(wholes)}"
            url = _url(storage, where, server)
            began = time.monotonic()
            finish("study", _flags(how, url, where.name), where)
            wholes[how] = _settled(url, where.name)[0] | {-1: time.monotonic() - began}
        here = folder / f"{storage}_killed_{done.studies}"
        url, name = _url(storage, here, server), here.name
        flags = _flags(how, url, name)
        for _ in range(draw.randint(2, 5)):
            done.kills += killed("study", flags, here, _moment(draw, url, name), draw.uniform(0.0, wholes[how][-1] / 3))
            if done.kills >= kills:
                break
        finish("study", flags, here)
        done.studies += 1
        found, states = _settled(url, name)
        right = sorted(found) == list(range(TRIALS)) and not states["RUNNING"] and not states["WAITING"]
        done.counted += right
        if not right:
            done.wrong.append(f"{here}: places {sorted(found)}, states {dict(states)}")
        if how != "two workers":  # whose trials know each other by chance
            whole = {place: trial for place, trial in wholes[how].items() if place >= 0}
            same = [place for place in whole if found.get(place) == whole[place]]
            done.trials, done.exact = done.trials + len(whole), done.exact + len(same)
            if len(same) < len(whole):
                done.wrong.append(f"{here}: {how}, trials unlike those left alone: {sorted({*whole} - {*same})}")
    return done


def _flags(how: str, url: str, name: str) -> tuple[str, ...]:
    return (*_FLAGS, *SETTINGS[how], f"--study.name={name}", f"--study.storage={url}", "--trainer.default_root_dir=.")


def _url(storage: str, folder: Path, server: str | None) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    if storage == "journal":
        return str(folder / "study.journal")
    return f"sqlite:///{folder}/study.db" if storage == "SQLite" else str(server)


def _moment(draw: random.Random, url: str, name: str) -> Callable[[], bool]:
    """Return what to wait for: nothing, or a trial that runs."""
    if draw.random() < 0.4:
        return lambda: True

    def runs() -> bool:
        time.sleep(0.02)
        try:
            return any(trial.state.name == "RUNNING" for trial in _trials(url, name))
        except Exception:  # noqa: BLE001  # the study is about to be made
            return False

    return runs


def _trials(url: str, name: str) -> list[Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage: Any = url.replace("postgresql://", "postgresql+psycopg://")
    if "://" not in url:
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(url))
    return optuna.load_study(study_name=name, storage=storage).trials


def _settled(url: str, name: str) -> tuple[dict[int, Any], Counter[str]]:
    """Return parameters and value of the trials that count, by place, and how many there are of each state."""
    trials = _trials(url, name)
    counts = [t for t in trials if t.state.name != "FAIL" or "reason" in t.user_attrs]
    places = Counter(t.user_attrs.get("place", -1) for t in counts)
    found = {t.user_attrs.get("place", -1): (t.params, t.values) for t in counts if t.state.name == "COMPLETE"}
    states = Counter(t.state.name for t in trials)
    twice = [place for place, number in places.items() if number > 1]
    return ({} if twice else found), states
