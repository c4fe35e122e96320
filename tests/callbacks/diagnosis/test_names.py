import pytest

from callbacks.diagnosis.names import find_losses, find_metric, logged_as

VALIDATION = """
val_loss valid_loss validation_loss val/loss valid/loss Validation/Loss val/loss/dataloader_idx_0 loss_val loss/val
loss/valid val_loss_epoch val/loss_epoch eval_loss eval/loss dev_loss dev-loss valLoss ValLoss validationLoss lossVal
valloss lossval VAL_LOSS val.loss val:loss ptl/val_loss losses/val val_losses val_loss/total total_val_loss avg_val_loss
fit/val_loss model/valid/loss/epoch val_BCELoss val_elbo_loss val_kl_loss evaluation_loss mean_validation_loss
"""
OTHERS = """
val_loss_step val/loss_step val_lossless_ratio value_loss policy/value_loss evaluation_time test_loss test/loss
devloss_rate train_loss loss val_acc validity_score interval_loss glossy_eval best_val_loss val_loss_best val_loss_min
val_loss_weight val_loss_scale train/val_gap train_val_loss evaluator_loss vloss valuable_losses val_time epoch lr
retrieval_loss device_loss developer_loss
"""


@pytest.mark.parametrize("name", VALIDATION.split())
def test_a_validation_loss_is_found_by_the_words_of_its_name(name):
    assert find_losses([name, "epoch", "lr", "train_loss"]).val == name


@pytest.mark.parametrize("name", OTHERS.split())
def test_what_only_resembles_a_validation_loss_is_none(name):
    assert find_losses([name, "train_loss"]).val is None


@pytest.mark.parametrize(
    ("val", "train"),
    [(n, n.replace("val", "train", 1)) for n in ("val_loss", "val/loss", "loss_val", "loss/val", "valLoss", "valloss")]
    + [
        ("Validation/Loss", "Training/Loss"),
        ("valid_loss", "tr_loss"),
        ("dev_loss", "training_loss"),
        ("val_loss", "loss"),
        ("val_loss", "loss_epoch"),
        ("val_loss_epoch", "train_loss_epoch"),
        ("val_loss", "fit_loss"),
        ("val_kl_loss", "train_kl_loss"),
        ("val_kl_loss", "kl_loss"),
        ("val/loss/dataloader_idx_0", "train/loss"),
        ("val_mse", "train_mse"),
        ("val_loss", "train_ce_loss"),
        ("valid_loss_a", "loss"),
    ],
)
def test_the_training_loss_is_its_counterpart(val, train):
    found = find_losses(["val_acc", "train_acc", "lr", val, train])
    assert (found.train, found.val, found.others) == (train, val, ())


@pytest.mark.parametrize(
    ("names", "train", "val"),
    [
        ("val_loss_kl val_recon_loss val_loss train_loss", "train_loss", "val_loss"),
        ("val_loss valid_loss train/loss", "train/loss", "val_loss"),
        ("val_loss_kl val_recon_loss train_recon_loss", "train_recon_loss", "val_recon_loss"),
        ("valid/loss valid/kl_loss train/loss train/kl_loss", "train/loss", "valid/loss"),
        ("val/loss train/loss train_loss", "train/loss", "val/loss"),
        ("train_loss train_loss_step train_loss_epoch val_loss", "train_loss", "val_loss"),
        ("loss train_loss val_loss", "train_loss", "val_loss"),
        ("loss", "loss", None),
        ("train_a_loss train_b_loss val_loss", None, "val_loss"),
        ("val_mse train_loss", "train_loss", None),
        ("g_loss d_loss", None, None),
        ("train_g_loss train_d_loss val_g_loss val_d_loss", None, None),
        ("g_loss d_loss val_loss train_loss", "train_loss", "val_loss"),
        ("actor_loss critic_loss value_loss policy_loss entropy", None, None),
        ("", None, None),
    ],
)
def test_of_several_losses_the_total_or_the_pair_is_taken(names, train, val):
    for order in (names.split(), names.split()[::-1]):
        found = find_losses(order)
        assert (found.train, found.val) == (train, val)


def test_the_twins_of_another_loss_name_it_once():
    names = [f"val_loss{twin}/dataloader_idx_{number}" for number in (0, 1) for twin in ("", "_epoch")]
    found = find_losses(names)
    assert (found.val, found.others) == ("val_loss_epoch/dataloader_idx_0", ("val_loss/dataloader_idx_1",))


def test_of_several_loaders_the_first_is_taken_and_the_others_are_named():
    names = [f"val/loss/dataloader_idx_{i}" for i in (10, 1, 0)]
    found = find_losses([*names, "train/loss"])
    assert (found.train, found.val, found.others) == ("train/loss", names[2], (names[1], names[0]))


def test_parts_that_are_as_likely_are_named():
    assert find_losses(["val_recon_loss", "val_kl_loss"]).others == ("val_recon_loss",)


def test_a_name_that_is_asked_for_is_taken_as_it_is_or_not_at_all():
    names = ["val_loss", "train_loss", "val_score", "loss_b"]
    found = find_losses(names, "loss_b", "val_score")
    assert (found.train, found.val, found.others) == ("loss_b", "val_score", ())
    found = find_losses(names, "loss_x", "val_x")
    assert (found.train, found.val) == (None, None)


def test_a_monitor_called_val_loss_means_the_validation_loss():
    assert logged_as("val_loss", ["valid/loss", "lr"]) == "valid/loss"
    assert logged_as("val_loss", ["valid/loss", "val_loss"]) == "val_loss"
    assert logged_as("val_loss", ["lr"]) == "val_loss"
    assert logged_as("val_f1", ["valid/f1"]) == "val_f1"


def test_the_metric_is_found_whatever_its_stage_is_called():
    assert find_metric(["valid/f1", "Validation/Accuracy", "train_acc"]) == "Validation/Accuracy"
    assert find_metric(["val_acc", "val_accuracy"]) == "val_accuracy"
    assert find_metric(["test_acc", "val_acc_step"]) is None
