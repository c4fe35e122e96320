"""Makes docs/images/gradient_flow.png: sigmoids, eight layers deep, as GradientLogger draws them in TensorBoard.

python benchmarks/gradient_flow_picture.py [TARGET]
"""

import argparse
import tempfile
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger

from callbacks import GradientLogger
from datamodules import TabularDataModule
from lightning_mods import MLPClassifier


def main(target: Path) -> None:
    pl.seed_everything(0)
    data = TabularDataModule("digits", batch_size=32, seed=0)
    model = MLPClassifier(data.in_features, 10, hidden_sizes=[64] * 7, activation="sigmoid", lr=0.1)
    with tempfile.TemporaryDirectory() as root:
        trainer = pl.Trainer(
            max_epochs=15,
            accelerator="cpu",
            logger=CSVLogger(root),
            callbacks=[GradientLogger(every=5)],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, data)
        (path,) = Path(root).rglob("gradient_flow.png")
        target.write_bytes(path.read_bytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shown = Path(__file__).parents[1] / "docs" / "images" / "gradient_flow.png"
    parser.add_argument("target", nargs="?", type=Path, default=shown, help="PNG to write; the README's by default")
    main(parser.parse_args().target)
