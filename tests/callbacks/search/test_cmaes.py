import io
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from callbacks.search.cmaes import load_optimizer, make_cmaes


class Harmful:
    def __reduce__(self):
        return (eval, ("1/0",))


def test_a_pickle_of_a_strangers_in_the_place_of_an_optimizer_is_not_called():
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.eval"):
        load_optimizer(pickle.dumps(Harmful()))


@pytest.mark.parametrize("name", ["os.system", "numpy.load", "numpy.f2py.compile", "cmaes._cma.CMA.__init__"])
def test_nothing_but_optimizers_and_arrays_is_looked_up(name):
    module, _, attribute = name.rpartition(".")
    crafted = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, attribute)) + b"\x93."
    with pytest.raises(pickle.UnpicklingError, match="not opened"):
        load_optimizer(crafted)


def test_arrays_and_generators_come_back():
    kept = {"mean": np.arange(3.0), "rng": np.random.RandomState(3), "count": np.int64(4)}
    loaded = load_optimizer(pickle.dumps(kept))
    assert loaded["mean"].tolist() == [0, 1, 2]
    assert loaded["rng"].randint(1000) == np.random.RandomState(3).randint(1000)


def test_the_sampler_loads_what_trials_hold_by_this_door():
    pytest.importorskip("optuna")
    sampler = make_cmaes(warn_independent_sampling=False) if _has_cmaes() else None
    if sampler is None:
        from optuna.samplers import CmaEsSampler

        assert callable(CmaEsSampler._restore_optimizer)  # what is overridden is still there
        return
    trial = SimpleNamespace(system_attrs={f"{sampler._attr_key_optimizer}:0": pickle.dumps(Harmful()).hex()})
    with pytest.raises(pickle.UnpicklingError):
        sampler._restore_optimizer([trial])


def _has_cmaes():
    try:
        import cmaes  # noqa: F401
    except ImportError:
        return False
    return True


def test_what_is_no_pickle_is_an_error_of_its_own():
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        load_optimizer(io.BytesIO(b"abc").read())
