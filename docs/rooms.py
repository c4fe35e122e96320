"""Write the map of rooms and their imports into CONTRIBUTING.md, from the code as it is.

    python docs/rooms.py            # rewrite the part between the markers
    python docs/rooms.py --check    # exit 1 if it is out of date

A room is a folder or a file right below one of the three packages. Its line is the first sentence of its docstring; an
arrow is an import, drawn with Mermaid (https://mermaid.js.org), which GitHub shows as a picture.
"""

import ast
import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGES = ("lightning_mods", "callbacks", "datamodules")
BEGIN, END = "<!-- rooms: begin -->\n", "<!-- rooms: end -->"


def rooms_of(package: str) -> dict[str, Path]:
    """Return the rooms of a package by name, the file that holds each one's docstring."""
    folder = ROOT / package
    found = {path.parent.name: path for path in folder.glob("*/__init__.py")}
    found |= {path.stem: path for path in folder.glob("*.py") if not path.stem.startswith("__")}
    return dict(sorted(found.items()))


def first_sentence(file: Path) -> str:
    """Return the first sentence of a module's docstring, in one line."""
    text = " ".join((ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split())
    head, dot, _ = text.partition(". ")
    return head + dot.strip() if dot else text


def arrows(graph: grimp.ImportGraph, package: str) -> list[tuple[str, str]]:
    """Return who imports whom among the rooms of a package."""
    rooms = [f"{package}.{name}" for name in rooms_of(package)]
    found = []
    for importer in rooms:
        inside = {importer, *graph.find_descendants(importer)}
        targets = {each for module in inside for each in graph.find_modules_directly_imported_by(module)}
        for imported in rooms:
            if imported != importer and any(t == imported or t.startswith(f"{imported}.") for t in targets):
                found.append((importer.rpartition(".")[2], imported.rpartition(".")[2]))
    return found


def text() -> str:
    """Return the part of CONTRIBUTING.md that this script writes."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    parts = []
    for package in PACKAGES:
        lines = [f"- `{name}`: {first_sentence(file)}" for name, file in rooms_of(package).items()]
        edges = [f"  {importer} --> {imported}" for importer, imported in arrows(graph, package)]
        parts.append("\n".join([f"### {package}", "", *lines, "", "```mermaid", "flowchart TD", *edges, "```", ""]))
    return "\n".join(parts)


def main() -> None:
    """Rewrite CONTRIBUTING.md, or check it."""
    file = ROOT / "CONTRIBUTING.md"
    before = file.read_text(encoding="utf-8")
    head, _, rest = before.partition(BEGIN)
    after = f"{head}{BEGIN}\n{text()}\n{END}{rest.partition(END)[2]}"
    if "--check" in sys.argv[1:]:
        sys.exit(before != after and "CONTRIBUTING.md is out of date: python docs/rooms.py")
    file.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
