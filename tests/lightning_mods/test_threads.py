from types import SimpleNamespace

import pytest
import torch

from lightning_mods import MLPRegressor
from lightning_mods.threads import limit_threads


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trainer(device="cpu"):
    return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))


@pytest.mark.parametrize(
    ("model", "rows", "device", "threads"),
    [
        (MLPRegressor(4), 32, "cpu", 1),
        (MLPRegressor(4, hidden_sizes=[1024, 1024]), 1024, "cpu", 2),
        (MLPRegressor(4), 32, "cuda", 2),
        (MLPRegressor(4), None, "cpu", 2),
        (torch.nn.Linear(2, 2), 32, "cpu", 2),
    ],
)
def test_small_steps_of_an_mlp_on_the_cpu_get_one_thread(two_threads, model, rows, device, threads):
    limit_threads(trainer(device), model, rows)
    assert torch.get_num_threads() == threads


def test_the_environment_has_the_last_word(two_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    limit_threads(trainer(), MLPRegressor(4), 32)
    assert torch.get_num_threads() == 2
