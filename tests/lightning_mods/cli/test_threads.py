from types import SimpleNamespace
from typing import ClassVar

import pytest
import pytorch_lightning as pl
import torch

from lightning_mods import MLPRegressor, fit
from lightning_mods.cli import verbs as threads
from lightning_mods.cli.verbs import limit_threads


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
    limit_threads(trainer(device), model, SimpleNamespace(resolved_batch_size=rows))
    assert torch.get_num_threads() == threads


def test_the_environment_has_the_last_word(two_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    limit_threads(trainer(), MLPRegressor(4), SimpleNamespace(resolved_batch_size=32))
    assert torch.get_num_threads() == 2


class Threads(pl.Callback):
    """Notes how many threads each fit trains with, those of trials left out."""

    seen: ClassVar[list[int]] = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.seen.append(torch.get_num_threads())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning's CLI calls names that jsonargparse will drop
@pytest.mark.parametrize(("given", "found", "expected"), [(8, 32, 2), (32, 8, 1)])
def test_a_fit_after_a_search_has_the_threads_of_the_fit_by_hand(
    given, found, expected, two_threads, tmp_path, monkeypatch
):
    monkeypatch.setattr(Threads, "seen", [])
    flags = [
        "--recipe=plain",
        "--data.path=iris",
        "--trainer.max_epochs=1",
        "--model.hidden_sizes=[64]",
        "--model.lr=0.1",
    ]
    flags += [f"--trainer.callbacks+={__name__}.Threads"]
    monkeypatch.setattr(threads, "SMALL_STEP", 6 * (4 * 64 + 64 + 64 * 3 + 3) * 16)
    search = ["OptunaSearch", "--trainer.callbacks.n_trials=1", f"--trainer.callbacks.batch_size=[{found}]"]
    searching = [f"--data.batch_size={given}", "--trainer.callbacks+=" + search[0], *search[1:]]
    fit.main([*flags, *searching, "--trainer.callbacks.lr=[0.1]", f"--trainer.default_root_dir={tmp_path / 'a'}"])
    torch.set_num_threads(2)
    fit.main([*flags, f"--data.batch_size={found}", f"--trainer.default_root_dir={tmp_path / 'b'}"])
    assert Threads.seen == [expected, expected]
    one, other = (torch.load(path, weights_only=True)["state_dict"] for path in sorted(tmp_path.rglob("last.ckpt")))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
