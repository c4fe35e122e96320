"""What the records amount to: named, named first, seen at all, and false alarms, with Wilson's intervals."""

from collections import defaultdict
from collections.abc import Callable
from math import isnan, nan, sqrt
from statistics import mean
from typing import Any

Record = dict[str, Any]
HURT = 0.1  # less skill than the twin on average: the fault hurts


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a share (J. Am. Stat. Assoc. 22, 1927); NaN of nothing."""
    if not of:
        return nan, nan
    p, a = hits / of, z * z / of
    middle, half = p + a / 2, sqrt(p * (1 - p) * z * z / of + a * a / 4)
    return (middle - half) / (1 + a), (middle + half) / (1 + a)


def named(r: Record) -> bool:
    """The right name is among all that was said."""
    return any(_right(r, name) for name, _ in r["said"])


def named_first(r: Record) -> bool:
    """The right name was said first."""
    return bool(r["said"]) and _right(r, r["said"][0][0])


def _right(r: Record, name: str) -> bool:
    """A rival's message may give several causes, joined by a bar: one of them will do."""
    return not set(name.split("|")).isdisjoint(r["names"])


def count(records: list[Record]) -> dict[str, Any]:
    """Count one group of records; a run that raised counts as one in which nothing was said."""
    faults, twins = [r for r in records if not r["healthy"]], [r for r in records if r["healthy"]]
    shares = {
        "named": (sum(map(named, faults)), len(faults)),
        "first": (sum(map(named_first, faults)), len(faults)),
        "detected": (sum(bool(r["said"]) for r in faults), len(faults)),
        "false_alarms": (sum(bool(r["said"]) for r in twins), len(twins)),
    }
    spoken = [len({name for name, _ in r["said"]}) for r in faults if r["said"]]
    return {
        **{name: {"hits": h, "of": n, "wilson": wilson(h, n)} for name, (h, n) in shares.items()},
        "names_said": mean(spoken) if spoken else 0.0,
        "errors": sum(bool(r["error"]) for r in records),
    }


def score(records: list[Record]) -> dict[str, Any]:
    """Return the counts overall, by base, by kind, and by kind and base."""

    def by(key: Callable[[Record], str]) -> dict[str, Any]:
        groups: dict[str, list[Record]] = defaultdict(list)
        for r in records:
            groups[key(r)].append(r)
        return {name: count(group) for name, group in groups.items()}

    return {
        "overall": count(records),
        "base": by(lambda r: r["base"]),
        "kind": by(lambda r: r["kind"]),
        "kind_base": by(lambda r: f"{r['kind']} / {r['base']}"),
    }


def tables(result: dict[str, Any]) -> str:
    """Return Markdown: overall and by base with intervals, and one row a kind with a cell a base."""
    lines = [
        "| | named | named first | detected | names said | false alarms | errors |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, c in [("**all**", result["overall"]), *result["base"].items()]:
        cells = [_share(c[k]) for k in ("named", "first", "detected")]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {c['names_said']:.1f} | {_share(c['false_alarms'])} | {c['errors']} |"
        )
    bases = list(result["base"])
    lines += ["", "A cell: named, named first, detected; the twin's false alarms.", ""]
    lines += ["| kind | " + " | ".join(bases) + " |", "|---" * (len(bases) + 1) + "|"]
    for kind in result["kind"]:
        cells = [_cell(result["kind_base"].get(f"{kind} / {base}")) for base in bases]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _share(c: dict[str, Any]) -> str:
    if not c["of"]:
        return "–"
    low, high = c["wilson"]
    return f"{100 * c['hits'] / c['of']:.1f} % ({100 * low:.0f}–{100 * high:.0f})"


def _cell(c: dict[str, Any] | None) -> str:
    if c is None:
        return "–"
    faults = [str(c[k]["hits"]) for k in ("named", "first", "detected")]
    return f"{' '.join(faults)} of {c['named']['of']}; {c['false_alarms']['hits']}"


def health(records: list[Record]) -> str:
    """Return Markdown: mean skill of twins (worst in brackets) and of faults, and which faults do not hurt."""
    skills: dict[tuple[str, str], dict[bool, list[float]]] = defaultdict(lambda: {True: [], False: []})
    for r in records:
        skills[r["kind"], r["base"]][r["healthy"]].append(-1.0 if isnan(r["skill"]) else r["skill"])
    lines = ["", "| kind | base | twin (worst) | fault | |", "|---|---|---|---|---|"]
    for (kind, base), s in skills.items():
        if s[True] and s[False]:
            twin, fault = mean(s[True]), mean(s[False])
            note = "" if fault < twin - HURT else "does not hurt"
            lines.append(f"| {kind} | {base} | {twin:.2f} ({min(s[True]):.2f}) | {fault:.2f} | {note} |")
    return "\n".join(lines)


def mistakes(records: list[Record]) -> str:
    """Return one line for each run that was missed, misnamed or cried over, with what was said."""
    lines = [""]
    for r in records:
        what = "ERROR " + r["error"] if r["error"] else "" if not r["healthy"] or not r["said"] else "FALSE ALARM"
        if not r["healthy"] and not r["error"] and not named_first(r):
            what = "named, not first" if named(r) else "WRONG NAME" if r["said"] else "MISSED"
        if what:
            said = "; ".join(f"{name} [{text[:160]}]" for name, text in r["said"])
            lines.append(f"- {what}: {r['kind']} / {r['base']} seed {r['seed']} (skill {r['skill']:.2f}): {said}")
    return "\n".join(lines)
