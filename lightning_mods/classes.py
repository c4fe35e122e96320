"""Which class a name on the command line means, and which arguments it takes."""

from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib import import_module

from jsonargparse import ArgumentParser

from datamodules import TabularDataModule
from lightning_mods.arguments import UsageError
from lightning_mods.classifier import MLPClassifier
from lightning_mods.regressor import MLPRegressor

# Our own classes, by the short name that the command line and our checkpoints use.
OURS: dict[str, type] = {c.__name__: c for c in (MLPClassifier, MLPRegressor, TabularDataModule)}


def find_class(name: str, base: type) -> type:
    """The class that a short name or a dotted path means.

    Args:
        name: `MLPClassifier`, `package.module.Class`, or the short name of a subclass that is already imported.
        base: What it must be a subclass of.

    Raises:
        UsageError: There is no such class.
    """
    if name in OURS and issubclass(OURS[name], base):
        return OURS[name]
    module, _, short = name.rpartition(".")
    if module:
        try:
            found = getattr(import_module(module), short)
        except (ImportError, AttributeError, ValueError) as error:
            raise UsageError(f"{name} is needed as a {base.__name__}, but cannot be imported: {error}.") from error
    else:
        found = next((known for known in _subclasses(base) if known.__name__ == name), None)
    if not isinstance(found, type) or not issubclass(found, base):
        names = {known.__name__.lower(): known.__name__ for known in _subclasses(base)}
        near = get_close_matches(short.lower(), names, 1)
        hint = f"; did you mean {names[near[0]]}?" if near else "; give `package.module.Class`."
        raise UsageError(f"{name} is no {base.__name__} known here{hint}")
    return found


def own_arguments(chosen: type) -> list[str]:
    """Names of the arguments of a class's constructor, those of its parents behind `**kwargs` included."""
    return list(_own_arguments(chosen))


@cache  # 12 ms, and every trial of a study asks
def _own_arguments(chosen: type) -> tuple[str, ...]:
    added: list[str] = ArgumentParser().add_class_arguments(chosen, "own", fail_untyped=False)
    return tuple(name.removeprefix("own.") for name in added)


def _subclasses(base: type) -> Iterator[type]:
    known: type
    for known in base.__subclasses__():
        yield known
        yield from _subclasses(known)
