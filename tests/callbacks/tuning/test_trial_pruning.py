import math

import optuna
import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import Memorises, NoValidation, Plain, TwoLoaders, fit, loader

from callbacks import TrialPruning
from callbacks.search import Plan, SearchError, parse_space, search


class Reporter(Plain):
    """Logs a validation loss of its own choosing."""

    losses = (3.0, 2.0, 1.0, 0.5, 0.4, 0.3)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.losses[self.current_epoch])


class Diverges(Reporter):
    losses = (3.0, 2.0, math.nan, 1.0, 1.0, 1.0)


class Worse(Reporter):
    losses = (9.0, 9.0, 9.0, 9.0, 9.0, 9.0)


class LogsOnce(Reporter):
    def validation_step(self, batch, batch_idx):
        if self.current_epoch == 0:
            self.log("val_loss", 3.0)


class Mute(Reporter):
    def validation_step(self, batch, batch_idx):
        self.log("val_mae", 1.0)


def study(**kwargs):
    return optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1), **kwargs)


def reports(asked):
    return asked.get_trials()[-1].intermediate_values


def test_every_validation_is_reported_and_the_sanity_check_is_not(tmp_path):
    asked = study()
    fit(tmp_path, Reporter, TrialPruning(asked.ask()))
    assert reports(asked) == pytest.approx(dict(enumerate(Reporter.losses)))


def test_two_trials_may_share_a_fit(tmp_path):
    one, other = study(), study()
    fit(tmp_path, Reporter, callbacks=[TrialPruning(one.ask()), TrialPruning(other.ask())])
    assert reports(one) == reports(other) == pytest.approx(dict(enumerate(Reporter.losses)))


@pytest.mark.parametrize("in_steps", [False, True])
@pytest.mark.parametrize("name", ["valid/loss", "val/loss", "loss/val", "validation_loss", "eval_loss", "dev/loss"])
def test_val_loss_means_the_validation_loss_whatever_it_is_called(tmp_path, name, in_steps):
    class NamesItOtherwise(Reporter):
        def validation_step(self, batch, batch_idx):
            self.log(name, self.losses[self.current_epoch], on_step=in_steps, on_epoch=True)

    asked = study()
    fit(tmp_path, NamesItOtherwise, TrialPruning(asked.ask()))
    assert reports(asked) == pytest.approx(dict(enumerate(Reporter.losses)))


class FromTwoLoaders(TwoLoaders):
    """Tells the losses of its loaders apart by what Lightning adds to their names, or by numbers of its own."""

    own_numbers = in_steps = False

    def validation_step(self, batch, batch_idx, dataloader_idx):
        name = f"val_loss_{dataloader_idx}" if self.own_numbers else "val_loss"
        how = {"on_step": self.in_steps, "on_epoch": True, "add_dataloader_idx": not self.own_numbers}
        self.log(name, Reporter.losses[self.current_epoch] + 10 * dataloader_idx, **how)


@pytest.mark.parametrize("in_steps", [False, True])
@pytest.mark.parametrize("own_numbers", [False, True])
def test_of_several_loaders_the_first_is_reported(tmp_path, own_numbers, in_steps):
    asked = study()
    module = type("Two", (FromTwoLoaders,), {"own_numbers": own_numbers, "in_steps": in_steps})
    fit(tmp_path, module, TrialPruning(asked.ask()))
    assert reports(asked) == pytest.approx(dict(enumerate(Reporter.losses)))


class LogsParts(Reporter):
    """Which of its validation losses is meant, only the training loss would tell, which comes later."""

    def training_step(self, batch, batch_idx):
        self.log("train_recon_loss", 1.0, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.log_dict({"val_kl_loss": self.losses[self.current_epoch], "val_recon_loss": 9.0})


def test_the_loss_that_was_reported_first_is_reported_on(tmp_path):
    asked = study()
    fit(tmp_path, LogsParts, TrialPruning(asked.ask()))
    assert reports(asked) == pytest.approx(dict(enumerate(Reporter.losses)))


def test_two_validations_an_epoch_are_two_steps(tmp_path):
    asked = study()
    fit(tmp_path, Reporter, TrialPruning(asked.ask()), epochs=2, val_check_interval=0.5)
    assert reports(asked) == pytest.approx({0: 3.0, 1: 3.0, 2: 2.0, 3: 2.0})


def test_a_value_that_was_not_logged_anew_is_not_reported_again(tmp_path):
    asked = study()
    fit(tmp_path, LogsOnce, TrialPruning(asked.ask()), epochs=3)
    assert reports(asked) == {0: 3.0}


def test_a_fit_without_validation_reports_what_training_logs(tmp_path):
    asked = study()
    fit(tmp_path, NoValidation, TrialPruning(asked.ask(), "train_loss"), epochs=3)
    assert list(reports(asked)) == [0, 1, 2]


def test_a_second_fit_of_a_trial_counts_on(tmp_path):
    asked = study()
    trial = asked.ask()
    first = TrialPruning(trial)
    fit(tmp_path, Reporter, first, epochs=2)
    fit(tmp_path, Reporter, TrialPruning(trial, first_step=first.next_step), epochs=2)
    assert reports(asked) == pytest.approx({0: 3.0, 1: 2.0, 2: 3.0, 3: 2.0})


def test_a_resumed_fit_counts_on(tmp_path):
    asked = study()
    trial = asked.ask()
    trainer, _ = fit(tmp_path, Reporter, TrialPruning(trial), epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    fit(tmp_path, Reporter, TrialPruning(trial), epochs=4, ckpt_path=tmp_path / "two.ckpt")
    assert reports(asked) == pytest.approx({0: 3.0, 1: 2.0, 2: 1.0, 3: 0.5})


def test_a_hopeless_fit_is_pruned_and_says_by_whom_and_where(tmp_path):
    asked = study()
    trial = asked.ask()
    fit(tmp_path, Reporter, TrialPruning(trial))
    asked.tell(trial, 0.3)
    with pytest.raises(optuna.TrialPruned, match=r"^MedianPruner: val_loss 9 at step 0$"):
        fit(tmp_path, Worse, TrialPruning(asked.ask()))
    assert reports(asked) == {0: 9.0}


def test_a_loss_that_is_no_number_prunes_under_every_pruner_and_is_not_reported(tmp_path):
    asked = optuna.create_study(pruner=optuna.pruners.NopPruner())
    with pytest.raises(optuna.TrialPruned, match="val_loss is nan at step 2"):
        fit(tmp_path, Diverges, TrialPruning(asked.ask()))
    assert reports(asked) == {0: 3.0, 1: 2.0}


@pytest.mark.parametrize("epochs", [1, 4])
def test_a_metric_that_is_never_logged_is_named_with_those_that_are(tmp_path, epochs):
    with pytest.raises(SearchError, match=r"reads 'val_los', which was not logged; logged were: .*val_loss") as caught:
        fit(tmp_path, Reporter, TrialPruning(study().ask(), "val_los"), epochs=epochs)
    assert "\n" not in str(caught.value)


def test_several_objectives_are_not_pruned(tmp_path):
    asked = study(directions=["minimize", "maximize"])
    fit(tmp_path, Diverges, TrialPruning(asked.ask()), epochs=4)
    assert reports(asked) == {}


def test_a_fit_with_it_ends_in_the_same_weights_as_without(tmp_path):
    _, plain = fit(tmp_path, Memorises)
    _, watched = fit(tmp_path, Memorises, TrialPruning(study().ask()))
    both = zip(plain.state_dict().values(), watched.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in both)


def test_it_survives_a_dev_run(tmp_path):
    asked = study()
    fit(tmp_path, Reporter, TrialPruning(asked.ask()), fast_dev_run=True)
    assert reports(asked) == {0: 3.0}


@pytest.mark.parametrize("kept", ["memory", "journal", "sqlite"])
def test_it_prunes_in_a_search_on_every_storage(tmp_path, kept):
    def train(trial, values):
        class Chosen(Reporter):
            losses = tuple(values["x"] + loss for loss in Reporter.losses)

        trainer = pl.Trainer(
            max_epochs=6,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[TrialPruning(trial)],
        )
        trainer.fit(Chosen(), loader(shuffle=True), loader())
        return float(trainer.callback_metrics["val_loss"])

    storage = {"memory": None, "journal": f"{tmp_path}/s.journal", "sqlite": f"sqlite:///{tmp_path}/s.db"}[kept]
    starts = [{"x": float(place)} for place in range(7)]
    plan = Plan(n_trials=7, start=starts, pruner="median")
    found = search(train, {"x": parse_space("0..9")}, plan, storage=storage)
    assert [trial.state.name for trial in found.trials] == ["COMPLETE"] * 5 + ["PRUNED"] * 2
    assert found.trials[6].user_attrs["reason"] == "MedianPruner: val_loss 7 at step 2"
    assert len(found.trials[6].intermediate_values) == 3


def test_a_metric_never_logged_ends_a_search_at_once(tmp_path):
    def train(trial, values):
        fit(tmp_path, Mute, TrialPruning(trial), epochs=3)

    with pytest.raises(SearchError, match=r"logged were: .*val_mae"):
        search(train, {"x": parse_space("0..9")}, Plan(n_trials=7))
