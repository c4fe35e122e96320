"""Kills fits: in their start, in an epoch, while a checkpoint is written, just after they went on."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.kills.processes import finish, killed

_SIZE = ("--data.path=digits", "--model.hidden_sizes=[32,32]", "--trainer.default_root_dir=.")
_EPOCHS = 8
_PLAIN = ("--recipe=plain", f"--trainer.max_epochs={_EPOCHS}", "--data.batch_size=8")
_ADAMW = ("--optimizer=AdamW", "--optimizer.lr=0.001")
SETTINGS: dict[str, tuple[str, ...]] = {
    "default recipe": ("--trainer.max_epochs=16", "--data.batch_size=16"),
    "default recipe, dropout": ("--trainer.max_epochs=10", "--data.batch_size=8", "--model.dropout=0.2"),
    "default recipe, ensemble of 3": ("--trainer.max_epochs=8", "--data.batch_size=8", "--ensemble=3"),
    "AdamW": (*_PLAIN, *_ADAMW, "--model.dropout=0.1"),
    "AdamW, a rate by the step": (
        *(*_PLAIN, *_ADAMW, "--lr_scheduler=StepLR", "--lr_scheduler.step_size=2"),
        "--steps_per_execution=1",
    ),
    "averages of the weights": (*_PLAIN, "--model.ema_epochs=2", "--model.lr=0.05"),
    "cosine": (*_PLAIN, "--model.lr_schedule=cosine", "--model.lr=0.05", "--model.nesterov=true"),
    "plateau": (
        *(*_PLAIN, "--lr_scheduler=ReduceLROnPlateau", "--lr_scheduler.monitor=val_loss"),
        "--lr_scheduler.patience=0",
    ),
    "checkpoints within an epoch": (
        *(*_PLAIN, "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=79"),
        "--trainer.callbacks.save_last=true",
    ),
}
MOMENTS = ("start", "epoch", "write", "resume")
_STATE = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers")


@dataclass
class FitKills:
    """Counts what was done to the fits of one setting, and what came of it."""

    setting: str
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MOMENTS, 0))
    halves: int = 0  # kills that left half a checkpoint behind
    fits: int = 0
    exact: int = 0
    wrong: list[str] = field(default_factory=list)


def kill_fits(setting: str, kills: int, draw: random.Random, folder: Path) -> FitKills:
    """Kill a fit again and again, let it end, and compare all that it left with one that was left alone."""
    done, flags = FitKills(setting), (*_SIZE, *SETTINGS[setting])
    began = time.monotonic()
    finish("fit", flags, folder / "whole")
    seconds = time.monotonic() - began
    while sum(done.kills.values()) < kills:
        here = folder / f"killed{done.fits}"
        again = flags
        for _ in range(draw.randint(3, 6)):
            kind = draw.choice(MOMENTS)
            moment, pause = _moment(kind, here, seconds, draw)
            done.kills[kind] += killed("fit", again, here, moment, pause)
            done.halves += len(list(here.glob("lightning_logs/*/checkpoints/.*.partial")))
            again = (*flags, "--ckpt_path=last")
            if sum(done.kills.values()) >= kills:
                break
        finish("fit", again, here)
        done.fits += 1
        wrong = _differences(folder / "whole", here, within_epochs="every_n_train_steps" in " ".join(flags))
        done.exact += not wrong
        done.wrong += wrong
    return done


def _moment(kind: str, folder: Path, seconds: float, draw: random.Random) -> tuple[Callable[[], bool], float]:
    """Return what to wait for, and how many seconds from then on to wait."""
    configs, checkpoints = "lightning_logs/*/config.yaml", "lightning_logs/*/checkpoints"
    before = {path: path.stat().st_mtime_ns for path in folder.glob(configs)}

    def has_begun() -> bool:
        return any(before.get(path) != path.stat().st_mtime_ns for path in folder.glob(configs))

    def is_writing() -> bool:
        return any(True for each in folder.glob(checkpoints) for _ in each.glob(".*.partial"))

    if kind == "start":
        return (lambda: True), draw.uniform(0.05, 1.5)
    if kind == "epoch":
        return has_begun, draw.uniform(0.05, max(0.3, seconds / 4))
    if kind == "write":
        skip = draw.uniform(0.0, seconds / 4)
        since: list[float] = []

        def later() -> bool:
            since.extend([time.monotonic()] if not since and has_begun() else [])
            return bool(since) and time.monotonic() - since[0] > skip and is_writing()

        return later, 0.0
    return has_begun, draw.uniform(0.0, 0.05)


def _differences(whole: Path, killed_fit: Path, *, within_epochs: bool) -> list[str]:
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (_latest(folder, name) for folder in (whole, killed_fit))
        if one is not None or other is not None:
            found += [f"{killed_fit}: {name}: {each}" for each in _unlike(_states(one), _states(other))]
    curves = [_curves(folder) for folder in (whole, killed_fit)]
    if within_epochs:  # an epoch that was entered in its middle logs the training loss of the rest
        # Where only such checkpoints are, each end evaluates the weights once more, beyond the last epoch.
        curves = [{"val_loss": [pair for pair in each["val_loss"] if pair[0] < _EPOCHS]} for each in curves]
    if curves[0] != curves[1]:
        tags = [tag for tag in curves[0] if curves[0][tag] != curves[1].get(tag)]
        found.append(f"{killed_fit}: curves of {tags}")
    return found


def _states(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    return {key: value for key, value in torch.load(path, weights_only=True).items() if key in _STATE}


def _latest(folder: Path, name: str) -> Path | None:
    found = folder.glob(f"lightning_logs/version_*/checkpoints/{name}")
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _unlike(one: Any, other: Any, where: str = "") -> list[str]:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [where]
        return [each for key in one for each in _unlike(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return [where]
        return [
            each for i, (a, b) in enumerate(zip(one, other, strict=True)) for each in _unlike(a, b, f"{where}[{i}]")
        ]
    return [] if one == other else [where]


def _curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    runs = sorted(folder.glob("lightning_logs/version_*/config.yaml"), key=lambda path: path.stat().st_mtime_ns)
    events = EventAccumulator(str(runs[-1].parent), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag in ("train_loss", "val_loss", "lr")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
