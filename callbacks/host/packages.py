"""Lightning as it is here: `pytorch_lightning`, `lightning.pytorch` (`import lightning as L`), or both.

They are two builds of one source, whose classes know nothing of each other. Nothing is imported that the user did not
import: objects say which package they belong to, kinds are tuples over the packages that are loaded, and our base
classes inherit from each of these.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

PACKAGES = {"pytorch_lightning": "lightning_fabric", "lightning.pytorch": "lightning.fabric"}  # and what each stands on
INSTALL = "pip install 'pytorch-lightning>=2.6.6,<2.7'"  # brings what our commands run with where there is none
CHOICE = "LIGHTNING_MODS_PACKAGE"  # environment variable: which one our commands run on; their processes inherit it


def loaded() -> tuple[str, ...]:
    """Return the names of the packages that this process has imported."""
    return tuple(name for name in PACKAGES if hasattr(sys.modules.get(name), "Trainer"))  # else it is half imported


def preferred() -> str:
    """Return the package to take where no object says which: the chosen one, else one that is loaded or installed.

    Raises:
        ModuleNotFoundError: Neither is installed.
    """
    chosen = os.environ.get(CHOICE)
    installed = (name for name in PACKAGES if find_spec(name.partition(".")[0]) is not None)
    for name in [chosen] if chosen in PACKAGES else loaded() or installed:
        return name
    raise ModuleNotFoundError(
        f"Lightning is needed, `pytorch_lightning` or `lightning`, and neither is here: {INSTALL}"
    )


def main_package() -> str:
    """Return the preferred package, imported, with our base classes inheriting from its own."""
    name = preferred()
    if not hasattr(sys.modules.get(name), "Trainer"):
        import_module(name)
        adopt()
    return name


def package_of(thing: object) -> str:
    """Return the package that the class of a trainer, or of another object of Lightning's, comes from."""
    modules = [base.__module__ for base in type(thing).__mro__]
    found = (name for module in modules for name in loaded() if f"{module}.".startswith(f"{name}."))
    return next(found, "") or main_package()


def sibling(thing: object, path: str) -> Any:
    """Return what the package of an object has under a relative path, e.g. `.loggers.logger.DummyLogger`.

    A path that begins with `fabric.` is one in the package which that package stands on.
    """
    return named(package_of(thing), path)


def kinds(path: str) -> Any:
    """Return a tuple of the classes that stand under a relative path in the packages loaded, for `isinstance`."""
    return tuple(named(name, path) for name in loaded())


@cache
def named(package: str, path: str) -> Any:
    """Return what stands under a path in a package, as in `sibling`."""
    module, _, name = path.rpartition(".")
    root, _, rest = module.partition(".")
    return getattr(import_module(f"{PACKAGES[package]}.{rest}" if root == "fabric" else f"{package}{module}"), name)


def is_overridden(hook: str, holder: object, kind: str = "") -> bool:
    """Return whether a callback, module or data module has a hook that is not Lightning's own, or not that of a kind.

    Anything else that stands in for one of these counts as having its own.
    """
    from lightning_utilities.core.overrides import is_overridden as differs  # both packages have it

    bases = [kind] if kind else [f".{base.__name__}" for base in _ADOPTING]
    parents = [parent for base in bases for parent in kinds(base) if isinstance(holder, parent)]
    return all(differs(hook, holder, parent) for parent in parents if hasattr(parent, hook))


@contextmanager
def isolated_random_numbers() -> Iterator[None]:
    """Put the generators of torch, NumPy and Python back at the end, also when it ends in an exception."""
    kept = named(main_package(), ".utilities.seed.isolate_rng")()
    kept.__enter__()
    try:
        yield
    finally:
        kept.__exit__(None, None, None)  # given an exception, it would put nothing back


# ------------------------------------------------------------------ base classes


class _Adopting:
    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        adopt()
        if not loaded():
            main_package()
        return super().__new__(cls)


def adopt() -> None:
    """Let our base classes inherit from those of all packages that are loaded by now."""
    for base in _ADOPTING:
        theirs = kinds(f".{base.__name__}")
        if theirs and base.__bases__[1:] != theirs:
            for hook in _worded_differently(*theirs):
                setattr(base, hook, _HookOfTrainer(hook))
            base.__bases__ = (_Adopting, *theirs)


def _worded_differently(first: type, *others: type) -> list[str]:
    """Return the hooks whose code differs between the packages, as the names in their docstrings do.

    Lightning compares a hook's code with that of its own class, to see whether it was overridden.
    """
    code = {name: getattr(getattr(first, name), "__code__", None) for name in dir(first) if not name.startswith("__")}
    return [
        name for name, own in code.items() if any(getattr(getattr(o, name), "__code__", None) != own for o in others)
    ]


class _HookOfTrainer:
    """Finds a hook in the package of the trainer that its holder is attached to."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, holder: object, owner: type) -> Any:
        trainer = None
        with suppress(RuntimeError):  # a module that has none refuses
            trainer = getattr(holder, "trainer", None)
        package = main_package() if trainer is None else package_of(trainer)
        theirs: Callable[..., Any] = next(vars(c)[self._name] for c in owner.__mro__ if _is_in(c, package, self._name))
        return theirs if holder is None else theirs.__get__(holder, owner)


def _is_in(cls: type, package: str, name: str) -> bool:
    return cls.__module__.startswith(f"{package}.") and name in vars(cls)


if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback
    from pytorch_lightning import LightningDataModule as LightningDataModule
    from pytorch_lightning import LightningModule as LightningModule
    from pytorch_lightning import Trainer as Trainer
    from pytorch_lightning.loggers import Logger as Logger

    _ADOPTING: tuple[type, ...] = ()
else:
    Trainer = Logger = Any  # for hints: at run time they are of packages that need not be loaded yet

    class Callback(_Adopting):
        """Lightning's `Callback`, that of each package that is loaded."""

    class LightningModule(_Adopting):
        """Lightning's `LightningModule`, that of each package that is loaded."""

    class LightningDataModule(_Adopting):
        """Lightning's `LightningDataModule`, that of each package that is loaded."""

    _ADOPTING = (Callback, LightningModule, LightningDataModule)
    adopt()
