"""Train each model of the tests for two batches with `GraphLogger`, and photograph both graphs in TensorBoard.

    python benchmarks/graph_gallery.py --output shots                 # all models, both tags
    python benchmarks/graph_gallery.py --output docs/images --readme  # the pictures of the README alone

Needs chromium and chromedriver (Debian: `apt-get install chromium-driver`).
"""

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard_screenshot import WALK, Browser, browser, tensorboard

from callbacks import GraphLogger
from callbacks.graphs import forward_graph, to_svg

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "callbacks"))
from graph_models import MODELS, train

TAGS = {"forward": "Default", "backward": "backward"}
# The names of the nodes drawn now; none while an old graph, which `CHOOSE` has marked, still stands there.
NODES = (
    WALK
    + """
const drawn = all.filter(e => e.matches('g.node'));
return drawn.some(e => e.old) ? [] : drawn.map(e => e.getAttribute('data-name'));
"""
)
# Picks an entry of one of the two menus, runs and tags; says whether there is one, and marks what it replaces.
CHOOSE = (
    WALK
    + """
for (const box of all.filter(e => e.localName === 'paper-listbox'))
  for (const item of box.children)
    if (item.textContent.trim() === arguments[0]) {
      if (!item.classList.contains('iron-selected')) {
        all.filter(e => e.matches('g.node')).forEach(e => { e.old = true; });
        item.click();
      }
      return true;
    }
return false;
"""
)
OPEN = (
    WALK
    + """
const graph = all.find(e => e.localName === 'tf-graph');
graph.dispatchEvent(new CustomEvent('node-toggle-expand', {detail: {name: arguments[0]}}));
"""
)
# Nothing selected, everything in sight, the title not above it.
FIT = (
    WALK
    + """
all.find(e => e.localName === 'tf-graph').dispatchEvent(new CustomEvent('graph-select'));
for (const title of all.filter(e => !e.children.length && e.textContent.trim() === 'Main Graph'))
  title.style.visibility = 'hidden';
all.find(e => e.localName === 'tf-graph-scene').fit();
"""
)


def nodes(chromium: Browser, least: int = 1, timeout: float = 60.0) -> list[str]:
    """Wait until the graph has stopped changing, and return the names of the nodes it shows.

    Raises:
        TimeoutError: It shows fewer than `least`.
    """
    before, calm, end = [], 0, time.monotonic() + timeout
    while time.monotonic() < end:
        now = chromium.run(NODES)
        calm = calm + 1 if now == before and len(now) >= least else 0
        if calm >= 3:
            return now
        before = now
        time.sleep(0.2)
    raise TimeoutError(f"The Graphs tab shows {len(before)} nodes, not {least} or more: {before}")


def show(chromium: Browser, run: str, tag: str, expand: tuple[str, ...] = ()) -> list[str]:
    """Choose a graph of a run in the Graphs tab that is open, open some scopes, and return the names of its nodes.

    Raises:
        TimeoutError: The page does not show it.
    """
    for entry in (run, TAGS[tag]):
        end = time.monotonic() + 60
        while not chromium.run(CHOOSE, entry):
            if time.monotonic() > end:
                raise TimeoutError(f"The Graphs tab has no run or tag {entry}.")
            time.sleep(0.5)
        shown = nodes(chromium)
    for scope in expand:
        chromium.run(OPEN, scope)
        shown = nodes(chromium)
    for _ in range(2):  # the first moves what the second measures
        chromium.run(FIT)
        time.sleep(0.7)
    return shown


# Which scopes are opened for a picture: enough to see what is inside, few enough to read it.
INSIDE = {
    "mlp": ("net", "net/Linear[0]"),
    "googlenet": ("net", "net/inception3a"),
    "resnet": ("net", "net/layer1", "net/layer1/Residual[0]"),
    "transformer": ("net", "net/encoder", "net/encoder/layers"),
    "lstm": ("net", "net/lstm"),
    "dict": ("net",),
    "branch": ("net", "net/deep"),
    "compiled": ("net", "net/body"),
}
WIDTH, HEIGHT = 1400, 1600
README = ("mlp", "googlenet")
DEPTH = {"mlp": None, "googlenet": 1}  # of the SVG files


def picture(png: bytes) -> Image.Image:
    """The graph alone: without the panel on the left, the bar above and the white around it."""
    page = Image.open(io.BytesIO(png)).convert("RGB")
    page = page.crop((360, 75, page.width, page.height))
    grey = page.convert("L").point(lambda value: 255 * (value < 250))
    left, top, right, bottom = grey.getbbox() or (0, 0, *page.size)
    return page.crop((max(left - 10, 0), max(top - 10, 0), right + 10, min(bottom + 10, page.height)))


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures on one sheet."""
    sheet = Image.new("RGB", (left.width + right.width + 30, max(left.height, right.height)), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + 30, 0))
    return sheet


def photograph(names: list[str], folder: Path) -> dict[str, list[bytes]]:
    """Train, open both graphs of every model, and keep the pages."""
    for name in names:
        train(name, folder, GraphLogger(), logger=TensorBoardLogger(folder, name=name, version=""))
    pages: dict[str, list[bytes]] = {}
    with tensorboard(folder) as url, browser(WIDTH, HEIGHT) as chromium:
        chromium.open(f"{url}/#graphs")
        for name in names:
            for tag in TAGS:
                shown = show(chromium, name, tag, INSIDE[name])
                pages.setdefault(name, []).append(chromium.png())
                print(f"{name}, {tag}: {len(shown)} nodes")
    return pages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS), help="which; default all")
    parser.add_argument("--readme", action="store_true", help="only what the README shows")
    args = parser.parse_args()
    names = list(README) if args.readme else args.models
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pages = photograph(names, Path(folder))
    for name, (forward, backward) in pages.items():
        if args.readme:
            sheet = beside(picture(forward), picture(backward))
            sheet.quantize(64).save(args.output / f"graph_{name}.png", optimize=True)
            make, inputs = MODELS[name]
            drawing = to_svg(forward_graph(make(), inputs()), DEPTH[name])
            (args.output / f"graph_{name}.svg").write_text(drawing, encoding="utf-8")
        else:
            (args.output / f"graph_{name}_forward.png").write_bytes(forward)
            (args.output / f"graph_{name}_backward.png").write_bytes(backward)


if __name__ == "__main__":
    main()
