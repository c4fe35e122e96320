import re
from functools import partial
from types import MethodType

import optuna
import pytest
import pytorch_lightning as pl
import torch
import yaml
from lightning_fabric.utilities.exceptions import MisconfigurationException
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from search_fits import Data, Foreign, equal, everything, fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.data import DataLoader

from callbacks import OptunaSearch, TensorBoardLayout
from datamodules import TabularDataModule
from lightning_mods import MLPClassifier


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch, request):
    """Drawing takes longer than these fits; what is seen has tests of its own."""
    if "show" not in request.node.name and "pictures" not in request.node.name:
        monkeypatch.setattr("callbacks.tuning.optuna_search.show_pictures", lambda *args: None)


NAMES = {"lr_name": "learning_rate", "batch_size_name": "rows_a_batch"}


def searching(n_trials=3, **kwargs):
    return OptunaSearch(n_trials, **{"max_epochs": 2, **NAMES, **kwargs})


def by_hand(root, found, module=Foreign, data=Data, **kwargs):
    module = partial(module, learning_rate=found["learning_rate"])
    return fit(root, module, partial(data, rows_a_batch=found["rows_a_batch"]), **kwargs)


def journal(folder):
    path = next(folder.rglob("search.journal"))
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name=None, storage=storage)


def test_the_fit_after_a_search_is_the_fit_by_hand(tmp_path):
    search = searching(lr=[0.05, 0.1], batch_size="pow2 4..16")
    kwargs = {"gradient_clip_val": 1.0, "accumulate_grad_batches": 2}
    trainer = fit(tmp_path / "a", Foreign, Data, search, **kwargs)
    assert search.found["rows_a_batch"] in (4, 8, 16)
    assert trainer.lightning_module.learning_rate == search.found["learning_rate"] in (0.05, 0.1)
    assert trainer.datamodule.setups == 1
    assert equal(everything(trainer), everything(by_hand(tmp_path / "b", search.found, **kwargs)))


@pytest.mark.parametrize("in_steps", [False, True])
@pytest.mark.parametrize("name", ["Validation/Loss", "val/loss", "loss/val", "valid_loss", "eval_loss"])
def test_a_search_finds_the_validation_loss_under_another_name(tmp_path, name, in_steps):
    class NamesItOtherwise(Foreign):
        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            self.log("loss", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log(name, self.loss(batch), on_step=in_steps, on_epoch=True)

    search = searching(lr=[1e-5, 0.05], batch_size=None, max_epochs=4, sampler="grid")
    fit(tmp_path, NamesItOtherwise, Data, search)
    assert search.found == {"learning_rate": 0.05}
    study = journal(tmp_path)
    assert len([trial for trial in study.trials if trial.value is not None]) == 2
    assert all(trial.intermediate_values for trial in study.trials)


def test_a_search_ends_with_the_verdicts_of_all_trials_and_says_when_the_best_is_at_the_edge(tmp_path, capsys):
    search = searching(9, lr="log 1e-6..1e-2", batch_size=None, max_epochs=4)
    fit(tmp_path, Foreign, Data, search)
    verdicts = {trial.user_attrs["verdict"] for trial in journal(tmp_path).trials}
    assert verdicts <= {"underfit", "good", "overfit", "diverged"}
    said = capsys.readouterr().err
    assert re.search(r"\n  verdicts  \d+ underfit", said)
    assert re.search(r"\n  edge      the best trial lies .*: OptunaSearch\(lr='log 1e-06..0.1'\) looks further\n", said)


def test_it_is_so_with_checkpoints_and_early_stopping_too(tmp_path):
    search, callbacks = (
        searching(max_epochs=None),
        lambda: [ModelCheckpoint(monitor="val_loss"), EarlyStopping("val_loss")],
    )
    searched = fit(tmp_path / "a", Foreign, Data, search, *callbacks(), checkpoints=True)
    made = by_hand(tmp_path / "b", search.found)
    assert equal(everything(searched), everything(made))
    best = searched.checkpoint_callback.best_model_score
    assert float(best) == pytest.approx(journal(tmp_path).best_value)  # the best trial was this very fit
    assert (
        Foreign.load_from_checkpoint(searched.checkpoint_callback.best_model_path).hparams.learning_rate
        == (search.found["learning_rate"])
    )


def test_our_own_modules_are_found_a_rate_and_a_batch_size(tmp_path):
    def module(lr=0.1):
        return MLPClassifier(13, 3, lr=lr, hidden_sizes=[8], dropout=0.2)

    def data(batch_size="auto"):
        return TabularDataModule("wine", batch_size=batch_size)

    search = OptunaSearch(3, max_epochs=2)
    searched = fit(tmp_path / "a", module, data, search, epochs=2)
    assert journal(tmp_path).best_value == pytest.approx(float(searched.callback_metrics["val_loss"]))
    made = fit(tmp_path / "b", partial(module, search.found["lr"]), partial(data, search.found["batch_size"]), epochs=2)
    assert equal(everything(searched), everything(made))


class Estimating(Foreign):
    """Asks how many steps there will be, which makes the loaders before the optimizers."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class TwoOptimizers(Foreign):
    """Steps by hand, at two rates."""

    def __init__(self, learning_rate=1e-3):
        super().__init__(learning_rate)
        self.automatic_optimization = False
        self.other = torch.nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        for optimizer, net in zip(self.optimizers(), (self.net, self.other), strict=True):
            optimizer.zero_grad()
            self.manual_backward(net(batch[0]).square().mean())
            optimizer.step()

    def configure_optimizers(self):
        rates = self.learning_rate, 0.1 * self.learning_rate
        nets = zip((self.net, self.other), rates, strict=True)
        return [torch.optim.Adam(net.parameters(), lr=rate) for net, rate in nets]


class Unnamed(Foreign):
    """Holds its rate among its hyperparameters alone."""

    def __init__(self, learning_rate=1e-3):
        super().__init__(learning_rate)
        del self.learning_rate

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)


def compiled(learning_rate=1e-3):
    return torch.compile(Silent(learning_rate), backend="eager")


class Silent(Foreign):
    def training_step(self, batch, batch_idx):
        return self.loss(batch)


@pytest.mark.parametrize("module", [Estimating, TwoOptimizers, Unnamed, compiled])
def test_it_is_so_for_modules_of_many_kinds(tmp_path, module):
    search = searching(2)
    searched = fit(tmp_path / "a", module, Data, search, epochs=2, precision="bf16-mixed", logger=False)
    made = by_hand(tmp_path / "b", search.found, module, epochs=2, precision="bf16-mixed", logger=False)
    assert equal(everything(searched), everything(made))


# ------------------------------------------------- rates that the module does not decide


class Ready(Foreign):
    """As Lightning's own CLI leaves a module: bound to an optimizer that was made before, whatever its rate says."""

    rate = 0.001

    def __init__(self, learning_rate=1e-3, scheduler="none"):
        super().__init__(learning_rate)
        optimizer = torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9)
        made = partial(self._made, optimizer, self._scheduler(optimizer, scheduler))
        self.configure_optimizers = MethodType(lambda module: made(), self)

    @staticmethod
    def _made(optimizer, scheduler):
        return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}

    @staticmethod
    def _scheduler(optimizer, name):
        schedulers = torch.optim.lr_scheduler
        made = {
            "none": lambda: None,
            "cosine": lambda: schedulers.CosineAnnealingLR(optimizer, 3),
            "warm-up": lambda: schedulers.LinearLR(optimizer, 0.1, total_iters=2),
            "lambda": lambda: schedulers.LambdaLR(optimizer, lambda epoch: 0.3 / (epoch + 1)),
            "one cycle": lambda: schedulers.OneCycleLR(optimizer, 0.1, total_steps=9),
        }
        return made[name]()


@pytest.mark.parametrize("scheduler", ["none", "cosine", "warm-up", "lambda"])
def test_a_ready_made_optimizer_gets_the_rate_and_its_scheduler_begins_there(tmp_path, scheduler):
    search = searching(2)
    searched = fit(tmp_path / "a", partial(Ready, scheduler=scheduler), Data, search)
    rate = search.found["learning_rate"]
    assert searched.optimizers[0].defaults["lr"] == rate
    assert searched.lightning_module.hparams_initial.learning_rate == rate

    class Given(Ready):
        pass

    Given.rate = rate
    made = by_hand(tmp_path / "b", search.found, partial(Given, scheduler=scheduler))
    assert equal(everything(searched), everything(made))


def test_a_scheduler_with_rates_of_its_own_is_named(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"^OptunaSearch: .*OneCycleLR brings its own"):
        fit(tmp_path, partial(Ready, scheduler="one cycle"), Data, searching(), logger=False)


def test_a_copy_whose_loss_is_the_originals_is_noticed(tmp_path):
    class Captured(Foreign):
        def __init__(self):
            super().__init__()
            self.captured = lambda batch: Foreign.loss(self, batch)

        def loss(self, batch):
            return self.captured(batch)

    with pytest.raises(MisconfigurationException, match="trained nothing"):
        fit(tmp_path, Captured, Data, searching(), logger=False)


# --------------------------------------------------------------- what is there to search


def test_without_a_rate_the_batch_size_alone_is_searched_and_it_says_so(tmp_path, capsys):
    search = searching(2, lr_name="lr")
    fit(tmp_path, Foreign, Data, search, logger=False)
    assert list(search.found) == ["rows_a_batch"]
    assert "Foreign has no `lr` (lr_name names another); only rows_a_batch is searched." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"lr_name": "lr", "batch_size_name": "batch_size"},
            "nothing to search: Foreign has no `lr`.*Data and Foreign",
        ),
        ({"monitor": "val_acc"}, "'val_acc', which was not logged; logged were: train_loss, val_loss"),
        ({"lr": "log 1e9..1e10", "batch_size": None}, "none of the 3 trials came to a value"),
        ({"storage": "study.txt"}, "ending in `.journal`"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, arguments, told):
    with pytest.raises(MisconfigurationException, match=told) as error:
        fit(tmp_path, Foreign, Data, searching(**arguments), logger=False)
    assert "\n" not in str(error.value)


def test_loaders_of_which_no_trial_has_its_own_are_refused(tmp_path):
    data = Data()
    data.setup("fit")
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[searching()],
        logger=False,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    with pytest.raises(MisconfigurationException, match="give `fit` a data module"):
        trainer.fit(Foreign(), data.train_dataloader(), data.val_dataloader())


def test_a_batch_size_without_effect_is_named(tmp_path):
    class Early(Data):
        def setup(self, stage):
            super().setup(stage)
            self.made = DataLoader(self.train, batch_size=self.rows_a_batch)

        def train_dataloader(self):
            return self.made

    with pytest.raises(
        MisconfigurationException, match=r"has no effect: with \[4, 8, 16\] the loader gave batches of 5"
    ):
        fit(tmp_path, Foreign, Early, searching(9, lr=None, batch_size=[4, 8, 16], sampler="grid"), logger=False)


@pytest.mark.parametrize(
    "arguments",
    [{"mode": "least"}, {"lr": "1..1e-3"}, {"n_trials": 0}, {"lr": None, "batch_size": None}, {"max_epochs": 0}],
)
def test_arguments_that_cannot_be_are_refused_at_once(arguments):
    with pytest.raises(ValueError, match=r"must|bound|needs"):
        OptunaSearch(**arguments)


# ------------------------------------------------------------------------------ trials


def test_trials_that_diverge_are_pruned_with_their_reason_and_their_verdict(tmp_path):
    search = searching(6, lr="log 0.01..1e8", batch_size=None, sampler="grid")

    class Steep(Foreign):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.learning_rate)

        def loss(self, batch):
            return (self.net[3](self.net[0](batch[0])) - batch[1]).square().mean()

    fit(tmp_path, Steep, Data, search, epochs=5)
    lost = [trial for trial in journal(tmp_path).trials if trial.user_attrs["verdict"] == "diverged"]
    assert len(lost) >= 3
    assert all(trial.state.name == "PRUNED" and trial.user_attrs["reason"] for trial in lost)
    assert all(trial.user_attrs["epochs"] < 2 for trial in lost)
    assert search.found["learning_rate"] < 1


def test_a_trial_counts_with_its_best_epoch_only_if_a_checkpoint_keeps_it(tmp_path):
    class Rising(Foreign):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", 1.0 + self.current_epoch)

    for folder, callbacks in (("last", []), ("best", [ModelCheckpoint(monitor="val_loss")])):
        fit(tmp_path / folder, Rising, Data, searching(1), *callbacks, checkpoints=bool(callbacks))
    assert journal(tmp_path / "last").best_value == 2.0
    assert journal(tmp_path / "best").best_value == 1.0


def test_a_metric_that_is_to_be_high_and_a_fit_without_validation(tmp_path):
    class Bare(Foreign):
        validation_step = None

    class Blind(Data):
        val_dataloader = None

    search = searching(2, monitor="train_loss", mode="max", pruner="none")
    fit(tmp_path, Bare, Blind, search)
    values = [trial.value for trial in journal(tmp_path).trials]
    assert journal(tmp_path).best_value == max(values)


# -------------------------------------------------------------------------- what is seen


def hparams(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    told = {}
    for tag in events.PluginTagToContent("hparams"):
        data = HParamsPluginData.FromString(events.PluginTagToContent("hparams")[tag])
        told.update(
            {name: value.number_value or value.string_value for name, value in data.session_start_info.hparams.items()}
        )
    return told, events


def test_loggers_and_hparams_tab_show_what_was_found_and_every_trial_has_a_run(tmp_path):
    search = searching(3)
    trainer = fit(tmp_path, Foreign, Data, search, TensorBoardLayout())
    run = tmp_path / "lightning_logs" / "version_0"
    told, events = hparams(run)
    assert {name: told[name] for name in search.found} == pytest.approx(search.found)
    written = yaml.unsafe_load((run / "hparams.yaml").read_text())
    assert {name: written[name] for name in search.found} == search.found
    assert yaml.safe_load((run / "found.yaml").read_text()) == {
        "model": {"init_args": {"learning_rate": search.found["learning_rate"]}},
        "data": {"init_args": {"rows_a_batch": search.found["rows_a_batch"]}},
    }
    assert {"search/loss", "search/history"} <= set(events.Tags()["images"])
    runs = sorted((tmp_path / "lightning_logs").glob("search-*/trial_*"))
    assert len(runs) == 3
    best = journal(tmp_path).best_trial
    told, events = hparams(runs[best.number])
    assert told["learning_rate"] == pytest.approx(search.found["learning_rate"])
    assert told["verdict"] == best.user_attrs["verdict"]
    assert events.Scalars("hp/val_loss")[0].value == pytest.approx(best.value)
    assert len(events.Scalars("val_loss")) == 2
    assert trainer.logger.hparams["rows_a_batch"] == search.found["rows_a_batch"]


def test_what_no_module_saves_is_told_to_the_logger_all_the_same(tmp_path):
    class Unsaved(Silent):
        def __init__(self):
            super(Foreign, self).__init__()
            self.learning_rate = 0.1
            self.net = torch.nn.Linear(3, 1)

    search = searching(2)
    fit(tmp_path, Unsaved, Data, search, logger=CSVLogger(tmp_path))
    written = yaml.safe_load((tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text())
    assert written == {**search.found, "rows": 48}


def test_without_a_logger_the_pictures_lie_in_the_runs_folder_and_it_tells_what_it_found(tmp_path, capsys):
    search = searching(2)
    fit(tmp_path, Foreign, Data, search, logger=False)
    assert {path.name for path in tmp_path.glob("*.png")} == {"search_loss.png", "search_history.png"}
    said = capsys.readouterr().err
    assert f"rows_a_batch={search.found['rows_a_batch']} reached val_loss" in said
    assert "the best of 2 trials (2 complete)" in said
    assert str(tmp_path / "search.journal") in said


# ------------------------------------------------------------------- skipping, going on


def test_a_trying_run_is_not_searched_for(tmp_path, capsys):
    search = searching()
    fit(tmp_path, Foreign, Data, search, fast_dev_run=True)
    assert search.found == {}
    assert "skipped, as fast_dev_run" in capsys.readouterr().err


def test_a_fit_that_goes_on_from_a_checkpoint_keeps_what_was_found(tmp_path, capsys):
    whole = fit(tmp_path / "a", Foreign, Data, searching(2), epochs=4)

    class Stops(Foreign):
        def on_train_epoch_start(self):
            if self.current_epoch == 2:
                raise RuntimeError("killed")

    keeps = ModelCheckpoint(tmp_path / "kept", every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "b", Stops, Data, searching(2, name="x"), keeps, epochs=4, checkpoints=True)
    capsys.readouterr()
    search = searching(2)
    kept = sorted((tmp_path / "kept").glob("*.ckpt"))[-1]
    keeps = ModelCheckpoint(tmp_path / "kept", every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    resumed = fit(tmp_path / "c", Foreign, Data, search, keeps, ckpt_path=kept, epochs=4, checkpoints=True)
    assert "skipped, the fit goes on with learning_rate=" in capsys.readouterr().err
    assert not list((tmp_path / "c").rglob("search.journal"))
    assert resumed.datamodule.rows_a_batch == search.found["rows_a_batch"] == whole.datamodule.rows_a_batch
    assert resumed.optimizers[0].param_groups[0]["lr"] == whole.optimizers[0].param_groups[0]["lr"]


def test_a_study_has_the_name_that_it_has_always_had_so_that_one_of_before_goes_on(tmp_path):
    fit(tmp_path, Foreign, Data, searching(1, max_epochs=1), logger=False)
    assert journal(tmp_path).study_name == "search-011ebc07"


def test_options_are_read_where_they_have_always_been_read():
    search = OptunaSearch(3, pruner="none", seed=4)
    assert (search.pruner, search.seed, search.timeout) == ("none", 4, None)
    with pytest.raises(TypeError, match="prunner"):
        OptunaSearch(prunner="none")


def test_the_same_fit_again_takes_what_was_found_and_another_searches_anew(tmp_path):
    trained = []

    class Counted(Foreign):
        def on_train_start(self):
            trained.append(1)

    first = searching(2)
    fit(tmp_path, Counted, Data, first)
    again = searching(2)
    trainer = fit(tmp_path, Counted, Data, again)
    assert (again.found, len(trained)) == (first.found, 4)
    assert trainer.datamodule.rows_a_batch == first.found["rows_a_batch"]
    fit(tmp_path, partial(Counted, width=6), Data, searching(2))
    assert len(trained) == 7


def test_ctrl_c_in_a_trial_ends_the_fit_as_lightning_does_and_the_search_goes_on_later(tmp_path, capsys):
    import signal

    presses = iter([0, 0, 1])

    class Interrupted(Foreign):
        def on_train_epoch_end(self):
            if self.trainer.max_epochs == 2 and next(presses, 0):
                raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            fit(tmp_path, Interrupted, Data, searching(3, pruner="none"))
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on
    assert ended.value.code == 1
    assert "search: stopped; the same command goes on" in capsys.readouterr().err
    assert [trial.state.name for trial in journal(tmp_path).trials] == ["COMPLETE", "FAIL"]
    fit(tmp_path, Interrupted, Data, searching(3, pruner="none"))
    assert [trial.state.name for trial in journal(tmp_path).trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
