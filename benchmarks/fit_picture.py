"""Makes docs/images/fit_verdict.png: a wide network on little data, as FitMonitor draws it in TensorBoard.

python benchmarks/fit_picture.py [TARGET]
"""

import argparse
import json
import tempfile
from pathlib import Path

from callbacks.diagnosis.verdict import diagnose
from callbacks.fit.figure import draw_fit
from callbacks.loggers.figures import png
from lightning_mods import fit

FLAGS = [
    "--recipe=plain",
    "--patience=0",
    "--data.path=diabetes",
    "--model.hidden_sizes=[256,256]",
    "--model.weight_decay=0",
    "--trainer.max_epochs=60",
    "--trainer.accelerator=cpu",
]


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as root:
        fit.main([*FLAGS, f"--trainer.default_root_dir={root}"])
        (path,) = Path(root).rglob("diagnosis.json")
        said = json.loads(path.read_text(encoding="utf-8"))
    curves = said["curves"]
    metric = curves["metric"] or None
    found = diagnose(curves["train_loss"], curves["val_loss"], val_metric=metric, baseline_loss=said["baseline_loss"])
    assert found.fit == said["fit"]
    levels = {"trivial": said["baseline_loss"], "reference": said["reference_loss"]}
    figure = draw_fit(curves["train_loss"], curves["val_loss"], found, metric, title="diabetes", levels=levels)
    figure.axes[-1].set_ylabel(said["logged_as"]["metric"])
    target.write_bytes(png(figure))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shown = Path(__file__).parents[1] / "docs" / "images" / "fit_verdict.png"
    parser.add_argument("target", nargs="?", type=Path, default=shown, help="PNG to write; the README's by default")
    main(parser.parse_args().target)
