"""Both graphs of a run, seen in the Graphs tab that TensorBoard serves."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from pytorch_lightning.loggers import TensorBoardLogger

from callbacks import GraphLogger

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium and chromedriver"
    ),
]
SHOWN = {
    ("mlp", "forward"): {"inputs", "net", "net/Linear[0]/weight", "net/ReLU[1]", "loss"},
    ("mlp", "backward"): {"loss", "training_step", "net/Linear[0]/AddmmBackward0", "net/Linear[0]/bias"},
    ("googlenet", "forward"): {"net/conv1", "net/inception3a/branch4", "net/inception5b", "net/aux1", "net/fc"},
    ("googlenet", "backward"): {"loss", "net/inception3a/branch4", "net/inception5b", "net/aux2", "net/fc"},
}


@pytest.fixture(scope="module")
def gallery():
    """The script that takes the README's pictures, as a module."""
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("graph_gallery", ROOT / "benchmarks" / "graph_gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def test_both_tags_open_in_the_graphs_tab(gallery, tmp_path):
    for name in ("mlp", "googlenet"):
        logger = TensorBoardLogger(tmp_path, name=name, version="")
        gallery.train(name, tmp_path, GraphLogger(), logger=logger)
    with gallery.tensorboard(tmp_path) as url, gallery.browser() as chromium:
        chromium.open(f"{url}/#graphs")
        for (name, tag), wanted in SHOWN.items():
            shown = gallery.show(chromium, name, tag, gallery.INSIDE[name])
            assert wanted <= set(shown)
            assert chromium.png().startswith(b"\x89PNG")
