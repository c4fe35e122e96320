"""What becomes of each column: used as a number, used as a category, or left out, and why."""

from collections.abc import Sequence

from datamodules.columns import MAX_TRACKED, ColumnSummary
from datamodules.encoding import CategoryColumn, Column, Encoding, NumericColumn, infinite_error
from datamodules.errors import DataError, shortened

NUMERIC_SHARE = 0.9
"""A text column is numbers when at least this share of its cells parse; the rest is junk such as "?"."""

MAX_CATEGORIES = 100
"""Features one category column may become; the rarest share one. More would be mostly zeros."""

MIN_COVERAGE = 0.5
"""Names frequent enough for a feature of their own must cover this share of the rows, else it is free text."""


def min_rows_for_category(n_rows: int) -> int:
    """Training rows a name needs for a feature of its own: one in a thousand, at least 2, at most 20.

    Once is never evidence; and twenty rows are enough to learn a weight from, however large the table.
    """
    return min(max(2, n_rows // 1000), 20)


def choose_encoding(
    summaries: Sequence[ColumnSummary], dropped: dict[str, str], *, label: str, n_rows: int
) -> Encoding:
    """Decide about every column.

    Args:
        summaries: Of the training rows, in file order.
        dropped: Columns left out already, and why.
        label: What to call the table in messages.
        n_rows: Rows of the whole table, for messages.

    Raises:
        DataError: A column in use has infinities, or no column is left.
    """
    used: list[tuple[ColumnSummary, Column]] = []
    reasons = dict(dropped)
    for summary in summaries:
        decided = _decide(summary)
        if isinstance(decided, str):
            reasons[summary.name] = decided
            continue
        if summary.n_infinite and isinstance(decided, NumericColumn):
            raise infinite_error(label, summary.name, summary.n_infinite, summary.first_infinite or 0)
        used.append((summary, decided))
    if not used:
        why = shortened((f"{name} ({reason})" for name, reason in reasons.items()), 8)
        raise DataError(
            f"{label!r} has no column left to learn from, among {n_rows} rows; left out: {why or 'none there'}. "
            "Name columns in --data.categorical=[…] to keep them as categories."
        )
    return Encoding(tuple(column for _, column in used), reasons, tuple(_notes(used)))


def _notes(used: Sequence[tuple[ColumnSummary, Column]]) -> list[str]:
    """What a user should know about columns in use: junk taken for gaps, rare names pooled."""
    notes = [
        f"{s.name}: numbers; {s.n_junk} cells such as {s.junk!r} count as missing"
        for s, column in used
        if isinstance(column, NumericColumn) and s.n_junk
    ]
    pooled = [
        f"{s.name} ({len(s.counts) - len(column.categories)} of {len(s.counts)})"
        for s, column in used
        if isinstance(column, CategoryColumn) and column.infrequent
    ]
    return notes + ([f"rare categories share one feature in {shortened(pooled, 8)}"] if pooled else [])


def _decide(s: ColumnSummary) -> Column | str:
    """Return how to encode a column, or why not to."""
    if s.kind == "other":
        return "neither numbers nor text"
    if s.n_present == 0 or (s.kind == "number" and s.moments.n + s.n_infinite == 0 and not s.forced):
        return "all missing"
    if s.forced:
        return _category(s)
    if s.kind == "time" or (s.kind == "text" and s.looks_like_dates):
        return "date or time"
    parsed = s.kind == "number" or (s.kind == "text" and s.moments.n >= NUMERIC_SHARE * _cells(s))
    return _numeric(s) if parsed and s.moments.n + s.n_infinite else _category(s)


def _cells(s: ColumnSummary) -> int:
    """Cells that say something: numbers in a text column, or names."""
    return max(s.n_present, s.moments.n)


def _numeric(s: ColumnSummary) -> NumericColumn | str:
    if s.is_row_number:
        return "only counts the rows"
    # junk and blanks are missing cells of a number column
    gaps = s.moments.n + s.n_infinite < s.n
    if s.moments.constant and not s.n_infinite:
        if not gaps:
            return "constant"
        return NumericColumn(s.name, s.moments.center, 1.0, indicator=True, junk=s.n_junk > 0, constant=True)
    return NumericColumn(s.name, s.moments.center, s.moments.scale, indicator=gaps, junk=s.n_junk > 0)


def _category(s: ColumnSummary) -> CategoryColumn | str:
    if s.overflow:
        return f"text or identifier: more than {MAX_TRACKED} different values"
    if len(s.counts) == 1 and not s.n_missing:
        return "constant"
    by_count = sorted(s.counts, key=lambda name: (-s.counts[name], name))
    floor = min_rows_for_category(s.n)
    kept = [name for name in by_count[:MAX_CATEGORIES] if s.counts[name] >= floor]
    if s.forced and not kept:
        kept = by_count[:MAX_CATEGORIES]
    covered = sum(s.counts[name] for name in kept)
    if covered < MIN_COVERAGE * s.n_present and not s.forced:
        return (
            f"text or identifier: {len(s.counts)} different values in {s.n_present} rows, and the frequent ones "
            f"cover {covered / s.n_present:.0%}"
        )
    return CategoryColumn(s.name, tuple(sorted(kept)), len(kept) < len(by_count), s.n_missing > 0)
