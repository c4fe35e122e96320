"""How each column of a table is encoded, or why it is left out: chosen from what was counted of its training rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from datamodules.columns.calendar import DateColumn, DateFacts, date_column
from datamodules.columns.cells import alike
from datamodules.columns.dates import DateCounts
from datamodules.columns.encoding import CategoryColumn, Column, Encoding, NumericColumn, infinite_error, positions
from datamodules.columns.summary import ALL_DIFFER, COUNTS_ROWS, MAX_TRACKED, ColumnSummary
from datamodules.columns.written import described, why_no_numbers, written_number
from datamodules.errors import DataError, shortened

MAX_CATEGORIES = 100  # features one category column may become; the rarest share one. More would be mostly zeros
MIN_COVERAGE = 0.5  # share of the rows with names frequent enough for a feature of their own; below, it is free text
MIN_WORDS = 3  # that most values of free text have; an identifier or a code has fewer
MAX_BIN_FEATURES = 2048  # of all columns together: more would cost more time than they are worth
_FREE_TEXT = "free text"
_OF_TEXT = (
    "text counts once columns are made of it, such as its length or TF-IDF components "
    "(scikit-learn's TfidfVectorizer, then TruncatedSVD)"
)
_WRITTEN_AS = {
    **{"ymd": "dates", "dmy": "dates, the day first", "mdy": "dates, the month first"},
    **{"compact": "dates such as 20201231", "clock": "times of day", "duration": "durations"},
}


def min_rows_for_category(n_rows: int) -> int:
    """Return how many training rows a name needs for a feature of its own: a thousandth, at least 2, at most 20.

    Once is never evidence; and twenty rows are enough to learn a weight from, however large the table.
    """
    return min(max(2, n_rows // 1000), 20)


def choose_encoding(
    summaries: Sequence[ColumnSummary],
    dropped: dict[str, str],
    *,
    label: str,
    n_rows: int,
    bins: int = 0,
    dates: Mapping[str, tuple[DateCounts, DateFacts]] | None = None,  # of those columns that hold such
) -> Encoding:
    """Decide how to encode each column, or why to leave it out; `dropped` are left out already.

    Number columns have at most `bins` bins; see `_with_bins`.

    That a column in use has infinities, or that none is left, is a DataError.
    """
    used: list[Column] = []
    reasons, notes, pooled = dict(dropped), [], []
    for s in summaries:
        found = None if s.forced else (dates or {}).get(s.name)
        column = _decide(s, n_rows) if found is None else date_column(s.name, *found)
        if s.kept and found is None and not s.are_numbers:
            raise DataError(f"--data.keep needs columns of numbers; {s.name!r} is none: see --data.categorical.")
        if isinstance(column, str):
            reasons[s.name] = column
            continue
        if isinstance(column, NumericColumn):
            if s.n_infinite:
                raise infinite_error(label, s.name, s.n_infinite, s.first_infinite or 0)
            if s.written:
                notes.append(f"{s.name}: {described(s.written)}")
                if s.ambiguous:
                    other = "." if s.written[0] == "," else ","
                    notes[-1] += f", as far as can be told; --data.decimal={other} for the other way"
            if s.n_junk:
                notes.append(f"{s.name}: numbers; {s.n_junk} cells such as {s.junk!r} count as missing")
            if s.may_be_ranking(n_rows) and not s.kept:
                notes.append(
                    f"{s.name}: whole numbers, as of a ranking; if they only number the rows, --data.drop=[{s.name}]"
                )
            if code := s.missing_code:
                cells = f"{code[1]} cells" if code[1] > 1 else "a cell"
                notes.append(f"{s.name}: {code[0]:g} in {cells} counts as a number; if it means missing, empty them")
            if s.zeros:
                notes.append(f"{s.name}: numbers, of {s.zeros!r} too; if it is a code, --data.categorical=[{s.name}]")
        elif isinstance(column, DateColumn):
            counts, _ = found or (DateCounts(), None)
            notes.append(f"{s.name}: {_WRITTEN_AS[column.style]}")
            if counts.ambiguous:
                notes[-1] += ", as no cell tells whether the day or the month is first; write them as 2020-12-31"
        else:
            if column.infrequent:
                pooled.append(f"{s.name} ({len(s.counts) - len(column.categories)} of {len(s.counts)})")
            notes += names_noted(s.name, column.categories)
        used.append(column)
    has_text = any(reason.startswith(_FREE_TEXT) for reason in reasons.values())
    if not used:
        why = shortened((f"{name} ({reason})" for name, reason in reasons.items()), 8)
        raise DataError(
            f"{label!r} has no column left to learn from, among {n_rows} rows; left out: {why or 'none there'}. "
            "Name columns in --data.categorical=[…] to keep them as categories." + f" And {_OF_TEXT}." * has_text
        )
    if has_text:
        notes.append(_OF_TEXT)
    if pooled:
        notes.append(f"rare categories share one feature in {shortened(pooled, 8)}")
    return Encoding(_with_bins(used, {s.name: s for s in summaries}, bins), reasons, tuple(notes))


def names_noted(column: str, names: Sequence[str]) -> list[str]:
    """Return what a user should know about the names of a column: that they may be meant otherwise."""
    notes = []
    if why := why_no_numbers(names):
        notes.append(f"{column}: names, as {why}")
    elif example := written_number(names):
        notes.append(
            f"{column}: names; if {example!r} is meant as a number, --data.decimal and --data.thousands say how"
        )
    if same := alike(names):
        notes.append(f"{column}: taken as different are {shortened(map(repr, same))}")
    return notes


def header_noted(summaries: Sequence[ColumnSummary], target: str, classes: Sequence[str]) -> list[str]:
    """Return what is to be said of cells that hold the name of their column: a header that stands among the rows."""
    own = [s.name for s in summaries if s.junk == s.name or s.name in s.counts] + [target] * (target in classes)
    if len(own) < 2:
        return []
    return [f"{shortened(own)}: a row holds the names of the columns, as of a header that is repeated; delete it"]


def dots_noted(summaries: Sequence[ColumnSummary], used: Sequence[str]) -> list[str]:
    """Return what is to be said of numbers such as 1.234 in a table whose delimiter goes with decimal commas."""
    plain = [s for s in summaries if s.name in used and s.are_numbers and not s.written]
    found = [s for s in plain if s.dotted and s.moments.low >= 1]  # 0.125 tells that it is one
    if not found:
        return []
    names = shortened([s.name for s in found])
    return [f"{names}: {found[0].dotted!r} is read as a fraction; if it is a thousand and more, --data.thousands=."]


def _with_bins(columns: Sequence[Column], summaries: Mapping[str, ColumnSummary], bins: int) -> tuple[Column, ...]:
    """Return the columns, those of numbers with bins where these say more than the number itself.

    That is from three different values on. A table of many such columns gets fewer bins, `MAX_BIN_FEATURES` in all,
    and none where that leaves fewer than two a column.
    """
    samples = {c.name: _sorted_sample(summaries[c.name]) for c in columns if isinstance(c, NumericColumn) and bins}
    varied = {name: sample for name, sample in samples.items() if (sample[1:] > sample[:-1]).sum() > 1}
    bins = min(bins, MAX_BIN_FEATURES // max(len(varied), 1))
    edges = {name: quantile_edges(sample, bins) for name, sample in varied.items()} if bins > 1 else {}
    return tuple(
        replace(c, edges=edges[c.name], bin_means=bin_means(samples[c.name], edges[c.name]))
        if isinstance(c, NumericColumn) and edges.get(c.name)
        else c
        for c in columns
    )


def _sorted_sample(summary: ColumnSummary) -> NDArray[np.float64]:
    values = np.concatenate([*summary.sample, np.zeros(0)])
    return np.sort(values[~np.isnan(values)])


def quantile_edges(values: NDArray[np.float64], bins: int) -> tuple[float, ...]:
    """Return the edges of bins with equally many of the sorted numbers in each; equal edges are merged.

    Each is one of the numbers. None come back where less than two bins are left, or where their span leaves float64.
    """
    edges = np.unique(values[np.round(np.linspace(0, len(values) - 1, bins + 1)).astype(np.int64)])
    with np.errstate(over="ignore"):
        useless = len(edges) < 3 or not np.isfinite(edges[-1] - edges[0])
    return () if useless else tuple(edges.tolist())


def bin_means(values: NDArray[np.float64], edges: Sequence[float]) -> tuple[float, ...]:
    """Return the mean of each bin's feature over the numbers, before it is taken off."""
    at = positions(values, edges)
    return tuple(float(np.clip(at - t, 0.0, 1.0).mean()) for t in range(len(edges) - 1))


def _decide(s: ColumnSummary, n_rows: int) -> Column | str:
    # how to encode a column, or why not to
    if s.kind == "other":
        return "neither numbers nor text"
    if s.n_present == 0:
        return "all missing"
    if s.forced:
        return _category(s)
    if s.kind == "time":
        return "date or time"
    return _numeric(s, n_rows) if s.are_numbers else _category(s)


def _numeric(s: ColumnSummary, n_rows: int) -> NumericColumn | str:
    if s.is_row_number and not s.kept:
        return f"{COUNTS_ROWS}: --data.keep=[{s.name}] keeps it"
    if s.is_identifier(n_rows) and not s.kept:
        return f"identifier: all {s.n} {ALL_DIFFER}; --data.keep=[{s.name}] keeps it"
    # junk and blanks are missing cells of a number column
    gaps = s.n_numbers < s.n
    constant = s.moments.constant and not s.n_infinite
    if constant and not gaps:
        return "constant"
    known = s.moments
    scale, low, high = (1.0, None, None) if constant else (known.scale, known.low, known.high)
    junk, written = s.n_junk > 0, s.written
    return NumericColumn(s.name, known.center, scale, gaps, junk, constant, written=written, low=low, high=high)


def _category(s: ColumnSummary) -> CategoryColumn | str:
    if s.overflow:
        return _not_read(s) or f"{_text(s)}: more than {MAX_TRACKED} different values"
    if len(s.counts) == 1 and not s.n_missing:
        return "constant"
    by_count = sorted(s.counts, key=lambda name: (-s.counts[name], name))
    floor = min_rows_for_category(s.n)
    kept = [name for name in by_count[:MAX_CATEGORIES] if s.counts[name] >= floor]
    if s.forced and not kept:
        kept = by_count[:MAX_CATEGORIES]
    covered = sum(s.counts[name] for name in kept)
    if covered < MIN_COVERAGE * s.n_present and not s.forced:
        frequent = f"the frequent ones cover {covered / s.n_present:.0%}"
        different = f"{len(s.counts)} different values in {s.n_present} rows"
        if len(s.counts) == s.n:
            return _not_read(s) or f"{_text(s)}: all {s.n} {ALL_DIFFER}"
        return _not_read(s) or f"{_text(s)}: {different}, and {frequent}"
    infrequent = len(kept) < len(by_count)
    return CategoryColumn(s.name, tuple(sorted(kept)), infrequent, s.n_missing > 0, _rare(s, kept))


def _rare(s: ColumnSummary, kept: Sequence[str]) -> float:
    """Return what share of further rows will have a name that is not among those `kept`.

    By Good 1953, "The population frequencies of species": names seen r times have the share that those seen r + 1 times
    had. The share of the names left out would be too low, as chance has helped those that were kept.
    """
    most = max((s.counts[name] for name in {*s.counts} - {*kept}), default=0)
    return sum(n for n in s.counts.values() if n <= most + 1) / s.n_present if most else 0.0


def _text(s: ColumnSummary) -> str:
    wordy = sum(len(name.split()) >= MIN_WORDS for name in s.counts)
    return _FREE_TEXT if 2 * wordy > len(s.counts) else "text or identifier"


def _not_read(s: ColumnSummary) -> str | None:
    if why := why_no_numbers(s.counts):
        return why
    example = written_number(s.counts)
    return example and f"numbers such as {example!r}; --data.decimal and --data.thousands say how to read them"
