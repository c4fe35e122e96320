"""What a fit that goes on may not change: what its checkpoint holds would be in force, and something else recorded."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callbacks.host.packages import LightningDataModule, LightningModule
from datamodules import TabularDataModule
from datamodules.learned import Learned
from lightning_mods.runs import RunError

# Arguments of the data module that are in force as they are given now, and bear on no row's share.
_FREE = ("batch_size", "memory_map", "predict_path")
_HELD_OUT = ("val_path", "test_path")  # another file for one is read; with none a share of the table is held out
_MISSING = object()


class ResumeCheck:
    """Compares a fit, as it was asked for, with the checkpoint from which it goes on; what differs is a RunError.

    Args:
        path: Of the checkpoint.
        checkpoint: Its content.
        ours: The classes that are known here, whose settings a checkpoint can restore.
    """

    def __init__(self, path: Path, checkpoint: Mapping[str, Any], ours: Mapping[str, type]) -> None:
        self._path = path
        names = checkpoint.get("lightning_mods", {})
        self._classes = {section: ours[names[section]] for section in ("model", "data") if names.get(section) in ours}
        self._recipe = names.get("recipe", "plain")
        self._settings: Mapping[str, str] = names.get("settings", {})
        self._hparams = {
            "model": _of_member(checkpoint.get("hyper_parameters", {})),
            "data": checkpoint.get("datamodule_hyper_parameters", {}),
        }
        states = checkpoint.get("callbacks", {}).values()
        # What a search found takes the place of what was typed, then as now.
        self._found = {name for state in states if isinstance(state, dict) for name in state.get("found") or ()}
        state = checkpoint.get(TabularDataModule.__qualname__)
        self._learned = Learned.from_plain(state) if state else None

    def settings(self, now: Mapping[str, str], recipe: str) -> None:
        """Compare the recipe, the seed, the optimizer and the schedule of the learning rate, by flag."""
        if recipe != self._recipe and self._classes:
            self._refuse("recipe", recipe, self._recipe)
        then = self._settings
        # An argument that only one of two versions of a library has is no flag of the user's.
        known = {*now} & {*then} | {"optimizer", "lr_scheduler"}
        for flag in sorted(known) if then else ():
            if now.get(flag) != then.get(flag):
                self._refuse(flag, now.get(flag), then.get(flag))

    def model(self, model: LightningModule) -> None:
        """Compare a model's hyperparameters; one that is not ours is built as it is asked for now."""
        now, then = _of_member(model.hparams), self._hparams["model"]
        if self._classes.get("model") is type(model):
            for name in now:
                before = then.get(name, _default(model, name))
                if not _same(now[name], before) and name not in self._found:
                    self._refuse(f"model.{name}", now[name], before)

    def data(self, data: LightningDataModule | None) -> None:
        """Compare the data module's arguments that bear on which rows are trained on, and how they are encoded."""
        if not isinstance(data, TabularDataModule) or self._classes.get("data") is not type(data):
            return
        now, then = data.hparams, self._hparams["data"]
        for name in now:
            before = then.get(name, _default(data, name))
            if name in _FREE or name in self._found or _same(now[name], before):
                continue
            if name in _HELD_OUT and None not in (now[name], before):
                continue
            if self._learned is not None and self._is_meant(name, now[name], data):
                continue
            self._refuse(f"data.{name}", now[name], before)

    def _is_meant(self, name: str, value: Any, data: TabularDataModule) -> bool:
        """Whether a value says what the checkpoint learned: of a path, that the same table stands there."""
        assert self._learned is not None
        if name == "path":
            twin = TabularDataModule(**{**data.hparams, "seed": self._learned.seed})
            return bool(twin.learned == self._learned)
        return _same(getattr(self._learned, name, _MISSING), value)

    def _refuse(self, flag: str, now: Any, before: Any) -> None:
        how = "give the same to go on with it, or leave --ckpt_path out to begin another run"
        given = f"no --{flag}" if now is None else f"--{flag}={_text(now)}"
        raise RunError(f"{given} does not fit {self._path}, trained with {_text(before)}; {how}.")


def _of_member(hparams: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the hyperparameters of a model, of an ensemble those of its members with their number."""
    members = hparams.get("settings")
    if "member" not in hparams or not members:
        return hparams
    return {**members[0], "ensemble": len(members)}


def _default(holder: object, name: str) -> Any:
    """Return what an argument is where a checkpoint is older than it."""
    found = inspect.signature(type(holder)).parameters.get(name)
    return None if found is None or found.default is found.empty else found.default


def _same(one: Any, other: Any) -> bool:
    return bool(_plain(one) == _plain(other))


def _plain(value: Any) -> Any:
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, int | float):
        return float(value)
    return json.dumps(value, default=str)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value, default=str)
