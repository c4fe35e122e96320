"""Numbers as people write them: decimal commas, thousands, currencies, percent, units, minus signs of any kind."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.cells import (
    NUMERIC_SHARE,
    SAMPLE,
    Numbers,
    as_labels,
    as_numbers,
    count_blanks,
    kind_of,
    number_of,
    says_nothing,
    spells_nan,
)
from datamodules.errors import DataError

Written = tuple[str, ...]
"""How a column writes its numbers: sign of decimals, sign of thousands or "", unit or ""; empty where Arrow reads them.

Plain strings, so that a checkpoint and the schema of an export keep it and new files are read alike.
"""

_SIGNS = (
    (".", ""),
    (".", ","),
    (",", ""),
    (",", "."),
    (".", " "),
    (",", " "),
    (".", "'"),
    (",", "'"),
)  # likely ones first
_AMBIGUOUS = (".", ","), (",", "")  # 1,234
_CURRENCY = r"[€$£¥₹]|EUR|USD|GBP|CHF|JPY|US\$"
_CELL = (  # sign and currency in either order; accountants put a negative number in parentheses, or a minus behind it
    rf"^(?P<open>\(?)(?P<sign>[-+]?)\s?(?P<before>{_CURRENCY})?\s?(?P<too>[-+]?)"
    r"(?P<body>\d[\d.,' ]*\d|\d[.,]?|[.,]\d+)(?P<power>[eE][-+]?\d+)?"
    r"\s?(?P<after>%|‰|[€$£¥₹]|[A-Za-zµμ°][A-Za-z0-9µμ°²³/%]{0,11})?\.?\s?(?P<behind>-?)(?P<close>\)?)$"
)
_MAYBE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})?")
_FRACTION = re.compile(r"(\d+\s)?\d\d?/(2|3|4|5|6|8|10|12|16|32|64|100)")
_NAMES = {",": "comma", ".": "point", " ": "space", "'": "apostrophe"}


@dataclass
class NumberCounts:
    """Counts the cells that can be read in each way of writing numbers, from which is told a column's.

    Args:
        decimal: What stands before the fraction, "." or ","; "auto" where the cells shall tell.
        thousands: What stands between thousands, "none" for nothing; "auto" likewise.
    """

    decimal: str = "auto"
    thousands: str = "auto"
    n: int = 0  # cells that say something
    n_plain: int = 0  # of these, numbers that need no style
    units: dict[str, dict[tuple[str, str], int]] = field(default_factory=dict)  # cells, by unit and by signs

    def add(self, array: Any) -> None:
        """Take in a chunk of the column (an Arrow array)."""
        labels = as_labels(array, as_written=True)
        counts = np.bincount(labels.codes[labels.codes >= 0], minlength=len(labels.names))
        said = np.array([not says_nothing(name) for name in labels.names], dtype=bool)
        plain = ~np.isnan(np.array([*map(number_of, labels.names)], dtype=np.float64))
        self.n += int(counts[said].sum())
        self.n_plain += int(counts[plain].sum())
        cells = _Cells(labels.names)
        for unit in {*cells.unit.tolist()}:
            of_unit = self.units.setdefault(unit, dict.fromkeys(self.possible, 0))
            for signs in self.possible:
                found = (cells.unit == unit) & ~np.isnan(cells.values(*signs))
                of_unit[signs] += int(counts[found].sum())

    @property
    def possible(self) -> list[tuple[str, str]]:
        """Return the pairs of signs that the user leaves open."""
        wanted = ("",) if self.thousands == "none" else (self.thousands, "")
        open_to = [s for s in _SIGNS if self.decimal in ("auto", s[0]) and s[0] != self.thousands]
        return [s for s in open_to if "auto" in wanted or s[1] in wanted]

    def _totals(self) -> tuple[str, dict[tuple[str, str], int]]:
        # the most frequent unit, and cells of it or without any
        bare = self.units.get("", {})
        named = {unit: max(found.values(), default=0) for unit, found in self.units.items() if unit}
        unit = max(named, key=lambda each: named[each], default="")
        with_unit = self.units.get(unit, {}) if unit else {}
        return unit, {signs: bare.get(signs, 0) + with_unit.get(signs, 0) for signs in self.possible}

    def written(self, like: Written = ()) -> Written | None:
        """Return how the numbers are written, empty where they are plain; None where nine in ten are none.

        What is `ambiguous` is taken as in the column `like`, if there is one.
        """
        unit, totals = self._totals()
        best = max(totals, key=lambda signs: totals[signs], default=(".", ""))
        found = totals.get(best, 0)
        if self.n_plain >= found and not (self.forced and found == self.n_plain and best[1]):
            return () if self.n_plain >= NUMERIC_SHARE * max(self.n, 1) else None
        if found < NUMERIC_SHARE * self.n:
            return None
        if self.ambiguous and like[:1] == (",",):
            best = _AMBIGUOUS[1]
        return (*best, unit)

    @property
    def only_thousands(self) -> bool:
        """Return whether all cells can be read with both signs, and some are none without that of thousands."""
        _, totals = self._totals()
        whole = totals.get((",", "."), 0)
        return whole == self.n > totals.get((",", ""), 0) if totals else False

    @property
    def forced(self) -> bool:
        """Return whether the user said something of the signs."""
        return (self.decimal, self.thousands) != ("auto", "auto")

    @property
    def ambiguous(self) -> bool:
        """Return whether a comma before three digits may be of thousands or of decimals, and no cell tells which."""
        _, totals = self._totals()
        first, second = (totals.get(signs, 0) for signs in _AMBIGUOUS)
        return first == second == max(totals.values(), default=0) > max(totals.get((".", ""), 0), self.n_plain)


class _Cells:
    """Names taken apart once, and read with whatever signs."""

    def __init__(self, names: Iterable[str]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = pa.array(list(names), pa.string())
        # minus signs and dashes; spaces that don't break a line, and thin ones; apostrophes of typesetters
        for pattern, plain in (("[−–]", "-"), ("[\u00a0\u2007\u2009\u202f]", " "), ("[’‘`´]", "'")):
            texts = pc.replace_substring_regex(texts, pattern, plain)
        found = pc.extract_regex(pc.utf8_trim_whitespace(texts), _CELL)
        there = np.asarray(found.is_valid().to_numpy(zero_copy_only=False), dtype=bool)

        def group(name: str) -> NDArray[np.str_]:
            text = found.field(name).fill_null("").to_numpy(zero_copy_only=False).astype(np.str_)
            return np.where(there, text, "") if len(text) else np.zeros(0, dtype="U1")

        before, after = group("before"), group("after")
        minus = np.zeros(len(there), dtype=np.int64)
        for name in ("sign", "too", "behind"):
            minus += group(name) == "-"
        paired = (group("open") != "") == (group("close") != "")
        minus += group("open") != ""
        self.unit = np.where(before != "", before, after)
        self._fits = there & paired & (minus <= 1) & ((before == "") | (after == "") | (before == after))
        self._sign = np.where(minus > 0, -1.0, 1.0)
        self._bodies = pa.array(group("body").tolist(), pa.string())
        self._power = pa.array(group("power").tolist(), pa.string())

    def values(self, decimal: str, thousands: str) -> NDArray[np.float64]:
        """Return the cells as numbers without their units, shape (names,); NaN where one is none with these signs."""
        import pyarrow as pa
        import pyarrow.compute as pc

        dot = rf"(?:[{decimal}]\d*)?"
        form = rf"\d+{dot}|[{decimal}]\d+"
        if thousands:  # groups of three; in India of two, but for the last
            form += rf"|[1-9]\d{{0,2}}(?:[{thousands}]\d{{3}})+{dot}"
            form += rf"|[1-9]\d?(?:[,]\d{{2}})+[,]\d{{3}}{dot}" if thousands == "," else ""
        fits = pc.match_substring_regex(self._bodies, rf"^(?:{form})$")
        if thousands:  # none in front of a power of ten: 1,234E+05 has a decimal comma
            has_both = pc.and_(pc.match_substring(self._bodies, thousands), pc.not_equal(self._power, ""))
            fits = pc.and_not(fits, has_both)
        text = pc.replace_substring(self._bodies, thousands, "") if thousands else self._bodies
        text = pc.binary_join_element_wise(pc.replace_substring(text, ",", "."), self._power, "")
        right = self._fits & np.asarray(fits.to_numpy(zero_copy_only=False), dtype=bool)
        numbers = pc.if_else(pa.array(right), text, None).cast(pa.float64()).fill_null(float("nan"))
        signed: NDArray[np.float64] = numbers.to_numpy(zero_copy_only=False) * self._sign
        return signed


def read_written(array: Any, written: Written) -> Numbers:
    """Read an Arrow array as numbers that are `written` in a way; plain ones, and what the file has as numbers, too.

    What is no number becomes NaN and is counted as junk. With nothing for `written` it is `as_numbers`.
    """
    if not written or kind_of(array.type) not in ("text", "category"):
        return as_numbers(array)
    decimal, thousands, unit = written
    labels = as_labels(array, as_written=True)
    cells = _Cells(labels.names)
    values = np.where((cells.unit == "") | (cells.unit == unit), cells.values(decimal, thousands), np.nan)
    # "inf", which the plain way knows too
    values = np.array(
        [number_of(n) if v != v and n[-1:].isalpha() else v for n, v in zip(labels.names, values, strict=True)]
    )
    spelt_nan = np.array([*map(spells_nan, labels.names), True])
    parsed = np.append(values, np.nan)
    is_junk = np.isnan(parsed) & ~spelt_nan
    blanks = count_blanks(array)
    example = next((n for n, bad in zip(labels.names, is_junk, strict=False) if bad), " " if blanks else None)
    return Numbers(parsed[labels.codes], int(is_junk[labels.codes].sum()) + blanks, example)


def written_number(names: Iterable[str]) -> str | None:
    """Return one of the names that is a number as people write them, if nine in ten are any number; else None."""
    sample = list(islice(names, SAMPLE))
    cells = _Cells(sample)
    read = np.any([~np.isnan(cells.values(*signs)) for signs in _SIGNS], axis=0)
    plain = np.array([number_of(name) == number_of(name) for name in sample], dtype=bool)
    found = [name for name, odd in zip(sample, read & ~plain, strict=True) if odd]
    return found[0] if found and (read | plain).sum() >= NUMERIC_SHARE * len(sample) else None


def why_no_numbers(names: Iterable[str]) -> str | None:
    """Return what keeps names from being numbers where nine in ten mean some: fractions, limits, several units."""
    sample = [name for name in islice(names, SAMPLE) if not says_nothing(name)]
    least = NUMERIC_SHARE * len(sample)
    fractions = [name for name in sample if _FRACTION.fullmatch(name)]
    if fractions and len(fractions) + sum(number_of(name) == number_of(name) for name in sample) >= least:
        return f"fractions such as {fractions[0]!r} are no numbers here; write them with a point"
    bare = [name.lstrip("<>≤≥=~ ") for name in sample]
    limits = [name for name, number in zip(sample, bare, strict=True) if name != number]
    cells = _Cells(bare)
    read = np.any([~np.isnan(cells.values(*signs)) for signs in _SIGNS], axis=0)
    if not sample or read.sum() < least or 2 * len(limits) > len(sample):  # or two names, below and above
        return None
    if limits:
        return f"limits such as {limits[0]!r} are no numbers; write one instead, or leave the cell empty"
    units, first = np.unique(cells.unit[read], return_index=True)
    several = [sample[np.flatnonzero(read)[at]] for unit, at in zip(units, first, strict=True) if unit.isalpha()]
    if not 1 < len(several) < len(sample) / 3:  # else "1. blue" and "2nd"
        return None
    return f"{several[0]!r} and {several[1]!r} have different units; convert them"


def may_be_written(names: Iterable[str], junk: str | None = None) -> bool:
    """Return whether it is worth while to count in what way a column with these names writes numbers."""
    sample = [*islice(names, SAMPLE), *([junk] if junk else [])]
    odd = [name for name in sample if any(c.isdigit() for c in name) and number_of(name) != number_of(name)]
    if not odd:
        return False
    cells = _Cells(odd)
    read = np.any([~np.isnan(cells.values(*signs)) for signs in _SIGNS], axis=0)
    plain = sum(number_of(name) == number_of(name) for name in sample)
    return bool(read.any()) and plain + int(read.sum()) >= len(sample) / 2


def maybe_thousands(cells: Iterable[str | None]) -> str | None:
    """Return one of the cells, such as 1.234, if all of them may be whole numbers with dots between thousands."""
    said = [cell.strip() for cell in cells if cell and not says_nothing(cell.strip())]
    found = next((cell for cell in said if "." in cell), None)
    return found if found and all(map(_MAYBE_THOUSANDS.fullmatch, said)) else None


def described(written: Written) -> str:
    """Return in words how numbers are written."""
    decimal, thousands, unit = written
    said = ["a decimal comma"] if decimal == "," else []
    said += [f"a {_NAMES[thousands]} between thousands"] if thousands else []
    said += [f"the unit {unit!r}"] if unit else []
    said += ["signs and parentheses"] if not said else []
    return f"numbers written with {' and '.join(said).replace('a apostrophe', 'an apostrophe')}"


def check_signs(decimal: str, thousands: str) -> None:
    """Raise a DataError if the signs that a user gave for decimals and thousands are one."""
    if decimal == thousands != "auto":
        needed = f"--data.decimal and --data.thousands must differ; both are {decimal!r}."
        raise DataError(f"{needed} Give one of them, and leave the other at auto.")
