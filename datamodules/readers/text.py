"""The bytes of a text file as UTF-8: unpacked, and out of the encoding that was found or asked for."""

import codecs
import io
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import DataError
from datamodules.readers.limits import check_expansion
from datamodules.readers.table import file_state

BLOCK_BYTES = 1 << 22  # larger than any sane row, small beside memory
_END_BYTES = 64
_LOOKED_AT = 4096  # bytes at the start, where zeros tell UTF-16
_GZIP = b"\x1f\x8b"
_MARKS = {  # the longer ones first, as UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_ZEROS = 0.2  # share of the bytes at even, or odd, places that are 0 in UTF-16: digits, separators and line ends are
_UNUSED = (0x81, 0x8D, 0x8F, 0x90, 0x9D)  # bytes that are no character in cp1252
_CONTROLS = [n for n in range(32) if n not in b"\t\n\v\f\r\x1a\x1b"]  # no text has them
_SEQUENCE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_SPACES = re.compile(rb'"(?:[^"\n]|"")*"|[ \t]+')


@dataclass(frozen=True)
class TextFile:
    """A text file and how its bytes become UTF-8."""

    file: Path
    encoding: str  # of the file, as Python names it
    max_expansion: float
    is_spaced: bool = False  # runs of spaces and tabs separate its cells: they are handed out as one tab each

    @property
    def is_packed(self) -> bool:
        """Return whether the file is gzipped, by its first bytes."""
        with self.file.open("rb") as stream:
            return stream.read(2) == _GZIP


class Source(io.RawIOBase):
    """The bytes of a text file as UTF-8, as Arrow reads them.

    What came out of a packed one is held against the size of the file as it comes: a bomb need not have rows to show.
    """

    def __init__(self, text: TextFile) -> None:
        import pyarrow as pa

        self._text = text
        self._plain = pa.OSFile(str(text.file))
        is_packed = text.is_packed or text.file.name.lower().endswith(".gz")
        self._inner = pa.CompressedInputStream(self._plain, "gzip") if is_packed else self._plain
        self._passed = 0
        self._decoder = None if is_utf8(text.encoding) else codecs.getincrementaldecoder(text.encoding)()
        self._waiting = b""  # of a line that has not ended
        self._ready = bytearray()  # changed, and not yet asked for
        self._is_over = False
        self.end = b""  # the last bytes that were read

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, fewer at the end; all that are left if it is negative."""
        data = self._unpacked(size) if self._decoder is None and not self._text.is_spaced else self._changed(size)
        self.end = (self.end + data[-_END_BYTES:])[-_END_BYTES:]
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes and return how many there were."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _unpacked(self, size: int) -> bytes:
        data: bytes = self._inner.read(size)
        self._passed += len(data)
        if self._inner is not self._plain:
            check_expansion(self._text.file, self._passed, self._text.max_expansion)
        return data

    def _changed(self, size: int) -> bytes:
        while not self._is_over and (size < 0 or len(self._ready) < size):
            raw = self._unpacked(BLOCK_BYTES)
            self._is_over = not raw
            data = raw if self._decoder is None else self._decoded(raw)
            self._ready += self._separated(data) if self._text.is_spaced else data
        size = len(self._ready) if size < 0 else size
        data = bytes(self._ready[:size])
        del self._ready[:size]
        return data

    def _decoded(self, raw: bytes) -> bytes:
        assert self._decoder is not None
        try:
            return self._decoder.decode(raw, self._is_over).encode()
        except UnicodeError as error:  # a lone surrogate fails as it is encoded
            why = " ".join(str(error).split())[:120]
            needed = f"{str(self._text.file)!r} is not {self._text.encoding} text: {why}"
            raise DataError(f"{needed}; give its own --data.encoding, such as cp1252 or utf-16.") from error

    def _separated(self, data: bytes) -> bytes:
        # Whole lines with one tab in place of each run of spaces; none at their ends.
        data = self._waiting + data
        cut = len(data) if self._is_over else data.rfind(b"\n") + 1
        data, self._waiting = data[:cut], data[cut:]
        lines = (line.strip() for line in data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))
        return b"\n".join(_SPACES.sub(lambda m: m[0] if m[0][:1] == b'"' else b"\t", line) for line in lines)

    def close(self) -> None:
        """Close the file."""
        self._inner.close()
        self._plain.close()
        super().close()


def is_utf8(encoding: str) -> bool:
    """Return whether this is a name of UTF-8."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def check_encoding(encoding: str) -> None:
    """Raise a DataError unless this is "auto" or a text encoding that Python knows."""
    known = None
    with suppress(LookupError, ValueError, TypeError):  # ValueError: a NUL in the name
        known = encoding == "auto" or getattr(codecs.lookup(encoding), "_is_text_encoding", True)
    if not known or encoding in ("undefined", "idna", "punycode"):
        named = "a text encoding that Python knows, such as utf-8, cp1252, latin-1 or utf-16, or auto"
        raise DataError(f"--data.encoding must be {named}; got {encoding!r}.")


def found_encoding(file: Path, asked: str, max_expansion: float) -> tuple[str, tuple[str, ...]]:
    """Return the encoding of a whole text file, and what is to be said of it.

    UTF-8, with or without a byte order mark, where all of it can be read so; UTF-16 and 32 by their mark, or by zeros
    in every other byte; else cp1252, or latin-1 where it holds bytes that cp1252 lacks. A DataError says that it is no
    text, that a part of it is UTF-8 and a part is not, or that it is not what was `asked` for.
    """
    check_encoding(asked)
    return _found(file, asked, max_expansion, file_state(file))


@lru_cache(maxsize=16)  # a table is opened more than once, and looked through whole each time
def _found(file: Path, asked: str, max_expansion: float, state: tuple[int, ...]) -> tuple[str, tuple[str, ...]]:
    source = TextFile(file, "utf-8", max_expansion)
    with Source(source) as stream:
        head = stream.read(_LOOKED_AT)
    marked = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None) or _by_zeros(head)
    if asked == "auto" and marked not in (None, "utf-8"):
        return str(marked), ()
    if asked != "auto" and not is_utf8(asked):
        return asked, _asked_for(source, asked, marked, head)
    if (wrong := _first_wrong(source)) is None:
        return "utf-8", ()
    line = f"the first byte that is not stands in line {wrong}"
    if asked != "auto":
        raise DataError(f"{str(file)!r} is not UTF-8: {line}; give its own --data.encoding, such as cp1252.")
    used, sequences = _counted(source)
    if used[_CONTROLS].any():
        raise DataError(f"{str(file)!r} is no text: it is not UTF-8 and holds control characters.")
    strays = int(used[128:].sum()) - sequences[1]
    if sequences[0] > strays:
        most = f"{str(file)!r} is UTF-8 for the most part, and {line}"
        raise DataError(f"{most}; mend it, or --data.encoding=cp1252 reads each such byte as a letter.")
    guess = "latin-1" if used[list(_UNUSED)].any() else "cp1252"
    return guess, (f"text read as {guess} (no UTF-8: line {wrong}); --data.encoding=… for another",)


def _asked_for(source: TextFile, asked: str, marked: str | None, head: bytes) -> tuple[str, ...]:
    # What is to be said of an encoding that is not UTF-8 and was asked for.
    wide = codecs.lookup(asked).name.startswith(("utf-16", "utf-32"))
    if marked and not codecs.lookup(asked).name.startswith(marked[:6]):
        raise DataError(f"{str(source.file)!r} is {marked}, by its first bytes; --data.encoding={asked} cannot be.")
    if wide and b"\0" not in head:
        raise DataError(f"{str(source.file)!r} has no zero byte where {asked} has many; leave --data.encoding out.")
    is_utf8_too = not wide and _counted(source)[1][0] and _first_wrong(source) is None
    return (f"text read as {asked}, as asked, though all of it is UTF-8",) if is_utf8_too else ()


def _by_zeros(head: bytes) -> str | None:
    zeros = [head[start::2].count(0) / max(len(head) // 2, 1) for start in (0, 1)]
    if max(zeros) < _ZEROS or 4 * min(zeros) > max(zeros):
        return None
    return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"


def _first_wrong(text: TextFile) -> int | None:
    # The line of the first byte that is no UTF-8.
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with Source(text) as stream:
        while block := stream.read(BLOCK_BYTES):
            before = decoder.getstate()[0]
            if before or not block.isascii():
                try:
                    decoder.decode(block)
                except UnicodeDecodeError as error:
                    return line + (before + block)[: error.start].count(b"\n")
            line += block.count(b"\n")
    return line if decoder.getstate()[0] else None


def _counted(text: TextFile) -> tuple[Any, tuple[int, int]]:
    # How often each byte occurs, shape (256,); and how many sequences look like UTF-8, with the bytes they take.
    used, count, length = np.zeros(256, dtype=np.int64), 0, 0
    with Source(text) as stream:
        while block := stream.read(BLOCK_BYTES):
            used += np.bincount(np.frombuffer(block, np.uint8), minlength=256)
            found = _SEQUENCE.findall(block)
            count, length = count + len(found), length + sum(map(len, found))
    return used, (count, length)
