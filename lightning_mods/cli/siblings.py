"""Our packages `callbacks` and `datamodules` in a project that has such names of its own.

Where `callbacks` means ours, `lightning_mods.callbacks` and what is below it are other names of the very same modules.
Where a folder or file of the user's has that name, ours is loaded as `lightning_mods.callbacks`, `callbacks` stays his,
and what our own modules import as `callbacks…` is ours. See docs/decisions/0011-per-importer-names.md.
"""

import builtins
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location, spec_from_loader
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader
    from pathlib import Path
else:
    Loader = object  # `importlib.abc` and `pathlib` take longer to import than all else of `import lightning_mods`

NAMES = ("callbacks", "datamodules")
OUR_PACKAGES = (*NAMES, "lightning_mods")

_PACKAGE = "lightning_mods"
# These two run before it is known where the user's modules are looked for.
_BEFORE = (f"{_PACKAGE}.__main__", f"{_PACKAGE}.cli", f"{_PACKAGE}.cli.siblings")


def _home() -> "Path":
    from pathlib import Path

    return Path(__file__).parents[2]


def install() -> None:
    """Have Python ask us first for our sibling packages; once a process."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def shadowed() -> list[str]:
    """Return the names among `callbacks` and `datamodules` that mean something of the user's in this process."""
    return [name for name in NAMES if _FINDER.folders_of_user(name) is not None]


def can_preload() -> bool:
    """Return whether a fresh process started in this folder surely takes each name as this process does.

    The process that workers are forked from looks for modules in the working directory, not where this one looks.
    """
    from pathlib import Path

    here = any(Path(name).exists() or Path(f"{name}.py").exists() for name in NAMES)
    return not shadowed() and (not here or Path.cwd() == _home())


def version() -> str:
    """Return the version of what runs: a checkout's own, else that of the installed package."""
    import tomllib
    from importlib import metadata

    with suppress(OSError, tomllib.TOMLDecodeError):
        project = tomllib.loads((_home() / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "lightning-mods":  # some wheels leave a file of that name beside all packages
            return str(project["version"])
    return metadata.version("lightning-mods")


class SiblingFinder:
    """Finds our sibling packages below `lightning_mods`, and what is missing in a bare folder of the user's."""

    def __init__(self) -> None:
        self._folders: dict[str, list[str] | None] = {}

    def folders_of_user(self, name: str) -> list[str] | None:
        """Return the user's bare folders of this name; empty for a package or file of his, None where it is ours.

        Answered once a process, at the first import that depends on it.
        """
        if name not in self._folders:
            self._folders[name] = self._look_for(name)
        return self._folders[name]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module of ours, or one that the user's bare folder lacks; None for all others."""
        top, _, rest = fullname.partition(".")
        if top == _PACKAGE and rest and fullname not in _BEFORE:
            name = rest.partition(".")[0]
            if name not in NAMES:
                return _redirected(PathFinder.find_spec(fullname, path)) if shadowed() else None
            if self.folders_of_user(name) is None:
                return _alias(fullname, rest)
            if rest == name:
                return _redirected(spec_from_file_location(fullname, _home() / name / "__init__.py"))
            return _redirected(PathFinder.find_spec(fullname, path))
        if top in NAMES and self.folders_of_user(top):
            return self._in_bare_folder(fullname, path)
        return None

    def _in_bare_folder(self, fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Find a module of the user's first and ours else; a folder of his without `__init__.py` holds both."""
        ours = f"{_PACKAGE}.{fullname}"
        parent = sys.modules.get(fullname.rpartition(".")[0])
        if parent is None:  # the folder itself
            found: list[str] | None = self.folders_of_user(fullname)
        elif parent.__name__.startswith(f"{_PACKAGE}."):
            return _alias(fullname, ours)
        else:
            spec = PathFinder.find_spec(fullname, path)
            if spec is not None and spec.loader is not None:
                return spec
            alias = _alias(fullname, ours)
            if spec is None or alias is None:
                return spec or alias
            found = list(spec.submodule_search_locations or [])
        made = ModuleSpec(fullname, _BareFolderLoader(ours), is_package=True)
        made.submodule_search_locations = found
        return made

    def _look_for(self, name: str) -> list[str] | None:
        from pathlib import Path

        ours = _home() / name
        loaded = sys.modules.get(name)
        if loaded is not None:
            return None if _is_same(getattr(loaded, "__file__", None), ours / "__init__.py") else []
        finders = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next((found for finder in finders if (found := finder.find_spec(name, None))), None)
        if spec is None:  # `lightning_mods` was loaded in a way of its own, such as from a file
            return []
        if spec.origin is not None and not _is_same(spec.origin, ours / "__init__.py"):
            return []
        bare: list[str] = []
        for entry in sys.path:  # Python lets a package win over a bare folder that stands before it on the path
            folder = Path(entry, name)
            if folder.is_dir():
                if folder.samefile(ours):
                    break
                bare.append(str(folder.absolute()))
        return bare or None


_FINDER = SiblingFinder()


class _AliasLoader(Loader):
    """Puts a module that is loaded already under a second name."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def create_module(self, spec: ModuleSpec) -> None:
        pass

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = self._module  # import takes what stands there afterwards


def _alias(fullname: str, real: str) -> ModuleSpec | None:
    try:
        module = import_module(real)
    except ModuleNotFoundError as error:
        if error.name == real:
            return None
        raise
    return spec_from_loader(fullname, _AliasLoader(module), is_package=hasattr(module, "__path__"))


class _BareFolderLoader(Loader):
    """Makes the module of a bare folder of the user's, which has the names of a package of ours too."""

    def __init__(self, ours: str) -> None:
        self._ours = ours

    def create_module(self, spec: ModuleSpec) -> None:
        pass

    def exec_module(self, module: ModuleType) -> None:
        def fall_back(name: str) -> Any:
            if name.startswith("__") and name != "__all__":
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return getattr(import_module(self._ours), name)

        vars(module)["__getattr__"] = fall_back


class _RedirectingLoader(SourceFileLoader):
    """Loads a module of ours for which `callbacks` and `datamodules` are our own, also in its functions."""

    def exec_module(self, module: ModuleType) -> None:
        # A module's functions look for `__import__` where the module does. Rewriting the source would need a second
        # cache of bytecode, and the names in it would not be those in the file.
        vars(module)["__builtins__"] = _BUILTINS
        super().exec_module(module)


def _redirected(spec: ModuleSpec | None) -> ModuleSpec | None:
    if spec is not None and isinstance(spec.loader, SourceFileLoader):
        spec.loader = _RedirectingLoader(spec.loader.name, spec.loader.path)
    return spec


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    top = name.partition(".")[0]
    if level or top not in NAMES or _FINDER.folders_of_user(top) is None:
        return __import__(name, globals, locals, fromlist or (), level)
    found = __import__(f"{_PACKAGE}.{name}", globals, locals, fromlist or (), 0)
    return found if fromlist else sys.modules[f"{_PACKAGE}.{top}"]


_BUILTINS = {**vars(builtins), "__import__": _import}


def _is_same(file: str | None, ours: "Path") -> bool:
    from pathlib import Path

    return file is not None and (file == str(ours) or (Path(file).exists() and ours.samefile(file)))
