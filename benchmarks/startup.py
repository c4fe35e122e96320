"""What the verbs cost before their work: CPU seconds of whole processes, against `import pytorch_lightning`.

    python benchmarks/startup.py --repeats 5

Each round runs every command once, so that a busy moment of the machine meets all of them. CPU seconds, user and
system, children included: other work on the machine hardly lengthens them. The last rows are whole commands with
their work: a fit of one epoch on the bundled digits, with everything on and with nobody looking on.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

VERBS = ("fit", "study", "validate", "test", "predict", "diagnose")
PLAIN = "import pytorch_lightning"


def commands() -> dict[str, list[str]]:
    """Each command by its name; those that refuse a flag end with code 2."""
    found = {f'python -c "{PLAIN}"': ["-c", PLAIN], 'python -c "import torch"': ["-c", "import torch"]}
    for verb in VERBS:
        found[f"{verb} --help"] = ["-m", f"lightning_mods.{verb}", "--help"]
    for verb in VERBS[:-1]:
        for flag in ("--trainer.max_epoch=5", "--model.lrr=1"):
            found[f"{verb} {flag}"] = ["-m", f"lightning_mods.{verb}", flag]
    found["diagnose --jsonn"] = ["-m", "lightning_mods.diagnose", "--jsonn"]
    found["fit --trainer.max_epochs=1"] = ["-m", "lightning_mods.fit", "--trainer.max_epochs=1"]
    found["fit --trainer.max_epochs=1 --watch=[]"] = [*found["fit --trainer.max_epochs=1"], "--watch=[]"]
    return found


def cpu_seconds(words: Sequence[str], folder: str) -> float:
    before = os.times()
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    after = os.times()
    refused = any(word in ("--trainer.max_epoch=5", "--model.lrr=1", "--jsonn") for word in words)
    if done.returncode != (2 if refused else 0):
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr}")
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--only", default="", help="commands that contain this, and the import to compare with")
    args = parser.parse_args()
    chosen = {name: words for name, words in commands().items() if args.only in name or PLAIN in name}
    found: dict[str, list[float]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as folder:
        for words in chosen.values():  # bytecode and file cache
            cpu_seconds(words, folder)
        for _ in range(args.repeats):
            for name, words in chosen.items():
                found[name].append(cpu_seconds(words, folder))
    base = next(iter(found.values()))
    print(f"{'command':<42} {'CPU s':>7} {'least':>7} {'most':>7} {'ratio':>7}")
    for name, each in found.items():
        ratio = statistics.median(mine / plain for mine, plain in zip(each, base, strict=True))
        print(f"{name:<42} {statistics.median(each):>7.2f} {min(each):>7.2f} {max(each):>7.2f} {ratio:>7.2f}")


if __name__ == "__main__":
    main()
