"""Compares the fits of each configuration, counts, and writes docs/foreign.md."""

import re
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

OURS = ("FitMonitor", "GradientMonitor", "GradientLogger", "GraphLogger", "TensorBoardLayout")
FINDING = re.compile(r"GradientMonitor: [a-z -]+( in `.*?`)? at step \d+: ")
AS_SEEN = {"graph comes from torch.export of": "by parts", "graph comes from the module calls": "as called"}
PLAIN = re.compile(
    r"FitMonitor: epoch \d|GradientMonitor: (nothing wrong|\d+ found) over|GraphLogger: the graphs are in"
)


def compare(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the fits of a configuration came to, as a row: what changed, what was said, seconds."""
    bare, ours = found["bare"], found["ours"]
    row: dict[str, Any] = {"name": found["name"], "bare_error": bare[0]["error"]}
    if row["bare_error"]:
        return row
    row["repeats"] = len(bare)
    row["error"] = next((run["error"] for run in ours if run["error"]), "")
    seen = {
        part: [{run.get("digests", {}).get(part) for run in runs} for runs in (bare, ours)]
        for part in bare[0].get("digests", {})
    }
    row["unstable"] = [part for part, (without, _) in seen.items() if len(without) > 1]
    row["changed"] = [part for part, (without, after) in seen.items() if len(without) == 1 and after != without]
    said = [text.strip() for text in re.split(r"[\r\n]+", ours[0]["said"]) if text.startswith(OURS)]
    said = [text for text in dict.fromkeys(said) if not PLAIN.match(text)]
    row["findings"] = [text for text in said if FINDING.match(text)]
    row["notes"] = [text for text in said if not FINDING.match(text)]
    row |= {name: ours[0].get(name) for name in ("graphs", "curves", "steps", "module")}
    row["validation_losses"] = bare[0]["validation_losses"]
    for clock in ("wall", "cpu"):
        row[clock] = median(run[clock] for run in ours) - median(run[clock] for run in bare)
        row[f"bare_{clock}"] = median(run[clock] for run in bare)
    return row


def _count(rows: list[dict[str, Any]]) -> dict[str, Any]:
    logged = [row for row in rows if row["validation_losses"]]
    return {
        "fits": len(rows),
        "stopped": sum(bool(row["error"]) for row in rows),
        "changed": sum(bool(row["changed"]) and not row["error"] for row in rows),
        "curves": f"{sum('val_loss' in row['curves'] for row in logged)}/{len(logged)}",
        "graphs": f"{sum(len(row['graphs']) == 2 for row in rows)}/{len(rows)}",
        "warnings": sum(len(row["findings"]) for row in rows),
        "extra s": f"{median(row['cpu'] for row in rows):.1f}",
    }


def _lines(table: Iterable[Iterable[Any]]) -> list[str]:
    head, *rows = [[str(cell).replace("|", "\\|") for cell in row] for row in table]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def summary(packages: dict[str, Any]) -> list[str]:
    """Return a table: a row for each package, and one for all."""
    rows, everything = [], []
    for name, package in packages.items():
        ran = [row for row in package["rows"] if not row["bare_error"]]
        everything += ran
        if ran:
            version, host = package["versions"][package["distribution"]], package["host"]
            rows.append([name, version, f"`{host}`", *_count(ran).values()])
    if not everything:
        return ["nothing ran"]
    counts = _count(everything)
    often = sorted({row["repeats"] for row in everything})
    table = _lines([["package", "version", "Lightning", *counts], *rows, ["**all**", "", "", *counts.values()]])
    return [*table, "", f"Fits of each configuration without ours, and as many with: {' or '.join(map(str, often))}."]


def _row(name: str, row: dict[str, Any]) -> list[str]:
    if row["bare_error"]:
        return [name, "does not run here without ours either", "", "", "", ""]
    same = "stopped" if row["error"] else ", ".join(row["changed"]) + " changed" if row["changed"] else "yes"
    if row["unstable"]:
        same += f" ({', '.join(row['unstable'])} differ by themselves)"
    found = row["curves"].get("val_loss")
    curve = f"`{found}`" if found else ("**not found**" if row["validation_losses"] else "none is logged")
    graphs = "both" if len(row["graphs"]) == 2 else ", ".join(row["graphs"]) or "**none**"
    graphs += "".join(
        f" (forward {said})" for mark, said in AS_SEEN.items() if any(mark in note for note in row["notes"])
    )
    return [name, same, curve, graphs, str(len(row["findings"]) or ""), f"{row['bare_cpu']:.1f} + {row['cpu']:.1f}"]


def write(packages: dict[str, Any], page: Path) -> None:
    """Put the tables into the page, each between its marks; what stands around them is kept."""
    head = ["configuration", "bits equal", "validation loss", "graphs", "warnings", "seconds"]
    rows = [_row(f"{name}/{row['name']}", row) for name, package in packages.items() for row in package["rows"]]
    said = [
        f"* {name}/{row['name']}: {text}"
        for name, package in packages.items()
        for row in package["rows"]
        for text in [row.get("error") and f"stopped: {row['error']}", *row.get("findings", []), *row.get("notes", [])]
        if text and not any(mark in text for mark in AS_SEEN)
    ]
    absent = [f"* {name}: {package['error']}" for name, package in packages.items() if package.get("error")]
    absent += [
        f"* {name}/{row['name']}: {row['bare_error'].splitlines()[0]}"
        for name, package in packages.items()
        for row in package["rows"]
        if row["bare_error"]
    ]
    text = page.read_text(encoding="utf-8")
    parts = {"summary": summary(packages), "fits": _lines([head, *rows]), "said": said, "absent": absent}
    for mark, lines in parts.items():
        begin, rest = text.split(f"<!-- {mark} -->\n")
        text = (
            f"{begin}<!-- {mark} -->\n"
            + "\n".join(lines or ["Nothing."])
            + "\n<!-- end -->"
            + rest.split("<!-- end -->", 1)[1]
        )
    page.write_text(text, encoding="utf-8")
