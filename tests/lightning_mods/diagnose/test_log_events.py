import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from lightning_mods.diagnose.command import find_logs, read_log
from lightning_mods.diagnose.formats import LogError

TRAIN = [1.0, 0.5, 0.25, 0.125, 0.0625]
VAL = [1.5, 1.0, 0.75, 0.875, 1.0]


class Tiny(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, index):
        loss = self.layer(batch[0]).square().mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        self.log("val_loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_run_of_lightning_reads_the_same_from_both_loggers(tmp_path):
    rows = torch.randn(24, 2, generator=torch.Generator().manual_seed(0))
    data = DataLoader(TensorDataset(rows), batch_size=4)
    loggers = [CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="board")]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=6, accelerator="cpu", logger=loggers, log_every_n_steps=2, **quiet)
    trainer.fit(Tiny(), data, data)
    table, events = find_logs([str(tmp_path / "csv"), str(tmp_path / "board")])
    assert table.name == "metrics.csv"
    first, second = read_log(table), read_log(events)
    assert len(first.curves.val) == 6
    assert None not in first.curves.val + first.curves.train
    assert first.columns.train == second.columns.train == ("train_loss_epoch",)
    assert second.curves.train == pytest.approx(first.curves.train)
    assert second.curves.val == pytest.approx(first.curves.val)
    assert (second.columns.epoch, second.curves.unit) == ("epoch", "epoch")


def write(folder, scalars):
    with SummaryWriter(folder) as writer:
        for tag, values in scalars.items():
            for step, value in enumerate(values):
                writer.add_scalar(tag, value, step)


def test_an_event_file_of_a_loop_without_epochs_is_read(tmp_path):
    write(tmp_path, {"Loss/train": TRAIN, "Loss/val": VAL})
    (file,) = tmp_path.iterdir()
    for path in (tmp_path, file):
        log = read_log(path)
        assert (log.curves.train, log.curves.val) == (TRAIN, VAL)
        assert log.columns.step == "step"


@pytest.mark.parametrize("names", [("train", "validation"), ("Loss_train", "Loss_val")])
def test_stages_in_folders_of_their_own_are_one_run(tmp_path, names):
    for name, values in zip(names, (TRAIN, VAL), strict=True):
        write(tmp_path / "run" / name, {"epoch_loss": values})
    write(tmp_path / "other", {"train_loss": TRAIN, "val_loss": VAL})
    assert list(find_logs([str(tmp_path)])) == [tmp_path / "other", tmp_path / "run"]
    log = read_log(tmp_path / "run")
    assert (log.curves.train, log.curves.val) == (TRAIN, VAL)


def test_scalars_that_tensorflow_wrote_as_tensors_are_read(tmp_path):
    for name, values in {"train": TRAIN, "validation": VAL}.items():
        writer = EventFileWriter(str(tmp_path / name))
        for step, number in enumerate(values):
            value = Summary.Value(tag="epoch_loss", tensor=make_tensor_proto(number, dtype="float32"))
            writer.add_event(Event(step=step, wall_time=step, summary=Summary(value=[value])))
        writer.close()
    log = read_log(tmp_path)
    assert (log.curves.train, log.curves.val) == (TRAIN, VAL)


@pytest.mark.parametrize("content", [b"", b"no events at all, but words " * 9])
def test_an_event_file_without_scalars_is_refused(tmp_path, content):
    path = tmp_path / "events.out.tfevents.1.host.1.0"
    path.write_bytes(content)
    with pytest.raises(LogError, match="none in it"):
        read_log(path)


def test_an_event_file_cut_short_is_read_as_far_as_it_goes(tmp_path):
    write(tmp_path, {"train_loss": TRAIN, "val_loss": VAL})
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    assert read_log(file).curves.val == VAL[:4]
