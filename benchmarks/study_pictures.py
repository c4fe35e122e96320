"""Run a study of the digits and keep what it shows: its picture, and TensorBoard's parallel coordinates.

    python benchmarks/study_pictures.py --folder runs --output docs/images

Needs chromium and chromedriver (Debian: `apt-get install chromium-driver`). A study that is there goes on.
"""

import argparse
import shutil
import time
from pathlib import Path

from tensorboard_screenshot import TICK, WALK, browser, tensorboard

from lightning_mods import study

COLUMNS = ("lr", "batch_size", "hp/val_loss")
# Opens the parallel coordinates, and makes the axes logarithmic.
PARALLEL = (
    WALK
    + """
const tab = all.find(e => e.localName === 'paper-tab' && /parallel/i.test(e.textContent));
if (!tab.classList.contains('iron-selected')) tab.click();
for (const button of all.filter(e => e.localName === 'paper-radio-button' && e.textContent.trim() === 'Logarithmic'))
  if (!button.checked && button.getBoundingClientRect().width) button.click();
"""
)


def parallel_coordinates(logdir: Path, output: Path) -> None:
    """Take a picture of the HParams tab."""
    with tensorboard(logdir) as url, browser(1400, 1240) as chromium:
        chromium.open(f"{url}/#hparams")
        chromium.wait_for(COLUMNS)
        chromium.run(TICK, COLUMNS)
        for _ in range(2):  # the first time makes the axes, the second finds their buttons
            chromium.run(PARALLEL)
            time.sleep(3)
        output.write_bytes(chromium.png())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where the study's folder stands")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="where the pictures go")
    args = parser.parse_args()
    study.main(
        [
            "--data.path=digits",
            "--trainer.max_epochs=10",
            "--study.name=digits",
            "--study.n_trials=24",
            f"--trainer.default_root_dir={args.folder}",
        ]
    )
    folder = args.folder / "studies" / "digits"
    args.output.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "search.png", args.output / "study_picture.png")
    parallel_coordinates(folder, args.output / "study_hparams.png")


if __name__ == "__main__":
    main()
