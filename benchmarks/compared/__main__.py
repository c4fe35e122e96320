"""Runs the same training in skorch, Ignite, Keras and ours, and tells what each took and showed.

python -m benchmarks.compared           # the table; who is not installed is left out
python -m benchmarks.compared --write   # also puts code, outputs and table into docs/compared.md

With another environment's Python, as benchmarks/speed/README.md sets it up. Keras runs on torch.
"""

import argparse
import ast
import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compared.md"
WHO = {"skorch": "skorch", "ignite": "ignite", "keras": "keras", "ours": "lightning_mods"}
SHOWN = 4  # lines of the epochs that the page shows, first and last ones


def code_of(name: str) -> str:
    """The function that trains, as it stands in its file."""
    text = (Path(__file__).parent / f"with_{name}.py").read_text(encoding="utf-8")
    (function,) = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    imports = [
        ast.get_source_segment(text, n) for n in ast.parse(text).body if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    return "\n".join([*map(str, imports), "", "", str(ast.get_source_segment(text, function))])


def lines_of(code: str) -> int:
    """Lines with code on them."""
    return sum(bool(line.strip()) for line in code.splitlines())


def run_one(name: str) -> None:
    """Train, and print what came of it as JSON on the last line."""
    from benchmarks.compared.task import scores, write_table

    train_csv, val_csv = write_table(Path.cwd())
    probabilities = importlib.import_module(f"benchmarks.compared.with_{name}").train(train_csv.name, val_csv.name)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = {path.stem: scores(path, probabilities(path.name)) for path in (train_csv, val_csv)}
    print("\n" + json.dumps(found))


def run(name: str) -> tuple[str, dict[str, list[float]]]:
    """Run one in a process and a folder of its own; gives what it printed, and cross-entropy and accuracy."""
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.compared", "--one", name],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stdout}")
    said, _, found = done.stdout.rstrip("\n").rpartition("\n")
    return shortened(re.sub(r"\x1b\[[0-9;]*m", "", said).strip("\n")), json.loads(found)


def shortened(said: str) -> str:
    """Without most of the epochs' lines, which look alike."""
    lines = said.splitlines()
    alike = [i for i, line in enumerate(lines) if re.match(r"\s*(\d+ +[\d.]+|epoch \d+:|Epoch \d+/|\d+/\d+ - )", line)]
    keep = {*alike[: SHOWN // 2], *alike[-SHOWN // 2 :]}
    out: list[str] = []
    for i, line in enumerate(lines):
        if i not in alike or i in keep:
            out.append(line.rstrip())
        elif out[-1] != "…":
            out.append("…")
    return "\n".join(out)


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Lines of code, losses and accuracies of the last epoch's weights, as Markdown."""
    rows = ["| | lines of code | training loss | validation loss | validation accuracy |", "|---|---|---|---|---|"]
    for name, found in results.items():
        (train, _), (val, accuracy) = found["train"], found["val"]
        rows.append(f"| {name} | {lines_of(code_of(name))} | {train:.4f} | {val:.3f} | {accuracy:.3f} |")
    return "\n".join(rows)


def written(page: str, blocks: dict[str, str]) -> str:
    """The page with what stands between `<!-- NAME -->` and `<!-- end -->` replaced."""
    for name, text in blocks.items():
        page = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=text: f"{m[1]}{t}\n{m[2]}", page, flags=re.DOTALL
        )
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put code, outputs and table into docs/compared.md")
    parser.add_argument("--one", choices=WHO, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        run_one(chosen.one)
        return
    missing = [name for name, package in WHO.items() if find_spec(package) is None]
    for name in missing:
        print(f"{name} is left out: pip install {'pytorch-ignite' if name == 'ignite' else name}")
    found = {name: run(name) for name in WHO if name not in missing}
    figures = table({name: result for name, (_, result) in found.items()})
    print(figures)
    if chosen.write:
        blocks = {"table": figures}
        for name, (said, _) in found.items():
            blocks[f"code {name}"] = f"```python\n{code_of(name)}\n```"
            blocks[f"output {name}"] = f"```text\n{said}\n```"
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), blocks), encoding="utf-8")


if __name__ == "__main__":
    main()
