"""torchgeo: its tasks, without downloaded weights, on images made here."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader
from torchgeo import trainers

from benchmarks.foreign.data import trainer_arguments

DISTRIBUTION = "torchgeo"


def samples(count: int, channels: int, **targets: Callable[[torch.Tensor], torch.Tensor]) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(count)
    images = [torch.randn(channels, 32, 32, generator=draw) for _ in range(count)]
    return [{"image": image} | {name: made(image) for name, made in targets.items()} for image in images]


def label(image: torch.Tensor) -> torch.Tensor:
    return (image.mean() > 0).long()


def mask(image: torch.Tensor) -> torch.Tensor:
    return (image[0] > 0).long()


def fit(kind: str, hyper: dict[str, Any], targets: dict[str, Any], callbacks: list[Any], folder: Path) -> None:
    task = getattr(trainers, kind)(**hyper)
    if not targets:
        task.monitor = "train_loss"  # it has no validation, and its scheduler would wait for one
    channels = hyper.get("in_channels", 3)
    loaders = [
        DataLoader(samples(count, channels, **targets), batch_size=8, shuffle=bool(count % 16 == 0))
        for count in ((48, 16) if targets else (16, 8))
    ]
    pl.Trainer(**trainer_arguments(pl, callbacks, folder, epochs=2)).fit(task, *loaders)


RESNET = {"model": "resnet18", "in_channels": 3}
UNET = {"model": "unet", "backbone": "resnet18"}
FITS = {
    "ClassificationTask": partial(fit, "ClassificationTask", RESNET | {"num_classes": 2}, {"label": label}),
    "ClassificationTask-frozen": partial(
        fit, "ClassificationTask", RESNET | {"num_classes": 2, "freeze_backbone": True}, {"label": label}
    ),
    "RegressionTask": partial(fit, "RegressionTask", RESNET, {"label": torch.mean}),
    "SemanticSegmentationTask": partial(fit, "SemanticSegmentationTask", UNET | {"num_classes": 2}, {"mask": mask}),
    "SemanticSegmentationTask-fcn": partial(
        fit, "SemanticSegmentationTask", {"model": "fcn", "num_classes": 2, "num_filters": 8}, {"mask": mask}
    ),
    "PixelwiseRegressionTask": partial(fit, "PixelwiseRegressionTask", UNET, {"mask": lambda image: image[0].abs()}),
    "BYOLTask": partial(fit, "BYOLTask", RESNET, {}),
    "SimCLRTask": partial(fit, "SimCLRTask", RESNET | {"size": 32, "lr": 0.01, "memory_bank_size": 0}, {}),
    "MoCoTask": partial(fit, "MoCoTask", RESNET | {"size": 32, "lr": 0.01}, {}),
}
