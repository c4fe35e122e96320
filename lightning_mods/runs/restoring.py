"""What a checkpoint's content must be like before anything is made of it, and one door for what it still spoils."""

import inspect
import json
import types
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from callbacks.host.lightning import MisconfigurationException
from callbacks.host.packages import Trainer
from datamodules import DataError, TabularDataModule
from datamodules.columns.calendar import CYCLES, DateColumn
from datamodules.columns.encoding import CategoryColumn, NumericColumn
from datamodules.learned import Learned
from lightning_mods.models.classifier import MLPClassifier
from lightning_mods.models.ensemble import MLPEnsemble
from lightning_mods.models.regressor import MLPRegressor
from lightning_mods.runs import RunError

# What stands where in a Lightning checkpoint; `*` is any key or place. What is not there is not asked for here.
_KINDS: dict[tuple[str, ...], type | tuple[type, ...]] = {
    ("state_dict",): Mapping,
    ("pytorch-lightning_version",): str,
    ("epoch",): int,
    ("global_step",): int,
    ("hyper_parameters",): Mapping,
    ("hyper_parameters", "settings", "*"): Mapping,
    ("datamodule_hyper_parameters",): Mapping,
    ("lightning_mods",): Mapping,
    ("lightning_mods", "time"): float,
    ("lightning_mods", "settings"): Mapping,
    ("lightning_mods", "recipe"): str,
    ("lightning_mods", "model"): str,
    ("lightning_mods", "data"): str,
    ("lightning_mods", "settings", "*"): str,
    ("loops",): (Mapping, type(None)),
    ("loops", "*"): Mapping,
    ("loops", "fit_loop", "epoch_progress", "current", "processed"): int,
    ("callbacks",): Mapping,
    ("callbacks", "*"): Mapping,
    ("optimizer_states",): Sequence,
    ("optimizer_states", "*"): Mapping,
    ("optimizer_states", "*", "state"): Mapping,
    ("optimizer_states", "*", "state", "*"): Mapping,
    ("optimizer_states", "*", "param_groups"): Sequence,
    ("optimizer_states", "*", "param_groups", "*"): Mapping,
    ("lr_schedulers",): Sequence,
    ("lr_schedulers", "*"): Mapping,
    ("TabularDataModule",): Mapping,
    ("mlp_module",): Mapping,
    ("mlp_module", "average"): Mapping,
    ("mlp_module", "average", "steps"): int,
    ("mlp_module", "average", "trained"): Mapping,
}
_OURS: dict[str, type] = {c.__name__: c for c in (MLPClassifier, MLPRegressor, MLPEnsemble)}
_MOST_VIEWED = 2**28  # bytes that a tensor may take beyond what the file holds for it


def broken_record(path: Path) -> str | None:
    """Return what of a checkpoint's archive is not as it was written, by its checksums; None for nothing.

    torch writes them and does not read them. A file that is no such archive is for the reader to refuse.
    """
    if not zipfile.is_zipfile(path):
        return None
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED or record.file_size > size:
                return record.filename
        return archive.testzip()


# ------------------------------------------------------------------ what it holds


def fault_of(checkpoint: Any) -> str | None:
    """Return what is wrong with a checkpoint's content, in words; None where nothing can be seen to be.

    Of our own classes all is asked that they would stumble over: settings, weights, what was learned of the table.
    """
    if not isinstance(checkpoint, Mapping) or not {"state_dict", "pytorch-lightning_version"} <= checkpoint.keys():
        return "it lacks `state_dict` or Lightning's version"
    for place, kind in _KINDS.items():
        if wrong := next(_unlike_kind(checkpoint, place, kind), None):
            return wrong
    for name, tensor in checkpoint["state_dict"].items():
        if not isinstance(name, str) or not (isinstance(tensor, Tensor) or name.endswith("_extra_state")):
            return f"`state_dict[{name!r}]` is no tensor"
        if isinstance(tensor, Tensor) and _is_stretched(tensor):
            return f"`state_dict[{name!r}]` is larger than what the file holds for it"
    if checkpoint.get("epoch", 0) < -1 or checkpoint.get("global_step", 0) < 0:  # -1: a study's ensemble
        return "it counts epochs or steps below zero"
    if not _counts(checkpoint.get("loops")):
        return "its loops lack the number of epochs"
    names = checkpoint.get("lightning_mods", {})
    return _fault_of_model(checkpoint, names.get("model")) or _fault_of_data(checkpoint, names.get("data"))


def _counts(loops: Any) -> bool:
    """Whether loops say how many epochs are done; saved weights-only, a checkpoint has none."""
    found = loops
    for key in ("fit_loop", "epoch_progress", "current", "processed"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return not loops or isinstance(found, int)


def _unlike_kind(value: Any, place: tuple[str, ...], kind: Any, said: str = "") -> Iterator[str]:
    if not place:
        is_counted = kind is int and isinstance(value, bool)
        is_text = kind is Sequence and isinstance(value, str)
        if not isinstance(value, kind) or is_counted or is_text:
            yield f"`{said}` is {_kind_of(value)}"
        return
    key, rest = place[0], place[1:]
    if key == "*":
        items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, Sequence) else ()
        for name, each in items:
            yield from _unlike_kind(each, rest, kind, f"{said}.{name}")
    elif isinstance(value, Mapping) and key in value:
        yield from _unlike_kind(value[key], rest, kind, f"{said}.{key}" if said else key)


def _kind_of(value: Any) -> str:
    return f"of type {type(value).__name__}"


def _is_stretched(tensor: Tensor) -> bool:
    """Whether a tensor shows a few numbers many times: a copy of it would need memory that no file asks for."""
    if tensor.layout is not torch.strided or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes() + _MOST_VIEWED


def _fault_of_model(checkpoint: Mapping[str, Any], name: Any) -> str | None:
    if name not in _OURS:
        return None
    try:
        with torch.device("meta"):  # no memory, whatever sizes it names
            model = _OURS[name](**_plain(checkpoint.get("hyper_parameters", {})))
    except Exception as error:  # noqa: BLE001  # nothing but the file's settings goes in
        return f"`hyper_parameters` are none of {name}: {first_line(error)}"
    average = checkpoint.get("mlp_module", {}).get("average")
    if average is not None:
        shapes = {key: tuple(tensor.shape) for key, tensor in model.named_parameters()}
        kept = {key: tuple(getattr(tensor, "shape", ())) for key, tensor in average.get("trained", {}).items()}
        if "steps" not in average or kept != shapes:
            return f"`mlp_module.average` is not of the weights of {name} with its settings"
    for key, tensor in model.state_dict().items():
        found = checkpoint["state_dict"].get(key)
        if found is None or found.shape != tensor.shape:
            shape = "missing" if found is None else f"of shape {tuple(found.shape)}"
            return f"`state_dict[{key!r}]` is {shape}, and {name} with its settings has {tuple(tensor.shape)}"
        if found.layout is not torch.strided or found.is_quantized or found.is_meta or found.is_complex():
            return f"`state_dict[{key!r}]` is {found.dtype} in layout {found.layout}, not plain numbers"
    return None


def _plain(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings, which have to be such as a file of them can hold; a TypeError or ValueError says what is not."""
    json.dumps(settings)
    return settings


def _fault_of_data(checkpoint: Mapping[str, Any], name: Any) -> str | None:
    if name != TabularDataModule.__name__:
        return None
    try:
        TabularDataModule(**_plain(checkpoint.get("datamodule_hyper_parameters", {})))
        learned = Learned.from_plain(checkpoint[name])
    except Exception as error:  # noqa: BLE001  # as above
        return f"what `{name}` keeps in it cannot be read: {first_line(error)}"
    wrong = next(_unlike_hints(learned), None)
    return wrong or next((f"`{name}`: {fault}" for fault in _faults_of_learned(learned)), None)


def _faults_of_learned(learned: Learned) -> Iterator[str]:
    if (
        {"train", "val", "test"} != learned.sizes.keys()
        or min(learned.sizes.values()) < 0
        or not learned.sizes["train"]
    ):
        yield "sizes must be rows of train, val and test"
    if learned.folds == 1 or not 0 <= learned.fold <= learned.folds:
        yield "folds must be 2 or more, and the one to validate on among them"
    shares = learned.val_fraction, learned.test_fraction
    if not all(0 <= share < 1 for share in shares) or sum(shares) >= 1:
        yield "shares of the rows must be in [0, 1)"
    if (learned.task == "classification") != (learned.class_names is not None):
        yield "a classification has class names, and nothing else has"
    if learned.class_names is not None and len(learned.class_counts or ()) != len(learned.class_names):
        yield "each class has a count"
    masses = learned.class_masses
    if masses is not None and (len(masses) != len(learned.class_names or ()) or not all(map(isfinite, masses))):
        yield "each class has a finite mass"
    if not 0 < learned.weight_mean < float("inf"):
        yield "the mean of the weights must be above 0"
    if learned.class_names is None and not isfinite(learned.target_mean or 0.0):
        yield "the mean of the target must be a finite number"
    if learned.class_names is None and not 0 < (learned.target_std or 0.0) < float("inf"):
        yield "the deviation of the target must be above 0"
    for column in learned.encoding.columns:
        if isinstance(column, NumericColumn):
            rising = all(a < b for a, b in zip(column.edges, column.edges[1:], strict=False))
            bins = max(len(column.edges) - 1, 0)
            if not (isfinite(column.mean) and 0 < column.scale < float("inf") and rising and bins != 1):
                yield f"column {column.name!r} has a mean, a scale or edges that cannot be"
            if len(column.bin_means) != bins or not all(map(isfinite, (*column.edges, *column.bin_means))):
                yield f"column {column.name!r} has means of bins that cannot be"
        elif isinstance(column, DateColumn):
            known = {*column.cycles} <= {*CYCLES} and len({*column.cycles}) == len(column.cycles)
            if not (isfinite(column.mean) and 0 < column.scale < float("inf") and known and column.feature_names):
                yield f"column {column.name!r} has a mean, a scale or cycles that cannot be"
        elif isinstance(column, CategoryColumn) and len(set(column.categories)) < len(column.categories):
            yield f"column {column.name!r} has a category twice"


def _unlike_hints(value: Any) -> Iterator[str]:
    """Yield the fields of a dataclass, and of those within, whose values are not of the types that it declares."""
    hints = get_type_hints(type(value))
    for each in fields(value):
        found = getattr(value, each.name)
        if not _is_of(found, hints[each.name]):
            yield f"`{type(value).__name__}.{each.name}` is {_kind_of(found)}"
        parts = found if isinstance(found, tuple) else (found,)
        for part in parts:
            if is_dataclass(part) and not isinstance(part, type):
                yield from _unlike_hints(part)


def _is_of(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_is_of(value, each) for each in inner)
    if origin is Literal:
        return value in inner if isinstance(value, str) else False
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of(each, inner[0]) for each in value)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_is_of(k, inner[0]) and _is_of(v, inner[1]) for k, v in value.items())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return True if hint is Any else isinstance(value, hint)


def check_weights(model: nn.Module, checkpoint: Mapping[str, Any], path: Path | None) -> None:
    """Raise a RunError if a weight that is trained is NaN or infinite: whatever came of it would be worthless.

    Buffers, and weights that nothing trains, may mean something by it.
    """
    weights = checkpoint["state_dict"]
    trained = {name: weights.get(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    lost = [name for name, found in trained.items() if isinstance(found, Tensor) and not torch.isfinite(found).all()]
    if lost:
        where = f"{lost[0]!r}{f' and {len(lost) - 1} more' if len(lost) > 1 else ''}"
        raise RunError(
            f"{path} holds weights that are NaN or infinite, in {where}: its fit diverged; an earlier "
            "checkpoint may do."
        )


# ------------------------------------------------------------------ what it is restored into


class StateError(RunError):
    """Says which state in a checkpoint is unlike what it should be restored into; `restoring` names the file."""


_ASKED = ("callbacks.", "lightning_mods.", "pytorch_lightning.", "lightning.")


def check_states(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Raise a StateError where what a fit restores is unlike what it has now: counts of its loops, states of callbacks.

    Only callbacks of ours and of Lightning's are asked: those of others may keep what they like.
    """
    loops = checkpoint.get("loops")
    if loops is not None:
        _refuse_unlike(trainer.fit_loop.state_dict(), loops.get("fit_loop"), "loops.fit_loop", least=0)
    kept = checkpoint.get("callbacks", {})
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # a connector's
        known = type(callback).__module__.startswith(_ASKED)
        if known and callback.state_key in kept:
            _refuse_unlike(callback.state_dict(), kept[callback.state_key], f"callbacks.{callback.state_key}")


def check_optimizers(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Raise a StateError where the states of optimizers and schedules are none of those that the fit has made."""
    for number, (optimizer, kept) in enumerate(
        zip(trainer.optimizers, checkpoint.get("optimizer_states", ()), strict=False)
    ):
        where, groups = f"optimizer_states.{number}", optimizer.param_groups
        found = kept.get("param_groups", ())
        if len(found) != len(groups):
            raise StateError(f"`{where}` has {len(found)} groups of parameters, the optimizer has {len(groups)}.")
        for own, group in zip(groups, found, strict=True):
            places = group.get("params")
            if not isinstance(places, list) or len(places) != len(own["params"]):
                raise StateError(f"`{where}` is of an optimizer with other parameters.")
            _refuse_unlike({k: v for k, v in own.items() if k in optimizer.defaults}, group, where)
            for parameter, place in zip(own["params"], places, strict=True):
                _refuse_unlike_state(optimizer, parameter, kept.get("state", {}).get(place), where)
    for number, (config, kept) in enumerate(
        zip(trainer.lr_scheduler_configs, checkpoint.get("lr_schedulers", ()), strict=False)
    ):
        _refuse_unlike(config.scheduler.state_dict(), kept, f"lr_schedulers.{number}")


def _refuse_unlike_state(optimizer: Optimizer, parameter: Tensor, found: Any, where: str) -> None:
    model = _state_of(optimizer) if found else {}
    for name, value in model.items():
        there = found.get(name)
        if isinstance(value, Tensor):
            shape = parameter.shape if value.shape == _DUMMY else value.shape
            fits = isinstance(there, Tensor) and there.shape == shape and there.layout is torch.strided
            if not fits and not (value.ndim == 0 and isinstance(there, Real)):
                raise StateError(
                    f"`{where}` holds a `{name}` that fits no parameter of shape {tuple(parameter.shape)}."
                )
        elif name not in found:
            raise StateError(f"`{where}` lacks `{name}`.")


_DUMMY = torch.Size([2, 3])


def _state_of(optimizer: Optimizer) -> dict[str, Any]:
    """Return what an optimizer of torch's keeps of a parameter after a step; nothing where that cannot be seen."""
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim.") or kind.__name__ in ("LBFGS", "Adafactor", "Muon", "SparseAdam"):
        return {}
    known = inspect.signature(kind).parameters
    group = optimizer.param_groups[0]
    dummy = nn.Parameter(torch.ones(_DUMMY))
    dummy.grad = torch.ones(_DUMMY)
    twin = kind([dummy], **{name: group[name] for name in optimizer.defaults if name in known and name in group})
    twin.step()
    return dict(twin.state[dummy])


def _refuse_unlike(now: Any, found: Any, where: str, *, least: float | None = None) -> None:
    """Raise a StateError where a value that is kept is of another kind than the one in its place now.

    None says nothing of its kind; a tensor may be a number; more keys, or fewer, are another version's.
    """
    if isinstance(now, Mapping):
        if not isinstance(found, Mapping):
            raise StateError(f"`{where}` is {_kind_of(found)}.")
        for key in now:
            if key in found:
                _refuse_unlike(now[key], found[key], f"{where}.{key}", least=least)
    elif isinstance(now, list | tuple):
        if not isinstance(found, list | tuple):
            raise StateError(f"`{where}` is {_kind_of(found)}.")
        for one, other in zip(now, found, strict=False):
            _refuse_unlike(one, other, where, least=least)
    elif isinstance(now, str):
        if not isinstance(found, str | None):
            raise StateError(f"`{where}` is {_kind_of(found)}.")
    elif isinstance(now, Tensor) and now.ndim:
        if not isinstance(found, Tensor) or found.shape != now.shape or found.dtype != now.dtype:
            raise StateError(f"`{where}` is no tensor of {now.dtype} in the shape {tuple(now.shape)}.")
    elif isinstance(now, Real | Tensor):
        single = isinstance(found, Real) or (
            isinstance(found, Tensor) and found.numel() == 1 and not (found.is_complex() or found.dtype is torch.bool)
        )
        if not single or (least is not None and isinstance(found, Real) and found < least):
            raise StateError(f"`{where}` is {found if isinstance(found, Real) else _kind_of(found)}.")


# ------------------------------------------------------------------ the door


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Name the file in whatever Lightning comes upon while it restores states from it, and in a StateError.

    What is raised elsewhere is none of the file's doing, and passes.
    """
    try:
        yield
    except StateError as error:
        raise RunError(f"{path}: {error}") from error
    except (
        RunError,
        DataError,
        MisconfigurationException,
    ):  # what a person asked for does not suit the data, or the loops
        raise
    except Exception as error:
        if path is None or not _is_of_restoring(error):
            raise
        raise not_restored(path, error) from error


def not_restored(path: Path, error: BaseException) -> RunError:
    """Return what a person is told of a checkpoint whose states fit nothing here."""
    return RunError(f"{path} cannot be restored: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """Return the gist of a library's error: torch says in the second line which weights do not fit."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[1] if len(lines) > 1 and lines[0].endswith(":") else (lines or [""])[0]
    return f"{type(error).__name__}: {said[:200]}"


def _is_of_restoring(error: BaseException) -> bool:
    # Lightning restores everything in one file of its own: no public name says where an error came from.
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.endswith("checkpoint_connector.py"):
            return True
        trace = trace.tb_next
    return False
