"""Optuna's CMA-ES sampler, which keeps its optimizer in the storage as a pickle: loaded as plain arrays alone.

It goes through a method of Optuna's that is its own, tried on 5.0.0. Where that is gone the sampler is Optuna's.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

# What a pickle of the package `cmaes` is made of: the optimizer and arrays of NumPy. None of it runs what a file says.
_CMAES = {("cmaes._cma", "CMA"), ("cmaes._sepcma", "SepCMA"), ("cmaes._cmawm", "CMAwM")}
_ARRAYS = {("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.random._mt19937", "MT19937")}
_ARRAYS |= {(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")}
_ARRAYS |= {(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
_ARRAYS |= {("numpy.random._pickle", f"__{name}_ctor") for name in ("randomstate", "bit_generator", "generator")}


class _Optimizers(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _CMAES | _ARRAYS:
            raise pickle.UnpicklingError(
                f"The study holds {module_name}.{global_name} in the place of CMA-ES; it is not opened."
            )
        return super().find_class(module_name, global_name)


def load_optimizer(content: bytes) -> Any:
    """Load the optimizer that Optuna's CMA-ES keeps as a pickle; an UnpicklingError names what is none."""
    return _Optimizers(io.BytesIO(content)).load()


def make_cmaes(**options: Any) -> BaseSampler:
    """Make Optuna's CMA-ES sampler; by itself it would call whatever a study holds in the place of its optimizer."""
    from optuna.samplers import CmaEsSampler

    class Sampler(CmaEsSampler):
        def _restore_optimizer(self, completed_trials: Sequence[FrozenTrial]) -> Any:
            for trial in reversed(completed_trials):
                kept = {k: v for k, v in trial.system_attrs.items() if k.startswith(self._attr_key_optimizer)}
                if kept:
                    return load_optimizer(bytes.fromhex(self._concat_optimizer_attrs(kept)))
            return None

    return Sampler(**options)
