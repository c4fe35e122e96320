"""Opens the study of a search and sees that it is the same one; small questions put to Optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from callbacks.search.plan import SearchError, one_line
from callbacks.search.space import Space
from callbacks.search.storage import alone, open_storage

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage


def open_study(storage: BaseStorage, where: str | None, space: Space, name: str, directions: Sequence[str]) -> Study:
    """The study of that name, new or as it was left.

    Args:
        storage: What it is kept in.
        where: The storage as the user named it.
        space: What is searched.
        name: The study's name.
        directions: `minimize` or `maximize` for each objective.

    Raises:
        SearchError: It is there with another space or other directions.
    """
    import optuna
    from optuna.study import StudyDirection

    with alone(where, storage):
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=[StudyDirection[way.upper()] for way in directions],
            load_if_exists=True,
        )
        there = [way.name.lower() for way in study.directions]
        if there != list(directions):
            raise SearchError(
                f"The study {name!r} in {where} is to {' and '.join(there)}, not to {' and '.join(directions)}; "
                "give the same directions, or another name."
            )
        _same_space(study, where, {key: str(dimension) for key, dimension in space.items()})
    return study


def reopened(study: Study, storage: BaseStorage, where: str | None) -> Study:
    """The study over a storage that keeps no connection, to be handed out."""
    from optuna import load_study
    from optuna.storages import RDBStorage

    if not isinstance(storage, RDBStorage) or storage.engine.dialect.name == "sqlite":
        return study
    return load_study(study_name=study.study_name, storage=open_storage(where))


def _same_space(study: Study, where: str | None, asked: Mapping[str, str]) -> None:
    there: Mapping[str, str] | None = study.user_attrs.get("space")
    if there is None:
        if study.get_trials(deepcopy=False):
            raise SearchError(
                f"The study {study.study_name!r} in {where} was made by another program; give another name."
            )
        study.set_user_attr("space", dict(asked))
        return
    names = sorted({*there, *asked})
    differ = [f"{name} was {there.get(name, 'absent')} and is {asked.get(name, 'absent')}" for name in names]
    differ = [text for name, text in zip(names, differ, strict=True) if there.get(name) != asked.get(name)]
    if differ:
        raise SearchError(
            f"The study {study.study_name!r} in {where} has another space: {'; '.join(differ)}. "
            "Give the same space, or another name."
        )


def once(study: Study, key: str, value: int) -> int:
    """A number that stays as the first process wrote it."""
    if key not in study.user_attrs:
        study.set_user_attr(key, value)
    return int(study.user_attrs[key])


def checked(values: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Values to start from, if they lie in the space.

    Raises:
        SearchError: An unknown name, or a value outside its dimension.
    """
    from optuna.trial import TrialState, create_trial

    for name, value in values.items():
        if name not in space:
            raise SearchError(f"A start value is given for {name!r}, and the space has {', '.join(space)}.")
        dimension = space[name]
        try:
            stored = {name: dimension.store(value)}
            create_trial(state=TrialState.RUNNING, params=stored, distributions={name: dimension.distribution()})
        except (SearchError, TypeError, ValueError):
            raise SearchError(f"The start value {value!r} of {name!r} lies outside its space {dimension}.") from None
    return dict(values)


def numbers(returned: object, count: int) -> list[float]:
    """What an objective returned, as floats.

    Raises:
        TypeError: It is no number, or not as many as there are directions.
    """
    items = list(returned) if isinstance(returned, Sequence) else [returned]
    try:
        told = [float(item) for item in items]  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        told = []
    if len(told) != count:
        raise TypeError(f"the objective must return {count} number{'s' * (count > 1)}, not {returned!r}")
    return told


def is_memory(error: BaseException) -> bool:
    """Whether it is a lack of memory, of the machine or of a device; torch names it in several ways."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    text = str(error).lower()
    return named or "out of memory" in text or "can't allocate memory" in text


def reason(error: BaseException) -> str:
    """Why a trial failed, in one line."""
    return f"out of memory ({one_line(error)})" if is_memory(error) else one_line(error)


def is_storage_trouble(error: Exception) -> bool:
    """Whether it is the storage's failure and not the trial's."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, StorageInternalError | SQLAlchemyError)


def is_over(study: Study, number: int) -> bool:
    """Whether a trial has ended."""
    return study.get_trials(deepcopy=False)[number].state.is_finished()


def any_worked(study: Study) -> bool:
    """Whether any trial of the study came to a value or was pruned."""
    return any(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.get_trials(deepcopy=False))
