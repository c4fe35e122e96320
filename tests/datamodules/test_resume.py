"""With a real Trainer: interrupted and resumed equals uninterrupted, bit for bit, wherever it was interrupted."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy

from datamodules import DataError, TabularDataModule

pytestmark = [
    # two cores and a table in memory: worker processes would only cost
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Lightning 2.6.6 asks torch 2.13 in its old way
    pytest.mark.filterwarnings("ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning"),
    # the callback that saved has nothing to resume
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    # a fit of few batches logs once an epoch all the same
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


class Net(pl.LightningModule):
    """A linear classifier that writes down every batch it sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 3)
        self.dropout = torch.nn.Dropout(0.0)
        self.seen: list[tuple[int, list[float]]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch[0].sum(1).tolist()))
        return cross_entropy(self.layer(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", cross_entropy(self.layer(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("rows", float(len(batch[1])), reduce_fx="sum")

    def predict_step(self, batch, batch_idx):
        return self.layer(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def trainer(**kwargs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**{**quiet, "max_epochs": 2, "enable_checkpointing": "callbacks" in kwargs, **kwargs})


def data(**kwargs):
    return TabularDataModule(**{"path": "iris", "batch_size": 16, **kwargs})  # 106 training rows: 7 batches


@pytest.mark.parametrize(
    ("saving", "training"),
    [
        ({"every_n_train_steps": 1}, {}),
        ({"every_n_train_steps": 3}, {"val_check_interval": 0.5}),
        ({"every_n_epochs": 1}, {}),
        ({"every_n_epochs": 1, "save_on_train_epoch_end": False}, {"val_check_interval": 0.5}),
        ({"every_n_epochs": 1, "save_on_train_epoch_end": False}, {}),
        ({"every_n_train_steps": 2}, {"limit_train_batches": 5}),
        ({"every_n_train_steps": 2}, {"max_steps": 12, "max_epochs": -1}),
        ({"every_n_train_steps": 2}, {"accumulate_grad_batches": 2}),
    ],
    ids=lambda kwargs: ",".join(f"{k}={v}" for k, v in kwargs.items()) or "plain",
)
def test_a_resumed_fit_goes_on_with_the_batches_that_were_left(tmp_path, saving, training):
    straight = Net()
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}-{step}", **saving)
    trainer(callbacks=[keep], **training).fit(straight, datamodule=data())
    checkpoints = sorted(tmp_path.glob("*.ckpt"), key=lambda p: p.stat().st_mtime_ns)
    assert len(checkpoints) > 1
    for path in checkpoints:
        resumed = Net()
        trainer(**training).fit(resumed, datamodule=data(), ckpt_path=path)
        assert resumed.seen == straight.seen[len(straight.seen) - len(resumed.seen) :]
        assert torch.equal(resumed.layer.weight, straight.layer.weight)
        steps = torch.load(path, weights_only=True)["global_step"]
        done = 7 * (steps // 4) + 2 * (steps % 4) if "accumulate_grad_batches" in training else steps
        assert len(resumed.seen) == len(straight.seen) - done


def test_an_exception_in_the_middle_of_an_epoch_loses_no_batch(tmp_path):
    class Dies(pl.Callback):
        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == 10:
                raise ConnectionError

    straight, dying, resumed = Net(), Net(), Net()
    trainer().fit(straight, datamodule=data())
    keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=10)
    with pytest.raises(ConnectionError):
        trainer(callbacks=[keep, Dies()]).fit(dying, datamodule=data())
    trainer().fit(resumed, datamodule=data(), ckpt_path=tmp_path / "last.ckpt")
    assert dying.seen + resumed.seen == straight.seen
    assert len(dying.seen) == 10


def test_every_epoch_has_another_order_and_all_rows():
    net = Net()
    trainer().fit(net, datamodule=data())
    epochs = [[v for e, rows in net.seen if e == epoch for v in rows] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def test_a_resumed_fit_follows_the_checkpoints_seed_and_split(tmp_path):
    straight, resumed = Net(), Net()
    keep = ModelCheckpoint(tmp_path, filename="one", every_n_epochs=1, save_top_k=1, monitor=None)
    trainer(max_epochs=1, callbacks=[keep]).fit(Net(), datamodule=data(seed=5))
    trainer().fit(straight, datamodule=data(seed=5))
    trainer().fit(resumed, datamodule=data(seed=6), ckpt_path=tmp_path / "one.ckpt")
    assert torch.equal(resumed.layer.weight, straight.layer.weight)


def test_a_table_that_changed_stops_the_resume(tmp_path, write):
    text = "a,b,c,d,y\n" + "".join(f"{i % 7},{i % 5}.5,{i % 11},{i % 3},{'pqr'[i % 3]}\n" for i in range(150))
    kwargs = {"path": write("t.csv", text), "target": "y"}
    keep = ModelCheckpoint(tmp_path / "kept", filename="one")
    trainer(max_epochs=1, callbacks=[keep]).fit(Net(), datamodule=data(**kwargs))
    write("t.csv", text + "1,1,1,1,p\n")
    with pytest.raises(DataError, match="has changed: the checkpoint was trained when it had 150 rows, now it has 151"):
        trainer().fit(Net(), datamodule=data(**kwargs), ckpt_path=tmp_path / "kept" / "one.ckpt")


def test_a_data_module_loads_from_a_checkpoint_and_predicts_every_row_in_order(tmp_path, write):
    net = Net()
    keep = ModelCheckpoint(tmp_path, filename="one")
    dm = data()
    trainer(max_epochs=1, callbacks=[keep]).fit(net, datamodule=dm)
    header = ",".join(name for name in dm.feature_names)
    path = write("p.csv", header + "\n" + "".join(f"{4 + i % 3},{3 + i % 2},{i % 7},{i % 2}\n" for i in range(5000)))
    loaded = TabularDataModule.load_from_checkpoint(tmp_path / "one.ckpt", predict_path=path, weights_only=True)
    assert loaded.learned == dm.learned
    predictions = trainer().predict(net, datamodule=loaded)
    assert len(predictions) == 2
    x = torch.cat([*loaded.predict_dataloader()])
    torch.testing.assert_close(torch.cat(predictions), net.layer(x).detach())


# what Lightning says of a stage without rows
@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
@pytest.mark.parametrize("kwargs", [{}, {"val_fraction": 0.0}, {"test_fraction": 0.0}])
def test_validate_and_test_see_each_row_once_or_do_nothing_without_rows(kwargs):
    net, dm = Net(), data(**kwargs)
    run = trainer(max_epochs=1)
    run.fit(net, datamodule=dm)
    assert bool(run.validate(net, datamodule=dm, verbose=False)) == ("val_fraction" not in kwargs)
    found = run.test(net, datamodule=dm, verbose=False)
    assert found == ([] if "test_fraction" in kwargs else [{"rows": 22.0}])


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_a_fit_without_validation_rows_trains_on_the_more():
    net = Net()
    trainer(max_epochs=1).fit(net, datamodule=data(val_fraction=0.0))
    assert len(net.seen) == 8


# Lightning says that it turns shuffling off, which is what was asked for
@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize(
    "kwargs",
    [
        {"overfit_batches": 2},
        {"fast_dev_run": True},
        {"limit_train_batches": 2, "limit_val_batches": 1},
        {"reload_dataloaders_every_n_epochs": 1},
        {"limit_train_batches": 0.5},
        {"use_distributed_sampler": False},
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
def test_the_loaders_bear_what_a_trainer_does_to_them(kwargs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = Net()
    trainer(**kwargs).fit(net, datamodule=data())
    assert net.seen
    assert list(Path(tmp_path).glob("*.ckpt")) == []
