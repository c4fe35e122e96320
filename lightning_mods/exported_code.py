"""What `torch.export.load` would run of a file, refused: a file that one was given must not bring code."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from lightning_mods.runs import RunError

# The parts of an archive that torch.export.save writes for plain tensors; data/aotinductor/ would be compiled code.
_PARTS = ("models/", "data/weights/", "data/constants/", "data/sample_inputs/", "archive_", "byteorder", ".data/")
# Sizes such as `Symbol('s21', positive=True)` and `Max(1, u0)`: torch hands them to sympy, which evaluates them as
# Python. Without dots, words in quotes and names of functions in small letters there is nothing to be run.
_SIZE = re.compile(r"(\d+|'[su]\d+'|[su]\d+|[A-Z]\w*|[a-z]+=(?=True|False)|[\s+\-*/(),<>=])*")


def refuse_code(file: Path) -> None:
    """Raise a RunError if a `.pt2` archive holds pickles, compiled code or sizes that are programs.

    `torch.export.load` (2.13) unpickles weights and constants that say `use_pickle`, sample inputs that do not load
    weights-only, and the older layout; it opens compiled code, and evaluates the expressions of sizes.
    `torch.export.save` writes none of these for plain tensors.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            found = next(_code_in(archive), None)
    except (zipfile.BadZipFile, ValueError, KeyError, RuntimeError, UnpicklingError) as error:
        raise RunError(f"{file} is no whole .pt2 archive of torch.export, or holds pickles; export it anew.") from error
    if found is not None:
        raise RunError(f"{file} holds {found}, which a model of plain tensors has not; export it anew.")


def _code_in(archive: zipfile.ZipFile) -> Iterator[str]:
    for name in archive.namelist():
        inner = name.partition("/")[2]
        if not inner.startswith(_PARTS):
            yield inner or name
        if inner.startswith("data/sample_inputs/"):
            torch.load(io.BytesIO(archive.read(name)), weights_only=True)
        elif inner.endswith(".json"):
            for key, value in _entries(json.loads(archive.read(name))):
                if key == "use_pickle" and value is not False:
                    yield f"pickles ({inner})"
                if key == "expr_str" and not _SIZE.fullmatch(str(value)):
                    yield f"a size {str(value)[:40]!r}"


def _entries(plain: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(plain, list):
        for value in plain:
            yield from _entries(value)
