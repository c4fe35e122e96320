"""Which kind of table a path leads to: by its first bytes, and by its suffix where those say nothing."""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from datamodules.errors import DataError, nearest

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
TEXT, SHEETS, ARROW, LINES, RECORDS = "delimited text", "a spreadsheet", "Arrow", "JSON lines", "JSON"
_TEXTS = (".csv", ".tsv", ".tab", ".txt", ".dat", ".data")
_SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods")
_KINDS = {
    **dict.fromkeys((*_TEXTS, *(f"{suffix}.gz" for suffix in _TEXTS)), TEXT),
    **{".parquet": "Parquet", ".feather": "Feather", ".arrow": ARROW, ".ipc": ARROW, ".arrows": ARROW, ".npz": "NPZ"},
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"), LINES),
    **{".json": RECORDS, ".json.gz": RECORDS},
    **dict.fromkeys(_SPREADSHEETS, SHEETS),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), "SQLite"),
}
_FIRST_BYTES = {
    b"PAR1": "Parquet",
    b"ARROW1": ARROW,
    b"SQLite format 3\0": "SQLite",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": SHEETS,  # of Excel up to 2003, or with a password
}
_FOREIGN = {  # what else comes under the suffix of a table
    b"<": "a web page or XML; open it in a spreadsheet program and save it as CSV or .xlsx",
    b"%PDF": "a PDF; a table has to be taken out of it first",
    b"{\\rtf": "a text document; save its table as CSV",
    b"\x89HDF": "HDF5; write it as Parquet",
    b"ORC": "ORC; write it as Parquet",
    b"BZh": "packed by bzip2; unpack it",
    b"\xfd7zXZ": "packed by xz; unpack it",
    b"\x28\xb5\x2f\xfd": "packed by Zstandard; unpack it",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
}
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Place:
    """Where a table stands: a file, what kind it is, and the sheet or table within it."""

    file: Path
    kind: str
    part: str | None  # None where none is named
    notes: tuple[str, ...] = ()


def place_of(path: str) -> Place:
    """Return where a table stands that is given as a path, `book.xlsx?sheet=Name` or `sqlite:///file.db?table=name`.

    What a file is its first bytes say, with a note where its suffix says otherwise. That there is none, or no table,
    is a DataError.
    """
    if not path:
        raise DataError(f"A path or one of the bundled names {', '.join(BUNDLED)} is needed; the path is empty.")
    bare, part, key = path, None, ""
    is_database = path.startswith(_SQLITE)
    if not Path(path).expanduser().exists():  # a name may have a question mark
        bare, _, query = path.removeprefix(_SQLITE).rpartition("?") if "?" in path else (path, "", "")
        bare = bare.removeprefix(_SQLITE)
        key, _, part = query.partition("=")
        if query and (key not in ("sheet", "table") or not part):
            raise DataError(f"{path!r} needs ?sheet=NAME or ?table=NAME after the file, not {f'?{query}'!r}.")
    file = Path(bare).expanduser()
    _check_file(bare, file)
    named, found = kind_by_suffix(file), _by_bytes(file)
    kind = found or ("SQLite" if is_database else named)
    if kind is None:
        raise DataError(f"{path!r} has none of the known suffixes {_suffixes()}; convert or rename it.")
    if found is None:
        _check_foreign(bare, file, kind)
        kind = TEXT if kind == SHEETS and _is_text(file) else kind
    if (part and (key == "sheet") != (kind == SHEETS)) or (part and kind not in (SHEETS, "SQLite")):
        needed = {SHEETS: "?sheet=NAME", "SQLite": "?table=NAME"}.get(kind, "nothing")
        raise DataError(f"{path!r} is {kind}, which is named with {needed} after the file.")
    alike = named == kind or {named, kind} == {"Feather", ARROW} or (is_database and kind == "SQLite")
    notes = () if alike else (f"read as {kind}, by its first bytes, whatever its name says",)
    return Place(file, kind, unquote(part) if part and "%" in part else part or None, notes)


def _check_file(path: str, file: Path) -> None:
    if file.is_dir():
        raise DataError(f"{path!r} is a directory; give one file ({_suffixes()}).")
    if not file.exists():
        if re.fullmatch(r"<\w+>", path):  # see `frames.in_memory`
            raise DataError(f"The table was one in memory, {path}; give a file of its rows, as Parquet for example.")
        if file.suffix or file.parent != Path():
            here = [p.name for p in islice(file.parent.iterdir(), 1000) if p.is_file()] if file.parent.is_dir() else []
            near = f" Files there: {nearest(file.name, here, 6)}." if here else ""
            raise DataError(f"There is no file {path!r}.{near}")
        raise DataError(f"{path!r} is no file and none of the bundled tables {nearest(path, BUNDLED)}.")
    if not file.is_file():  # it can be read once, may never end, or never begin
        raise DataError(f"{path!r} is a pipe, a device or a socket; save what it gives to a file.")


def _suffixes() -> str:
    return ", ".join(suffix for suffix in _KINDS if not suffix.endswith(".gz")) + "; .gz of text"


def kind_by_suffix(file: Path) -> str | None:
    """Return the kind of table that a file's name promises; None where it promises none."""
    inner = file.name.lower().removesuffix(".gz")
    return _KINDS.get(Path(inner).suffix + file.name.lower()[len(inner) :])


def _by_bytes(file: Path) -> str | None:
    # What the first bytes say of those kinds that have such; None where they say nothing.
    start = _start(file)
    for mark, kind in _FIRST_BYTES.items():
        if start.startswith(mark):
            return kind
    if start.startswith(b"PK\x03\x04") and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
        if any(name.startswith("xl/") for name in names) or {"content.xml", "mimetype"} <= {*names}:
            return SHEETS
        if names and all(name.endswith(".npy") for name in names):
            return "NPZ"
    return None


def _check_foreign(path: str, file: Path, kind: str) -> None:
    start = _start(file)
    if kind in (TEXT, SHEETS, LINES, RECORDS):
        for mark, what in _FOREIGN.items():
            if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(mark) and (mark != b"<" or _is_markup(start)):
                raise DataError(f"{path!r} is no table but {what}.")
        if start.startswith(b"PK\x03\x04"):
            raise DataError(f"{path!r} is a zip archive; unpack it and give the file inside.")


def _is_markup(start: bytes) -> bool:
    bare = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return bare.startswith((b"<!doctype", b"<html", b"<?xml", b"<table", b"<meta", b"<head", b"<!--"))


def _is_text(file: Path) -> bool:
    # Whether a file with the suffix of a spreadsheet is delimited text, as many a program writes under that name.
    start = _start(file)
    is_text = start.startswith(_MARKS) or b"\0" not in start
    return is_text and any(mark in start for mark in (b"\t", b";", b","))


def _start(file: Path, size: int = 4096) -> bytes:
    with file.open("rb") as stream:
        return stream.read(size)


def chosen(label: str, part: str | None, there: Sequence[str], what: str) -> str:
    """Return the sheet or table that was named, else the only or first one; a DataError if there is none such."""
    if part is not None and part not in there:
        raise DataError(f"{label!r} has no {what} {part!r}; there are {nearest(part, there)}.")
    if not there:
        raise DataError(f"{label!r} has no {what}.")
    return there[0] if part is None else part
