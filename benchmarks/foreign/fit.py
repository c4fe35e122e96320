"""Fits one package's modules, each fit in a forked process of its own, and prints what came out, a line of JSON each.

python -m benchmarks.foreign.fit darts --only TCN --repeats 3
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.foreign.recorder import recorder, validation_losses
from benchmarks.foreign.table import OURS

SEED = 3


def load(package: str) -> Any:
    """Return our file about a package: `FITS`, the Lightning package it uses as `pl`, and versions."""
    try:  # beside a CPU build of torch, PyPI's torchvision lacks its operators, which nobody needs here, and dies of it
        if torch.version.cuda is None and not metadata.version("torchvision").endswith("+cpu"):
            for operator in ("nms", "qnms"):
                torch.library.define(
                    f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
    except metadata.PackageNotFoundError:
        pass
    module: Any = import_module(f"benchmarks.foreign.packages.{package}")
    module.versions = {name: metadata.version(name) for name in (module.DISTRIBUTION, "torch", "lightning")}
    return module


def graphs(folder: Path) -> list[str]:
    """Return which graphs lie in a folder, as drawings or in TensorBoard's event files."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    tags = {path.stem for path in folder.rglob("graphs/*.svg")}
    for path in folder.rglob("events.out.tfevents.*"):
        for event in EventFileLoader(str(path)).Load():
            tags |= {"forward"} if event.HasField("graph_def") else {value.tag for value in event.summary.value}
    return [name for name in ("forward", "backward") if any(tag.startswith(name) for tag in tags)]


def curves(folder: Path) -> dict[str, str]:
    """Return the losses that FitMonitor found, with the names under which they were logged."""
    found = {}
    for path in folder.rglob("diagnosis.json"):
        said = json.loads(path.read_text())
        for curve in ("train_loss", "val_loss"):
            if any(value is not None for value in said["curves"][curve]):
                found[curve] = said["logged_as"].get(curve, "")
    return found


def fit(module: Any, name: str, folder: Path, *, with_ours: bool) -> dict[str, Any]:
    """Fit one configuration in this process, and return what it left."""
    os.chdir(folder)  # for what a package writes beside itself
    torch.set_num_threads(1)
    module.pl.seed_everything(SEED, verbose=False)
    left: dict[str, Any] = {}
    record = recorder(module.pl, left)
    wall, cpu = time.perf_counter(), time.process_time()
    given: list[Any] = []
    if with_ours:
        import lightning_mods.callbacks as ours

        given = [getattr(ours, kind)() for kind in OURS]
    error = ""
    try:
        module.FITS[name]([*given, record], folder)
    except Exception as raised:  # noqa: BLE001  # whatever it is, it is a result
        error = f"{type(raised).__name__}: {raised}"
        traceback.print_exc()
    result = {"error": error, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, **left}
    result["validation_losses"] = validation_losses(left.get("logged", []))
    return result | ({"graphs": graphs(folder), "curves": curves(folder)} if with_ours else {})


def forked(module: Any, name: str, *, with_ours: bool, patience: float) -> dict[str, Any]:
    """Fit in a child of this process: imports are shared, nothing else is."""
    with tempfile.TemporaryDirectory() as held:
        folder, said, result = Path(held, "fit"), Path(held, "said"), Path(held, "result")
        folder.mkdir()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with said.open("w") as file:
                    for stream in (1, 2):
                        os.dup2(file.fileno(), stream)
                    result.write_text(json.dumps(fit(module, name, folder, with_ours=with_ours)))
                    sys.stdout.flush()
                    sys.stderr.flush()
                    status = 0
            finally:
                os._exit(status)
        end = time.monotonic() + patience
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(child, 9)
                end = float("inf")
            time.sleep(0.05)
        found = json.loads(result.read_text()) if result.exists() else {"error": "took too long, or died"}
        return found | {"said": said.read_text(errors="replace")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package")
    parser.add_argument("--only", nargs="*", default=[], help="configurations")
    parser.add_argument("--repeats", type=int, default=1, help="fits without and with, each")
    parser.add_argument("--patience", type=float, default=240.0, help="seconds for a fit")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    module = load(args.package)
    head = {"versions": module.versions, "distribution": module.DISTRIBUTION, "host": module.pl.__name__}
    print(json.dumps(head), flush=True)
    for name in args.only or module.FITS:
        runs: dict[str, Any] = {"bare": [], "ours": []}
        for _ in range(args.repeats):
            for kind, found in runs.items():
                found.append(forked(module, name, with_ours=kind == "ours", patience=args.patience))
        print(json.dumps({"name": name, **runs}), flush=True)


if __name__ == "__main__":
    main()
