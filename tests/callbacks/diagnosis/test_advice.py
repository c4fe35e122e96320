import re

import pytest

from callbacks.diagnosis.evidence import Change, Settings
from callbacks.diagnosis.words.advice import OPPOSITES, Course, Knobs, advice_for

MLP = {
    "trainer.max_epochs": 40,
    "trainer.gradient_clip_val": 0.3,
    "trainer.check_val_every_n_epoch": 5,
    "data.batch_size": 32,
    "data.val_fraction": 0.0,
    "model.lr": 0.5,
    "model.weight_decay": 0.02,
    "model.dropout": 0.0,
    "model.hidden_sizes": [128, 64],
    "model.lr_schedule": "constant",
    "model.ema_epochs": 0.0,
    "ensemble": 1,
}
CHANGES = {
    "longer": "max_epochs",
    "shorter": "max_epochs",
    "lr_up": "lr",
    "lr_down": "lr",
    "wider": "hidden_sizes",
    "narrower": "hidden_sizes",
    "deeper": "hidden_sizes",
    "decay_off": "weight_decay",
    "decay_up": "weight_decay",
    "dropout_off": "dropout",
    "dropout_up": "dropout",
    "batch_up": "batch_size",
    "batch_down": "batch_size",
    "cosine": "lr_schedule",
    "averaged": "ema_epochs",
    "ensemble": "members",
}
CAUSES = ("still_improving", "not_learning", "cannot_fit", "memorising", "overconfident", "healthy", "exploded")
CAUSES += ("too_few_epochs", "no_validation", "loss_is_no_fit", "unclear")


def change(name, gain=0.3, lowers=0.9, raises=0.0, value=None):
    return Change(name, lowers, raises, gain, CHANGES[name], value)


def advised(*changes, knobs=None, cause="still_improving", **course):
    return advice_for(cause, knobs or Knobs(MLP), Course(**course), changes)


def test_a_change_is_told_with_its_flag_its_number_and_its_gain():
    first = advised(change("longer"))[0]
    expected = "Train four times as long (--trainer.max_epochs=160): lowers the loss in 9 of 10 such runs, by 30 % of"
    assert first.text == f"{expected} the room."
    assert first.flags == (("trainer.max_epochs", "160"),)
    assert first.gain == 0.3


def test_a_change_that_often_harms_says_so():
    text = advised(change("lr_up", raises=0.2, lowers=0.97))[0].text
    assert "in 19 of 20 such runs, and raises it in 2 of 10, by" in text


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("shorter", "--trainer.max_epochs=20"),
        ("lr_up", "--model.lr=1.5"),
        ("lr_down", "--model.lr=0.167"),
        ("wider", "--model.hidden_sizes=[512,256]"),
        ("narrower", "--model.hidden_sizes=[32,16]"),
        ("deeper", "--model.hidden_sizes=[128,64,64]"),
        ("decay_off", "--model.weight_decay=0"),
        ("decay_up", "--model.weight_decay=0.2"),
        ("dropout_up", "--model.dropout=0.3"),
        ("batch_up", "--data.batch_size=128"),
        ("batch_down", "--data.batch_size=8"),
        ("cosine", "--model.lr_schedule=cosine"),
        ("averaged", "--model.ema_epochs=2"),
        ("ensemble", "--ensemble=5"),
    ],
)
def test_every_change_has_a_flag_of_ours(name, flag):
    found = advised(change(name))[0]
    assert f"({flag}):" in found.text
    assert [f"--{key}={value}" for key, value in found.flags] == [flag]


def test_a_value_that_was_measured_wins_over_arithmetic():
    assert advised(change("longer", value=90))[0].flags == (("trainer.max_epochs", "90"),)


def test_a_decay_is_set_where_there_is_none_to_multiply():
    knobs = Knobs(MLP, settings=Settings(weight_decay=0.0))
    assert advised(change("decay_up", value=1e-3), knobs=knobs)[0].text.startswith(
        "Set a weight decay (--model.weight_decay=0.001): "
    )


def test_who_is_too_sure_is_told_the_flag_that_rescales():
    def rescaling(knobs):
        return [advice for advice in advised(knobs=knobs, cause="overconfident") if "rescale" in advice.text]

    (with_flag,) = rescaling(Knobs({**MLP, "calibrate": False}))
    assert with_flag.text.endswith("on held-out rows (--calibrate=true).")
    assert with_flag.flags == (("calibrate", "true"),)
    assert rescaling(Knobs({**MLP, "calibrate": True})) == []
    (by_hand,) = rescaling(Knobs(MLP))
    assert by_hand.text.endswith("on held-out rows (temperature scaling).")


def test_an_optimizers_own_rate_is_named():
    flags = {**MLP, "optimizer.lr": 1e-3}
    assert advised(change("lr_up"), knobs=Knobs(flags))[0].flags == (("optimizer.lr", "0.003"),)


def test_what_the_module_tells_counts_before_what_was_typed():
    knobs = Knobs(MLP, settings=Settings(lr=0.1))
    assert advised(change("lr_up"), knobs=knobs)[0].flags == (("model.lr", "0.3"),)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dropout_off", Settings(dropout=0.0)),
        ("dropout_up", Settings(dropout=0.9)),
        ("decay_off", Settings(weight_decay=0.0)),
        ("cosine", Settings(lr_schedule="cosine")),
        ("averaged", Settings(ema_epochs=3.0)),
        ("ensemble", Settings(members=8)),
        ("narrower", Settings(hidden_sizes=(1,))),
        ("wider", Settings(hidden_sizes=())),
        ("batch_up", Settings(batch_size=100, train_rows=100)),
        ("batch_down", Settings(batch_size=1)),
    ],
)
def test_nothing_is_advised_that_is_done_or_cannot_be(name, settings):
    assert all(each.change != name for each in advised(change(name), knobs=Knobs(settings=settings)))


def test_no_two_pieces_of_advice_are_opposites():
    for cause in CAUSES:
        for changes in ([change(name) for name in CHANGES], []):
            names = {each.change for each in advised(*changes, cause=cause)}
            assert not names & {OPPOSITES.get(name) for name in names}


def test_a_change_that_gains_next_to_nothing_is_not_advised():
    assert not [each for each in advised(change("lr_up", gain=0.01)) if each.change]


def test_the_weights_of_the_best_epoch_are_spoken_of_only_where_they_are_not_kept():
    said = [each.text for each in advised(cause="memorising", best=9)]
    assert said[0].startswith("Take the weights of epoch 9, if they were kept; ")
    assert advised(change("lr_down"), cause="memorising", best=9)[0].text == said[0]
    kept = [each.text for each in advised(cause="memorising", best=9, is_kept=True)]
    assert not any("epoch 9" in text for text in kept)


def test_advice_by_hand_has_numbers_too():
    assert advised(cause="exploded")[0].text == "Lower the learning rate tenfold (--model.lr=0.05)."
    assert not any("Clip" in each.text for each in advised(cause="exploded"))  # they are clipped
    assert advised(cause="too_few_epochs", epochs=3)[0].flags == (("trainer.max_epochs", "12"),)
    assert advised(cause="too_few_epochs", epochs=15)[0].flags == (("trainer.check_val_every_n_epoch", "1"),)
    assert advised(cause="no_validation")[0].flags == (("data.val_fraction", "0.15"),)
    assert advised(cause="not_learning")[0].flags == (("model.lr", "5"),)
    assert advised(cause="not_learning", jumps=True)[0].flags == (("model.lr", "0.05"),)


@pytest.mark.parametrize("framework", [None, "Lightning", "Keras log", "Hugging Face log", "YOLO results"])
@pytest.mark.parametrize("cause", CAUSES)
def test_who_has_no_flags_is_told_of_none(framework, cause):
    for changes in ([change(name) for name in CHANGES], []):
        found = advised(*changes, cause=cause, knobs=Knobs(framework=framework))
        assert found
        assert not [each for each in found if each.flags or re.search(r"--\w", each.text)]


@pytest.mark.parametrize(
    ("framework", "words"),
    [
        ("Keras history", ("epochs", "learning_rate")),
        ("Hugging Face log", ("num_train_epochs", "learning_rate")),
        ("YOLO results", ("epochs", "lr0")),
        ("Lightning metrics", ("max_epochs", "lr")),
    ],
)
def test_other_frameworks_are_spoken_to_in_their_words(framework, words):
    found = advised(change("longer"), change("lr_up"), knobs=Knobs(framework=framework))
    assert [re.search(r"\((\w+)\)", each.text)[1] for each in found[:2]] == list(words)


def test_a_script_is_told_the_number_where_its_optimizer_tells_the_old_one():
    knobs = Knobs(framework="Lightning", settings=Settings(lr=0.01, max_epochs=20))
    found = advised(change("longer"), change("lr_up"), knobs=knobs)
    assert "(max_epochs=80)" in found[0].text
    assert "(lr=0.03)" in found[1].text
